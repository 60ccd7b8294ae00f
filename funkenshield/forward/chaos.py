"""Who answers here: the shield's own answers to `id.server.` and `version.server.` (RFC 4892).

It knows four names of class CHAOS. What is not asked of them is somebody else's to answer.
"""

from collections.abc import Callable
from functools import partial

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset

from ..config.clients import ChaosSection
from ..core._limits import EDNS_UDP_SIZE
from ..wire._message import inspect_query
from ..wire.messages import read_message

TTL = 60  # seconds: long enough that a flood of such questions is answered from the cache
STRING_MAX = 255  # octets of a string in a TXT record

SERVER_NAMES = {dns.name.from_text(name) for name in ("id.server.", "hostname.bind.")}
ZONES = (b"\x04bind\0", b"\x06server\0")  # that the names are in
VERSION_NAMES = {dns.name.from_text(name) for name in ("version.server.", "version.bind.")}
WIRES = {name.to_wire() for name in (*SERVER_NAMES, *VERSION_NAMES)}  # looked at first: a flood of others costs little


def responder(section: ChaosSection) -> Callable[[bytes], bytes | None] | None:
    """Return who answers questions of class CHAOS, if the shield does."""
    if not section.identity and not section.version:
        return None
    return partial(response, server=section.identity, version=section.version)


def response(query: bytes, *, server: str, version: str) -> bytes | None:
    """Return the answer to a question of who this is, or what it runs; None where the upstream answers.

    That is: another name, class or opcode, a text that is empty, and a message that is more than a
    question (signed, or of an EDNS version that is not known here).
    """
    found = inspect_query(query)
    if found.get("qclass") != dns.rdataclass.CH or found["qname"].lower() not in WIRES:
        return None
    try:
        asked = read_message(query)
    except dns.exception.DNSException:
        return None
    if asked.opcode() != dns.opcode.QUERY or asked.edns > 0 or asked.answer or asked.authority:
        return None
    question = asked.question[0]
    text = server if question.name in SERVER_NAMES else version if question.name in VERSION_NAMES else ""
    if not text:
        return None
    made = dns.message.make_response(asked, our_payload=EDNS_UDP_SIZE)
    made.flags |= dns.flags.AA
    if asked.edns >= 0:
        made.want_dnssec(bool(asked.ednsflags & dns.flags.DO))
    if question.rdtype == dns.rdatatype.TXT:
        made.answer.append(dns.rrset.from_rdata(question.name, TTL, _txt(text)))
    return made.to_wire()


def _txt(text: str) -> dns.rdtypes.ANY.TXT.TXT:
    octets = text.encode()
    strings = [octets[at : at + STRING_MAX] for at in range(0, len(octets), STRING_MAX)]
    return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.CH, dns.rdatatype.TXT, strings)
