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
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from ..config.cluster import ClusterSection
from ..core.files import read_text
from ..errors import ConfigError, FunkenShieldError
from ..forward._miss_path import MissPath
from . import connection as connections
from .connection import Connection, StoreError, keep, within
from .purges import HORIZON, REPEATED, Message, Purges, StreamId, parse_id
from .sealing import COOKIES, STATE, TICKETS, Sealer, load_secrets
from .shared_cache import SKEW, SharedCache

STREAM, NODES = b"funkenshield:purges", b"funkenshield:nodes"
STREAM_MAX = 100_000  # messages that the store keeps
READ_MAX = 256  # messages that are read at once
WRITES_MAX = 256  # requests that are sent at once
WAIT = 2.0  # seconds that the store waits for a message
REPLY = 3.0  # seconds that it takes at most for anything else
HEARTBEAT = 5.0  # seconds
GATHERING = 0.01  # seconds in which what is to be written comes together
RENEWED = 3600.0  # seconds; so often, each node tells that the stream is there
FORGOTTEN = 86400.0  # seconds after which a node that says nothing is none
EMPTIED = 60.0  # seconds between two times that the cache is emptied, for the store could have us do it all the time
POLL = 0.05  # seconds between two looks at how far all nodes are
NODE_COUNTERS = (
    "cluster_in_use", "shared_cache_lookups", "shared_cache_hits", "shared_cache_rejected", "shared_cache_late",
    "shared_cache_skipped", "shared_cache_writes", "shared_cache_write_drops", "cluster_messages",
    "cluster_messages_rejected", "cluster_cache_emptied",
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
        serials: Callable[[bytes], frozenset[int]],
        dispatch: Callable[[], None],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.section, self._wall, self._serials = section, wall, serials
        self._credentials, self.sealer = credentials, credentials.sealer
        self._miss_path, self._zones = miss_path, miss_path.cache.zones
        self.purges = Purges(section.node_name, self.sealer, wall, purge, self._knows, entries_since=wall())
        self.shared_cache = SharedCache(
            miss_path, self.sealer, self._origin, self.purges.epochs.of, dispatch, wall,
            timeout=section.timeout, layout=miss_path.cache.layout,
        )  # fmt: skip
        self._writing: Connection | None = None
        self._wanted, self._caught_up = asyncio.Event(), False
        self._heard_at = self._emptied_at = self._renewed_at = self._state_told = 0.0
        self._position_told: StreamId = (0, 0)
        self._told_at: tuple[int, StreamId] = (0, (0, 0))  # our last message in the stream, and where
        self._left = False
        self._introduced = False  # the store has our state

    def restored(self, since: float) -> None:
        """Say until when purges are known that concern what is in the cache, in seconds since the epoch."""
        self.purges.entries_since = since

    def _origin(self, zone: int) -> bytes:
        """Return what a zone's entries are from: its name, and its serials."""
        name = self._zones.name(zone)
        return b"%d %s %s" % (zone != 0, name, b",".join(b"%d" % each for each in sorted(self._serials(name))))

    def _knows(self, zone: bytes, serial: int) -> bool:
        return self._serials(zone) == {serial}

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
            purges.emptied,
        ), strict=True))  # fmt: skip

    # ---------------------------------------------------------------- told

    def tell(self, **what: Any) -> Message:  # noqa: ANN401 - Message's own
        """Have all nodes purge what this one has purged; return the message."""
        message = self.purges.message(**what)
        self.shared_cache.forget_stored()
        self.purges.tell(message)
        self._wanted.set()
        return message

    def tell_serial(self, zone: bytes, serial: int, *, let_expire: bool) -> None:
        """Have all nodes purge a zone that has a new serial, unless one has told them."""
        if self.purges.is_news(zone, serial):
            self.tell(name=zone.hex(), serial=serial, let_expire=let_expire)

    async def _write(self, connection: Connection) -> None:
        """Write what there is to be told and stored, and at least now and then how far we are; StoreError."""
        self._writing = connection
        self.shared_cache.is_writable(True)
        try:
            while True:
                self._wanted.clear()
                if self._caught_up:
                    await self._tell(connection)
                    await self._tell_state(connection)
                while stored := [connection.request(*each) for each in self.shared_cache.writes(WRITES_MAX)]:
                    await within(REPLY, asyncio.gather(*stored))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT):
                        await self._wanted.wait()
                await asyncio.sleep(GATHERING)
        finally:
            self._writing = None
            self.shared_cache.is_writable(False)

    async def _tell(self, connection: Connection) -> None:
        """Tell what waits for that, each message until the store has it."""
        if self._wall() - self._renewed_at > RENEWED:
            self._renewed_at = self._wall()
            self.purges.outbox.append(self.purges.message())
            oldest = int((self._wall() - HORIZON) * 1000)
            await within(REPLY, connection.request("XTRIM", STREAM, "MINID", "~", oldest))
        while self.purges.outbox:
            message = self.purges.outbox[0]
            add = ("XADD", STREAM, "MAXLEN", "~", STREAM_MAX, "*", "m", self.purges.sealed(message))
            self._told_at = message.time, parse_id(await within(REPLY, connection.request(*add)))
            if self.purges.outbox and self.purges.outbox[0] is message:
                self.purges.outbox.popleft()

    async def _tell_state(self, connection: Connection) -> None:
        """Tell how far we have heard; where the store does not know us any more, it lost the stream as well."""
        position = self.purges.position or (0, 0)
        if self._left:
            return
        if position == self._position_told and self._wall() - self._state_told < HEARTBEAT:
            return
        self._position_told, self._state_told = position, self._wall()
        state = json.dumps({"position": position, "time": int(self._wall() * 1000)}).encode()
        node = self.section.node_name.encode()
        new = await within(REPLY, connection.request("HSET", NODES, node, self.sealer.seal(STATE, node, state)))
        if new and self._introduced:
            self.purges.repeat()
            self._wanted.set()
        self._introduced = True

    async def leave(self) -> None:
        """Tell that this node is no more; who asks whether all have heard something does not wait for it."""
        self._left = True
        if self._writing is not None:
            with contextlib.suppress(StoreError):
                await within(0.5, self._writing.request("HDEL", NODES, self.section.node_name.encode()))

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
                    self.purges.hear(parse_id(at), fields[1] if isinstance(fields, list) and len(fields) > 1 else None)
                self._heard_at = self._wall()
                if entries or not self._caught_up:
                    self._wanted.set()
                if len(entries) < READ_MAX and not self._caught_up:
                    self._caught_up = True
                    self.shared_cache.is_current(True)
        except (ValueError, TypeError, IndexError) as error:
            raise StoreError(f"what it says of the stream cannot be read: {error}") from None
        finally:
            self._caught_up = False
            self.shared_cache.is_current(False)

    async def _find_place(self, connection: Connection) -> None:
        """See whether we can read on where we were, and empty the cache where that is not known."""
        first, whole = await _describe(connection)
        now, position = self._wall(), self.purges.position
        if position is None:
            since = first[0] / 1000 if first else now
            self.shared_cache.believed_since = since + SKEW
            if since > self.purges.entries_since + EMPTIED:
                self.purges.empty()
            self.purges.position, self._heard_at = (0, 0), now
        elif first is None or first > position:
            if not whole or now - self._heard_at > REPEATED:
                await asyncio.sleep(max(0.0, self._emptied_at + EMPTIED - now))
                self._emptied_at = self._wall()
                self.shared_cache.believed_since = self._emptied_at + SKEW
                self.purges.empty()
            self.purges.position = (0, 0)
            self.purges.repeat()

    # ---------------------------------------------------------------- everywhere

    async def wait_for_all(self, message: Message, seconds: float) -> dict[str, Any]:
        """Wait until every node has heard a message; return who has, and who has not in so many seconds.

        Raises FunkenShieldError where the store is not reached.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and (message in self.purges.outbox or self._writing is None):
            await asyncio.sleep(POLL)
        connection = self._writing
        if connection is None or message in self.purges.outbox:
            raise FunkenShieldError("purged here; other nodes will be told when the store is reached again")
        at = self._told_at[1]  # at the earliest
        try:
            states = await self._states(connection)
            while any(position < at for position, _ in states.values()) and time.monotonic() < end:
                await asyncio.sleep(POLL)
                states = await self._states(connection)
        except StoreError as error:
            raise FunkenShieldError(f"purged here, and told; who has heard it is not known: {error}") from None
        missing = {node: said for node, (position, said) in states.items() if position < at}
        return {
            "nodes": sorted(states.keys() - missing.keys()),
            "missing": [
                {"node": node, "silent": round(max(0.0, self._wall() - said), 1)} for node, said in missing.items()
            ],
        }

    async def _states(self, connection: Connection) -> dict[str, tuple[StreamId, float]]:
        """Return how far each node has heard, and when it said so; one that has been silent for a day is none."""
        found = await within(REPLY, connection.request("HGETALL", NODES))
        states = {}
        for node, sealed in zip(found[::2], found[1::2], strict=True):
            octets = self.sealer.open(STATE, node, sealed)
            with contextlib.suppress(ValueError, TypeError, KeyError):
                state = json.loads(octets or b"")
                if state["time"] / 1000 > self._wall() - FORGOTTEN:
                    first, second = state["position"]
                    states[node.decode()] = (first, second), state["time"] / 1000
        return states


async def _describe(connection: Connection) -> tuple[StreamId | None, bool]:
    """Return the first message that the stream has, and whether it has all that there ever were."""
    try:
        found = await within(REPLY, connection.request("XINFO", "STREAM", STREAM))
    except StoreError as error:
        if "no such key" not in str(error):
            raise
        return None, True
    said = dict(zip(found[::2], found[1::2], strict=True))
    entry = said.get(b"first-entry")
    return parse_id(entry[0]) if entry else None, said.get(b"entries-added") == said.get(b"length")


def _read_password(text: str) -> str:
    try:
        return read_text(Path(text)).strip() if text else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster.password_file: {text}: {getattr(error, 'strerror', error)}") from None
