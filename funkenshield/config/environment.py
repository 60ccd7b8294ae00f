"""Keys of the configuration as environment variables: `FUNKENSHIELD_CACHE__MEMORY=1GiB` is `memory` in `[cache]`.

A variable is named by the path of its key, in capitals, with two underscores between tables. It knows names, and what a
text stands for; who reads the environment, and what overrides what, the package says.
"""

import contextlib
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..core.files import resolve
from ..errors import ConfigError
from .mistakes import not_toml
from .types import is_several, kind_of, section_of

PREFIX = "FUNKENSHIELD_"
NOT_KEYS = {"BUILD", "DIFFERENTIAL", "NETWORK", "SECONDS", "SEED"}  # of the build, and of tests
# Kubernetes sets these for a service that is called `funkenshield`, or begins so.
OF_SERVICES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def variable_of(key: str) -> str:
    """Return the variable of a key, whose tables come first, each with a dot behind it."""
    return PREFIX + key.upper().replace(".", "__")


def keys(section: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield each key that can be a variable: those of a table one by one; of several tables, all together."""
    for name, field in section.model_fields.items():
        below = section_of(field)
        if below and not is_several(field):
            yield from keys(below, f"{above}{name}.")
        else:
            yield f"{above}{name}", field


def values(environ: Mapping[str, str], root: type[BaseModel]) -> dict[str, Any]:
    """Return what variables say, by key; ConfigError has a line for each that is of no key, or is not TOML."""
    known = {variable_of(key): (key, field) for key, field in keys(root)}
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or _is_for_others(variable.removeprefix(PREFIX), variable in known):
            continue
        if variable not in known:
            names = [each.removeprefix(PREFIX) for each in known]
            wanted = variable.removeprefix(PREFIX).upper()
            above = [each for each in names if wanted.startswith(f"{each}__")]  # which takes whole tables
            near = above or difflib.get_close_matches(wanted, names, 1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"{variable_of('cache.memory')} is memory in [cache]"
            wrong.append(f"{variable}: no key has this variable; {hint}")
            continue
        key, field = known[variable]
        try:
            found[key] = _parse(text, field)
        except tomllib.TOMLDecodeError as error:
            wrong.append(f"{variable}: {not_toml(error, text)[1]}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return found


def _is_for_others(name: str, known: bool) -> bool:
    return not known and (name in NOT_KEYS or name.startswith("TEST_") or OF_SERVICES.fullmatch(name) is not None)


def _parse(text: str, field: FieldInfo) -> object:
    """Return what a text stands for; what it cannot be stays text, for the model to name."""
    if re.match(r"\s*\[?\s*\{", text):  # a table
        return tomllib.loads(f"value = {text}")["value"]
    if not is_several(field):
        return _parse_one(text, field)
    with contextlib.suppress(tomllib.TOMLDecodeError):  # as [::1]:53 would be
        if text.lstrip().startswith("["):
            return tomllib.loads(f"value = {text}")["value"]
    return [_parse_one(each.strip(), field) for each in text.split(",") if each.strip()]


def _parse_one(text: str, field: FieldInfo) -> object:
    kind = kind_of(field)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return int(text)
        with contextlib.suppress(ValueError):
            return float(text)
    is_path = any(getattr(each, "func", None) is resolve for each in field.metadata)
    return str(Path(text).absolute()) if is_path and text else text
