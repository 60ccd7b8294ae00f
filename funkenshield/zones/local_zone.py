"""What a zone answers: authoritative, plain and correct, and slow; messages in, messages out.

It knows a zone and what the protocol says about it (RFC 1034, 2308, 4592, 5936, 6891); it knows nothing of sockets.
"""

import logging
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rrset
import dns.zone
from dns.message import Message
from dns.name import Name
from dns.rdataset import Rdataset
from dns.rdatatype import RdataType

from ..core._limits import EDNS_UDP_SIZE
from ..wire._message import error_response
from ..wire.messages import read_message

log = logging.getLogger(__name__)

HEADER, QR, OPCODE, RD = 12, 0x80, 0x78, 0x01  # octets of the least message; bits in its third
SERVED_BY = '"Proudly served by a few lines of Python, from behind a FunkenShield"'
CHAOS = {
    "version.bind.": '"FunkenShield ns"',
    "version.server.": '"FunkenShield ns"',
    "hostname.bind.": '"ns.miek.nl"',
    "id.server.": '"ns.miek.nl"',
    "authors.bind.": '"The FunkenShield authors"',
}


class Zone:
    """One zone, its names indexed once; nothing that a client sends changes it.

    Every answer is made of RRsets of its own: whoever gets one may change it.
    """

    def __init__(self, zone: dns.zone.Zone) -> None:
        """Index a zone that was read with its names absolute."""
        assert zone.origin is not None
        self.origin = zone.origin
        self._nodes: dict[Name, list[Rdataset]] = {name: list(node) for name, node in zone.nodes.items()}
        self._soa = _of_type(self._nodes[self.origin], RdataType.SOA)[0]
        for name in list(self._nodes):  # what lies between a name and the apex exists too (RFC 8020)
            for labels in range(len(self.origin), len(name)):
                self._nodes.setdefault(name.split(labels)[1], [])
        self._depth = max(map(len, self._nodes))  # labels; what is deeper is looked for no deeper

    @classmethod
    def from_text(cls, text: str, origin: str | None = None) -> "Zone":
        """Return the zone of a master file's text; without `origin`, that is the first $ORIGIN in it.

        Raises dns.exception.DNSException where it is none: wrong syntax, no origin, no SOA or NS there.
        """
        read = dns.zone.from_text(text, origin=origin, relativize=False, check_origin=False)
        if read.origin not in read.nodes:  # which check_origin takes for granted
            raise dns.zone.NoSOA
        read.check_origin()
        return cls(read)

    @classmethod
    def from_file(cls, path: Path, origin: str | None = None) -> "Zone":
        """Return the zone of a master file; raises as `from_text`, OSError, or ValueError if it is not UTF-8."""
        return cls.from_text(path.read_text(encoding="utf-8"), origin)

    def respond(self, wire: bytes, over_tcp: bool) -> bytes | None:
        """Return the response to a message; None where none is due: to a response, or to half a header."""
        if len(wire) < HEADER or wire[2] & QR:
            return None
        if wire[2] & OPCODE:
            return error_response(wire, dns.rcode.NOTIMP, EDNS_UDP_SIZE)
        try:
            query = read_message(wire)
        except Exception:  # whatever the parser stumbles over, the message is to blame
            return wire[:2] + bytes((QR | wire[2] & RD, dns.rcode.FORMERR)) + bytes(HEADER - 4)
        try:
            return _to_wire(self.answer(query, over_tcp), query.payload, over_tcp)
        except Exception as error:  # whatever is wrong here, the next query is served
            log.error("internal error, SERVFAIL for %s: %r", ", ".join(map(str, query.question)), error)
            response = _start_response(query)
            response.set_rcode(dns.rcode.SERVFAIL)
            return response.to_wire()

    def answer(self, query: Message, over_tcp: bool) -> Message:
        """Return the response to a query, whatever its size."""
        response = _start_response(query)
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        elif len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
        elif query.question[0].rdclass == dns.rdataclass.CH:
            _answer_chaos(response)
        elif query.question[0].rdclass != dns.rdataclass.IN or not self._has(query.question[0].name):
            response.set_rcode(dns.rcode.REFUSED)
        elif query.question[0].rdtype in (RdataType.AXFR, RdataType.IXFR):
            self._transfer(response, over_tcp)
        else:
            self._look_up(response)
        return response

    def _has(self, name: Name) -> bool:
        return name.is_subdomain(self.origin)

    def _look_up(self, response: Message) -> None:
        """Answer from the zone, along its CNAMEs, as far as it has something to say."""
        name, rdtype = response.question[0].name, response.question[0].rdtype
        response.flags |= dns.flags.AA
        seen: set[Name] = set()
        while self._has(name) and name not in seen:
            seen.add(name)
            if self._refer(response, name, rdtype):
                return
            node = self._node(name)
            found = node if rdtype == RdataType.ANY else _of_type(node or [], rdtype)
            alias = _of_type(node or [], RdataType.CNAME)
            if found or not alias:
                response.answer += [_owned_by(name, each) for each in found or []]
                if node is None:
                    response.set_rcode(dns.rcode.NXDOMAIN)
                if not found:  # the SOA says how long a "no" holds (RFC 2308)
                    ttl = min(self._soa.ttl, self._soa[0].minimum)
                    response.authority.append(dns.rrset.from_rdata(self.origin, ttl, self._soa[0]))
                elif rdtype == RdataType.MX:  # the TTL is the answer's: the 0 of 2011 let nobody keep it
                    response.additional.append(dns.rrset.from_text(name, found[0].ttl, "IN", "TXT", SERVED_BY))
                return
            response.answer.append(_owned_by(name, alias[0]))
            name = alias[0][0].target

    def _refer(self, response: Message, name: Name, rdtype: RdataType) -> bool:
        """Refer to the servers of a delegation at or above a name, if there is one.

        The DS of a delegation is asked of its parent: us (RFC 4035 3.1.4.1).
        """
        for labels in range(len(self.origin) + 1, min(len(name) + (rdtype != RdataType.DS), self._depth + 1)):
            delegated = name.split(labels)[1]
            for servers in _of_type(self._nodes.get(delegated, []), RdataType.NS):
                if not response.answer:  # AA is about the first name (RFC 1035 4.1.1)
                    response.flags &= ~dns.flags.AA
                response.authority.append(_owned_by(delegated, servers))
                for target in (rdata.target for rdata in servers):
                    glue = _of_type(self._nodes.get(target, []), RdataType.A, RdataType.AAAA)
                    response.additional += [_owned_by(target, each) for each in glue]
                return True
        return False

    def _node(self, name: Name) -> list[Rdataset] | None:
        """Return what a name has, or the wildcard that stands for it (RFC 4592); None: no such name."""
        if name in self._nodes:
            return self._nodes[name]
        encloser = name.split(min(len(name) - 1, self._depth))[1]
        while encloser not in self._nodes:
            encloser = encloser.parent()
        return self._nodes.get(Name((b"*", *encloser.labels)))

    def _transfer(self, response: Message, over_tcp: bool) -> None:
        """Give away the whole zone between two SOA records (RFC 5936), in one message.

        An incremental transfer (RFC 1995) is a whole one here; over UDP it is the SOA that sends to TCP.
        """
        if response.question[0].name != self.origin:
            response.set_rcode(dns.rcode.NOTAUTH)
        elif response.question[0].rdtype == RdataType.AXFR and not over_tcp:
            response.set_rcode(dns.rcode.REFUSED)
        else:
            response.flags |= dns.flags.AA
            soa = _owned_by(self.origin, self._soa)
            whole = (_owned_by(name, each) for name, node in self._nodes.items() for each in node)
            response.answer = [soa, *(each for each in whole if each != soa), soa] if over_tcp else [soa]


def _of_type(node: list[Rdataset], *rdtypes: RdataType) -> list[Rdataset]:
    return [each for each in node if each.rdtype in rdtypes]


def _owned_by(name: Name, rdataset: Rdataset) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))


def _start_response(query: Message) -> Message:
    """Return a response with nothing but what it takes over: ID, opcode, RD, question, and OPT with DO."""
    response = dns.message.make_response(query, our_payload=EDNS_UDP_SIZE, pad=0)
    if query.edns >= 0:
        response.want_dnssec(bool(query.ednsflags & dns.flags.DO))
    return response


def _answer_chaos(response: Message) -> None:
    """Say who we are, to those who ask in class CHAOS (RFC 4892)."""
    question = response.question[0]
    text = CHAOS.get(str(question.name).lower())
    if text is None or question.rdtype not in (RdataType.TXT, RdataType.ANY):
        response.set_rcode(dns.rcode.REFUSED)
        return
    response.flags |= dns.flags.AA
    response.answer.append(dns.rrset.from_text(question.name, 0, "CH", "TXT", text))


def _to_wire(response: Message, payload: int, over_tcp: bool) -> bytes:
    """Return a response in wire format: over UDP emptied, with TC=1, if its client cannot take it.

    `payload` is what the client offers, 0 without OPT. Records keep their order, so that answers compare.
    Raises dns.exception.TooBig where not even TCP carries it.
    """
    limit = 65535 if over_tcp else min(max(payload, 512), EDNS_UDP_SIZE)
    try:
        return response.to_wire(max_size=limit, want_shuffle=False)
    except dns.exception.TooBig:
        if over_tcp:
            raise
    for section in (response.answer, response.authority, response.additional):
        section.clear()
    response.flags |= dns.flags.TC
    return response.to_wire(max_size=limit)
