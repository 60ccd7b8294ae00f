"""Know that with hedging who is slow once in a while is overtaken, and that few queries are asked twice for it."""

import contextlib
import itertools
import time

import pytest
from support.control import stats
from support.rig import (
    SERVFAIL,
    answerers,
    ask_each,
    behind,
    counters,
    failing,
    names,
    numbered,
    received,
    silent,
)
from support.until import until
from support.upstream import Delayed

PATIENT = {"timeout": 2.0, "retry_after": 1.5, "deadline": 4.0, "policy": "order"}
SLOW = 1.0  # seconds, once in a while


def now_and_then(number, every):
    """Return a script that takes long for every so-manyth query."""
    turn = itertools.count(1)
    usual = numbered(number)
    return lambda query: Delayed(SLOW, usual(query)) if next(turn) % every == 0 else usual(query)


def one_by_one(shield, asked):
    """Return the replies, and how long the slowest took, in seconds."""
    replies, slowest = [], 0.0
    for name in asked:
        start = time.monotonic()
        replies += ask_each(shield, [name])
        slowest = max(slowest, time.monotonic() - start)
    return replies, slowest


@contextlib.contextmanager
def learned(**options):
    """Run a shield that has learned what is usual, which it does about once a second."""
    with behind(numbered(1), numbered(2), forward={**PATIENT, "hedge": True}, **options) as stage:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            ask_each(stage[0], names(10))
            time.sleep(0.05)
        yield stage


@pytest.fixture(scope="module")
def hedging():
    with learned() as stage:
        yield stage


def test_with_hedging_who_is_slow_once_in_a_while_is_overtaken(hedging):
    shield, first, second = hedging
    before = stats(shield)["hedged_queries"], len(first.received), len(second.received)
    first.handle = now_and_then(1, every=40)
    asked = names(200)
    replies, slowest = one_by_one(shield, asked)
    assert answerers(replies).total() == 200
    assert answerers(replies)[2] >= 5
    assert slowest < SLOW / 2
    hedged = stats(shield)["hedged_queries"] - before[0]
    assert 5 <= hedged <= 30  # of 200; one in eight at most
    assert len(second.received) - before[2] == hedged
    assert len(first.received) - before[1] == 200
    assert counters(shield, first)["hedged_queries"] == stats(shield)["hedged_queries"]
    assert max(received(second).values()) == 1


def test_without_hedging_the_client_waits_and_no_other_is_asked():
    with behind(numbered(1), numbered(2), forward=PATIENT) as (shield, first, second):
        ask_each(shield, names(50))
        first.handle = now_and_then(1, every=10)
        replies, slowest = one_by_one(shield, names(10))
        assert answerers(replies) == {1: 10}
        assert slowest > SLOW * 0.9
        assert (len(second.received), stats(shield)["hedged_queries"]) == (0, 0)


def test_a_hedged_query_has_one_answer_and_the_later_one_is_counted(hedging):
    shield, first, second = hedging
    first.handle = lambda query: Delayed(0.4, numbered(66)(query))
    before = counters(shield, first)["unexpected_replies"]
    asked = names(3)
    assert answerers(ask_each(shield, asked)) == {2: 3}
    until(lambda: counters(shield, first)["unexpected_replies"] == before + 3)
    assert answerers(ask_each(shield, asked)) == {2: 3}
    assert counters(shield, first)["unexpected_replies"] == before + 3
    assert [received(second)[name] for name in asked] == [1, 1, 1]


def test_a_failure_that_another_makes_good_is_no_hedge(hedging):
    shield, first, second = hedging
    first.handle = failing(SERVFAIL)
    before = stats(shield)["hedged_queries"], len(second.received)
    replies, _ = one_by_one(shield, names(10))
    assert answerers(replies) == {2: 10}
    assert len(second.received) - before[1] == 10
    assert stats(shield)["hedged_queries"] - before[0] <= 1  # an answer may have been late


def test_when_all_is_slow_hedging_does_not_double_the_load(hedging):
    """One query in eight may be hedged, and those that are on their way when it is reached."""
    shield, first, second = hedging
    first.handle = lambda query: Delayed(0.3, numbered(1)(query))
    before = stats(shield)["hedged_queries"], len(first.received), len(second.received)
    for _ in range(10):
        assert answerers(ask_each(shield, names(32))).total() == 32
    hedged, asked, stood_in = (
        now - then
        for now, then in zip(
            (stats(shield)["hedged_queries"], len(first.received), len(second.received)), before, strict=True
        )
    )
    assert 320 <= asked <= 325  # checks
    assert stood_in == hedged
    assert stats(shield)["hedged_queries"] <= len(first.received) / 8 + 32


def test_who_is_silent_is_left_alone_although_hedging_hides_it():
    """Every answer comes in time, from the other: and yet whoever never answers is ill."""
    with learned(health={"interval": 0.1, "timeout": 0.2}) as (shield, first, _):
        first.handle = silent
        for _ in range(4):
            replies, _ = one_by_one(shield, names(10))
            assert answerers(replies) == {2: 10}
            time.sleep(0.3)
        until(lambda: counters(shield, first)["state"] == "down", within=3.0)
        before = len(first.received)
        replies, _ = one_by_one(shield, names(20))
        assert answerers(replies) == {2: 20}
        assert len(first.received) - before <= 3  # checks
