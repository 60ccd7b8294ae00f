"""What a node writes, and makes of what the store says of the stream; the store is a script."""

import asyncio
import json
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from funkenshield.cluster import node as nodes
from funkenshield.cluster.connection import StoreError
from funkenshield.cluster.node import NODES, STREAM, Credentials, Node
from funkenshield.cluster.sealing import MESSAGE, STATE, Sealer
from funkenshield.cluster.shared_cache import SKEW
from funkenshield.config.cluster import ClusterSection
from funkenshield.errors import FunkenShieldError

NOW = 1e9
NAMED = "secret", "password"
SEALER = Sealer([bytes(32)])


class Store:
    """Replies as it is told, by command; to others with 0."""

    def __init__(self, **replies):
        self.replies, self.asked = replies, []

    def request(self, *words):
        self.asked.append(words)
        told = self.replies.get(words[0].lower(), 0)
        loop = asyncio.get_running_loop()
        reply = loop.create_future()
        loop.call_soon(self._reply, reply, told(*words) if callable(told) else told)  # none is there before its time
        return reply

    @staticmethod
    def _reply(reply, told):
        if reply.cancelled():
            return
        if isinstance(told, Exception):
            reply.set_exception(told)
        else:
            reply.set_result(told)

    def commands(self):
        return [each[0] for each in self.asked]


def node_of(purged=None, *, exposed=(), wall=lambda: NOW):
    cache = SimpleNamespace(zones=SimpleNamespace(name=lambda _: b"\0"), layout=b"1")
    shared = SimpleNamespace(
        use=lambda **_: None, take_lookups=list, take_stored=list, configure=lambda *_: None, store_drops=0
    )
    miss_path = SimpleNamespace(cache=cache, shared=shared, go_on=list)
    section = ClusterSection(store="redis://127.0.0.1", secret_file="secret", node="one")
    credentials = SimpleNamespace(sealer=SEALER, password="", context=None, exposed=exposed)
    purge = (purged if purged is not None else []).append
    one = Node(
        section, credentials, miss_path, purge, Mock(listed=list), lambda _: frozenset(), lambda: None, wall=wall
    )
    one._caught_up = True
    return one


def info(first, length, added, last=None):
    entry = [first, [b"m", b""]] if first else None
    last = last or at(NOW - 20)
    return [b"length", length, b"entries-added", added, b"first-entry", entry, b"last-generated-id", last]


def at(seconds):
    return b"%d-0" % int(seconds * 1000)


def state(node, number, said=NOW):
    text = b'{"carried_out": {"one": %d}, "time": %d}' % (number, said * 1000)
    return [node, SEALER.seal(STATE, node, text)]


def sealed(node="two", time=NOW, **more):
    text = json.dumps({"node": node, "time": int(time * 1000), **more})
    return SEALER.seal(MESSAGE, b"", text.encode())


def test_a_message_is_written_once_and_the_state_when_it_changes():
    async def story():
        one, store = node_of(), Store(xadd=b"7-0", hset=1, hgetall=[])
        message = one.tell(name="00")
        await one._tell(store)
        await one._tell_state(store)
        await one._tell(store)
        await one._tell_state(store)
        assert store.commands() == ["XADD", "XADD", "HSET", "XTRIM", "HGETALL"]  # one says that the stream is there
        assert one._told_at[1] == (7, 0)
        assert message not in one.purges.outbox

    asyncio.run(story())


def test_a_message_that_the_store_did_not_take_is_written_later():
    async def story():
        one = node_of()
        one._renewed_at = NOW
        message = one.tell(name="00")
        with pytest.raises(StoreError, match="READONLY"):
            await one._tell(Store(xadd=StoreError("READONLY")))
        assert list(one.purges.outbox) == [message]

    asyncio.run(story())


def test_who_is_told_to_end_ends_even_in_the_moment_in_which_there_is_something_to_write():
    async def story():
        one = node_of()
        one._renewed_at = NOW
        writing = asyncio.create_task(one._write(Store(hset=0)))
        await asyncio.sleep(0.01)
        one._wanted.set()
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing], timeout=1)
        assert writing.cancelled()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("described", "position", "heard", "empties"),
    [
        (info(at(NOW - 50), 3, 3), (int(NOW - 40) * 1000, 0), NOW, False),  # it reads on
        (info(at(NOW - 50), 3, 3), (int(NOW - 90) * 1000, 0), NOW - 30, False),  # another stream, whole
        (info(at(NOW - 50), 3, 3), (int(NOW - 10) * 1000, 0), NOW - 30, False),  # the same, by a clock that is behind
        (info(at(NOW - 50), 3, 3), (int(NOW - 900) * 1000, 0), NOW - 310, True),  # away for too long
        (info(at(NOW - 50), 3, 9), (int(NOW - 90) * 1000, 0), NOW - 30, True),  # something is gone
        (info(None, 0, 9), (int(NOW - 20) * 1000, 0), NOW - 310, False),  # all is, and has been heard
        (info(None, 0, 9), (int(NOW - 30) * 1000, 0), NOW - 30, True),
        (StoreError("ERR no such key"), (int(NOW - 90) * 1000, 0), NOW - 30, False),
        (StoreError("ERR no such key"), (int(NOW - 90) * 1000, 0), NOW - 310, True),
        (info(at(NOW - 50), 3, 9), None, NOW, False),  # it begins with nothing
        (info(at(NOW - 50), 3, 9), None, NOW - 60, True),  # with what it had then
        (info(at(NOW - 50), 3, 3), None, 0, True),  # with what it does not know of
        (StoreError("ERR no such key"), None, NOW - 90, False),
    ],
)
def test_a_cache_is_emptied_where_purges_may_be_unknown(described, position, heard, empties):
    async def story():
        purged = []
        one = node_of(purged)
        one.purges.position, one._heard_at = position, heard
        await one._find_place(Store(xinfo=described))
        assert bool(purged) == empties

    asyncio.run(story())


@pytest.mark.parametrize("position", [None, (1000, 0)])
def test_who_hears_nothing_of_the_last_minutes_believes_nothing_from_then(position):
    async def story():
        one = node_of()
        one._caught_up, one.purges.position = False, position
        await one._find_place(Store(xinfo=StoreError("ERR no such key")))
        one._use()
        assert one.shared_cache.believed_since == NOW + SKEW

    asyncio.run(story())


def test_a_cache_is_emptied_once_a_minute_at_most(monkeypatch):
    async def story():
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        monkeypatch.setattr(nodes.asyncio, "sleep", sleep)
        one = node_of([])
        for _ in range(2):
            one.purges.position, one._heard_at = (1000, 0), NOW
            await one._find_place(Store(xinfo=info(at(NOW), 1, 9)))
        assert slept == [0.0, nodes.EMPTIED]

    asyncio.run(story())


def test_who_has_not_heard_is_named_and_who_is_forgotten_or_forged_is_not():
    async def story():
        one = node_of()
        one.purges.hear((int(NOW - 60) * 1000, 0), sealed("seven", NOW - 60))  # which is not in the store any more
        message = one.purges.message()
        number = message.time
        store = Store(hgetall=[
            *state(b"one", number), *state(b"two", number - 1, NOW - 30), *state(b"four", 1, NOW - 90_000),
            b"five", b"x" * 40, b"six", state(b"one", number)[1],
        ])  # fmt: skip
        one._writing, one._told_at = store, (number, (7, 0))
        assert await one.wait_for_all(message, 0.01) == {
            "nodes": ["one"], "missing": [{"node": "seven", "silent": 60.0}, {"node": "two", "silent": 30.0}],
        }  # fmt: skip
        assert store.asked[0] == ("HGETALL", NODES)

    asyncio.run(story())


def test_who_is_alone_has_purged_when_it_says_so():
    async def story():
        one = node_of()
        message = one.purges.message()
        one._writing, one._told_at = Store(hgetall=[]), (message.time, (7, 0))
        assert (await one.wait_for_all(message, 0.01))["missing"] == [{"node": "one", "silent": 0.0}]

    asyncio.run(story())


@pytest.mark.parametrize("reply", [7, None, b"OK"])
def test_who_has_heard_is_not_known_where_the_store_says_something_else(reply):
    async def story():
        one = node_of()
        message = one.purges.message()
        one._writing, one._told_at = Store(hgetall=reply), (message.time, (7, 0))
        with pytest.raises(FunkenShieldError, match="is not known"):
            await one.wait_for_all(message, 0.01)

    asyncio.run(story())


def test_a_serial_that_a_zone_was_set_back_to_is_told_again():
    one = node_of()
    for before, serial in ((6, 7), (7, 6), (7, 6), (6, 7)):
        one._serials = lambda _, before=before: frozenset({before})
        one.tell_serial(b"\4zone\0", serial, let_expire=False)
    one._serials = lambda _: frozenset({5})  # a secondary that comes later
    one.tell_serial(b"\4zone\0", 6, let_expire=False)
    assert [each.serial for each in one.purges.outbox] == [7, 6]


def test_a_serial_is_told_once():
    one = node_of()
    for _ in range(2):
        one.tell_serial(b"\4zone\0", 7, let_expire=False)
    assert [(each.wire, each.serial) for each in one.purges.outbox] == [(b"\4zone\0", 7)]


@pytest.mark.parametrize(("found", "told"), [([], ["", "00"]), ([[b"7-0", [b"m", b""]]], [])])
def test_what_the_store_has_lost_is_told_again(found, told):
    async def story():
        one, store = node_of(), Store(xrange=found)
        message = one.tell(name="00")
        one.purges.outbox.clear()
        one._told_at = message.time, (7, 0)
        await one._look_after_told(store)
        assert store.asked == [("XRANGE", STREAM, b"7-0", b"7-0")]
        assert [each.name for each in one.purges.outbox] == told

    asyncio.run(story())


def test_what_is_to_be_written_keeps_no_purge_waiting():
    async def story():
        one, store = node_of(), Store(xadd=b"7-0", xrange=[1], hgetall=[])
        one.shared_cache.writes = lambda most: [("SET", b"name", b"value")] * most  # there are always more
        writing = asyncio.create_task(one._write(store))
        await asyncio.sleep(0.01)
        message = one.tell(name="00")
        async with asyncio.timeout(5):
            while one._told_at[0] < message.time:
                await asyncio.sleep(0.001)
        writing.cancel()
        await asyncio.wait([writing])
        assert store.commands().count("SET") >= nodes.WRITES_MAX

    asyncio.run(story())


def test_what_waits_is_told_at_the_end_or_else_the_log_says_so(caplog):
    async def story():
        one = node_of()
        one.tell(name="00")
        await one.leave()
        assert "other nodes were not told of 1 purges or blocks" in caplog.text
        caplog.clear()
        store = Store(xadd=b"7-0", xrange=[1])
        writing = asyncio.create_task(one._write(store))
        await asyncio.sleep(0)
        one._left = False
        await one.leave()
        writing.cancel()
        await asyncio.wait([writing])
        assert store.commands().count("XADD") == 3  # two of them that it leaves
        assert store.asked[-1] == ("HDEL", NODES, b"one")
        assert not caplog.text

    asyncio.run(story())


def test_another_process_goes_on_in_our_place():
    one, two = node_of(), node_of()
    one.purges.hear((int(NOW - 60) * 1000, 0), sealed("seven", NOW - 60))
    message = one.tell(name="00")
    two.take_over(json.loads(json.dumps(one.handed_over())))
    assert two.carried_out() == one.carried_out() == (NOW, {"seven": int(NOW - 60) * 1000})
    assert list(two.purges.outbox) == [message]
    two = node_of()
    two.take_over(None)
    assert two.carried_out() == (0.0, {})


def test_a_message_from_the_future_is_not_heard():
    async def story():
        one = node_of()
        with pytest.raises(StoreError, match="future"):
            await one._hear(Store(), (int(NOW + 61) * 1000, 0), b"junk")
        assert one.purges.position is None
        with pytest.raises(StoreError, match="future"):
            await one._find_place(Store(xinfo=info(at(NOW), 1, 1, at(NOW + 61))))

    asyncio.run(story())


def test_who_has_missed_a_purge_empties_its_cache_before_it_goes_on():
    async def story():
        purged = []
        one = node_of(purged)
        one.purges.caught_up()
        store = Store(xinfo=info(at(NOW), 1, 9))
        await one._hear(store, (int(NOW * 1000), 0), sealed("two", NOW, name="00", after=int(NOW * 1000) - 9))
        assert [each.wire for each in purged] == [b"\0", b"\0"]
        assert one.counters()["cluster_cache_emptied"] == 1
        assert not one._caught_up

    asyncio.run(story())


def test_entries_of_a_zone_whose_serial_is_unknown_are_nobody_elses():
    origins = []
    for serials in (None, frozenset(), frozenset({7})):
        for each in (node_of(), node_of()):
            each._serials = lambda _, serials=serials: serials
            origins.append(each._origin(1))
    assert origins[0] != origins[1]
    assert origins[2] == origins[3] != origins[4] == origins[5]


def test_a_namesake_is_told_once_and_who_was_there_before_or_goes_on_in_our_place_is_none(caplog):
    async def story():
        now, kept = NOW, {}
        store = Store(
            hget=lambda _, __, node: kept.get(node), hset=lambda _, __, node, value: kept.update({node.decode(): value})
        )  # fmt: skip
        first, second, crashed = (node_of(wall=lambda: now) for _ in range(3))

        async def live(*nodes, seconds=130):
            nonlocal now
            for _ in range(0, seconds, 5):
                now += 5
                for each in nodes:
                    await each._look_for_namesakes(store)
                    await each._tell_state(store)

        def conflicts(*nodes):
            return [each.counters()["cluster_name_conflict"] for each in nodes]

        await live(crashed)
        await live(first)
        second.take_over(first.handed_over())
        await live(first, second)  # which lasts for milliseconds
        assert (conflicts(first, second), caplog.text) == ([0, 0], "")
        second = node_of(wall=lambda: now)
        await live(first, second, seconds=60)
        assert (conflicts(first, second), caplog.text) == ([0, 0], "")
        await live(first, second, seconds=300)
        assert conflicts(first, second) == [1, 1]
        told = "another process has had this node's name, one, for 120 s: cluster.node must differ"
        assert sum(told in line for line in caplog.messages) == 1  # as both log in this process
        await live(first)
        assert conflicts(first) == [0]

    asyncio.run(story())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_file_of_secrets_that_everybody_may_read_is_told(mode, tmp_path, caplog):
    file = tmp_path / "secret"
    file.write_text("5e" * 32)
    file.chmod(mode)
    section = ClusterSection(store="redis://127.0.0.1", secret_file=str(file), password_file=str(file))
    node_of(exposed=Credentials(section).exposed)
    told = [f"cluster.{each}_file: {file}: everybody on this machine may read it (chmod o-r)" for each in NAMED]
    assert caplog.messages == told * (mode == 0o644)


def test_what_is_no_stream_stops_look_ups():
    async def story():
        one = node_of()
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await one._follow(Store(xinfo=StoreError("WRONGTYPE"), xread=None))
        assert not one._caught_up
        with pytest.raises(StoreError, match="cannot be read"):
            await one._follow(Store(xinfo=info(None, 0, 0), xread=[[STREAM, [[b"x", None]]]]))

    asyncio.run(story())
