"""Know how to ask a shield from any address of this host, and how to write a question down in a line."""

import contextlib
from collections import Counter

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
from support.client import address_of
from support.upstream import answer

SILENCE = 0.3  # seconds after which what has not come does not come


def asked(name, rdtype="A", *, flags="RD", edns=None, do=False, options=(), opcode="QUERY", rdclass="IN"):
    """Return a query; `options` are (code, octets)."""
    made = dns.message.make_query(name, rdtype, rdclass, use_edns=edns if edns is not None else bool(options) or do)
    made.flags = dns.flags.from_text(flags)
    made.set_opcode(dns.opcode.from_text(opcode))
    if options or do:
        made.use_edns(0, dns.flags.DO if do else 0, 1232, options=[dns.edns.GenericOption(*each) for each in options])
    return made


def ask(shield, query, *, source=None, tcp=False, timeout=3.0):
    """Return the response to a query, or to one for the address of a name; None where there is none."""
    query = asked(query) if isinstance(query, str) else query
    host, port = address_of(shield)
    way = dns.query.tcp if tcp else dns.query.udp
    with contextlib.suppress(dns.exception.Timeout, EOFError):
        return way(query, host, timeout, port, source=source, ignore_trailing=True)
    return None


def rcode(response):
    """Return the RCODE of a response as text; "silence" where there is none."""
    return dns.rcode.to_text(response.rcode()) if response is not None else "silence"


def data(response):
    """Return the data of the records in the answer section, in order."""
    return sorted(rdata.to_text() for rrset in response.answer for rdata in rrset)


def received(upstream):
    """Return how often each name was asked of an upstream, in lower case."""
    return Counter(query.name.to_text().lower() for query in list(upstream.received))


def answering(address, ttl=300):
    """Return the script of an upstream that answers everything with this address."""
    return lambda query: answer(query, f"A {address}", ttl=ttl)
