"""Entries of the cache in words: names, types and times as people read them; page by page, so that nobody waits."""

import base64
import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

import dns.rcode
import dns.rdataclass
import dns.rdatatype

from ..cache._listing import entries
from ..cache._store import Cache
from ..errors import FunkenShieldError
from ..rules.engine import RuleEngine
from ..wire.names import name_from_wire, name_to_wire, type_number

LOOKED_AT = 5_000  # entries, for one page: a few milliseconds, and that for as many as there are in it
PAGE = 200  # entries of a page, at most
PLAIN = re.compile(rb"[a-z0-9_-]+")  # labels that are text as they are


@dataclass(frozen=True)
class Page:
    """Which entries are wanted."""

    name: str = "."
    below: bool = True
    type: str | None = None
    limit: int = PAGE
    after: tuple[int, int] = (0, 0)  # where the page before ended
    messages: bool = False


def read(cache: Cache, rules: RuleEngine, page: Page) -> dict[str, Any]:
    """Return a page of entries, and where the next one begins, None after the last: it may be empty, and not the last.

    Raises FunkenShieldError for a name or type that is none.
    """
    try:
        name = name_to_wire(page.name)
        number = -1 if page.type is None else type_number(page.type)
    except ValueError as error:
        raise FunkenShieldError(f"cache entries: {error}") from None
    found, following = entries(
        cache, *page.after, name, below=page.below, qtype=number, most=page.limit, looked_at=LOOKED_AT,
        messages=page.messages,
    )  # fmt: skip
    return {"entries": [told(entry, cache, rules) for entry in found], "next": following and list(following)}


def told(entry: dict[str, Any], cache: Cache, rules: RuleEngine) -> dict[str, Any]:
    """Return an entry as JSON can have it, in the field's words; times are seconds."""
    kept = {key: value for key, value in entry.items() if not key.startswith("subnet")}
    subnet = entry["subnet"]
    if subnet is not None:
        octets = subnet.ljust(4 if entry["subnet_family"] == 1 else 16, b"\0")
        kept["subnet"] = str(ip_network((octets, entry["subnet_bits"])))
    if "message" in entry:
        kept["message"] = base64.b64encode(entry["message"]).decode()
    return kept | {
        "name": _name(entry["name"]),
        "type": _type(entry["type"]),
        "class": _class(entry["class"]),
        "rcode": _rcode(entry["rcode"]),
        "zone": _name(cache.zones.name(entry["zone"])),
        "route": rules.route_name(entry["route"]) if entry["route"] else "",
    }


def _name(wire: bytes) -> str:
    """Return a name on the wire as text, quickly where it is a plain one."""
    labels, at = [], 0
    while wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    if labels and all(map(PLAIN.fullmatch, labels)):
        return b".".join(labels).decode() + "."
    return name_from_wire(wire)


@lru_cache(256)
def _type(number: int) -> str:
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))


@lru_cache(16)
def _class(number: int) -> str:
    return dns.rdataclass.to_text(dns.rdataclass.RdataClass.make(number))


@lru_cache(64)
def _rcode(number: int) -> str:
    return dns.rcode.to_text(dns.rcode.Rcode.make(number))
