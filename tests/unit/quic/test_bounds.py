"""Who may have a connection, what it may hold, and who gives way."""

from collections import Counter

import pytest
from support.quic import LIMITS

from funkenshield.core.fair_shares import prefix_of
from funkenshield.quic.bounds import HANDSHAKES_MAX, Bounds, client_of


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
