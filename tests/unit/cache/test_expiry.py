"""Show that what expired leaves the cache a little at a time."""

import asyncio
import itertools

import pytest

from funkenshield.admin.commands import purge
from funkenshield.cache._store import Cache
from funkenshield.cache.expiry import BUDGET, IN_FLIGHT, INTERVAL, PAUSE, Expiry
from funkenshield.core._clock import Clock
from unit.cache.filling import MEMORY, SIZE, filled, held

MANY = 1000  # answers, in eight segments or more


def stopwatch(step=0.001):
    """Return a clock that is `step` seconds further at each look."""
    return itertools.count(0, step).__next__


def test_a_step_keeps_to_its_budget_and_steps_together_retire_all():
    clock = Clock()
    cache = Cache(MEMORY, clock)
    filled(cache, MANY)
    clock.advance(10)
    steps = Expiry(cache, stopwatch())
    retired = []
    while sum(retired) < MANY:
        retired.append(steps.step(budget=0.002))  # two looks: two segments
        assert cache.counters()["entries"] == MANY - sum(retired)
        assert len(retired) <= cache.segments_total
    assert len(retired) >= 4
    assert max(retired) <= 2 * (1 << 17) // SIZE
    assert cache.counters()["expirations"] == MANY
    assert cache.counters()["bytes"] <= 1 << 17, "all but the segment being filled is given back"
    assert steps.step(budget=1) == 0


def test_a_step_goes_round_once_however_large_its_budget():
    clock = Clock()
    cache = Cache(MEMORY, clock)
    asked = filled(cache, 100, ttl=10) + filled(cache, 100, ttl=20, zone="example.net")
    looks = []
    steps = Expiry(cache, lambda: looks.append(0) or 0.0)
    assert steps.step() == 0
    assert len(looks) == 1 + cache.segments_total + 1
    clock.advance(10)
    assert steps.step() == 100
    assert held(cache, asked) == asked[100:]
    clock.advance(10)
    assert (steps.step(), steps.step()) == (100, 0)
    assert cache.counters()["entries"] == 0


def test_what_may_serve_past_its_time_is_kept_until_it_may_not():
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, stale="on-failure", stale_longest=30)
    filled(cache, 10, ttl=10)
    for seconds, swept in ((10, 0), (29, 0), (1, 10)):
        clock.advance(seconds)
        assert Expiry(cache).step(budget=1) == swept


def test_a_purge_is_forgotten_when_nothing_is_left_that_it_could_concern():
    now = [0.0]
    cache = Cache(MEMORY, Clock())
    steps = Expiry(cache, lambda: now[0])
    asked = filled(cache, 10)
    purge(cache, "example.com")
    for seconds in (0, IN_FLIGHT - 1):
        now[0] += seconds
        steps.step()
        assert cache.counters()["purge_rules"] == 1
    now[0] += 1
    steps.step()
    assert cache.counters()["purge_rules"] == 0
    assert held(cache, asked) == []
    assert cache.counters()["purged_entries"] == 10


def test_no_purge_is_forgotten_while_entries_are_copied_that_it_may_concern():
    now, copied = [0.0], [True]
    cache = Cache(MEMORY, Clock())
    steps = Expiry(cache, lambda: now[0], lambda: copied[0])
    filled(cache, 10)
    purge(cache, "example.com")
    for rules in (1, 1, 1, 0):
        copied[0] = now[0] == 0
        steps.step()
        now[0] += IN_FLIGHT / 2
        assert cache.counters()["purge_rules"] == rules


def test_where_a_step_was_cut_short_the_next_comes_sooner(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 12:
            raise asyncio.CancelledError

    monkeypatch.setattr("funkenshield.cache.expiry.asyncio.sleep", sleep)
    clock = Clock()
    cache = Cache(MEMORY, clock)
    filled(cache, MANY)
    clock.advance(10)
    ticking = stopwatch(BUDGET / 4)
    expiry = Expiry(cache, lambda: ticking() if cache.counters()["entries"] else 0.0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(expiry.run())
    assert (slept[0], slept[-1]) == (INTERVAL, INTERVAL)
    assert set(slept) == {PAUSE, INTERVAL}
    assert slept.count(PAUSE) >= 2
    assert cache.counters()["entries"] == 0


def test_it_runs_until_it_is_cancelled(monkeypatch):
    monkeypatch.setattr("funkenshield.cache.expiry.INTERVAL", 0)
    monkeypatch.setattr("funkenshield.cache.expiry.PAUSE", 0)
    clock = Clock()
    cache = Cache(MEMORY, clock)
    filled(cache, MANY)
    clock.advance(10)

    async def run_until_empty():
        running = asyncio.create_task(Expiry(cache).run())
        while cache.counters()["entries"]:
            await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(run_until_empty(), 10))
