"""What a node writes, and makes of what the store says of the stream; the store is a script."""

import asyncio
from types import SimpleNamespace

import pytest

from funkenshield.cluster import node as nodes
from funkenshield.cluster.connection import StoreError
from funkenshield.cluster.node import NODES, STREAM, Node
from funkenshield.cluster.sealing import STATE, Sealer
from funkenshield.config.cluster import ClusterSection

NOW = 1e9
SEALER = Sealer([bytes(32)])


class Store:
    """Replies as it is told, by command; to others with 0."""

    def __init__(self, **replies):
        self.replies, self.asked = replies, []

    def request(self, *words):
        self.asked.append(words)
        reply = asyncio.get_running_loop().create_future()
        told = self.replies.get(words[0].lower(), 0)
        if isinstance(told, Exception):
            reply.set_exception(told)
        else:
            reply.set_result(told(*words) if callable(told) else told)
        return reply

    def commands(self):
        return [each[0] for each in self.asked]


def node_of(purged=None):
    cache = SimpleNamespace(zones=SimpleNamespace(name=lambda _: b"\0"), layout=b"1")
    shared = SimpleNamespace(
        use=lambda **_: None, take_lookups=list, take_stored=list, configure=lambda *_: None, store_drops=0
    )
    miss_path = SimpleNamespace(cache=cache, shared=shared, go_on=list)
    section = ClusterSection(store="redis://127.0.0.1", secret_file="secret", node="one")
    credentials = SimpleNamespace(sealer=SEALER, password="", context=None)
    purge = (purged if purged is not None else []).append
    one = Node(section, credentials, miss_path, purge, lambda _: frozenset(), lambda: None, wall=lambda: NOW)
    one._caught_up = True
    return one


def info(first, length, added):
    entry = [first, [b"m", b""]] if first else None
    return [b"length", length, b"entries-added", added, b"first-entry", entry]


def at(seconds):
    return b"%d-0" % int(seconds * 1000)


def state(node, position, said=NOW):
    text = b'{"position": [%d, 0], "time": %d}' % (position, said * 1000)
    return [node, SEALER.seal(STATE, node, text)]


def test_a_message_is_written_once_and_the_state_when_it_changes():
    async def story():
        one, store = node_of(), Store(xadd=b"7-0", hset=1)
        message = one.tell(name="00")
        await one._tell(store)
        await one._tell_state(store)
        await one._tell(store)
        await one._tell_state(store)
        assert store.commands() == ["XTRIM", "XADD", "XADD", "HSET"]  # one says that the stream is there
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
        (info(at(NOW - 50), 3, 3), (int(NOW - 900) * 1000, 0), NOW - 700, True),  # away for too long
        (info(at(NOW - 50), 3, 9), (int(NOW - 90) * 1000, 0), NOW - 30, True),  # something is gone
        (StoreError("ERR no such key"), (int(NOW - 90) * 1000, 0), NOW - 30, False),
        (info(at(NOW - 50), 3, 9), None, 0, False),  # it begins with nothing
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
        forged = [b"five", b"x" * 40]
        store = Store(hgetall=[
            *state(b"one", 9), *state(b"two", 6, NOW - 30), *state(b"four", 1, NOW - 90_000), *forged,
            b"six", state(b"one", 9)[1],
        ])  # fmt: skip
        one._writing, one._told_at = store, (1, (7, 0))
        waited = await one.wait_for_all(one.purges.message(), 0)
        assert waited == {"nodes": ["one"], "missing": [{"node": "two", "silent": 30.0}]}
        assert store.asked[0] == ("HGETALL", NODES)

    asyncio.run(story())


def test_a_serial_is_told_once():
    one = node_of()
    for _ in range(2):
        one.tell_serial(b"\4zone\0", 7, let_expire=False)
    assert [(each.wire, each.serial) for each in one.purges.outbox] == [(b"\4zone\0", 7)]


def test_a_flushed_store_is_told_again():
    async def story():
        one = node_of()
        one.tell(name="00")
        one.purges.outbox.clear()
        one._introduced = True
        await one._tell_state(Store(hset=1))
        assert [each.name for each in one.purges.outbox] == ["", "00"]

    asyncio.run(story())


def test_what_is_no_stream_stops_look_ups():
    async def story():
        one = node_of()
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await one._follow(Store(xinfo=StoreError("WRONGTYPE"), xread=None))
        assert not one._caught_up
        with pytest.raises(StoreError, match="cannot be read"):
            await one._follow(Store(xinfo=info(None, 0, 0), xread=[[STREAM, [[b"x", None]]]]))

    asyncio.run(story())
