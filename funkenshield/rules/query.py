"""What a rule in Python is given: a query, read as far as it is asked about.

It knows how to read a query and how to write a response. Where queries come from and go on to is for others.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from ..core._limits import EDNS_UDP_SIZE
from ..wire._message import error_response, inspect_query
from ..wire.messages import read_message
from ..wire.record_text import parse_record

Wire = bytes | dns.message.Message


@dataclass(frozen=True)
class ClientInfo:
    """Whose query it is, and how it came."""

    address: bytes  # in network order
    transport: str = "udp"
    listener: str = ""  # the endpoint that it came to
    tags: frozenset[str] = frozenset()
    tls_server_name: str = ""


class Query:
    """A query, and with rules of the chain `responses` the response to it.

    Nothing is parsed before it is asked for: `qname`, `qtype` and `source` cost little, `message` is the whole as a
    dnspython message.
    """

    def __init__(
        self,
        wire: bytes,
        sender: ClientInfo,
        ask: Callable[[bytes], Awaitable[bytes]] | None = None,
        response_wire: bytes | None = None,
    ) -> None:
        self.wire: bytes = wire
        """The query, as it came."""
        self.response_wire: bytes | None = response_wire
        """The response, in the chain `responses`; None in others."""
        self.transport: str = sender.transport
        """How it came: `udp`, `tcp`, `tls`, `https`, `http`, `quic` or `h3`."""
        self.listener: str = sender.listener
        """The endpoint that it came to."""
        self.tls_server_name: str = sender.tls_server_name
        """The server that it asked for in its TLS handshake, in lower case; "" for none, or where it has left."""
        self.tags: frozenset[str] = sender.tags
        """What rules before this one have tagged it with."""
        self._address = sender.address
        self._ask = ask

    @cached_property
    def _found(self) -> dict[str, Any]:
        return inspect_query(self.wire)

    @property
    def id(self) -> int:
        """The message ID."""
        return int.from_bytes(self.wire[:2])

    @property
    def opcode(self) -> str:
        """The opcode, as `QUERY`."""
        return dns.opcode.to_text(dns.opcode.Opcode(self.wire[2] >> 3 & 15))

    @property
    def flags(self) -> frozenset[str]:
        """The flags that are set, as `RD`, `AD`, `CD`."""
        return frozenset(dns.flags.to_text(int.from_bytes(self.wire[2:4]) & 0x07B0).split())

    @cached_property
    def qname(self) -> str:
        """The name asked for, absolute, as the client spelled it; "" where there is no question."""
        wire = self._found.get("qname")
        return dns.name.from_wire(wire, 0)[0].to_text() if wire else ""

    @property
    def qtype(self) -> str:
        """The type asked for, as `AAAA`."""
        return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(self._found.get("qtype", 0)))

    @property
    def qclass(self) -> str:
        """The class asked for, as `IN`."""
        return dns.rdataclass.to_text(dns.rdataclass.RdataClass.make(self._found.get("qclass", 0)))

    @cached_property
    def source(self) -> IPv4Address | IPv6Address:
        """The client's address."""
        return ip_address(self._address)

    @property
    def edns(self) -> bool:
        """Whether it has an OPT record."""
        return "payload" in self._found

    @property
    def do(self) -> bool:
        """Whether DNSSEC records are asked for."""
        return bool(self._found.get("edns_flags", 0) & 0x8000)

    @cached_property
    def message(self) -> dns.message.Message:
        """The whole of it, as dnspython reads it; raises what `read_message` raises where it cannot be read."""
        return read_message(self.wire)

    @cached_property
    def response(self) -> dns.message.Message | None:
        """The response, in the chain `responses`; None in others."""
        return None if self.response_wire is None else read_message(self.response_wire)

    @property
    def rcode(self) -> str:
        """The response's code, without what EDNS adds to it; "" where there is no response."""
        return "" if self.response_wire is None else dns.rcode.to_text(dns.rcode.Rcode(self.response_wire[3] & 15))

    def respond(
        self, *records: str | dns.rrset.RRset, rcode: str = "NOERROR", authority: Sequence[str] = ()
    ) -> dns.message.Message:
        """Return a response with these records in its answer section.

        Texts are records as `A 192.0.2.1`, `300 A 192.0.2.1`, or with a name first; those without one are of the name
        asked for. Raises ValueError for a text that is no record.
        """
        response = read_message(error_response(self.wire, dns.rcode.NOERROR, EDNS_UDP_SIZE))  # whatever else came along
        response.flags |= dns.flags.AA | dns.flags.RA
        response.set_rcode(dns.rcode.from_text(rcode))
        owner = response.question[0].name if response.question else dns.name.root
        for section, given in ((response.answer, records), (response.authority, authority)):
            for record in given:
                made = parse_record(record, owner) if isinstance(record, str) else record
                same = response.find_rrset(section, made.name, made.rdclass, made.rdtype, made.covers, create=True)
                for each in made:
                    same.add(each, made.ttl)
        return response

    async def resolve_wire(self, query: Wire | None = None) -> bytes:
        """Ask on with this query, or another one in its place, and return the answer.

        What is behind the rule is asked: other rules, the cache, an upstream. Raises OSError where there is no answer.
        """
        if self._ask is None:
            raise OSError("this query cannot be resolved: it is not being processed")
        wire = self.wire if query is None else query if isinstance(query, bytes) else query.to_wire(max_size=65535)
        return await self._ask(wire)

    async def resolve(self, query: Wire | None = None) -> dns.message.Message:
        """Ask on like `resolve_wire`, and return the answer as a dnspython message."""
        return read_message(await self.resolve_wire(query))

    def __repr__(self) -> str:
        return f"<Query {self.qname} {self.qtype} from {self.source}>"
