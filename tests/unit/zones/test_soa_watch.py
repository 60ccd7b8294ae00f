"""Show when a zone is asked for its serial, and that every change of it is told once."""

import asyncio
import contextlib
import functools
import logging
import math

import dns.flags
import dns.message
import pytest

from funkenshield.zones.soa_watch import POLLS_MAX, PollInterval, WatchedZone, Watcher, Watchers

ZONE = "example.com"
SOA = "ns.example.com. hostmaster.example.com. {serial} 3600 600 86400 300"


def response(serial, *, zone=ZONE, rcode=0, section="answer"):
    """Return a response to a query for the zone's SOA record."""
    message = dns.message.make_response(dns.message.make_query(ZONE, "SOA", flags=0))
    message.set_rcode(rcode)
    record = dns.rrset.from_text(f"{zone}.", 60, "IN", "SOA", SOA.format(serial=serial))
    getattr(message, section).append(record)
    return message.to_wire()


class World:
    """An origin that says `says` when it is asked, and a time that passes when it is told to."""

    def __init__(self, says):
        self.says = says
        self.now = 0.0
        self.asked = []
        self.queries = []
        self.changes = 0
        self.watcher = None
        self._sleepers = []

    async def ask(self, query):
        self.asked.append(self.now)
        self.queries.append(query)
        said = await self.says if isinstance(self.says, asyncio.Future) else self.says
        if isinstance(said, Exception):
            raise said
        return response(said) if isinstance(said, int) else said

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, woken))
        await woken

    async def passes(self, seconds):
        """Let so many seconds pass, one by one, and everybody do what he would."""
        for step in [0] + [1] * seconds:
            self.now += step
            for _ in range(10):
                for end, woken in self._sleepers:
                    if end <= self.now and not woken.done():
                        woken.set_result(None)
                await asyncio.sleep(0)

    def changed(self, serial):
        self.changes += 1


@contextlib.asynccontextmanager
async def watching(says, *, interval=60.0, jitter=0.0, **options):
    """Watch a zone in a world of its own."""
    world = World(says)
    world.watcher = Watcher(
        dns.name.from_text(ZONE),
        world.ask,
        world.changed,
        interval=interval,
        jitter=jitter,
        sleep=world.sleep,
        clock=lambda: world.now,
        **options,
    )
    running = asyncio.create_task(world.watcher.run())
    await world.passes(0)
    yield world
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing is left behind"


def in_loop(test):
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    return run


# ---------------------------------------------------------------- changes


@in_loop
async def test_the_first_serial_is_the_beginning_and_every_other_a_change(caplog):
    caplog.set_level(logging.INFO)
    async with watching(7) as world:
        assert (world.watcher.serial, world.changes) == (7, 0)
        for serial, changes in [(7, 0), (8, 1), (8, 1), (5, 2), (2**32 - 1, 3), (0, 4), (0, 4)]:
            world.says = serial
            await world.passes(60)
            assert (world.watcher.serial, world.changes) == (serial, changes)
    assert caplog.messages == [
        "zone example.com.: serial increased from 7 to 8",
        "zone example.com.: serial decreased from 8 to 5",
        "zone example.com.: serial decreased from 5 to 4294967295",
        "zone example.com.: serial increased from 4294967295 to 0",
    ]


@pytest.mark.parametrize(
    ("known", "changes"),
    [
        ({"serial": 7}, 0),
        ({"serial": 6}, 1),
        ({"serial": 0}, 1),
        ({"serial": 7, "restored": True}, 0),
        ({"restored": True}, 1),
    ],
)
@in_loop
async def test_entries_from_before_may_be_older_than_the_first_serial(known, changes):
    async with watching(7, **known) as world:
        await world.passes(120)
        assert (world.watcher.serial, world.changes, len(world.asked)) == (7, changes, 3)


@in_loop
async def test_entries_of_a_beginning_in_which_the_zone_could_not_be_asked_may_be_older_too():
    async with watching(TimeoutError()) as world:
        assert (world.watcher.serial, world.changes) == (None, 0)
        world.says = 7
        await world.passes(60)
        assert (world.watcher.serial, world.changes) == (7, 1)


@in_loop
async def test_the_query_asks_for_the_zone_and_nothing_else():
    async with watching(1) as world:
        query = dns.message.from_wire(world.queries[0])
        assert str(query.question[0]) == "example.com. IN SOA"
        assert (query.flags, query.edns) == (0, -1)


# ---------------------------------------------------------------- times


@in_loop
async def test_intervals_differ_by_up_to_the_jitter():
    numbers = iter([0.0, 0.5, 1.0, 0.0])
    async with watching(1, jitter=0.1, random=numbers.__next__) as world:
        await world.passes(54 + 60 + 66)
        assert world.asked == [0, 54, 114, 180]


@in_loop
async def test_a_notify_asks_at_once_and_several_are_one():
    async with watching(1) as world:
        await world.passes(20)
        world.says = 2
        for _ in range(3):
            world.watcher.poll_now()
        await world.passes(0)
        assert (world.asked, world.changes) == ([0, 20], 1)
        await world.passes(60)
        assert (world.asked, world.changes) == ([0, 20, 80], 1)


@in_loop
async def test_a_notify_during_a_query_asks_again_since_the_response_may_be_older():
    async with watching(asyncio.get_running_loop().create_future()) as world:
        world.watcher.poll_now()
        world.says.set_result(1)
        world.says = 2
        await world.passes(1)
        assert (world.asked, world.watcher.serial, world.changes) == ([0, 1], 2, 1)


@in_loop
async def test_a_flood_of_notifies_asks_once_a_second():
    async with watching(1) as world:
        for _ in range(5):
            world.watcher.poll_now()
            await world.passes(1)
        assert world.asked == [0, 1, 2, 3, 4, 5]


@in_loop
async def test_what_says_that_it_has_changed_is_looked_at_more_often_until_its_serial_is_another():
    async with watching(1, interval=math.inf) as world:
        await world.passes(1000)
        assert world.asked == [0]
        world.watcher.poll_now()
        await world.passes(1000)
        assert world.asked[1:] == [1000, 1005, 1015, 1035, 1075]
        world.watcher.poll_now()
        await world.passes(4)
        world.says = 2
        await world.passes(1000)
        assert (world.asked[6:], world.changes) == ([2000, 2005], 1)


@in_loop
async def test_a_flood_of_notifies_for_a_zone_that_is_not_watched_asks_once_a_second():
    async with watching(1, interval=math.inf) as world:
        for _ in range(5):
            for _ in range(100):
                world.watcher.poll_now()
            await world.passes(1)
        assert world.asked == [0, 1, 2, 3, 4, 5]
        assert world.changes == 0


# ---------------------------------------------------------------- failure

FAILURES = {
    "no answer in time": (TimeoutError(), "timed out"),
    "no network": (OSError(101, "Network is unreachable"), r"[Errno 101] Network is unreachable"),
    "SERVFAIL": (response(8, rcode=2), "the response is SERVFAIL"),
    "NXDOMAIN, the parent's SOA": (response(8, zone="com", rcode=3, section="authority"), "the response is NXDOMAIN"),
    "NODATA": (response(8, section="authority"), "the response has no SOA record of the zone"),
    "another zone": (response(8, zone="sub.example.com"), "the response has no SOA record of the zone"),
    "nothing": (b"", "The DNS packet passed to from_wire() is too short."),
    "cut": (response(8)[:-1], "DNS message is malformed."),
    "too much": (response(8) + bytes(4096), "the response is too large"),
    "more than a message": (
        response(8) + b"\0",
        "The DNS packet passed to from_wire() has extra junk at the end of it.",
    ),
}


@pytest.mark.parametrize(("failure", "why"), FAILURES.values(), ids=FAILURES)
@in_loop
async def test_failures_keep_the_serial_and_are_told_once(failure, why, caplog):
    caplog.set_level(logging.INFO)
    async with watching(7) as world:
        world.says = failure
        await world.passes(180)
        assert (world.watcher.serial, world.changes) == (7, 0)
        world.says = 7
        await world.passes(120)
        assert (world.watcher.serial, world.changes) == (7, 0)
    assert caplog.messages == [
        f"zone example.com.: SOA query failed: {why}",
        "zone example.com.: SOA queries succeed again",
    ]


@in_loop
async def test_a_change_during_a_failure_is_told_after_it():
    async with watching(7) as world:
        world.says = TimeoutError()
        await world.passes(100)
        world.says = 8
        await world.passes(60)
        assert (world.watcher.serial, world.changes) == (8, 1)


@in_loop
async def test_a_failure_is_tried_again_sooner_and_ever_later():
    async with watching(TimeoutError()) as world:
        await world.passes(200)
        assert world.asked == [0, 5, 15, 35, 75, 135, 195]
        world.says = 7
        await world.passes(60)
        world.says = TimeoutError()
        await world.passes(60 + 5)
        assert world.asked[-3:] == [255, 315, 320]


@in_loop
async def test_a_short_interval_is_not_made_longer_by_a_failure():
    async with watching(TimeoutError(), interval=2.0) as world:
        await world.passes(6)
        assert world.asked == [0, 2, 4, 6]


@in_loop
async def test_no_response_however_broken_ends_the_watch():
    whole = response(7)
    async with watching(7, interval=1.0) as world:
        for bit in range(8 * len(whole)):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            world.says = bytes(broken)
            world.watcher.poll_now()
            await world.passes(1)
        assert len(world.asked) == 1 + 8 * len(whole)


@in_loop
async def test_no_fault_of_ours_ends_the_watch_or_loses_a_change_and_it_is_told_once(caplog):
    async with watching(7) as world:

        def changed(serial):
            world.changes += 1
            if world.changes < 3:
                raise ZeroDivisionError

        world.watcher.changed = changed
        world.says = ZeroDivisionError()
        await world.passes(60)
        world.says = 8
        await world.passes(5 + 10 + 20)
        assert (world.watcher.serial, world.changes) == (8, 3)
        await world.passes(120)
        assert (world.watcher.serial, world.changes) == (8, 3)
    assert caplog.messages == ["zone example.com.: internal error, its serial is looked at again: ZeroDivisionError()"]


@in_loop
async def test_many_notifies_leave_no_sleepers_behind():
    now, asked = 0.0, []

    async def ask(_, query):
        asked.append(query)
        return response(7)

    watchers = Watchers(ask, lambda *_: None, lambda: now)
    watchers.configure({WatchedZone(ZONE, "192.0.2.53:53"): PollInterval(86400.0, 0.0)})
    for _ in range(100):
        for _ in range(10):
            await asyncio.sleep(0)
        assert watchers.poll_now(ZONE)
        assert not watchers.poll_now("example.org")
        now += 2
        watchers.wake()
    assert len(asked) > 90
    assert len(watchers._asleep) <= 4
    watchers.close()


@in_loop
async def test_many_zones_of_an_upstream_are_asked_for_a_few_at_a_time_and_no_other_upstream_waits_for_it():
    waiting, begun, free = 0, [], asyncio.Event()

    async def ask(origin, _):
        nonlocal waiting
        begun.append(origin)
        waiting += origin == "slow"
        assert waiting <= POLLS_MAX
        try:
            await free.wait()
            return response(7)
        finally:
            waiting -= origin == "slow"

    watchers = Watchers(ask, lambda *_: None, lambda: 0.0)
    origins = [*["slow"] * 100, "other"]
    watchers.configure({WatchedZone(f"{n}.test", origin): PollInterval(60.0, 0.0) for n, origin in enumerate(origins)})
    for _ in range(5):
        await asyncio.sleep(0)
    assert sorted(begun) == ["other", *["slow"] * POLLS_MAX]
    free.set()
    for _ in range(500):
        await asyncio.sleep(0)
    assert sorted(begun) == sorted(origins)
    watchers.close()
