"""What is looked up and believed of the nodes' cache; the miss path and the store are scripts."""

import asyncio
from types import SimpleNamespace

import pytest

from funkenshield.cluster import shared_cache
from funkenshield.cluster.connection import StoreError
from funkenshield.cluster.sealing import VALUE, Sealer
from funkenshield.cluster.shared_cache import LATE_MAX, LIFE_MAX, SKEW, SharedCache
from funkenshield.core.logs import RateLimited

KEY = bytes(12) + b"\1a\4test\0"
NOW = 1e9


class MissPath:
    """Hands out look-ups, and notes what becomes of them."""

    def __init__(self):
        self.lookups, self.stored, self.taken, self.gone_on = [], [], [], []
        self.used = None
        self.shared = SimpleNamespace(
            take_lookups=lambda: self._take("lookups"), take_stored=lambda: self._take("stored"), use=self.use
        )

    def _take(self, name):
        taken, _ = getattr(self, name), setattr(self, name, [])
        return taken

    def use(self, *, lookups, stores):
        self.used = lookups, stores

    def take_shared(self, handle, entry, age):
        self.taken.append((handle, entry, age))
        return True

    def go_on(self, handles):
        self.gone_on += handles


class Store:
    """Keeps requests until they are answered."""

    def __init__(self):
        self.requests, self.ended, self.failed = [], asyncio.get_running_loop().create_future(), ""

    @property
    def outstanding(self):
        return sum(not reply.done() for _, reply in self.requests)

    def request(self, *words):
        reply = asyncio.get_running_loop().create_future()
        self.requests.append((words, reply))
        if words == ("PING",):
            reply.set_result(b"PONG")
        return reply

    def fail(self, why):
        self.failed = why
        self.ended.set_exception(StoreError(why))
        self.ended.exception()


class Scene:
    def __init__(self, **options):
        self.miss_path, self.store, self.sealer = MissPath(), Store(), Sealer([bytes(32)])
        self.zone, self.epoch, self.now, self.dispatched = b"zone", b"", NOW, 0
        self.cache = SharedCache(
            self.miss_path, self.sealer, lambda _: self.zone, lambda _: self.epoch, self.dispatch, lambda: self.now,
            timeout=0.02, layout=b"1", **options,
        )  # fmt: skip

    def dispatch(self):
        self.dispatched += 1

    async def begin(self):
        self.serving = asyncio.create_task(self.cache.serve(self.store))
        await asyncio.sleep(0.01)
        self.cache.is_current(True)
        assert self.miss_path.used[0]

    def look_up(self, *handles, waits=True):
        self.miss_path.lookups = [(each, KEY, 0, waits) for each in handles]
        self.cache.run()
        return self.store.requests[-1]

    def value(self, name, entry=b"entry", written=NOW):
        return self.sealer.seal(VALUE, name, int(written * 1000).to_bytes(8) + entry)


def scene(story, **options):
    async def run():
        one = Scene(**options)
        await one.begin()
        try:
            await story(one)
        finally:
            one.serving.cancel()
            await asyncio.gather(one.serving, return_exceptions=True)

    asyncio.run(run())


def test_a_batch_is_one_request_and_who_gets_nothing_goes_on():
    async def story(one):
        (command, *names), reply = one.look_up(1, 2)
        assert (command, len(names)) == ("MGET", 2)
        reply.set_result([None, one.value(names[1])])
        await asyncio.sleep(0)
        assert one.miss_path.taken == [(2, b"entry", 0.0)]
        assert one.miss_path.gone_on == [1, 2]  # the second is over, which the miss path knows
        assert one.dispatched == 1
        assert one.cache.counters.hits == 1

    scene(story)


def test_that_it_is_in_use_is_logged_and_that_it_is_again(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(shared_cache, "limited", RateLimited(shared_cache.limited._log, lambda: now[0]))
    caplog.set_level("INFO")

    async def story(one):
        one.cache.is_writable(True)
        assert caplog.messages == ["cluster store, look-ups: in use"]
        one.cache.is_current(False)
        now[0] = 61.0
        shared_cache.limited.summarize()
        one.cache.is_current(True)
        assert len(caplog.messages) == 2

    scene(story)


@pytest.mark.parametrize(
    ("written", "age"),
    [
        (NOW, 0.0), (NOW - 100, 100.0), (NOW + SKEW - 1, 0.0), (NOW + SKEW + 1, None), (NOW - LIFE_MAX - 1, None),
        (NOW - 3601, None),
    ],
)  # fmt: skip
def test_how_old_a_value_may_be(written, age):
    async def story(one):
        (_, name), reply = one.look_up(1)
        reply.set_result([one.value(name, written=written)])
        await asyncio.sleep(0)
        assert one.miss_path.taken == ([] if age is None else [(1, b"entry", age)])
        assert one.cache.counters.rejected == (age is None)

    scene(story, believed_since=NOW - 3600)


@pytest.mark.parametrize("value", [b"", b"x", 7, [b"x"], b"x" * 1000])
def test_what_is_not_sealed_is_rejected(value):
    async def story(one):
        _, reply = one.look_up(1)
        reply.set_result([value])
        await asyncio.sleep(0)
        assert (one.miss_path.taken, one.cache.counters.rejected) == ([], 1)

    scene(story)


@pytest.mark.parametrize("reply", [None, b"x", [], [None, None]])
def test_what_is_no_reply_to_so_many_names_lets_them_go_on(reply):
    async def story(one):
        _, asked = one.look_up(1)
        asked.set_result(reply)
        await asyncio.sleep(0)
        assert one.miss_path.gone_on == [1]

    scene(story)


def test_names_tell_the_zone_and_the_purges():
    async def story(one):
        names = [one.look_up(1)[0][1]]
        one.zone = b"zone 2"
        names.append(one.look_up(2)[0][1])
        one.epoch = b"purge"
        names.append(one.look_up(3)[0][1])
        assert len(set(names)) == 3

    scene(story)


def test_at_the_deadline_all_go_on_and_a_late_answer_still_serves():
    async def story(one):
        (_, name), reply = one.look_up(1)
        await asyncio.sleep(0.05)
        assert (one.miss_path.gone_on, one.cache.counters.late) == ([1], 1)
        reply.set_result([one.value(name)])
        await asyncio.sleep(0)
        assert one.miss_path.taken == [(1, b"entry", 0.0)]

    scene(story)


def test_late_replies_in_a_row_end_the_connection_and_nothing_is_looked_up():
    async def story(one):
        for number in range(LATE_MAX):
            one.look_up(number)
        await asyncio.sleep(0.06)
        assert "took more than 20 ms" in one.store.failed
        assert one.miss_path.used == (False, False)

    scene(story)


def test_while_purges_are_not_known_nothing_is_looked_up():
    async def story(one):
        one.miss_path.lookups = [(1, KEY, 0, True), (2, KEY, 0, False)]
        one.cache.is_current(False)
        assert one.miss_path.used == (False, False)
        assert one.miss_path.gone_on == [1]

    scene(story)


def test_too_many_requests_without_a_reply_are_no_more(monkeypatch):
    monkeypatch.setattr(shared_cache, "BATCHES_MAX", 2)

    async def story(one):
        for number in range(3):
            one.look_up(number)
        await asyncio.sleep(0)
        assert (one.store.outstanding, one.cache.counters.skipped, one.miss_path.gone_on) == (2, 1, [2])

    scene(story)


def test_what_is_stored_is_written_for_as_long_as_it_may_serve():
    async def story(one):
        one.miss_path.stored = [(KEY, 0, b"entry", 300.0), (KEY, 0, b"long", 1e6)]
        one.cache.run()
        one.now += 5
        (_, name, value, px, lasts), second = one.cache.writes(10)
        assert one.sealer.open(VALUE, name, value) == int(NOW * 1000).to_bytes(8) + b"entry"
        assert (px, lasts, second[4]) == ("PX", 300_000, 86_400_000)
        assert name == one.look_up(1)[0][1]

    scene(story)


def test_what_waits_to_be_written_is_bounded(monkeypatch):
    monkeypatch.setattr(shared_cache, "WRITES_MAX", 3)

    async def story(one):
        one.miss_path.stored = [(KEY, 0, b"%d" % each, 300.0) for each in range(5)]
        one.cache.run()
        assert [each[2][-1:] for each in one.cache.writes(10)] == [b"2", b"3", b"4"]
        assert one.cache.counters.write_drops == 2

    scene(story)
