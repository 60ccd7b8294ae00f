"""Show what an answer's age makes of it (RFC 8767), with time moved by hand.

Where an upstream is needed, the test is the upstream: it takes what is carried to it, and answers or fails.
"""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edns import EDE, option, split_opt, subnet, with_opt
from support.examples import examples
from support.quick import (
    QR,
    RD,
    TXT,
    answer,
    carried,
    failure,
    miss_path_before_a_test,
    name_wire,
    payload_of,
    query,
)
from support.wires import record_wire

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

MEMORY = 1 << 22
CNAME, SOA, AAAA = 5, 6, 28
NXDOMAIN, REFUSED, SERVFAIL = 3, 5, 2
RECHECK, CLIENT_TIMER, DEADLINE = 30, 1.8, 2.5
TURN = 0.016  # nothing is due later than so many seconds
ASKED = query("www.example.com")
STALE, STALE_NXDOMAIN = option(EDE, pack("!H", 3)), option(EDE, pack("!H", 19))


def made(zone=0, **settings):
    """Return a cache with settings, and its clock."""
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(zone, **settings)
    return cache, clock


def respond(asked, *records, counts, rcode=0):
    return asked[:2] + pack("!5H", QR | RD | rcode, 1, *counts) + asked[12:] + b"".join(records)


def negative(ttl, rcode=NXDOMAIN):
    """Return an answer that says no, with a SOA record."""
    rdata = name_wire("ns.test") + name_wire("root.test") + pack("!5I", 1, 2, 3, 4, ttl)
    return respond(ASKED, record_wire(SOA, rdata, ttl), counts=(0, 1, 0), rcode=rcode)


def ttl_of(hit):
    """Return the TTL of the one record in an answer to ASKED, or None."""
    return hit and int.from_bytes(hit[len(ASKED) + 6 : len(ASKED) + 10])


# ---------------------------------------------------------------- by age

few = st.integers(1, 40)


@examples(300)
@given(few, few, few, few, st.integers(0, 90), st.sampled_from(["off", "on-failure", "immediate"]), st.booleans())
def test_an_answer_is_fresh_then_stale_then_gone(ttl, shortest, longest, stale_ttl, age, mode, keep):
    cache, clock = made(shortest=shortest, stale=mode, stale_longest=longest, stale_ttl=stale_ttl, keep_ttl=keep)
    cache.store(ASKED, answer(ASKED, b"text", ttl=ttl))
    clock.advance(age)
    held = max(ttl, shortest)
    if age < held:
        expected = ttl if keep else max(ttl - age, 1)
    else:
        expected = stale_ttl if mode == "immediate" and age < held + longest else None
    assert ttl_of(cache.lookup(ASKED)) == expected


TOLD = {
    "an answer": (answer(ASKED, b"text", ttl=5), STALE),
    "NODATA": (negative(5, 0), STALE),
    "NXDOMAIN": (negative(5), STALE_NXDOMAIN),
}


@pytest.mark.parametrize(("response", "error"), TOLD.values(), ids=TOLD)
def test_a_stale_answer_says_so_where_there_is_an_opt(response, error):
    cache, clock = made(stale="immediate")
    said, client = option(EDE, b"\0\1x"), subnet("192.0.2.1", 24)
    cache.store(ASKED, response)
    cache.store(with_opt(ASKED), with_opt(response, said))
    cache.store(with_opt(ASKED, client), with_opt(response, subnet("192.0.2.1", 24, 24)))
    for passed, told in ((0, b""), (4, b""), (1, error)):
        clock.advance(passed)
        assert split_opt(cache.lookup(ASKED))[1] is None
        assert split_opt(cache.lookup(with_opt(ASKED)))[1] == said + told
        assert split_opt(cache.lookup(with_opt(ASKED, client)))[1] == subnet("192.0.2.1", 24, 24) + told
    assert ttl_of(cache.lookup(ASKED)) == 30


def test_all_records_of_a_stale_answer_have_its_ttl():
    cache, clock = made(stale="immediate", stale_ttl=7)
    records = [record_wire(TXT, b"\4text", ttl) for ttl in (1, 100, 86400)]
    cache.store(ASKED, respond(ASKED, *records, counts=(1, 1, 1)))
    clock.advance(1)
    assert cache.lookup(ASKED)[len(ASKED) :] == record_wire(TXT, b"\4text", 7) * 3


def test_a_failure_is_never_stale():
    cache, clock = made(stale="immediate")
    cache.store(ASKED, failure(ASKED))
    clock.advance(4)
    assert cache.lookup(ASKED) is not None
    clock.advance(1)
    assert cache.lookup(ASKED) is None


@pytest.mark.parametrize(
    ("mode", "age", "replaced"),
    [("off", 9, False), ("off", 10, True), ("on-failure", 29, False), ("immediate", 30, True)],
)
def test_a_failure_replaces_nothing_that_may_still_serve(mode, age, replaced):
    cache, clock = made(stale="immediate", stale_longest=1)
    cache.zones.assign([name_wire("example.com")])
    cache.zones.configure(cache.zones.number(name_wire("example.com")), stale=mode, stale_longest=20)
    cache.store(ASKED, answer(ASKED, b"text", ttl=10))
    clock.advance(age)
    assert cache.store(ASKED, failure(ASKED)) == replaced


@pytest.mark.parametrize(("mode", "ttl"), [("off", None), ("on-failure", None), ("immediate", 30)])
def test_what_is_let_expire_is_stale_at_once_and_as_long_as_what_expired_by_itself(mode, ttl):
    cache, clock = made(stale=mode, stale_longest=20)
    cache.store(ASKED, answer(ASKED, b"text", ttl=1000))
    clock.advance(500)
    assert ttl_of(cache.lookup(ASKED)) == 500
    cache.purge(name_wire("example.com"), below=True, let_expire=True)
    for seconds in 0, 19:
        clock.advance(seconds)
        assert ttl_of(cache.lookup(ASKED)) == ttl
    clock.advance(1)
    assert cache.lookup(ASKED) is None


def test_settings_are_those_of_the_zone_and_count_at_once():
    cache, clock = made(stale="immediate", stale_longest=50)
    zones, queries = ["off.test", "on.test", "on.off.test"], [query(f"www.{zone}") for zone in ("off.test", "on.test")]
    cache.zones.assign([name_wire(zone) for zone in zones])
    off, on = (cache.zones.number(name_wire(zone)) for zone in zones[:2])
    cache.zones.configure(off, stale="off")
    cache.zones.configure(on, stale="immediate", stale_ttl=9, stale_longest=100)
    for asked in (ASKED, *queries):
        cache.store(asked, answer(asked, b"text", ttl=10))
    clock.advance(10)
    assert list(map(cache.lookup, (ASKED, *queries))) == [
        answer(ASKED, b"text", ttl=30),
        None,
        answer(queries[1], b"text", ttl=9),
    ]
    clock.advance(50)
    assert [cache.lookup(asked) is not None for asked in (ASKED, *queries)] == [False, False, True]
    cache.zones.configure(on, stale="off")
    assert cache.lookup(queries[1]) is None


# ---------------------------------------------------------------- with an upstream


class Shield:
    """The waiting part of a shield, whose upstream is the test; its one answer is stored and `age` seconds old."""

    def __init__(self, asked=ASKED, *, age, ttl=100, **settings):
        self.cache, self.clock = made(stale_longest=1000, **settings)
        self.miss_path = miss_path_before_a_test(self.cache)
        self.asked = asked
        assert self.cache.store(asked, self.answer(b"old", ttl=ttl))
        self.clock.advance(age)

    def answer(self, text, ttl=300):
        """Return an answer to what is asked here."""
        plain = answer(ASKED, text, ttl=ttl)
        return plain if self.asked == ASKED else with_opt(plain)

    def ask(self):
        """Ask as a client; return the answers that there are by now, with their TTLs."""
        self.miss_path.submit(1, bytes(4), self.asked)
        return self.heard()

    def heard(self):
        messages = [framed[2:] for _, framed in self.miss_path.outbox.take_streams()]
        return [(ttl_of(message), payload_of(ASKED, split_opt(message)[0])) for message in messages]

    def carried(self):
        """Return the queries that wait for the upstream's answer since the last time."""
        return carried(self.miss_path)

    def wait(self, seconds):
        self.clock.advance(seconds)
        self.miss_path.tick()
        return self.heard()


STALE_ANSWER = [(30, b"old")]
FAILURES = {
    "silence": lambda shield, handle: shield.miss_path.fail(handle),
    "the deadline": lambda shield, _: shield.clock.advance(DEADLINE + TURN) or shield.miss_path.tick(),
    "SERVFAIL": lambda shield, handle: shield.miss_path.resolve(handle, failure(ASKED, SERVFAIL)),
    "REFUSED": lambda shield, handle: shield.miss_path.resolve(handle, failure(ASKED, REFUSED)),
}


@pytest.mark.parametrize("mode", ["off", "on-failure"])
@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_a_failed_refresh_is_answered_with_what_is_stale_and_not_tried_again_for_a_while(fail, mode):
    shield = Shield(age=100, stale=mode, client_timer=9)
    for _ in range(3):
        assert shield.ask() == []
        (handle,) = shield.carried()
        fail(shield, handle)
        if mode == "off":
            assert shield.heard() == [(0, b"")]
            return
        assert shield.heard() == STALE_ANSWER
        shield.clock.advance(RECHECK - 1)
        assert (shield.ask(), shield.carried()) == (STALE_ANSWER, [])
        shield.clock.advance(1)
        assert shield.cache.lookup(ASKED) is None, "it is time to ask again"


def test_what_is_let_expire_is_asked_for_at_once_whatever_failed_before():
    shield = Shield(age=100, stale="on-failure")
    shield.ask()
    shield.miss_path.fail(shield.carried()[0])
    assert shield.heard() == shield.ask() == STALE_ANSWER
    shield.cache.purge(name_wire("example.com"), below=True, let_expire=True)
    assert shield.ask() == []
    assert len(shield.carried()) == 1


def test_beyond_its_time_nothing_is_served():
    shield = Shield(age=1099, stale="on-failure", client_timer=9)
    shield.ask()
    shield.clock.advance(1)
    shield.miss_path.fail(shield.carried()[0])
    assert shield.heard() == [(0, b"")]


def test_a_failure_that_was_noted_does_not_prolong_its_time():
    shield = Shield(age=1090, stale="on-failure")
    shield.ask()
    shield.miss_path.fail(shield.carried()[0])
    assert shield.heard() == STALE_ANSWER
    shield.clock.advance(9)
    assert shield.ask() == STALE_ANSWER
    shield.clock.advance(1)
    assert shield.ask() == []


@pytest.mark.parametrize("asked", [ASKED, with_opt(ASKED, subnet("192.0.2.1", 24))], ids=["plain", "subnet"])
def test_a_client_waits_so_long_and_the_answer_that_comes_later_is_kept(asked):
    shield = Shield(asked, age=100, stale="on-failure", client_timer=CLIENT_TIMER)
    assert [*shield.ask(), *shield.ask(), *shield.wait(CLIENT_TIMER - 0.1)] == []
    assert shield.wait(0.1 + TURN) == STALE_ANSWER * 2
    assert shield.ask() == STALE_ANSWER, "nobody waits for what already takes too long"
    (handle,) = shield.carried()
    assert shield.miss_path.resolve(handle, shield.answer(b"new"))
    assert shield.ask() == [(300, b"new")]
    assert shield.miss_path.pending_queries == 0


def test_at_once_means_one_refresh_behind_it():
    shield = Shield(age=100, stale="immediate")
    for passed, waiting in ((0, 1), (1, 1), (DEADLINE - 1 + TURN, 0), (RECHECK - 1, 0)):
        assert shield.wait(passed) == []
        assert shield.ask() == STALE_ANSWER
        assert shield.miss_path.pending_queries == waiting, passed
    shield.wait(1)
    assert shield.ask() == STALE_ANSWER
    assert shield.miss_path.pending_queries == 1, "the failed refresh is tried again"


@pytest.mark.parametrize(
    ("prefetch", "uses", "age", "refreshed"),
    [(True, 3, 91, 1), (True, 3, 90, 0), (True, 1, 91, 0), (False, 3, 91, 0)],
)
def test_what_is_in_use_is_refreshed_in_the_last_tenth_of_its_life(prefetch, uses, age, refreshed):
    shield = Shield(age=0, prefetch=prefetch)
    for _ in range(uses):
        shield.ask()
    shield.clock.advance(age)
    assert shield.ask() == shield.ask() == [(100 - age, b"old")]
    assert shield.miss_path.pending_queries == refreshed


def test_a_refresh_that_has_not_failed_yet_is_waited_for():
    shield = Shield(age=0, stale="on-failure", prefetch=True)
    for _ in range(3):
        shield.ask()
    shield.clock.advance(99)
    assert shield.ask() == [(1, b"old")]
    shield.clock.advance(1)
    assert shield.ask() == []
