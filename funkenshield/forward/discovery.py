"""How clients find encrypted listeners: answers to `_dns.resolver.arpa.` (RFC 9461, 9462), from those that there are.

It knows one name, and that nothing in its domain is asked of an upstream: what that would say is true of itself alone.
"""

from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from ..config.types import Endpoint
from ..core._limits import EDNS_UDP_SIZE
from ..wire.messages import read_message

TTL = 300  # seconds: a listener that is gone is not asked for longer
ZONE = dns.name.from_text("resolver.arpa.")
NAME = dns.name.from_text("_dns.resolver.arpa.")
SOA = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.SOA, f". . 1 3600 600 86400 {TTL}")
PORTS = {"dot": 853}  # that need not be said


class Encrypted(NamedTuple):
    """A listener as clients are told of it: a name that its certificate has, where it is, and what it speaks (ALPN)."""

    name: str
    endpoint: Endpoint
    alpn: str


def responder(listeners: Iterable[Encrypted]) -> Callable[[bytes], bytes | None]:
    """Return who answers questions in the domain: with these, the first preferred."""
    records = [_svcb(number, each) for number, each in enumerate(listeners, 1)]
    return partial(response, records=tuple(dns.rdata.from_text("IN", "SVCB", each) for each in records))


def _svcb(priority: int, listener: Encrypted) -> str:
    """Return the SVCB record of a listener; an address is told where it is one for all clients."""
    host, port = listener.endpoint
    is_told = "%" not in host and not ip_address(host).is_unspecified
    hints = f" ipv{6 if ':' in host else 4}hint={host}" if is_told else ""
    said = "" if port == PORTS.get(listener.alpn) else f" port={port}"
    return f'{priority} {dns.name.from_text(listener.name)} alpn="{listener.alpn}"{said}{hints}'


def response(query: bytes, *, records: tuple[dns.rdata.Rdata, ...]) -> bytes | None:
    """Return the answer to a question in the domain; None where it is not a plain one."""
    try:
        asked = read_message(query)
    except dns.exception.DNSException:
        return None
    if asked.opcode() != dns.opcode.QUERY or not asked.question:
        return None
    question = asked.question[0]
    if question.rdclass != dns.rdataclass.IN or not question.name.is_subdomain(ZONE):
        return None
    made = dns.message.make_response(asked, our_payload=EDNS_UDP_SIZE)
    made.flags |= dns.flags.AA | (dns.flags.RA if asked.flags & dns.flags.RD else 0)
    if asked.edns >= 0:
        made.want_dnssec(bool(asked.ednsflags & dns.flags.DO))
    if records and question.name == NAME and question.rdtype == dns.rdatatype.SVCB:
        made.answer.append(dns.rrset.from_rdata(question.name, TTL, *records))
    else:
        made.authority.append(dns.rrset.from_rdata(ZONE, TTL, SOA))
    return made.to_wire()
