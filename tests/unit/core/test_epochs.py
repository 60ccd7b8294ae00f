"""When what was replaced is freed: once all who were inside then have left, and never sooner."""

import weakref

import pytest

from funkenshield._fastpath import SettingsWriter
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.core._epochs import Epochs, Visitor
from funkenshield.core._rate_limit import RateTable
from funkenshield.policy._guard import Guard
from funkenshield.policy._rule_program import ACTIONS_OF, TESTS, Chain

CHANGES = 40
WEIGHED = 1 << 16  # octets of a table of rates
NOBODY = ([[], [], []], [[], [], []])


@pytest.fixture
def settings_writer():
    return SettingsWriter(Cache(4 << 20, Clock()))


@pytest.fixture
def epochs(settings_writer):
    return settings_writer.cache.epochs


def chain(number, limit):
    """Return a chain of one rule, that drops everything, and keeps a limit."""
    nodes = [
        (TESTS["next"], 0, 0xFFFFFFFF, 0, 0, 0),
        (TESTS["next"], 0, 0, 0, 0, 0),
        (ACTIONS_OF["drop"], 0, 0, 0, 0, 0),
    ]
    return Chain(number, nodes, [2], [], {}, [], *NOBODY, [limit])


def change(what, settings_writer, number):
    """Change a setting to another one; return a weak reference to what it alone keeps."""
    limit = RateTable(WEIGHED, 1.0 + number, 1.0)
    match what:
        case "orders":
            settings_writer.guard.set_limits([(1.0 + number, 1.0, 32, 64, "drop")])
            return weakref.ref(settings_writer.guard.rate_table(("limit", 0), 1.0 + number, 1.0, 32, 64))
        case "rules":
            settings_writer.set_chains(chain(number, limit))
        case "cookies":
            settings_writer.set_cookies((bytes([number] * 16),), serve=True, require=False)
        case "proxies":
            settings_writer.set_proxies(((bytes([10, 0, 0, number]), 32),))
        case "subnets":
            settings_writer.set_subnets(ipv4=number % 32, ipv6=56, private=True)
        case "any":
            settings_writer.set_any(number % 2 == 1)
    return weakref.ref(limit)


KINDS = ["orders", "rules", "cookies", "proxies", "subnets", "any"]


@pytest.mark.parametrize("what", KINDS)
def test_nothing_that_is_replaced_is_freed_before_who_was_inside_has_left(settings_writer, epochs, what):
    change(what, settings_writer, 0)
    with Visitor(epochs):
        kept = [change(what, settings_writer, number) for number in range(1, CHANGES + 1)]
        assert epochs.reclaim() == CHANGES
        if what in ("orders", "rules"):
            assert all(each() is not None for each in kept)
    assert epochs.reclaim() == 0
    if what in ("orders", "rules"):
        assert [each() is not None for each in kept] == [False] * (CHANGES - 1) + [True]


@pytest.mark.parametrize("what", KINDS)
def test_where_nobody_is_inside_nothing_is_kept(settings_writer, epochs, what):
    Visitor(epochs)
    for number in range(CHANGES):
        change(what, settings_writer, number)
        assert epochs.reclaim() == 0


def test_who_comes_later_keeps_nothing_and_who_came_before_everything():
    epochs = Epochs()
    guard = Guard(WEIGHED, epochs)
    early, late = Visitor(epochs), Visitor(epochs)
    with early:
        guard.set_blocks([])
        with late:
            guard.set_blocks([])
            assert epochs.reclaim() == 2
        assert epochs.reclaim() == 2
    with late:
        assert epochs.reclaim() == 0
        guard.set_blocks([])
        with early:
            assert epochs.reclaim() == 1
    assert epochs.reclaim() == 0


def test_segments_and_purges_go_by_the_same_epochs(settings_writer, epochs):
    cache = settings_writer.cache
    assert cache.forget_purges(0)
    with Visitor(epochs):
        assert cache.forget_purges(0)
        assert not cache.forget_purges(0)
    assert cache.forget_purges(0)


def test_there_is_a_bound_on_readers():
    epochs = Epochs()
    for _ in range(512):
        Visitor(epochs)
    with pytest.raises(ValueError, match="512"):
        Visitor(epochs)
