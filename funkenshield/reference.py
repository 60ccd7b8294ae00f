"""The page of all options, made from what `config` says of them."""

import inspect
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from .config import Config, section_at


def reference() -> str:
    """Return the reference page of all options, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "One TOML file, given with `funkenshield run -c FILE` and checked by `funkenshield check -c FILE`.",
        "Flags of the command line override it. Every key may be left out. Unless a key says otherwise,",
        "a change takes effect when the daemon is told to re-read its file (SIGHUP); the cache is kept.",
        'Sizes are octets, or text with a unit: `67108864`, `"64MiB"`, `"2GB"`.',
    ]
    top = {name: field for name, field in Config.model_fields.items() if not section_at([name])}
    lines += ["", "## At the top of the file", "", *_table(top)]
    for name, field in Config.model_fields.items():
        if section_at([name]):
            lines += _section([name], f"[[{name}]]" if get_origin(field.annotation) is tuple else f"[{name}]")
    return "\n".join([*lines, ""])


def _section(keys: list[str], heading: str) -> Iterator[str]:
    """Yield what a table of the file takes, and then those below it that have no like at the top."""
    section = section_at(keys)
    assert section is not None
    below = [name for name in section.model_fields if section_at([*keys, name])]
    fields = {name: field for name, field in section.model_fields.items() if name not in below}
    yield from ["", f"## `{heading}`", "", inspect.getdoc(section) or "", "", *_table(fields)]
    for name in below:
        if name not in Config.model_fields:
            yield from _section([*keys, name], f"[{'.'.join([*keys, name])}]")


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| key | default | unit | bounds | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "see right" if field.default_factory else "required" if field.is_required() else _show(field.default)
        yield f"| `{name}` | {default} | {extra.get('unit', '')} | {_bounds(field)} | {field.description} |"


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    if isinstance(value, bool) or value is None:
        return "none" if value is None else f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    kind = field.annotation
    kind = get_args(kind)[0] if get_origin(kind) is tuple else kind
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{choice}"`' for choice in get_args(kind))
    limits = {
        name: getattr(each, name) for each in field.metadata for name in ("ge", "gt", "le") if hasattr(each, name)
    }
    if "le" not in limits:
        return ""
    return f"over {limits['gt']} to {limits['le']}" if "gt" in limits else f"{limits['ge']} to {limits['le']}"
