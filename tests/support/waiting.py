"""Know how to be all upstreams of a shield's pending queries, with time moved by hand.

What is carried to an upstream is taken, and answered, failed or left alone, as a test wants it.
"""

import itertools
from collections import Counter
from hashlib import blake2b
from math import inf
from typing import Any, NamedTuple

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath
from support.quick import A, answer, failure, query

TURN = 0.0168  # seconds: nothing is due later than so many


def seed_of(member):
    """Return what an upstream's places in the hash are made from."""
    return int.from_bytes(blake2b(str(member).encode(), digest_size=8).digest())


class Carried(NamedTuple):
    """One attempt: a query that an upstream is asked."""

    handle: int
    upstream: int
    wire: bytes


class Stage:
    """Pending queries before upstreams that are all the test, reached over streams; number n is of order n."""

    def __init__(self, count, policy="order", *, each: Any = None, capacity=512, **limits):
        self.clock = Clock()
        self.miss_path = MissPath(Cache(1 << 22, self.clock), capacity)
        self.table = self.miss_path.upstreams
        self.members, self.policy = range(count), policy
        self.limits = {"timeout": 1.0, "deadline": 20.0, "retry_after": 0.1, **limits}
        for n in self.members:
            options = each[n] if each else {}
            self.table.set_upstream(n, **{"order": n, "seed": seed_of(n), "over_stream": True, **options})
            self.table.set_health(n)
        self.table.set_group(0, policy, self.members)
        self.miss_path.set_limits(**self.limits)
        self.serial, self.capacity = itertools.count(), capacity

    def ask(self, name=None, rdtype=A):
        """Ask for a name that nobody has asked for, or this one; return the attempts that are made.

        Each client is in a network of its own, and each fresh name in a zone: none of them has more than its share.
        """
        number = next(self.serial)
        wire = query(name or f"fresh.zone{number}.test", rdtype)
        assert self.miss_path.submit(1, (number << 8).to_bytes(4), wire)
        return self.asked()

    def asked(self):
        self.miss_path.send()
        return [Carried(*carried[:3]) for carried in self.miss_path.take_stream_queries()]

    def whom(self, count):
        """Return who is asked for so many names, which all stay outstanding."""
        return Counter(attempt.upstream for _ in range(count) for attempt in self.ask())

    def answer(self, attempt, rcode=0):
        said = failure(attempt.wire, rcode) if rcode else answer(attempt.wire, bytes(4), rdtype=A, ttl=0)
        return self.miss_path.resolve(attempt.handle, said)

    def heard(self):
        """Return the RCODEs that clients got."""
        return [framed[5] & 15 for _, framed in self.miss_path.outbox.take_streams()]

    def wait(self, seconds):
        """Let time pass, and return the attempts that are made."""
        self.clock.advance(seconds)
        self.miss_path.tick()
        return self.asked()

    def counters(self, upstream):
        return self.table.counters(upstream)

    def teach(self, upstream, *latencies):
        """Have one upstream answer, each time after so many seconds; return how long it took, as was measured."""
        measured = []
        self.table.set_group(0, self.policy, [upstream])
        for seconds in latencies:
            before = self.counters(upstream)["latency_histogram"]["sum"]
            (attempt,) = self.ask()
            self.clock.advance(seconds)
            assert self.answer(attempt)
            measured.append(self.counters(upstream)["latency_histogram"]["sum"] - before)
        self.table.set_group(0, self.policy, self.members)
        self.heard()
        return measured

    def silence(self, expected=None, step=0.005, most=3.0):
        """Ask, and return the least and most seconds after which another attempt may have been made, and whose."""
        before = self.clock.seconds()
        (attempt,) = self.ask()
        assert expected in (None, attempt.upstream)
        sent = self.clock.seconds()
        least = 0.0
        while self.clock.seconds() < sent + most:
            looked = self.clock.seconds()
            again = [other.upstream for other in self.wait(step) if other.wire[12:] == attempt.wire[12:]]
            if again:
                return least, self.clock.seconds() - before, again[0]
            least = looked + step - sent
        return least, inf, None
