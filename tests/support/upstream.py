"""Know how a nameserver may behave, well or badly: a script decides each reply.

`handle(query)` is given a Query and returns what goes back: a Message, raw octets, None for silence, a list
of several of these, or any of them `Delayed`.
"""

from dataclasses import dataclass
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from support.client import LARGEST
from support.server import LoopbackServer, Received

Query = Received


@dataclass(frozen=True)
class Delayed:
    """A reply that leaves only after some seconds; other queries are served meanwhile."""

    seconds: float
    reply: Any


class ScriptedUpstream(LoopbackServer):
    """A fake nameserver; assign `handle` to change its mind while it runs."""

    def __init__(self, handle, host="127.0.0.1", port=0):
        super().__init__(host, port)
        self.handle = handle

    def serve(self, query, send):
        self._reply(self.handle(query), send)

    def _reply(self, reply, send):
        with self._errors_kept():
            match reply:
                case None:
                    pass
                case Delayed():
                    self._loop.call_later(reply.seconds, self._reply, reply.reply, send)
                case list():
                    for one in reply:
                        self._reply(one, send)
                case bytes():
                    send(reply)
                case _:
                    send(reply.to_wire(max_size=LARGEST))


def respond(query, rcode=dns.rcode.NOERROR, *, flags=dns.flags.AA):
    """Return an empty response with the ID, question and RD of the query, and its OPT and DO if any."""
    response = dns.message.make_response(query.message, our_payload=1232)
    response.flags |= flags
    response.ednsflags |= query.message.ednsflags & dns.flags.DO
    response.set_rcode(rcode)
    return response


def answer(query, *rrs, ttl=300):
    """Return a response with `rrs`: texts such as "A 192.0.2.1" at the question name, or whole RRsets."""
    response = respond(query)
    for rr in rrs:
        rrset = rr if isinstance(rr, dns.rrset.RRset) else _rrset(query.name, ttl, rr)
        response.find_rrset(response.answer, rrset.name, rrset.rdclass, rrset.rdtype, create=True).update(rrset)
    return response


def nodata(query, *, zone=".", ttl=300, minimum=300, rcode=dns.rcode.NOERROR):
    """Return a negative response (RFC 2308) with the SOA of `zone`, or without any for zone=None."""
    response = respond(query, rcode)
    if zone is not None:
        soa = f"SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 {minimum}"
        response.authority.append(_rrset(dns.name.from_text(zone), ttl, soa))
    return response


def nxdomain(query, **soa):
    """Return NXDOMAIN; `soa` is as for nodata."""
    return nodata(query, rcode=dns.rcode.NXDOMAIN, **soa)


def servfail(query):
    """Return SERVFAIL."""
    return respond(query, dns.rcode.SERVFAIL)


def truncated(query):
    """Return a response of the question alone with TC set."""
    return respond(query, flags=dns.flags.AA | dns.flags.TC)


def _rrset(name, ttl, text):
    rdtype, _, rdata = text.partition(" ")
    return dns.rrset.from_text(name, ttl, "IN", rdtype, rdata)
