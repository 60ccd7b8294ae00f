"""Who may have a connection, what it may hold, and who gives way."""

from collections import Counter

import pytest
from support.quic import LIMITS

from funkenshield.core.fair_shares import prefix_of
from funkenshield.quic.bounds import BURST, HANDSHAKES_MAX, Bounds, FairShare, client_of


class Held:
    """A connection as `Bounds` knows it."""

    numbers = 0

    def __init__(self, bounds, address, now=0.0):
        Held.numbers += 1
        self.number, self.began, self.bounds = Held.numbers, now, bounds
        self.client, self.prefix = client_of(address), prefix_of(address)
        self.is_idle, self.is_over = True, False

    def give_way(self, now):
        self.is_over = True
        self.bounds.remove(self)


class Scene:
    def __init__(self, **limits):
        self.counters = Counter()
        self.bounds = Bounds(LIMITS._replace(**limits), self.counters)

    def admit(self, address, now=0.0):
        """Return a connection that was admitted; None: it was not."""
        held = Held(self.bounds, bytes(map(int, address.split("."))), now)
        return held if self.bounds.admit(held, now) else None


def test_a_prefix_has_its_share_and_its_own_that_is_idle_the_longest_gives_way():
    scene = Scene(max_connections=10)
    mine = [scene.admit("192.0.2.1") for _ in range(8)]
    scene.bounds.touch(mine[0])
    another = scene.admit("192.0.2.2")
    assert [each.is_over for each in mine] == [False, True, *[False] * 6]
    assert another is not None
    assert scene.admit("198.51.100.1") is not None
    assert scene.counters == {"accepted": 10, "evicted": 1}
    assert len(scene.bounds) == 9


def test_where_all_are_taken_and_busy_the_oldest_of_whoever_has_the_most_gives_way():
    scene = Scene(max_connections=4)
    busy = [scene.admit("192.0.2.1"), scene.admit("192.0.2.1"), scene.admit("192.0.2.1"), scene.admit("198.51.100.1")]
    for each in busy:
        each.is_idle = False
    assert scene.admit("203.0.113.1") is not None
    assert [each.is_over for each in busy] == [True, False, False, False]
    assert scene.admit("192.0.2.9") is None
    assert scene.counters["refused"] == 1


def test_a_client_has_at_most_so_many():
    scene = Scene(max_connections_per_client=2)
    assert all(scene.admit("192.0.2.1") for _ in range(2))
    assert scene.admit("192.0.2.1") is None
    assert scene.admit("192.0.2.2") is not None


def test_handshakes_are_bounded_in_number_and_time():
    scene = Scene(max_connections=10_000)
    begun = [scene.admit(f"192.0.{n % 250}.1", now=float(n)) for n in range(HANDSHAKES_MAX + 1)]
    assert [each.is_over for each in begun[:2]] == [True, False]
    scene.bounds.end_handshake(begun[1])
    scene.bounds.end_handshakes(now=100.0 + LIMITS.handshake_timeout)
    assert [each.is_over for each in begun[1:102]] == [False, *[True] * 99, False]
    assert not scene.bounds.is_shaking(begun[1])


@pytest.mark.parametrize(("rate", "begun"), [(0.0, 50), (5.0, 5)])
def test_a_client_begins_so_many_handshakes_a_second(rate, begun):
    scene = Scene(handshakes_per_client=rate)
    assert sum(scene.bounds.may_begin(bytes((192, 0, 2, 1)), 1.0) for _ in range(50)) == begun
    assert scene.bounds.may_begin(bytes((192, 0, 2, 2)), 1.0)
    assert scene.counters["handshakes_limited"] == 50 - begun


def test_octets_have_shares_and_are_given_back():
    scene = Scene(memory=1000)
    greedy, modest = scene.admit("192.0.2.1"), scene.admit("198.51.100.1")
    assert scene.bounds.count(greedy, 800)
    assert not scene.bounds.count(greedy, 100)
    assert scene.bounds.count(modest, 50)
    assert scene.bounds.count(greedy, -900)
    assert scene.bounds.memory == 50


def taken(share, seconds, cost, rates, may="may_begin"):
    """Let each prefix ask so often a second, and return how often each got something."""
    took, asked = Counter(), Counter()
    for step in range(int(seconds * 1000)):
        now = step / 1000
        for prefix, rate in rates.items():
            asked[prefix] += rate / 1000
            while asked[prefix] >= 1:
                asked[prefix] -= 1
                if getattr(share, may)(prefix, now):
                    share.spend(prefix, cost)
                    took[prefix] += 1
    return took


def test_neighbours_who_begin_handshakes_all_the_time_leave_those_of_others():
    took = taken(FairShare(0.5, BURST), 10.0, 0.0015, {b"greedy": 2000, b"modest": 20})
    assert took[b"modest"] == 200
    assert 10.0 * 0.5 < (took[b"greedy"] + took[b"modest"]) * 0.0015 < 10.0 * 0.5 + BURST + 0.002


@pytest.mark.parametrize(("prefixes", "owed"), [(1, BURST), (1000, 2 * BURST)])
def test_debts_are_bounded_and_prefixes_without_any_forgotten(prefixes, owed):
    share = FairShare(0.5, BURST)
    taken(share, 2.0, 0.0001, {number.to_bytes(2): 20_000 / prefixes for number in range(prefixes)}, "may_go_on")
    assert share._owed <= owed + 0.0001
    taken(share, 10.0, 0.0015, {b"greedy": 1000})
    assert share._of.keys() <= {b"greedy"}
    assert share.may_begin(b"another", 20.0)
    assert not share._of


def test_in_a_crowd_none_begins_and_those_under_way_go_on_but_for_who_has_had_much():
    share = FairShare(0.5, BURST)
    for number in range(100):
        share.spend(number.to_bytes(), 0.0005)
    for _ in range(4):
        share.spend(b"greedy", 0.005)
    assert not any(share.may_begin(each, 0.0) for each in (b"\1", b"greedy", b"another"))
    assert share.may_go_on(b"\1", 0.0)
    assert not share.may_go_on(b"greedy", 0.0)


def test_a_packet_that_took_long_because_others_had_their_turn_is_followed_by_the_next():
    share = FairShare(0.5, BURST)
    share.spend(b"\1", 1.0)
    assert share.may_go_on(b"\1", 0.0)
    assert share.may_begin(b"\1", 0.0)
