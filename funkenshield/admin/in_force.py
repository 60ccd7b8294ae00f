"""The configuration in force, key by key, with what each is unless it is configured."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ..config import Config
from ..core.values import plain


def options(config: Config) -> list[dict[str, Any]]:
    """Return all options as {"key", "value", "default", "differs", "origin"}: a variable, a flag, or else "".

    Of tables that there may be several of, as `zones[0].name`, only what differs from the default.
    """
    return [each | {"origin": config.origin_of(each["key"])} for each in _options(config, "")]


def _options(section: BaseModel, prefix: str, *, all: bool = True) -> Iterator[dict[str, Any]]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{field.alias or name}"
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            yield from _options(value, f"{key}.", all=all)
        elif isinstance(value, tuple) and any(isinstance(each, BaseModel) for each in value):
            for number, each in enumerate(value):
                yield from _options(each, f"{key}[{number}].", all=False)
        elif all or value != default:
            yield {"key": key, "value": plain(value), "default": plain(default), "differs": value != default}
