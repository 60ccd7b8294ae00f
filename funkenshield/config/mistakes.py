"""What is said of a mistake in the configuration: where it is, what stands there, and what was probably meant.

It knows tables, their keys, and what was written. What is right, the tables say themselves.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .renamed import new_key, new_line, new_value
from .types import SIZES, TIMES, is_several, kind_of, section_of, unit_of

SHOWN_MAX = 60  # characters of what was written
LISTED_MAX = 16  # keys that are named where nothing is like the one that was written
WORDS = {
    r"^\S+$": "a word without spaces",
    r"^[^\x00-\x1f\x7f]*$": "text without control characters",
    r"^/[!$-;=@-Z_a-z~]*$": "a path that begins with /, without ? and #",
    r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$": "a host name, without a port",
    r"^([0-9a-fA-F]{2})*$": "octets in hexadecimal, two digits each",
}
OTHERS = {  # as the same thing is called elsewhere
    "upstreams": {"backend", "backends", "forwarder", "forwarders", "nameservers", "origin", "servers"},
    "listen": {"address", "addresses", "bind", "interface", "interfaces", "listener", "port"},
    "address": {"bind", "endpoint", "host", "interface", "ip", "port"},
    "transport": {"protocol", "proto", "type"},
    "certificates": {"cert", "certs", "fullchain"},
    "certificate": {"cert", "cert_file", "chain", "crt", "fullchain", "pem"},
    "key": {"private_key"},
    "min_version": {"protocols", "ssl_protocols", "tls_version", "tls_min_version"},
    "ticket_secret_file": {"session_ticket_key", "ticket_key", "ticket_keys", "tickets"},
    "workers": {"cpus", "processes", "threads"},
    "memory": {"limit", "max_size", "maxsize", "size"},
    "level": {"verbosity"},
    "deadline": {"query_timeout"},
    "attempts": {"retries"},
    "source": {"client", "clients"},
    "suffix": {"domain", "domains", "zone"},
}
SAID = {
    "missing": "this key is missing",
    "string_type": '{shown} is not a string; write it in quotes: "{shown}"',
    "bool_type": "{shown} is neither true nor false (without quotes)",
    "too_short": "{shown}; at least one entry is needed",
    "too_long": "{actual_length} entries are too many; at most {max_length}",
    "string_too_short": "an empty string is not allowed",
    "string_too_long": "{shown} is too long; at most {max_length} characters",
    "finite_number": "{shown} is not a finite number",
}
MISSING = object()


class Place(NamedTuple):
    """Where a mistake is: its path, what was written there, and what should have been."""

    path: str
    inside: str  # the name of the last table of several that it is in
    written: Any  # MISSING if nothing was
    field: FieldInfo | None
    section: type[BaseModel]  # that has the field


def explain(found: ValidationError, root: type[BaseModel], written: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield for each mistake its keys, joined by dots, and `key: what stands there; what was probably meant`."""
    mistakes = found.errors(include_url=False)
    for mistake in mistakes:
        loc = mistake["loc"]
        if mistake["type"] == "too_short" and any(
            other["loc"][: len(loc)] == loc for other in mistakes if other is not mistake
        ):
            continue  # entries with mistakes of their own are not counted
        place = _place(root, written, loc)
        key, keys = str(loc[-1]) if loc else "", ".".join(str(part) for part in loc if isinstance(part, str))
        if mistake["type"] == "missing" and _stands_under_another_name(place, key, mistake["input"]):
            continue
        if mistake["type"] != "extra_forbidden":
            yield keys, _line(place, _said(place, mistake))
            continue
        yield keys, _line(place, _unknown(place, root, key))
        if new_key(_table_of(place, key), key):
            yield from ((keys, _line(*each)) for each in _renamed_below(place, key))


def _line(place: Place, said: str) -> str:
    inside = f" (in {place.inside})" if place.inside else ""
    return f"{place.path}{inside}: {said}" if place.path else said


def not_toml(error: tomllib.TOMLDecodeError, text: str) -> tuple[str, str]:
    """Return where a text stops to be TOML, as `LINE:COLUMN`, and why."""
    why, _, at = str(error).rpartition(" (at ")
    lines = text.splitlines() or [""]
    found = re.match(r"line (\d+), column (\d+)", at)
    line, column = map(int, found.groups()) if found else (len(lines), len(lines[-1]) + 1)
    here = lines[min(line, len(lines)) - 1].strip()
    why = why[:1].lower() + why[1:]
    if twice := re.fullmatch(r"cannot declare \((.*)\) twice", why):
        header = ".".join(re.findall(r"'([^']*)'", twice[1]))
        why = f"the table [{header}] is in the file twice"
    elif why == "cannot overwrite a value":
        why = "the key is in the file twice"
    elif re.match(r"\w[\w.-]*\s*:", here):
        why = "a key is followed by =, not by a colon"
    elif re.match(r"[\w.-]+\s*=\s*[^\"'\[{\s]*[^\"'\[{\s\d.+-]", here) and not re.search(
        r"=\s*(true|false|inf|nan)\b", here
    ):
        why = "strings are written in quotes"
    return f"{line}:{column}", f"not TOML: {why}" + (f": {_shown(here)[1:-1]}" if here else "")


def _stands_under_another_name(place: Place, key: str, written: Iterable[object]) -> bool:
    """Tell whether another line tells of a key that is missing: it has an old name, or is in [zones."example.com"]."""
    table = _table_of(place, key)
    return any("." in str(other) or new_key(table, str(other)) == key for other in written)


def _table_of(place: Place, key: str) -> str:
    """Return the name of the table that a key is in; "" at the top of the file."""
    parts = re.sub(r"\[\d+\]", "", place.path).split(".")
    above = parts if parts[-1] != key else parts[:-1]
    return ".".join(above[-2:] if above[-2:] == ["upstreams", "tls"] else above[-1:])


def _renamed_below(place: Place, key: str) -> Iterator[tuple[Place, str]]:
    """Yield what is to be said of the keys in a table that has an old name itself."""
    several = isinstance(place.written, list)
    for number, entry in enumerate(place.written if several else [place.written], 1):
        for inner, value in entry.items() if isinstance(entry, dict) else ():
            if line := new_line(key, inner, value):
                path = f"{place.path}[{number}].{inner}" if several else f"{place.path}.{inner}"
                yield place._replace(path=path), f"no such key; {inner} is now {line}"


def _field(section: type[BaseModel], key: str) -> FieldInfo | None:
    fields = section.model_fields
    return fields.get(key) or next((each for each in fields.values() if each.alias == key), None)


def _keys(section: type[BaseModel]) -> list[str]:
    """Return the keys of a table, as they stand in a file."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _place(root: type[BaseModel], written: object, loc: tuple[int | str, ...]) -> Place:
    place = Place("", "", written, None, root)
    for part in loc:
        at = place.written
        if isinstance(part, int):
            if not isinstance(at, list | tuple):
                continue  # one value, where a list may be
            entry = at[part]
            place = place._replace(path=f"{place.path}[{part + 1}]", written=entry)
            if isinstance(entry, dict):
                named = entry.get("name", entry.get("address"))
                place = place._replace(inside=_shown(named) if isinstance(named, str) else "")
            continue
        section = section_of(place.field) or place.section
        below = at.get(part, MISSING) if isinstance(at, dict) else at
        field, path = _field(section, part), f"{place.path}.{part}" if place.path else part
        if below is at and field is None:
            continue  # what is no name of an action, where a table of one may be
        inside = "" if part in {"name", "address"} else place.inside
        place = Place(path, inside, below, field, section)
    return place


def _shown(value: object) -> str:
    """Return a value as it was written, or nearly so."""
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list" if value else "an empty list"
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..." + '"' * isinstance(value, str)


def _said(place: Place, mistake: ErrorDetails) -> str:
    """Return what is wrong with a value, and what is allowed."""
    kind, shown = mistake["type"], _shown(place.written)
    if kind in SAID:
        return SAID[kind].format(shown=shown, **mistake.get("ctx", {}))
    if kind == "value_error":
        return _refused(place, mistake)
    if kind in TOLD:
        return f"{shown} {TOLD[kind](place, mistake)}"
    return f"{shown}: {mistake['msg']}"


def _refused(place: Place, mistake: ErrorDetails) -> str:
    """Return what is said by whoever looked closer at a value."""
    message = mistake["msg"].removeprefix("Value error, ")
    shown = _shown(place.written)
    if isinstance(place.written, dict | list) or place.written is MISSING:
        return message
    if message.startswith(("no ", "not ")):
        return f"{shown} is {message}"
    return message if str(place.written) in message else f"{shown}: {message}"


def _no_number(place: Place, mistake: ErrorDetails) -> str:
    unit, whole = unit_of(place.field) if place.field else "", mistake["type"] != "float_type"
    if isinstance(place.written, str) and re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", place.written) and not unit:
        return f"is a string; write numbers without quotes: {place.written.strip()}"
    if whole and isinstance(place.written, float):
        return "is not an integer" + (" number of seconds" if unit == "s" else "")
    return {
        "s": 'is not a time; write seconds, or a string such as "90s", "1h30m", "7d"'
        + (", whole seconds" if whole else ""),
        "octets": 'is not a size; write octets, or a string such as "512MiB", "2GB"',
    }.get(unit, "is not an integer" if whole else "is not a number")


def _no_choice(place: Place, _: ErrorDetails) -> str:
    if new := new_value(place.path.rpartition(".")[2], place.written):
        return f'is now "{new}"'
    kind = kind_of(place.field) if place.field else None
    choices = {each.lower(): each for each in (get_args(kind) if get_origin(kind) is Literal else ())}
    near = difflib.get_close_matches(str(place.written).lower(), choices, 1)
    meant = f'; did you mean "{choices[near[0]]}"?' if near else ""
    return f"is not one of {', '.join(map(_shown, choices.values()))}{meant}"


def _no_word(_: Place, mistake: ErrorDetails) -> str:
    pattern = str(mistake["ctx"]["pattern"])
    return f"is not {WORDS.get(pattern, pattern)}"


def _out_of_bounds(place: Place, mistake: ErrorDetails) -> str:
    """Say that a number is too small or too large, in the unit that it was written in."""
    (how, bound) = next(iter(mistake["ctx"].items()))
    limit = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}[how]
    unit = unit_of(place.field) if place.field else ""
    written = (f"{bound:.0f}" if bound == round(bound) else str(bound)) + (f" {unit}" if unit else "")
    if isinstance(place.written, str):
        octets = {f"{name.upper().replace('I', 'i')}B": size for name, size in SIZES.items()}
        written = _in_units(bound, TIMES if unit == "s" else octets)
    return f"is too {'small' if how[0] == 'g' else 'large'}; {limit} {written}"


def _in_units(value: float, units: Mapping[str, float]) -> str:
    """Return a number in the largest unit that it is a whole multiple of."""
    fitting = [(each, name) for name, each in units.items() if value >= each and not round(value / each, 6) % 1]
    if not fitting:
        return str(value)
    size, name = max(fitting)
    return f"{round(value / size)}{name}"


def _no_table(place: Place, _: ErrorDetails) -> str:
    several = place.field is not None and is_several(place.field)
    path = re.sub(r"\[\d+\]", "", place.path)
    wanted = f"[[{path}]]" if several else f"[{path}]"
    if isinstance(place.written, list) and not several:
        return f"of tables, but there is one table only; write {wanted}"
    below = section_of(place.field)
    keys = f" with keys such as {', '.join(_keys(below)[:3])}" if below else ""
    return f"is not a table; write {wanted}{keys}"


TOLD = {
    **dict.fromkeys(("int_type", "int_from_float", "float_type"), _no_number),
    "literal_error": _no_choice,
    "string_pattern_mismatch": _no_word,
    **dict.fromkeys(("greater_than_equal", "less_than_equal", "greater_than", "less_than"), _out_of_bounds),
    **dict.fromkeys(("model_type", "model_attributes_type"), _no_table),
}


def _unknown(place: Place, root: type[BaseModel], key: str) -> str:
    """Say what was probably meant by a key that is none."""
    if new := new_line(_table_of(place, key), key, place.written):
        is_word = place.written == key  # where a table may be
        return f'"{key}" is now "{new}"' if is_word else f"no such key; {key} is now {new}"
    section = section_of(place.field) or place.section  # a word, where a table may be
    known, plain = _keys(section), key.strip().replace("-", "_").lower()
    near = difflib.get_close_matches(plain, known, 1, 0.65) or [each for each in known if plain in OTHERS.get(each, ())]
    if isinstance(place.written, str) and place.written == key:
        return f'"{key}" is not known' + (f'; did you mean "{near[0]}"?' if near else f": {', '.join(known)}")
    if section is not root and key in _keys(root) and near[:1] != [plain]:
        if isinstance(place.written, dict):
            return f"no such key; [{key}] is a table at the top level"
        others = "".join(f", or in {header}" for header in _tables_with(root, key, section))
        return f"no such key; {key} belongs to the top level, above the first line in brackets{others}"
    if near:
        return f'no such key; did you mean "{near[0]}"?'
    return f"no such key; {_elsewhere(place, root, key)}"


def _elsewhere(place: Place, root: type[BaseModel], key: str) -> str:
    """Say where a key belongs that is like none of its table."""
    known = _keys(place.section)
    if isinstance(place.written, dict) and "." in key and "name" in known:
        return f'write [[{place.path.removesuffix(f".{key}")}]], and below it name = "{key}"'
    if tables := _tables_with(root, key, place.section):
        return f"it belongs in {' or '.join(tables)}"
    if len(known) <= LISTED_MAX:
        return f"keys are {', '.join(known)}"
    return "see `funkenshield docs config` for all keys"


def _tables_with(root: type[BaseModel], key: str, but: type[BaseModel]) -> list[str]:
    """Return the headers of tables, three at most, that have a key."""
    return [header for each, header in _headers(root).items() if key in _keys(each) and each not in (but, root)][:3]


def _headers(root: type[BaseModel]) -> dict[type[BaseModel], str]:
    """Return for each table the line that begins it in a file, those at the top first."""
    found, paths = {root: "the top of the file, above all tables"}, {root: ""}
    left = [root]
    for section in left:  # which grows meanwhile
        for name, field in section.model_fields.items():
            below = section_of(field)
            if below is not None and below not in found:
                paths[below] = f"{paths[section]}.{name}".lstrip(".")
                found[below] = f"[[{paths[below]}]]" if is_several(field) else f"[{paths[below]}]"
                left.append(below)
    return found
