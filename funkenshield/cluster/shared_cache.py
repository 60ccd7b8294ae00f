"""The cache that nodes share: misses are looked up in the store a batch at a time, and new entries are written there.

    look_up -> one MGET -> hits end their queries, the others go on to upstreams; so do all at the deadline
    take_stored -> SET with the time for which it may serve; nobody waits for that

A name tells all that the cache key does, the zone with its serials, and the purges that concern it (`purges`): so an
entry from before a purge has a name that is asked for no more. A value is sealed for its name:

    seal (16), written (8: milliseconds since the epoch, big-endian), entry (`cache/_export`)

It is believed for as long as it was to live, by the writer's clock; one from the future by SKEW counts as written now.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

from ..core.logs import RateLimited
from ..forward._miss_path import MissPath
from .connection import Connection, Word, within
from .sealing import VALUE, Sealer

limited = RateLimited(logging.getLogger(__name__))

PREFIX = b"funkenshield:e:"
SKEW = 5.0  # seconds that nodes' clocks may be apart
LIFE_MAX = 86400.0  # seconds; no entry is older, whatever it says
BATCH = 128  # look-ups in one request
BATCHES_MAX = 16  # requests without a reply
LATE_MAX = 3  # requests in a row that came too late, and the store is left alone for a while
STAMP = 8  # octets
WRITES_MAX = 4096  # entries that wait to be written
SLOW = 0.25  # seconds within which the first reply must come, or else the store is not asked


@dataclass
class LookupCounters:
    """What became of look-ups, and of what was written."""

    lookups: int = 0
    hits: int = 0
    rejected: int = 0
    late: int = 0
    skipped: int = 0
    writes: int = 0
    write_drops: int = 0


@dataclass(eq=False)
class SharedCache:
    """Look-ups and writes of one node.

    `origin` tells by a zone's number what its entries are from, `epoch` which purges concern a cache key; `dispatch`
    has queries sent that go on.
    """

    miss_path: MissPath
    sealer: Sealer
    origin: Callable[[int], bytes]
    epoch: Callable[[bytes], bytes]
    dispatch: Callable[[], None]
    wall: Callable[[], float]
    _: KW_ONLY
    timeout: float
    layout: bytes
    believed_since: float = 0.0  # seconds since the epoch: from before, purges may be unknown

    def __post_init__(self) -> None:
        self.counters = LookupCounters()
        self._connection: Connection | None = None
        self._late = 0  # in a row
        self._writes: deque[tuple[bytes, bytes, float]] = deque()  # names, values, seconds that they last
        self._current = self._writable = self._was_used = False

    # ---------------------------------------------------------------- when it is used

    def is_current(self, current: bool) -> None:
        """Say whether all purges are known up to now: or else nothing is looked up, or written."""
        self._current = current
        self._use()

    def is_writable(self, writable: bool) -> None:
        """Say whether somebody takes `writes`."""
        self._writable = writable
        self._use()

    @property
    def is_used(self) -> bool:
        """Tell whether misses are looked up."""
        return self._current and self._connection is not None

    def _use(self) -> None:
        self.miss_path.shared.use(lookups=self.is_used, stores=self._current and self._writable)
        if not self.is_used:
            self._give_up()
        elif not self._was_used:
            limited.info("in use", "cluster store, look-ups: in use")
        self._was_used = self.is_used

    def _give_up(self) -> None:
        """Let what waits to be looked up go on without."""
        if lookups := self.miss_path.shared.take_lookups():
            self._go_on(_Batch(lookups))

    async def serve(self, connection: Connection) -> None:
        """Look misses up by a connection until it ends; StoreError says why."""
        await within(SLOW, connection.request("PING"))
        await within(2 * self.timeout, connection.request("PING"))
        self._connection, self._late = connection, 0
        self._use()
        try:
            await connection.ended
        finally:
            self._connection = None
            self._use()

    # ---------------------------------------------------------------- look-ups

    def run(self) -> bool:
        """Look up what waits for that, and note what is to be written; return whether there is anything to write."""
        lookups = self.miss_path.shared.take_lookups()
        for at in range(0, len(lookups), BATCH):
            self._look_up(_Batch(lookups[at : at + BATCH]))
        stored = self.miss_path.shared.take_stored()
        written = int(self.wall() * 1000).to_bytes(STAMP) if stored else b""
        names = self._names((key, zone) for key, zone, _, _ in stored)
        for name, (_, _, entry, lasts) in zip(names, stored, strict=True):
            self._writes.append((name, written + entry, lasts))
        while len(self._writes) > WRITES_MAX:
            self._writes.popleft()
            self.counters.write_drops += 1
        return bool(self._writes)

    def _look_up(self, batch: "_Batch") -> None:
        """Ask for a batch; those that wait for it go on when it comes, or at the deadline."""
        connection = self._connection
        if connection is None or connection.outstanding >= BATCHES_MAX:
            self.counters.skipped += len(batch.lookups)
            asyncio.get_running_loop().call_soon(self._go_on, batch)
            return
        loop = asyncio.get_running_loop()
        batch.names = self._names((key, zone) for _, key, zone, _ in batch.lookups)
        self.counters.lookups += len(batch.lookups)
        reply = connection.request("MGET", *batch.names)
        # By way of the loop's next turn: where the loop itself was late, the reply may be there.
        deadline = loop.call_later(self.timeout, loop.call_soon, partial(self._too_late, connection, reply, batch))
        reply.add_done_callback(partial(self._came, batch, deadline))

    def _go_on(self, batch: "_Batch") -> None:
        """Have those sent to upstreams that still wait."""
        self.miss_path.go_on([handle for handle, _, _, waits in batch.lookups if waits])
        self.dispatch()

    def _too_late(self, connection: Connection, reply: "asyncio.Future[Any]", batch: "_Batch") -> None:
        """Have a batch go on without the store; what it says later may still be in time for somebody."""
        if reply.done():
            return
        batch.late = True
        self.counters.late += len(batch.lookups)
        self._late += 1
        self._go_on(batch)
        if self._late >= LATE_MAX:
            connection.fail(f"{LATE_MAX} replies in a row took more than {self.timeout * 1000:g} ms")

    def _came(self, batch: "_Batch", deadline: asyncio.TimerHandle, reply: "asyncio.Future[Any]") -> None:
        """End those whose answer came; the others go on."""
        deadline.cancel()
        values = None if reply.cancelled() or reply.exception() else reply.result()
        if isinstance(values, list) and len(values) == len(batch.lookups):
            self._late = self._late if batch.late else 0
            now = self.wall()
            for (handle, *_), name, sealed in zip(batch.lookups, batch.names, values, strict=True):
                if sealed is not None:
                    self._take(handle, name, sealed, now)
        self._go_on(batch)

    def _take(self, handle: int, name: bytes, sealed: object, now: float) -> None:
        """End a query with what lies under its name, if that is to be believed."""
        opened = self.sealer.open(VALUE, name, sealed) or b""
        written = int.from_bytes(opened[:STAMP]) / 1000
        age = now - written
        try:
            if not opened or not -SKEW <= age <= LIFE_MAX or written < self.believed_since:
                raise ValueError("not to be believed")
            self.counters.hits += self.miss_path.take_shared(handle, opened[STAMP:], max(age, 0.0))
        except ValueError:
            self.counters.rejected += 1

    def _names(self, keys: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """Return what entries are called in the store, by their cache keys and zones."""
        origins: dict[int, bytes] = {}
        names = []
        for key, zone in keys:
            origin = origins.get(zone) or origins.setdefault(zone, self.origin(zone))
            names.append(PREFIX + self.sealer.name(self.layout, origin, self.epoch(key), key))
        return names

    # ---------------------------------------------------------------- writes

    def writes(self, most: int) -> Iterator[tuple[Word, ...]]:
        """Yield requests that write what was stored here, at most so many."""
        for _ in range(min(most, len(self._writes))):
            name, octets, lasts = self._writes.popleft()
            self.counters.writes += 1
            yield "SET", name, self.sealer.seal(VALUE, name, octets), "PX", max(1, int(min(lasts, LIFE_MAX) * 1000))

    def forget_stored(self) -> None:
        """Write nothing of what was stored by now, for a purge came."""
        self.miss_path.shared.take_stored()


@dataclass(eq=False)
class _Batch:
    """Misses that are looked up by one request."""

    lookups: list[tuple[int, bytes, int, bool]]
    names: list[bytes] = field(default_factory=list)
    late: bool = False
