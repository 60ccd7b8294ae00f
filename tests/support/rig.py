"""The rig of most tests: the real shield before scripted upstreams, questions to it, and what came of them.

What an upstream does is a script (`support.upstream`); what the shield should make of it is for the tests.
"""

import contextlib
import itertools
import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode

from support import quick
from support.client import address_of
from support.control import stats_of
from support.pipeline import ask_all
from support.process import run_shield
from support.upstream import Delayed, ScriptedUpstream, answer, respond
from support.wires import record_wire, reply_wire

NOERROR, SERVFAIL, REFUSED = 0, 2, 5
TIMEOUT, DEADLINE = 0.3, 1.0  # seconds
SILENCE = 0.3  # seconds after which what has not come does not come
PATIENT = {"timeout": 5.0, "retry_after": 5.0, "deadline": 10.0}  # a busy machine is no silent upstream
HASTY = {"timeout": TIMEOUT, "deadline": DEADLINE}  # where nobody answers
SOON = {"timeout": 0.5}  # where one is silent, and another answers
_serial = itertools.count()


class WithoutTcp(ScriptedUpstream):
    """A nameserver whose port is closed to TCP."""

    async def _serve_until_stopped(self):
        self._listener.close()
        self._listener = socket.create_server((self._host, 0))  # somewhere else
        await super()._serve_until_stopped()


class Holding(ScriptedUpstream):
    """A nameserver that keeps its answers from `hold` on, until `let_go`: whoever waits for one waits."""

    _held = None

    def serve(self, query, send):
        if self._held is None:
            super().serve(query, send)
        else:
            self._held.append((query, send))

    def hold(self):
        self._held = []

    def let_go(self):
        self._loop.call_soon_threadsafe(self._serve_held)

    def _serve_held(self):
        held, self._held = self._held, None
        for query, send in held:
            self.serve(query, send)


@dataclass(frozen=True)
class Placed:
    """An upstream, or the script of one, and what the configuration says of it."""

    server: Any
    options: dict[str, Any] = field(default_factory=dict)


def placed(server, **options):
    """Return an upstream, or the script of one, with options of its own."""
    return Placed(server, options)


# A port that is given up takes with it what comes too late for everybody, which tests count.
STEADY = {"source_port_lifetime": 1000.0}


@contextlib.contextmanager
def behind(*servers, forward=PATIENT, **options):
    """Run a shield in front of these upstreams; yield it, and them: those that are scripts run as long.

    The options are those of the top of the file, tables as dicts. By the policy "order", the first is asked first.
    The limits of `forward` are PATIENT, but for those that are given.
    """
    with contextlib.ExitStack() as stack:
        running, tables = [], []
        for one in servers:
            which = one if isinstance(one, Placed) else placed(one)
            server = which.server
            running.append(stack.enter_context(ScriptedUpstream(server)) if callable(server) else server)
            tables.append({"address": str(address_of(running[-1])), "order": len(running), **which.options})
        shield = stack.enter_context(
            run_shield([], toml=toml(upstreams=tables, forward=STEADY | PATIENT | forward, **options))
        )
        yield shield, *running


def toml(**options):
    """Return options as lines of TOML."""
    return "\n".join(f"{key} = {_value(value)}" for key, value in options.items())


def _value(value):
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return json.dumps(value)


# ------------------------------------------------------------ what upstreams do


LARGE, LATE = 60_000, 0.4  # octets of RDATA, seconds


def by_name(query):
    """Answer with an address; slowly, largely or not at all where the name says so; what is no query succeeds."""
    if query.message.opcode():
        return respond(query)
    match query.name.labels[0]:
        case b"large":
            return reply_wire(query, record_wire(65280, bytes(LARGE)))
        case b"silent":
            return None
        case b"slow":
            return Delayed(LATE, answer(query, "A 192.0.2.1"))
    return answer(query, "A 192.0.2.1")


def silent(query):
    """Say nothing."""
    return


def numbered(number, ttl=300):
    """Return a script that answers everything with 192.0.2.`number`."""
    return lambda query: reply_wire(query, record_wire(quick.A, bytes([192, 0, 2, number]), ttl))


def answering(address, ttl=300):
    """Return the script of an upstream that answers everything with this address."""
    return lambda query: answer(query, f"A {address}", ttl=ttl)


def failing(rcode):
    """Return a script that answers everything with an rcode and nothing else."""
    return lambda query: reply_wire(query, counts=(0, 0, 0), flags=0x8000 | rcode)


def after(seconds, script):
    """Return a script that does the same, later."""
    return lambda query: Delayed(seconds, script(query))


good = numbered(1)


# ------------------------------------------------------------ what clients do


def asked(name, rdtype="A", *, flags="RD", edns=None, do=False, options=(), opcode="QUERY", rdclass="IN"):
    """Return a query; `options` are (code, octets)."""
    made = dns.message.make_query(name, rdtype, rdclass, use_edns=edns if edns is not None else bool(options) or do)
    made.flags = dns.flags.from_text(flags)
    made.set_opcode(dns.opcode.from_text(opcode))
    if options or do:
        made.use_edns(0, dns.flags.DO if do else 0, 1232, options=[dns.edns.GenericOption(*each) for each in options])
    return made


def ask(shield, query, *, source=None, tcp=False, timeout=10.0):
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


def names(count):
    """Return so many names that nobody has asked for."""
    return [f"name{next(_serial)}.test." for _ in range(count)]


def ask_each(shield, asked, tcp=False):
    """Ask for the address of each name, 32 at a time, and return what came, in the order of the names."""
    return ask_all(shield, [quick.query(name, quick.A) for name in asked], tcp=tcp)


def received(upstream):
    """Return how often each name was asked of a scripted upstream, in lower case."""
    return Counter(query.name.to_text().lower() for query in list(upstream.received))


def rcodes(replies):
    """Return how often each rcode came."""
    return Counter(reply[3] & 15 for reply in replies)


def answerers(replies):
    """Return how often each of the `numbered` answered."""
    return Counter(reply[-1] for reply in replies if reply[7])


def at_once(count, work):
    """Return what `work` returned for 0 ... count - 1, all of them at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


# ------------------------------------------------------------ what the shield tells


def counters(shield, upstream):
    """Return what the shield has counted of one upstream."""
    return stats_of(shield, address_of(upstream))
