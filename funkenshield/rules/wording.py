"""Conditions and actions in words, as short as they stand in a file: for those who list and explain rules."""

from collections.abc import Callable, Iterator
from typing import Any

import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from pydantic import BaseModel

from ..config.match import Match
from ..core.values import plain
from .compiler import Condition, Rule

SHOWN = 3  # values of a list
NUMBERED: dict[str, Callable[[Any], str]] = {  # keys whose values have names
    "qtype": dns.rdatatype.to_text, "qclass": dns.rdataclass.to_text, "opcode": dns.opcode.to_text,
    "rcode": dns.rcode.to_text,
}  # fmt: skip


def told_action(rule: Rule) -> str:
    """Return what a rule does, such as `nxdomain` or `forward = archive`."""
    kind = rule.action.kind
    value = getattr(rule.action, kind, True)
    if rule.function is not None and kind == "call":
        value = getattr(rule.function, "__name__", value)
    return kind if value is True else f"{kind} = {_told(value)}"


def told_condition(condition: Condition) -> str:
    """Return what a node tests, such as `suffix = example.com` or `rate = 5 per 1 s`."""
    value = getattr(condition.match, condition.key)
    if condition.key in NUMBERED:
        value = tuple(map(NUMBERED[condition.key], value))
    return f"{condition.key} = {_told(value)}"


def told_match(match: Match) -> str:
    """Return all that a table of conditions says; "" where everything matches."""
    return ", ".join(_parts(match))


def _parts(match: Match) -> Iterator[str]:
    for key in match.model_fields_set:
        value = getattr(match, key)
        if isinstance(value, Match):
            yield f"not ({told_match(value)})"
        elif key in {"all", "any"}:
            yield f"{key} ({'; '.join(map(told_match, value))})"
        else:
            yield told_condition(Condition(match, key))


def _told(value: Any) -> str:  # noqa: ANN401 - of any key
    if isinstance(value, BaseModel):
        given = (key for key in type(value).model_fields if key in value.model_fields_set)
        return " ".join(f"{key} {_told(getattr(value, key))}" for key in given)
    if isinstance(value, tuple):
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return ", ".join(map(_told, value[:SHOWN])) + more
    found = plain(value)
    return str(found).lower() if isinstance(found, bool) else f"{found:g}" if isinstance(found, float) else str(found)
