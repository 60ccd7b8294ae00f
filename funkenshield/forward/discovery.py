"""How clients find encrypted listeners: answers to `_dns.resolver.arpa.` (RFC 9461, 9462), from those that there are.

It knows one domain, of which nothing is asked of an upstream: what that would say is true of itself alone. All that it
answers is made beforehand, but for the question.
"""

from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address
from struct import pack
from typing import NamedTuple

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from ..config.types import Endpoint
from ..core._limits import EDNS_UDP_SIZE
from ..wire._message import inspect_query
from ..wire.names import name_to_wire

TTL = 300  # seconds: a listener that is gone is not asked for longer; the shield itself keeps none of this
ZONE, NAME = name_to_wire("resolver.arpa."), name_to_wire("_dns.resolver.arpa.")
SOA = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.SOA, f". . 1 3600 600 86400 {TTL}")
PORTS = {"dot": 853, "h2": 443, "doq": 853, "h3": 443}  # that need not be said
QR_AA_RA, RD = 0x8480, 0x0100
TO_QUESTION = b"\xc0\x0c"  # a pointer to its name


class Encrypted(NamedTuple):
    """A listener as clients are told of it: a name that its certificate has, where it is, and what it speaks (ALPN)."""

    name: str
    endpoint: Endpoint
    alpn: str
    path: str = ""  # of requests, where it speaks HTTP


def responder(listeners: Iterable[Encrypted]) -> Callable[[bytes], bytes | None]:
    """Return who answers questions in the domain: with these, the first preferred."""
    records = [dns.rdata.from_text("IN", "SVCB", _svcb(number, each)) for number, each in enumerate(listeners, 1)]
    return partial(response, told=b"".join(_record(TO_QUESTION, each) for each in records), count=len(records))


def _svcb(priority: int, listener: Encrypted) -> str:
    """Return the SVCB record of a listener; an address is told where it is one for others than this machine."""
    host, port = listener.endpoint
    address = ip_address(host.partition("%")[0])
    is_told = not (address.is_unspecified or address.is_link_local or address.is_loopback)
    hints = f" ipv{address.version}hint={host}" if is_told else ""
    said = "" if port == PORTS.get(listener.alpn) else f" port={port}"
    path = f' dohpath="{listener.path}{{?dns}}"' if listener.path else ""
    return f'{priority} {dns.name.from_text(listener.name)} alpn="{listener.alpn}"{said}{hints}{path}'


def _record(owner: bytes, rdata: dns.rdata.Rdata) -> bytes:
    data = rdata.to_wire()
    assert data is not None
    return owner + pack("!HHIH", rdata.rdtype, rdata.rdclass, TTL, len(data)) + data


NOTHING = _record(ZONE, SOA)


def response(query: bytes, *, told: bytes, count: int) -> bytes | None:
    """Return the answer to a question in the domain; None where it is not of class IN, or no QUERY."""
    asked = inspect_query(query)
    if asked.get("qclass") != dns.rdataclass.IN or asked["opcode"]:
        return None
    is_of_listeners = count and asked["qname"].lower() == NAME and asked["qtype"] == dns.rdatatype.SVCB
    recursion = query[2] << 8 & RD
    edns = pack("!BHHIH", 0, dns.rdatatype.OPT, EDNS_UDP_SIZE, 0, 0) if "payload" in asked else b""
    counts = (1, count, 0) if is_of_listeners else (1, 0, 1)
    header = query[:2] + pack("!HHHHH", QR_AA_RA | recursion, *counts, bool(edns))
    question = query[12 : 12 + len(asked["qname"]) + 4]
    return header + question + (told if is_of_listeners else NOTHING) + edns
