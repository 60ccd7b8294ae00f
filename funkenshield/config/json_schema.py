"""The JSON Schema (draft 7) of the configuration, for editors: made from what the code says of each key.

It knows what can be written in a file, key by key. What does not go together, only `funkenshield check` finds out.
"""

import inspect
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from . import Config
from .action import Action
from .reference import meaning_of
from .types import as_several, parse_endpoint, parse_place, parse_prefix, section_of, unit_of
from .upstreams import UpstreamSection

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
UNITS = {"s": 'seconds, or text such as "1m30s"', "octets": 'octets, or text such as "64MiB"'}
BOUNDS = {
    "ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "min_length": "minLength", "max_length": "maxLength",
    "pattern": "pattern",
}  # fmt: skip
PATTERNS = {  # of text, by what reads it
    parse_endpoint: r"^([0-9.]+|\[[^\]]+\]):[0-9]{1,5}$",
    parse_place: r"^(resolv\.conf|([^:\[\]]+|\[[^\]]+\]):[0-9]{1,5})$",
    parse_prefix: r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$",
}
TYPES = {bool: "boolean", int: "integer", float: "number"}


def json_schema() -> Schema:
    """Return the schema of the whole file."""
    tables: dict[str, Schema] = {}
    return {"$schema": DRAFT, "title": "funkenshield.toml", **_table(Config, tables), "definitions": tables}


def _table(section: type[BaseModel], tables: dict[str, Schema]) -> Schema:
    """Return the schema of a table; those of tables in it are added to `tables`."""
    keys = {field.alias or name: _key(section, name, field, tables) for name, field in section.model_fields.items()}
    required = [field.alias or name for name, field in section.model_fields.items() if field.is_required()]
    if section is Config:
        keys["rules"]["anyOf"].append({"type": "string", "description": "The same as `rules_file`."})
    said = inspect.getdoc(section) or ""
    schema = {"type": "object", "description": said, "properties": keys, "additionalProperties": False}
    if section is Action:
        schema |= {"minProperties": 1, "maxProperties": 1}
    return schema | ({"required": required} if required else {})


def _key(section: type[BaseModel], name: str, field: FieldInfo, tables: dict[str, Schema]) -> Schema:
    below, unit = section_of(field), UNITS.get(unit_of(field))
    said = meaning_of(section, name) or (inspect.getdoc(below) if below else "") or ""
    schema = {"description": f"{said} ({unit})" if unit else said, **_value(field.annotation, field.metadata, tables)}
    default = None if field.is_required() or field.default_factory else field.default
    return schema | ({"default": default} if isinstance(default, bool | int | float | str) else {})


def _value(kind: Any, about: Iterable[Any], tables: dict[str, Schema]) -> Schema:  # noqa: ANN401 - a type, as written
    """Return the schema of what is written for a type, and for what is said about it beside."""
    said = list(about)
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return _value(inner, [*more, *said], tables)
    if type(None) in get_args(kind):
        return _value(next(each for each in get_args(kind) if each is not type(None)), said, tables)
    if get_args(kind)[1:] == (...,):
        item = _value(get_args(kind)[0], (), tables)
        lengths = {name.replace("Length", "Items"): limit for name, limit in _bounds(said).items()}
        return {"anyOf": [{"type": "array", "items": item, **lengths}, item]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _reference(kind, tables)
    plain = {"type": TYPES.get(kind, "string"), **_bounds(said)}
    is_read = any(isinstance(each, BeforeValidator) and each.func is not as_several for each in said)
    is_port = get_origin(kind) is tuple
    other = "integer" if is_port else "string" if is_read and kind in TYPES else ""
    return {"anyOf": [plain, {"type": other}]} if other else plain


def _bounds(said: Iterable[Any]) -> Schema:
    found: Schema = {}
    for each in said:
        found |= _bounds(each.metadata) if isinstance(each, FieldInfo) else {}
        limits = {ours: getattr(each, name, None) for name, ours in BOUNDS.items()}
        found |= {ours: limit for ours, limit in limits.items() if limit is not None}
        if isinstance(each, BeforeValidator) and each.func in PATTERNS:
            found["pattern"] = PATTERNS[each.func]
    return found


def _reference(section: type[BaseModel], tables: dict[str, Schema]) -> Schema:
    """Return what stands for a table, or for a text that some can be, too."""
    name = section.__name__.removesuffix("Section")
    if name not in tables:
        tables[name] = {}  # a table can be in one of its kind
        tables[name] = _table(section, tables)
    table = {"$ref": f"#/definitions/{name}"}
    if section is Action:
        words = [field.alias or name for name, field in section.model_fields.items() if field.annotation is bool]
        return {"anyOf": [{"enum": words}, table]}
    text = {"type": "string", "pattern": PATTERNS[parse_place]}
    return {"anyOf": [text, table]} if section is UpstreamSection else table
