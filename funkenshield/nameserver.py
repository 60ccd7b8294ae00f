"""The small nameserver of the demo and the tests: authoritative for one zone, plain, correct, and slow.

It knows a zone and what the protocol says about it (RFC 1034, 2308, 4592, 6891); it knows nothing of
the shield in front of it. Speed is not its business: it is what the shield is there for.
"""

import asyncio
import logging
import socket
from pathlib import Path

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone

log = logging.getLogger(__name__)

PAYLOAD = 1232  # octets of the largest answer over UDP
TCP_IDLE = 30.0  # seconds
CHAIN_MAX = 16  # CNAMEs that are followed
SERVED_BY = '"Proudly served by a few lines of Python, from behind a FunkenShield"'
CHAOS = {
    "version.bind.": '"FunkenShield ns"', "version.server.": '"FunkenShield ns"',
    "hostname.bind.": '"ns.miek.nl"', "id.server.": '"ns.miek.nl"', "authors.bind.": '"The FunkenShield authors"',
}  # fmt: skip
BIG = "\n".join(f'big 3600 TXT "{number:02} {"octets upon octets " * 12}"' for number in range(13))
ZONE = f"""
$ORIGIN miek.nl.
$TTL 3600
@       SOA   ns hostmaster 2011080800 14400 3600 604800 300
@       NS    ns
@       NS    ns2
@       345600 MX 20 mail.atoom.net.
@       345600 MX 40 mx-ext.tjeb.nl.
@       A     192.0.2.1
@       AAAA  2001:db8::1
ns      A     192.0.2.53
ns      AAAA  2001:db8::53
ns2     A     192.0.2.54
www     A     192.0.2.80
www     AAAA  2001:db8::80
a       A     192.0.2.10
a       A     192.0.2.11
alias   CNAME www
away    CNAME www.example.net.
txt     TXT   "several" "strings" "in one record"
*.wild  TXT   "whatever you ask"
*.load  A     192.0.2.100
deep.ent A    192.0.2.20
sub     NS    ns1.sub
ns1.sub A     192.0.2.30
{BIG}
"""


class Zone:
    """One zone, with its names indexed once; nothing that a client sends changes it."""

    def __init__(self, zone: dns.zone.Zone) -> None:
        assert zone.origin is not None
        self.origin = zone.origin
        self.nodes = {
            name.derelativize(zone.origin).canonicalize(): {
                rdataset.rdtype: dns.rrset.from_rdata_list(name.derelativize(zone.origin), rdataset.ttl, rdataset)
                for rdataset in node
            }
            for name, node in zone.nodes.items()
        }
        self.soa = self.nodes[self.origin][dns.rdatatype.SOA]
        for name in list(self.nodes):  # what lies between a name and the apex exists too (RFC 8020)
            for depth in range(len(self.origin), len(name)):
                self.nodes.setdefault(name.split(depth)[1], {})

    @classmethod
    def from_text(cls, text: str, origin: str | None = None) -> "Zone":
        """Return the zone of a master file's text; dns.exception.DNSException where it is none."""
        return cls(dns.zone.from_text(text, origin=origin, relativize=False))

    @classmethod
    def from_file(cls, path: Path) -> "Zone":
        """Return the zone of a master file; dns.exception.DNSException or OSError where there is none."""
        return cls.from_text(path.read_text(encoding="utf-8"))

    def answer(self, response: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
        """Fill a response with what the zone says about a name and type."""
        for _ in range(CHAIN_MAX):
            if not name.is_subdomain(self.origin):
                return
            if self._refer(response, name):
                return
            node = self._node(name)
            if node is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                self._deny(response)
                return
            found = [rrset for kind, rrset in node.items() if rdtype in (kind, dns.rdatatype.ANY)]
            response.answer += [_owned_by(name, rrset) for rrset in found]
            alias = node.get(dns.rdatatype.CNAME)
            if found or alias is None:
                if not found:
                    self._deny(response)
                return
            response.answer.append(_owned_by(name, alias))
            name = alias[0].target

    def _refer(self, response: dns.message.Message, name: dns.name.Name) -> bool:
        """Refer to the servers of a delegation that the name lies in, if it does."""
        cut = name.canonicalize()
        cuts = []
        while cut != self.origin:
            cuts.append(cut)
            cut = cut.parent()
        for cut in reversed(cuts):
            servers = self.nodes.get(cut, {}).get(dns.rdatatype.NS)
            if servers is not None:
                if not response.answer:
                    response.flags &= ~dns.flags.AA
                response.authority.append(servers)
                glue = (self.nodes.get(rdata.target.canonicalize(), {}) for rdata in servers)
                response.additional += [rrset for node in glue for rrset in node.values()]
                return True
        return False

    def _node(self, name: dns.name.Name) -> dict[dns.rdatatype.RdataType, dns.rrset.RRset] | None:
        """Return the records at a name, or those of the wildcard that stands for it (RFC 4592); None: no such name."""
        encloser = name.canonicalize()
        exact = self.nodes.get(encloser)
        if exact is not None:
            return exact
        while encloser not in self.nodes:
            encloser = encloser.parent()
        return self.nodes.get(dns.name.Name((b"*", *encloser.labels)))

    def _deny(self, response: dns.message.Message) -> None:
        """Add the SOA that says how long a "no" holds (RFC 2308)."""
        ttl = min(self.soa.ttl, self.soa[0].minimum)
        response.authority.append(dns.rrset.from_rdata(self.origin, ttl, self.soa[0]))

    def transfer(self, response: dns.message.Message) -> None:
        """Fill a response with the whole zone, between two SOA records (RFC 5936)."""
        rest = [rrset for node in self.nodes.values() for rrset in node.values() if rrset is not self.soa]
        response.answer += [self.soa, *rest, dns.rrset.from_rdata(self.origin, self.soa.ttl, self.soa[0])]


def _owned_by(name: dns.name.Name, rrset: dns.rrset.RRset) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset))


def respond(zone: Zone, wire: bytes, *, over_tcp: bool) -> bytes | None:
    """Return the response to a message, or None where none is due: to a response, or to less than a header."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    try:
        query = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return wire[:2] + bytes([0x80 | wire[2] & 0x79, dns.rcode.FORMERR]) + bytes(8)
    try:
        return _to_wire(_answer(zone, query, over_tcp=over_tcp), query, over_tcp=over_tcp)
    except Exception:  # whatever is wrong here, the next query is served
        log.exception("cannot answer %s", query.question)
        response = dns.message.make_response(query, our_payload=PAYLOAD)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response.to_wire()


def _answer(zone: Zone, query: dns.message.Message, *, over_tcp: bool) -> dns.message.Message:
    response = dns.message.make_response(query, our_payload=PAYLOAD)
    if query.edns > 0:
        response.use_edns(0, payload=PAYLOAD)
        response.set_rcode(dns.rcode.BADVERS)
    elif query.opcode() != dns.opcode.QUERY:
        response.set_rcode(dns.rcode.NOTIMP)
    elif len(query.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
    elif query.question[0].rdclass == dns.rdataclass.CH:
        _answer_chaos(response, query.question[0])
    elif query.question[0].rdclass != dns.rdataclass.IN or not query.question[0].name.is_subdomain(zone.origin):
        response.set_rcode(dns.rcode.REFUSED)
    else:
        _answer_zone(zone, response, query.question[0], over_tcp=over_tcp)
    return response


def _answer_chaos(response: dns.message.Message, question: dns.rrset.RRset) -> None:
    text = CHAOS.get(str(question.name).lower())
    if text is None or question.rdtype not in (dns.rdatatype.TXT, dns.rdatatype.ANY):
        response.set_rcode(dns.rcode.REFUSED)
        return
    response.flags |= dns.flags.AA
    response.answer.append(dns.rrset.from_text(question.name, 0, "CH", "TXT", text))


def _answer_zone(zone: Zone, response: dns.message.Message, question: dns.rrset.RRset, *, over_tcp: bool) -> None:
    response.flags |= dns.flags.AA
    if question.rdtype in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
        if question.name != zone.origin:
            response.set_rcode(dns.rcode.NOTAUTH)
        elif over_tcp:
            zone.transfer(response)
        elif question.rdtype == dns.rdatatype.IXFR:
            response.answer.append(zone.soa)
        else:
            response.set_rcode(dns.rcode.REFUSED)
        return
    zone.answer(response, question.name, question.rdtype)
    if question.rdtype == dns.rdatatype.MX and response.answer:
        owner, ttl = response.answer[0].name, response.answer[0].ttl
        response.additional.append(dns.rrset.from_text(owner, ttl, "IN", "TXT", SERVED_BY))


def _to_wire(response: dns.message.Message, query: dns.message.Message, *, over_tcp: bool) -> bytes:
    """Return a response no larger than its client takes, cut with TC=1 where it would be."""
    limit = 65535 if over_tcp else min(max(query.payload, 512), PAYLOAD) if query.edns >= 0 else 512
    wire = response.to_wire(max_size=65535)
    if len(wire) <= limit:
        return wire
    for section in (response.answer, response.authority, response.additional):
        section.clear()
    response.flags |= dns.flags.TC
    return response.to_wire()


class Nameserver(asyncio.DatagramProtocol):
    """A zone, served over UDP and TCP on one address."""

    def __init__(self, zone: Zone, delay: float) -> None:
        self.queries = 0
        self.address = ("", 0)
        self._zone = zone
        self._delay = delay
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen; port 0 picks one. Raises OSError where another program has it."""
        loop = asyncio.get_running_loop()
        self._streams = await asyncio.start_server(self._talk, host, port)
        self.address = self._streams.sockets[0].getsockname()[:2]
        try:
            self._datagrams, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=self.address)
        except OSError:
            await self.close()
            raise
        opened: socket.socket = self._datagrams.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    async def close(self) -> None:
        """Stop listening."""
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()
            await asyncio.sleep(0)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one query, after the delay if there is one."""
        self.queries += 1
        response = respond(self._zone, data, over_tcp=False)
        if response is None or self._datagrams is None:
            return
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._datagrams.sendto, response, addr)
        else:
            self._datagrams.sendto(response, addr)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                self.queries += 1
                response = respond(self._zone, wire, over_tcp=True)
                if self._delay:
                    await asyncio.sleep(self._delay)
                if response is not None:
                    writer.write(len(response).to_bytes(2) + response)
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


async def serve(host: str, port: int, *, delay: float = 0.0, zone: Zone | None = None) -> Nameserver:
    """Return a nameserver that listens on an address; OSError where it cannot. `delay` is in seconds."""
    nameserver = Nameserver(zone or Zone.from_text(ZONE), delay)
    await nameserver.open(host, port)
    return nameserver
