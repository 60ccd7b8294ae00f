"""When dead answers leave the cache: a little at a time, never in anybody's way.

No look-up depends on it, since each compares times, and what was purged, itself; this only gives memory back.
"""

import asyncio
import time
from collections.abc import Callable

from ._store import Cache

INTERVAL = 0.25  # seconds from one step to the next,
PAUSE = 0.03  # where the one before was cut short
BUDGET = 0.0005  # seconds that a step may take: so long may a miss have to wait
IN_FLIGHT = 60.0  # seconds after which nothing comes any more that was asked for before


class Expiry:
    """Walks over the cache's segments, one after the other, again and again."""

    def __init__(
        self,
        cache: Cache,
        clock: Callable[[], float] = time.perf_counter,
        keeps_purges: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin; while `keeps_purges`, no purge is forgotten: entries are copied that must be held against all."""
        self._cache = cache
        self._clock = clock
        self._keeps_purges = keeps_purges
        self._next = 0
        self._noted: tuple[int, float] | None = None
        self._forgotten = 0
        self._cut_short = False

    def step(self, budget: float = BUDGET) -> int:
        """Remove what is dead or was purged, for `budget` seconds or once round; return how many answers were dead."""
        retired = 0
        end = self._clock() + budget
        self._cut_short = False
        for _ in range(self._cache.segments_total):
            retired += self._cache.sweep(self._next)
            self._next = (self._next + 1) % self._cache.segments_total
            if self._clock() >= end:
                self._cut_short = True
                break
        self._cache.collect()
        self._forget_purges()
        return retired

    def _forget_purges(self) -> None:
        """Forget a purge once all that is stored, and all that was on its way, was held against it."""
        now = self._clock()
        if self._keeps_purges():
            return
        if self._noted is None:
            if self._cache.purges_total > self._forgotten:
                self._noted = self._cache.purges_total, now
            return
        number, noted = self._noted
        if now >= noted + IN_FLIGHT and self._cache.purges_settled >= number and self._cache.forget_purges(number):
            self._forgotten = number
            self._noted = None

    async def run(self) -> None:
        """Step for ever."""
        while True:
            await asyncio.sleep(PAUSE if self._cut_short else INTERVAL)
            self.step()
