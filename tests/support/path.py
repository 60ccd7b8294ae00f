"""Know how to be a shield without its daemon, and its upstream over UDP, with time moved by hand."""

import itertools
import select
import socket
import threading
from struct import pack
from typing import NamedTuple

from funkenshield.cache._store import Cache
from funkenshield.config import ForwardSection, HealthSection, UpstreamSection
from funkenshield.config.types import Endpoint
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath
from funkenshield.server._listener_table import ListenerTable
from funkenshield.server._udp_worker import Worker
from funkenshield.upstream.pool import Upstream
from support.quick import QR, RD, A, answer, payload_of, query

LOOPBACK = "127.0.0.1"
AT_ONCE = 64  # queries that no buffer is too small for
TRUTH, LIE = b"\xc0\0\2\1", b"\xc0\0\2\x42"


class Arrived(NamedTuple):
    """A query at the upstream."""

    wire: bytes
    port: int

    @property
    def ident(self):
        return int.from_bytes(self.wire[:2])

    @property
    def name(self):
        """The name as it is spelled, on the wire."""
        return self.wire[12:-4]


class Path:
    """A shield without its daemon: a client, a worker, pending queries, and an upstream over UDP that is the test."""

    def __init__(self, stack, sockets=1, random_case=False, port_life=3600.0, host=LOOPBACK, **limits):
        self.clock = Clock()
        self.miss_path = MissPath(Cache(1 << 22, self.clock), 1 << 15)
        self.table = self.miss_path.upstreams
        self.listener, self.server, self.client = (stack.enter_context(udp(at)) for at in (LOOPBACK, host, LOOPBACK))
        self.client.connect(self.listener.getsockname())
        self.listener.setblocking(False)
        self.worker = Worker(self.miss_path.cache, self.miss_path)
        self.worker.follow(ListenerTable([(0, self.listener.fileno(), self.listener.fileno(), None, None)]))
        thread = threading.Thread(target=self.worker.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self.worker.stop)
        endpoint = Endpoint(*self.server.getsockname()[:2])
        self.upstream = Upstream(0, endpoint, self.miss_path.sockets, self.table, self.clock)
        self.upstream.configure(
            UpstreamSection(address=(endpoint,), random_case=random_case, max_outstanding=1 << 22),
            None,
            HealthSection(check="off"),
            ForwardSection(sockets=sockets, source_port_lifetime=port_life),
        )
        stack.callback(self.upstream.close)
        self.miss_path.renew_with(lambda _: self.upstream.reopen_sockets(sockets, port_life))
        self.table.set_group(0, "order", [0])
        self.limits = {"timeout": 20.0, "deadline": 30.0, "max_forgeable": 1 << 20, **limits}
        self.miss_path.set_limits(**self.limits)
        self.serial = itertools.count()

    def fresh(self, count=1):
        return [f"fresh{next(self.serial)}.test" for _ in range(count)]

    def ask(self, *names, rdtype=A):
        """Ask for names, or for their wires; return what arrives at the upstream."""
        self.hand_over(*names, rdtype=rdtype)
        return self.arrived(len(names))

    def hand_over(self, *names, rdtype=A):
        """Ask for names, or for their wires, and have them sent, in one batch."""
        for name in names:
            self.client.send(name if isinstance(name, bytes) else query(name, rdtype))
        left = len(names)
        ready = select.poll()
        ready.register(self.miss_path.fileno(), select.POLLIN)
        while left:
            ready.poll(5000)
            self.miss_path.receive()  # it reads no more than what wakes us
            left -= self.miss_path.collect()
        self.miss_path.send()

    def ask_each(self, count):
        """Ask for so many fresh names, one after the other: what is asked at once goes through one socket."""
        return [asked for name in self.fresh(count) for asked in self.ask(name)]

    def arrived(self, count):
        return [Arrived(wire, peer[1]) for wire, peer in (self.server.recvfrom(512) for _ in range(count))]

    def arrived_in_all(self):
        """Return all datagrams that have arrived at the upstream, whatever is in them."""
        taken = []
        while not self.nothing_arrived():
            taken.append(self.server.recv(65535))
        return taken

    def nothing_arrived(self):
        return not select.select([self.server], [], [], 0)[0]

    def say(self, port, *wires):
        """Send responses to a port of the shield, and have them taken."""
        for wire in wires:
            self.server.sendto(wire, (LOOPBACK, port))
            assert self.miss_path.receive() == 1

    def answer(self, *asked, truth=TRUTH):
        for each in asked:
            self.say(each.port, told(each, truth))

    def carried(self, asked, spelled=bytes):
        """Answer what is asked over TCP, all of it, with names `spelled` so; return how many there were."""
        self.miss_path.send()
        taken = self.miss_path.take_stream_queries()
        for handle, _, wire, *_ in taken:
            assert wire[12:].lower() == asked.wire[12:].lower()
            question = spelled(wire[12 : 12 + len(asked.name)]) + wire[12 + len(asked.name) :]
            assert self.miss_path.resolve(handle, answer(wire[:12] + question, TRUTH, rdtype=A, ttl=0))
        return len(taken)

    def heard(self, asked):
        """Return what a client got who asked so, or None where there is nothing."""
        if not select.select([self.client], [], [], 0)[0]:
            return None
        return payload_of(asked, self.client.recv(512))

    def heard_anything(self):
        """Take what came to the client, and tell whether that was anything."""
        return bool(select.select([self.client], [], [], 0)[0] and self.client.recv(512))

    def flood(self, asked, count, **changes):
        """Send lies with wrong IDs."""
        for wrong in range(1, count + 1):
            self.say(asked.port, told(asked, LIE, ident=asked.ident ^ wrong, **changes))

    @property
    def unexpected(self):
        return self.table.counters(0)["unexpected_replies"]

    @property
    def unsolicited(self):
        return self.table.counters(0)["unsolicited_replies"]

    @property
    def suspicions(self):
        return self.table.counters(0)["spoof_detections"]


def udp(host=LOOPBACK):
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((host, 0))
    opened.settimeout(10)
    return opened


def told(asked, payload, *, ident=None, question=None):
    """Return a response with one address, to a query as it arrived but for what is given."""
    wire = asked.wire[:12] + (question or asked.wire[12:])
    return pack("!H", asked.ident if ident is None else ident) + answer(wire, payload, rdtype=A, ttl=0)[2:]


def headers_only(asked, rcode=0):
    """Return a response without a question, with the right ID."""
    return asked.wire[:2] + pack("!5H", QR | RD | rcode, 0, 0, 0, 0)


def two_ports(shield):
    """Return a query that waits on each of two sockets, asked one after the other."""
    asked = {each.port: each for each in shield.ask_each(20)}
    assert len(asked) == 2
    return asked.values()


def without_tcp(shield):
    """Say that there is no TCP to be had, whatever is asked; return how often it was."""
    failed = 0
    shield.miss_path.send()
    while taken := shield.miss_path.take_stream_queries():
        for handle, *_ in taken:
            shield.miss_path.fail(handle)
            failed += 1
        shield.miss_path.send()
    return failed
