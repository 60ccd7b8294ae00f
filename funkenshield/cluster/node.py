"""One node of a cluster: its three connections to the store, and what goes over which.

    look-ups   MGET, and nothing else, so that nothing is before them
    writes     SET of entries, XADD of messages, and every few seconds how far this node has heard
    messages   XREAD, which waits

Misses are looked up only while all purges are known that others told. Whatever the store does, or does not do, is a
warning, and no more: this node goes on alone.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..config.cluster import ClusterSection
from ..config.guard import Refusal
from ..core.files import exposed, read_text
from ..core.logs import RateLimited
from ..errors import ConfigError, FunkenShieldError
from ..forward._miss_path import MissPath
from . import connection as connections
from .connection import Connection, StoreError, keep, within
from .namesakes import FOLLOWS, Namesakes
from .purges import APART, HORIZON, Message, Purges, StreamId, parse_id
from .sealing import COOKIES, SEAL, STATE, TICKETS, Sealer, load_secrets
from .shared_blocks import Blocks, SharedBlocks
from .shared_cache import SKEW, SharedCache

log = logging.getLogger(__name__)
limited = RateLimited(log)

STREAM, NODES = b"funkenshield:purges", b"funkenshield:nodes"
STREAM_MAX = 100_000  # messages that the store keeps
READ_MAX = 256  # messages that are read at once
WRITES_MAX = 256  # requests that are sent at once
WAIT = 2.0  # seconds that the store waits for a message
REPLY = 3.0  # seconds that it takes at most for anything else
HEARTBEAT = 4.0  # seconds at least, and half as long again at most: nodes that one message woke do not stay in step
GATHERING = 0.01  # seconds in which what is to be written comes together
RENEWED = 3600.0  # seconds; so often, each node tells that the stream is there
FORGOTTEN = 86400.0  # seconds after which a node that says nothing is none
EMPTIED = 60.0  # seconds between two times that the cache is emptied, for the store could have us do it all the time
AWAY = 300.0  # seconds; who was away for less hears again what was lost meanwhile: others notice within a minute
SAID = 120.0  # seconds, twice as long as anybody waits; a node says how far it is with those that spoke since
LEAVING = 1.0  # seconds in which what waits is told at the end
POLL = 0.05  # seconds between two looks at how far all nodes are
NODE_COUNTERS = (
    "cluster_in_use", "shared_cache_lookups", "shared_cache_hits", "shared_cache_rejected", "shared_cache_late",
    "shared_cache_skipped", "shared_cache_writes", "shared_cache_write_drops", "cluster_messages",
    "cluster_messages_rejected", "cluster_cache_emptied", "cluster_name_conflict",
)  # fmt: skip

COOKIE_SECRET, TICKET_SECRET = 16, 32  # octets


class Credentials:
    """What a node shows the others, and the store: read while we may read it."""

    def __init__(self, section: ClusterSection) -> None:
        """Raises ConfigError where hiredis, the secret or the password are not to be had."""
        connections.load()
        try:
            self.sealer = Sealer(load_secrets(Path(section.secret_file)))
        except ConfigError as error:
            raise ConfigError(f"cluster.secret_file: {error}") from None
        self.password = _read_password(section.password_file)
        named = {"cluster.secret_file": section.secret_file, "cluster.password_file": section.password_file}
        self.exposed = [line for key, path in named.items() if path for line in exposed(key, path)]
        self.context = connections.context_of(section.address)

    @property
    def cookie_secrets(self) -> tuple[bytes, ...]:
        """Return the secrets of DNS cookies, the same at all nodes; the first one makes them."""
        return self.sealer.derive(COOKIES, COOKIE_SECRET)

    @property
    def ticket_secret(self) -> bytes:
        """Return what keys of session tickets follow from, the same at all nodes."""
        return self.sealer.derive(TICKETS, TICKET_SECRET)[0]


class Node:
    """What this node shares, and hears."""

    def __init__(
        self,
        section: ClusterSection,
        credentials: Credentials,
        miss_path: MissPath,
        purge: Callable[[Message], None],
        blocks: Blocks,
        serials: Callable[[bytes], frozenset[int] | None],
        dispatch: Callable[[], None],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.section, self._wall, self._serials = section, wall, serials
        self._credentials, self.sealer = credentials, credentials.sealer
        self._miss_path, self._zones, self._purge_here = miss_path, miss_path.cache.zones, purge
        self.purges = Purges(
            section.node_name, self.sealer, wall, self._purge, self._knows, entries_since=wall(),
            blocks=SharedBlocks(section.node_name, blocks, wall),
        )  # fmt: skip
        self.shared_cache = SharedCache(
            miss_path, self.sealer, self._origin, self.purges.epochs.of, dispatch, wall,
            timeout=section.timeout, layout=miss_path.cache.layout,
        )  # fmt: skip
        self._writing: Connection | None = None
        self._wanted, self._caught_up = asyncio.Event(), False
        self._heard_at = wall()  # all purges from before are carried out in what is in the cache
        self._emptied_at = self._renewed_at = self._state_told = self._looked_at = 0.0
        self._position_told: StreamId = (0, 0)
        self._told_at: tuple[int, StreamId] = (0, (0, 0))  # our last message in the stream, and where
        self._left = False
        self._instance, self._namesakes = os.urandom(SEAL).hex(), Namesakes(wall)
        for line in credentials.exposed:
            log.warning("%s", line)
        self._alone = os.urandom(SEAL)  # what no other node calls its entries

    # ---------------------------------------------------------------- before and after this process

    def carried_out(self) -> tuple[float, dict[str, int]]:
        """Return until when all purges are carried out, in seconds since the epoch, and each node's last number."""
        return self._heard_at, self.purges.numbers()

    def restored(self, heard_at: float = 0.0, numbers: Mapping[str, int] | None = None) -> None:
        """Say which purges are carried out in what is in the cache at the start; by default, that is not known."""
        self._heard_at = min(self._heard_at, heard_at)
        self.purges.carried_out(numbers or {})

    def handed_over(self) -> dict[str, Any]:
        """Return what a process needs that goes on in our place."""
        return {
            "carried_out": self.carried_out(), "purges": self.purges.handed_over(), "instance": self._instance,
        }  # fmt: skip

    def take_over(self, before: Mapping[str, Any] | None) -> None:
        """Go on as the process before; None: it had no cluster, or did not say."""
        if before is None:
            self.restored()
        else:
            self.restored(*before["carried_out"])
            self.purges.take_over(**before["purges"])
            self._instance = before["instance"]

    def _origin(self, zone: int) -> bytes:
        """Return what a zone's entries are from: its name, and its serials, or, before these are known, us."""
        name = self._zones.name(zone)
        serials = self._serials(name)
        known = self._alone if serials is None else b",".join(b"%d" % each for each in sorted(serials))
        return b"%d %s %s" % (zone != 0, name, known)

    def _knows(self, zone: bytes, serial: int) -> bool:
        return (self._serials(zone) or frozenset()) == {serial}

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Return what goes on for ever."""
        shown = self._credentials.password, self._credentials.context
        connect = partial(connections.connect, self.section.address, *shown)
        serve = {"look-ups": self.shared_cache.serve, "writes": self._write, "messages": self._follow}
        return [keep(title, connect, each, time.monotonic) for title, each in serve.items()]

    def run(self) -> None:
        """Look up, and note to be written, what misses have left for that; called after each batch."""
        if self.shared_cache.run():
            self._wanted.set()

    def counters(self) -> dict[str, int]:
        """Return what is counted, by the names that `metrics` gives a meaning."""
        cache, purges = self.shared_cache, self.purges
        counted = cache.counters
        return dict(zip(NODE_COUNTERS, (
            int(cache.is_used), counted.lookups, counted.hits, counted.rejected, counted.late, counted.skipped,
            counted.writes, counted.write_drops + self._miss_path.shared.store_drops, purges.heard, purges.rejected,
            purges.emptied, int(self._namesakes.are_there),
        ), strict=True))  # fmt: skip

    # ---------------------------------------------------------------- told

    def _purge(self, message: Message) -> None:
        """Purge what another node has purged; what was stored before that is nothing for others."""
        self.shared_cache.forget_stored()
        self._purge_here(message)

    def tell(self, **what: Any) -> Message:  # noqa: ANN401 - Message's own
        """Have all nodes purge what this one has purged; return the message."""
        message = self.purges.message(**what)
        self.shared_cache.forget_stored()
        self.purges.tell(message)
        self._wanted.set()
        return message

    def tell_block(self, prefix: str, seconds: float = 0.0, action: Refusal = "drop") -> Message:
        """Have all nodes block what this one has blocked, or, without a time, has not any more; FunkenShieldError."""
        until = int((self._wall() + seconds) * 1000) if seconds else 0
        message = self.purges.tell_block(prefix=prefix, until=until, action=action)
        self._wanted.set()
        return message

    @property
    def block_reason(self) -> str:
        """Return why a prefix is blocked that this node tells all to block."""
        return SharedBlocks.reason(self.section.node_name)

    def tell_serial(self, zone: bytes, serial: int, *, let_expire: bool) -> None:
        """Have all nodes purge a zone that has a new serial, unless one has told them."""
        back = any((serial - before) % 2**32 >= 2**31 for before in self._serials(zone) or ())  # RFC 1982 3.2
        if self.purges.is_news(zone, serial, back=back):
            self.tell(name=zone.hex(), serial=serial, let_expire=let_expire)

    async def _write(self, connection: Connection) -> None:
        """Write what there is to be told and stored, and at least now and then how far we are; StoreError."""
        self._writing, self._looked_at, self._state_told = connection, 0.0, 0.0
        self.shared_cache.is_writable(True)
        try:
            while True:
                self._wanted.clear()
                if self._caught_up:
                    await self._look(connection)
                    await self._tell(connection)
                    await self._tell_state(connection)
                stored = [connection.request(*each) for each in self.shared_cache.writes(WRITES_MAX)]
                await within(REPLY, asyncio.gather(*stored))
                if len(stored) == WRITES_MAX:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT * random.uniform(1.0, 1.5)):
                        await self._wanted.wait()
                await asyncio.sleep(GATHERING)
        finally:
            self._writing = None
            self.shared_cache.is_writable(False)

    async def _look(self, connection: Connection) -> None:
        """See now and then what became of what we have told."""
        if self._wall() - self._looked_at >= HEARTBEAT:
            self._looked_at = self._wall()
            await self._look_after_told(connection)
            await self._look_for_namesakes(connection)

    async def _look_after_told(self, connection: Connection) -> None:
        """Tell the last minutes' messages again where the store has lost the last one, in whatever way."""
        if self._told_at[0]:
            place = b"%d-%d" % self._told_at[1]
            if not await within(REPLY, connection.request("XRANGE", STREAM, place, place)):
                self.purges.repeat()

    async def _look_for_namesakes(self, connection: Connection) -> None:
        """See whether it was another process that said of this node how far it is."""
        node, were_there = self.section.node_name, self._namesakes.are_there
        state = self._said(node.encode(), await within(REPLY, connection.request("HGET", NODES, node)))
        with contextlib.suppress(TypeError, KeyError):
            if state["instance"] != self._instance and self._wall() - state["time"] / 1000 < APART:
                self._namesakes.saw(state["instance"])
        if self._namesakes.are_there and not were_there:
            text = "cluster: another process has had this node's name, %s, for %g s: cluster.node must differ"
            limited.warning("namesakes", text, node, FOLLOWS)

    async def _tell(self, connection: Connection) -> None:
        """Tell what waits for that, each message until the store has it."""
        renews = self._wall() - self._renewed_at > RENEWED
        if renews:
            self._renewed_at = self._wall()
            self.purges.outbox.append(self.purges.message())
        while self.purges.outbox:
            message = self.purges.outbox[0]
            add = ("XADD", STREAM, "MAXLEN", "~", STREAM_MAX, "*", "m", self.purges.sealed(message))
            self._told_at = message.time, parse_id(await within(REPLY, connection.request(*add)))
            if self.purges.outbox and self.purges.outbox[0] is message:
                self.purges.outbox.popleft()
        if renews:
            await self._tell_state(connection)
            await self._tidy(connection)

    async def _tidy(self, connection: Connection) -> None:
        """Take messages out that are older than any entry, by the store's clock, and nodes that are none any more."""
        now = self._told_at[1][0] / 1000
        if abs(now - self._wall()) > APART:
            limited.warning("clocks", "cluster: the clocks of the store and this node are more than %g s apart", APART)
        await within(REPLY, connection.request("XTRIM", STREAM, "MINID", "~", int((now - HORIZON) * 1000)))
        forgotten = [node for node, (_, said) in (await self._states(connection)).items() if said <= now - FORGOTTEN]
        if forgotten:
            await within(REPLY, connection.request("HDEL", NODES, *forgotten))

    async def _tell_state(self, connection: Connection) -> None:
        """Tell which purges we have carried out: the numbers of those nodes that told something lately."""
        position = self.purges.position or (0, 0)
        if self._left:
            return
        if position == self._position_told and self._wall() - self._state_told < HEARTBEAT:
            return
        self._position_told, self._state_told = position, self._wall()
        state = {
            "instance": self._instance, "carried_out": self.purges.numbers(SAID), "time": int(self._wall() * 1000),
        }  # fmt: skip
        node = self.section.node_name.encode()
        sealed = self.sealer.seal(STATE, node, json.dumps(state).encode())
        await within(REPLY, connection.request("HSET", NODES, node, sealed))

    async def leave(self) -> None:
        """Tell what waits, and that this node is no more: nobody who asks whether all have purged waits for it."""
        self._renewed_at = self._looked_at = self._wall()  # what it says now is the last that it says
        self.purges.outbox.append(self.purges.message(leaves=True))
        self._wanted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                while self.purges.outbox and self._writing is not None and self._caught_up:
                    await asyncio.sleep(POLL)
        self._left = True
        if self._writing is not None:
            with contextlib.suppress(StoreError):
                await within(0.5, self._writing.request("HDEL", NODES, self.section.node_name.encode()))
        if waiting := sum(bool(each.name or each.prefix) for each in self.purges.outbox):
            log.warning("cluster: the store is not reached: other nodes were not told of %d purges or blocks", waiting)

    # ---------------------------------------------------------------- heard

    async def _follow(self, connection: Connection) -> None:
        """Hear what there is to hear; StoreError."""
        try:
            await self._find_place(connection)
            while True:
                position = b"%d-%d" % (self.purges.position or (0, 0))
                wait = int(WAIT * 1000) if self._caught_up else 1
                read = ("XREAD", "COUNT", READ_MAX, "BLOCK", wait, "STREAMS", STREAM, position)
                found = await within(WAIT + REPLY, connection.request(*read))
                entries = found[0][1] if found else []
                for at, fields in entries:
                    await self._hear(
                        connection, parse_id(at), fields[1] if isinstance(fields, list) and len(fields) > 1 else None
                    )
                if entries or not self._caught_up:
                    self._wanted.set()
                if len(entries) < READ_MAX:
                    self._heard_at = self._wall()
                    self._use()
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise StoreError(f"what it says of the stream cannot be read: {error}") from None
        finally:
            self._rest()

    def _use(self) -> None:
        """Use the shared cache: all purges are known."""
        if not self._caught_up:
            self.purges.caught_up()
            self.shared_cache.believed_since = self.purges.since + SKEW
            self._caught_up = True
            self.shared_cache.is_current(True)

    def _rest(self) -> None:
        self._caught_up = False
        self.shared_cache.is_current(False)

    async def _hear(self, connection: Connection, at: StreamId, sealed: object) -> None:
        """Take a message; where its node told purges before that are not known, with an empty cache."""
        self._check_time(at)
        if not self.purges.hear(at, sealed):
            await self._start_over(connection)
            self.purges.hear(at, sealed, emptied=True)

    def _check_time(self, at: StreamId) -> None:
        """Raise StoreError for what is from the future: where we read on from there, we would hear nothing."""
        if at[0] / 1000 > self._wall() + APART:
            raise StoreError(f"messages are from the future: clocks are over {APART:g} s apart, or it is none of ours")

    async def _start_over(self, connection: Connection) -> None:
        """Empty the cache, once a minute at most."""
        self._rest()
        await asyncio.sleep(max(0.0, self._emptied_at + EMPTIED - self._wall()))
        _, last, _ = await _describe(connection)
        self._emptied_at = self._wall()
        self.purges.empty(last)

    async def _find_place(self, connection: Connection) -> None:
        """See whether we can read on where we were, and empty the cache where that is not known."""
        first, last, whole = await _describe(connection)
        self._check_time(last)
        now, position = self._wall(), self.purges.position
        if position is None:
            is_lost = (first[0] / 1000 if first else now) > self._heard_at
        else:
            is_lost = last < position or (last > position and (first is None or first > position))
        if is_lost and (not whole or now - self._heard_at > AWAY):
            await self._start_over(connection)
        elif is_lost:  # others tell again what they told lately
            self.purges.since, self.purges.emptied_to = now, (0, 0)
        if is_lost or position is None:
            self.purges.position = (0, 0)

    # ---------------------------------------------------------------- everywhere

    async def wait_for_all(self, message: Message, seconds: float) -> dict[str, Any]:
        """Wait until every node has heard a message; return who has, and who has not in so many seconds.

        Raises FunkenShieldError where the store is not reached.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and (self._told_at[0] < self._goal(message) or self._writing is None):
            await asyncio.sleep(POLL)
        connection = self._writing
        if connection is None or self._told_at[0] < self._goal(message):
            raise FunkenShieldError("done here; other nodes will be told when the store is reached again")
        try:
            states = await self._states(connection)
            while self._missing(self._goal(message), states) and time.monotonic() < end:
                await asyncio.sleep(POLL)
                states = await self._states(connection)
        except StoreError as error:
            raise FunkenShieldError(f"done here, and told; who has heard it is not known: {error}") from None
        missing = self._missing(self._goal(message), states)
        return {
            "nodes": sorted(self.purges.seen.keys() - missing.keys()),
            "missing": [
                {"node": node, "silent": round(max(0.0, self._wall() - said), 1)} for node, said in missing.items()
            ],
        }

    def _goal(self, message: Message) -> int:
        """Return the number up to which a node has carried a message out: it may have been told again since."""
        return max(message.time, self.purges.repeated_to)

    def _missing(self, goal: int, states: dict[str, tuple[int, float]]) -> dict[str, float]:
        """Return who has not said that it has carried out so much, and when it was seen; a day later, it is none."""
        for node, (_, said) in states.items():
            self.purges.saw(node, said)
        since = self._wall() - FORGOTTEN
        self.purges.seen = {
            node: seen for node, seen in self.purges.seen.items() if seen > since or node == self.section.node_name
        }
        return {node: seen for node, seen in self.purges.seen.items() if states.get(node, (0, 0.0))[0] < goal}

    async def _states(self, connection: Connection) -> dict[str, tuple[int, float]]:
        """Return the number of ours up to which each node has carried out purges, and when it said so."""
        found = await within(REPLY, connection.request("HGETALL", NODES))
        if not isinstance(found, list):
            raise StoreError("what it says of nodes cannot be read")
        states = {}
        for node, sealed in zip(found[::2], found[1::2], strict=False):
            with contextlib.suppress(TypeError, KeyError, ValueError):
                state = self._said(node, sealed)
                number = state["carried_out"].get(self.section.node_name, 0)
                states[node.decode()] = number, state["time"] / 1000
        return states

    def _said(self, node: bytes, sealed: object) -> dict[str, Any]:
        """Return what a node says of itself; {} where it is not a node that says it."""
        octets = self.sealer.open(STATE, node, sealed)
        return json.loads(octets) if octets else {}


async def _describe(connection: Connection) -> tuple[StreamId | None, StreamId, bool]:
    """Return the first message that the stream has, the last it ever had, and whether all those are there."""
    try:
        found = await within(REPLY, connection.request("XINFO", "STREAM", STREAM))
    except StoreError as error:
        if "no such key" not in str(error):
            raise
        return None, (0, 0), True
    said = dict(zip(found[::2], found[1::2], strict=True))
    entry, last = said.get(b"first-entry"), parse_id(said[b"last-generated-id"])
    return parse_id(entry[0]) if entry else None, last, said.get(b"entries-added") == said.get(b"length")


def _read_password(text: str) -> str:
    try:
        return read_text(Path(text)).strip() if text else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster.password_file: {text}: {getattr(error, 'strerror', error)}") from None
