"""The page of all options, and the tables of conditions and actions, made from what the code says of them."""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from . import Config
from .action import DECIDES, FITTING, Action, BoundsSection, OptionSection, RenameSection
from .match import Match, RateSection
from .types import is_several, kind_of, section_of, unit_of


def reference() -> str:
    """Return the reference page of all options, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "One TOML file, given with `funkenshield run -c FILE`, and checked by `funkenshield check -c FILE`. Where no",
        "FILE is given, and neither `--listen` nor `--upstream`, it is `/etc/funkenshield.toml`. `funkenshield stats`,",
        "`purge`, `block` and the like take `-c FILE` as well, and find the daemon by its `control.socket`.",
        "Environment variables override it (see below), and flags of the command line override both. Every key may be",
        "left out. Unless a key says otherwise, a change takes effect when the file is read again: when it changes",
        "(`reload_on_change`), or at SIGHUP; the cache is kept.",
        "So does what is in the files that it names: their content counts, not their path or time. Where one is wrong,",
        "nothing changes. What clients are encrypted with is followed without a reload: where that is wrong, it is",
        "logged, and what was read before stays in use.",
        "Paths are relative to the file that names them; those of the command line, to the working directory.",
        'Sizes are octets, or text with a unit: `67108864`, `"64MiB"`, `"2GB"`. Times (unit s) are seconds, or text:',
        '`90`, `"90s"`, `"1m30s"`, `"250ms"`, `"7d"`. Where a list is taken, one value stands for a list of one.',
        "",
        "**Editors** complete and check the file by its JSON Schema, where they know TOML (Even Better TOML in Visual",
        "Studio Code, or whatever has the language server `taplo`): `funkenshield docs json-schema >",
        "funkenshield.schema.json`, and `#:schema ./funkenshield.schema.json` as the first line of the file. What does",
        "not go together, and what is not on this machine, only `funkenshield check` finds.",
        "",
        "**Environment variables.** A key is a variable, too: `FUNKENSHIELD_`, and its path in capitals, with two",
        "underscores between tables: `FUNKENSHIELD_LISTEN=0.0.0.0:53,[::]:53` is `listen`, and",
        "`FUNKENSHIELD_CACHE__MEMORY=1GiB` is `memory` in `[cache]`. Lists are separated by commas. Lists of tables",
        "are written as in the file: `FUNKENSHIELD_ZONES='[{ name = \"example.com\", ttl.max = 60 }]'`. Paths are",
        "relative to the working directory, those within tables to the file. A variable that begins so and is of no",
        "key is an error, but for those that Kubernetes sets for a service of this name.",
    ]
    top = [name for name, field in Config.model_fields.items() if not section_of(field)]
    lines += ["", "## At the top of the file", "", *_table(Config, top)]
    for name, field in Config.model_fields.items():
        if section_of(field):
            lines += _section([name], field)
    return "\n".join([*lines, ""])


def _section(keys: list[str], field: FieldInfo) -> Iterator[str]:
    """Yield what a table of the file takes, and then those below it that have no like at the top.

    Conditions and actions are told in a guide of their own.
    """
    section = section_of(field)
    assert section is not None
    heading = f"[[{'.'.join(keys)}]]" if is_several(field) else f"[{'.'.join(keys)}]"
    below = [name for name, inner in section.model_fields.items() if section_of(inner) not in {None, Match, Action}]
    names = [name for name in section.model_fields if name not in below]
    yield from ["", f"## `{heading}`", "", inspect.getdoc(section) or "", "", *_table(section, names)]
    for name in below:
        alike = section_of(Config.model_fields.get(name))
        if alike is None or keys == ["guard"] or not _has_keys_of(alike, section_of(section.model_fields[name])):
            yield from _section([*keys, name], section.model_fields[name])


def _has_keys_of(section: type[BaseModel], other: type[BaseModel] | None) -> bool:
    """Tell whether a section has keys of another one; two of the same name may be about different things."""
    return other is not None and not section.model_fields.keys().isdisjoint(other.model_fields)


def rule_tables() -> dict[str, str]:
    """Return the tables of conditions and actions, in Markdown, by name."""
    tables = {
        "conditions": _meanings(Match),
        "actions": _actions(),
        "rate": _table(RateSection),
        "ttl": _table(BoundsSection),
        "add_option": _table(OptionSection),
        "rename": _table(RenameSection),
    }
    return {name: "\n".join(lines) for name, lines in tables.items()}


def with_tables(page: str) -> str:
    """Return a page with the tables between `<!-- NAME -->` and `<!-- end -->` made anew."""
    tables = rule_tables()
    return re.sub(
        r"(<!-- (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}" if found[2] in tables else found[0],
        page,
        flags=re.DOTALL,
    )


def _meanings(section: type[BaseModel]) -> Iterator[str]:
    yield "| key | takes | it is true if |"
    yield "|---|---|---|"
    for name, field in section.model_fields.items():
        yield f"| `{field.alias or name}` | {_takes(field)} | {meaning_of(section, name)} |"


def _actions() -> Iterator[str]:
    yield "| key | takes | what is done | and then | chains |"
    yield "|---|---|---|---|---|"
    for name, field in Action.model_fields.items():
        kind = field.alias or name
        after = "that is all" if kind in DECIDES else "the next rule"
        chains = ", ".join(["queries", *(chain for chain, fitting in FITTING.items() if kind in fitting)])
        yield f"| `{kind}` | {_takes(field)} | {meaning_of(Action, name)} | {after} | {chains} |"


def meaning_of(section: type[BaseModel], name: str) -> str:
    """Return what a key means, in one line: its description, or what stands below it."""
    return " ".join((section.model_fields[name].description or _docstrings(section).get(name, "")).split())


@cache
def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Return what stands below the keys of a section; only the page needs it, so no start has to read the source."""
    found: dict[str, str] = {}
    for each in section.__mro__[: section.__mro__.index(BaseModel)]:
        body = ast.parse(dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for key, text in pairwise(body):
            if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
                found.setdefault(ast.unparse(key.target), ast.literal_eval(text.value))
    return found


def _takes(field: FieldInfo) -> str:
    """Return what a key takes, in a word or two."""
    kind = kind_of(field)
    if get_origin(kind) is Literal:
        word = _choices(kind)
    elif section_of(field):
        word = "table"
    else:
        word = {bool: "`true`", int: "name or number", float: "number"}.get(kind, "text")
    return f"{word}, or a list" if is_several(field) else word


def _choices(kind: object) -> str:
    return ", ".join(f'`"{choice}"`' for choice in get_args(kind))


def _table(section: type[BaseModel], names: Iterable[str] | None = None) -> Iterator[str]:
    yield "| key | default | unit | bounds | meaning |"
    yield "|---|---|---|---|---|"
    for name in names or section.model_fields:
        field = section.model_fields[name]
        default = "see right" if field.default_factory else "required" if field.is_required() else _show(field.default)
        yield f"| `{name}` | {default} | {unit_of(field)} | {_bounds(field)} | {meaning_of(section, name)} |"


def _show(value: object) -> str:
    if isinstance(value, BaseModel):
        return "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    if isinstance(value, bool) or value is None:
        return "none" if value is None else f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    if get_origin(kind := kind_of(field)) is Literal:
        return _choices(kind)
    limits = {key: getattr(each, key) for each in field.metadata for key in ("ge", "gt", "le") if hasattr(each, key)}
    if "le" not in limits:
        return ""
    return f"over {limits['gt']} to {limits['le']}" if "gt" in limits else f"{limits['ge']} to {limits['le']}"
