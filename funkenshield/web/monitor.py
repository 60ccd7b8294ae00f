"""The last hour, and what happens now, for all who look: read once, encoded once, sent to each.

It knows time and viewers. What a reading is made of is for `overview`. While nobody looks, there is one reading for
each sample of the hour, and no table is made; a reading is made at most once a second, and more seldom where it takes
long.
"""

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from ..core.logs import RateLimited
from .http import Viewer
from .overview import SAMPLE, Reading, overview, sample

limited = RateLimited(logging.getLogger(__name__))

HOUR, INTERVAL = 3600.0, 5.0  # seconds that are kept, and of which one sample tells
PACE = 1.0  # seconds between two readings while somebody looks
LEISURE = 300  # times what a reading took pass before the next one: it has a three-hundredth of the thread, at most
KEPT = 2 * INTERVAL  # seconds for which readings are kept, to tell rates since one of them
TOLERANCE = 0.5  # seconds that a timer may be early
MAX_VIEWERS = 16

Tables = Mapping[str, Callable[[], object]]  # by name: what else is shown


def encoded(value: object) -> bytes:
    """Return a value as JSON in few octets."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def event(name: str, data: bytes) -> bytes:
    """Return an event for those who look (HTML, 9.2.5): JSON has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class Monitor:
    """What is shown now, what was in the last hour, and who looks."""

    def __init__(
        self, read: Callable[[], dict[str, Any]], about: Mapping[str, Any], tables: Tables,
        now: Callable[[], float] = time.time, elapsed: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:  # fmt: skip
        """`read` returns all counters; `about` is what never changes."""
        self._read, self._about, self._tables = read, about, tables
        self._now, self._elapsed, self._worked = now, elapsed, worked
        self._recent: deque[Reading] = deque()  # of the last KEPT seconds
        self._samples: deque[bytes] = deque(maxlen=round(HOUR / INTERVAL))
        self._sampled = self._shown_at = -HOUR  # by `elapsed`
        self._shown = b"{}"
        self._viewers: dict[Viewer, None] = {}  # who came first is first
        self._pause = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- readings

    def start(self) -> None:
        """Read from now on, until `close`."""
        self._tick()

    def close(self) -> None:
        """Read no more; who looks is told the end."""
        if self._timer is not None:
            self._timer.cancel()
        for viewer in list(self._viewers):
            viewer.end()

    def _tick(self) -> None:
        """Read, tell who looks, and come back."""
        try:
            self.update(shown=bool(self._viewers))
        except Exception as error:  # the next reading may be better
            limited.warning("update", "internal error, the page is not updated: %r", error)
        self._come_back()

    def _come_back(self) -> None:
        wait = max(PACE if self._viewers else INTERVAL, self._pause)
        self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def update(self, *, shown: bool) -> None:
        """Read all counters, take a sample when it is time, and tell who looks what there is to see now."""
        begun = self._worked()
        reading = Reading(self._elapsed(), self._now(), self._read())
        while self._recent and self._recent[0].at < reading.at - KEPT:
            self._recent.popleft()
        before = min(self._recent, key=lambda each: abs(reading.at - each.at - INTERVAL), default=reading)
        self._recent.append(reading)
        told = overview(before, reading)
        if reading.at - self._sampled >= INTERVAL - TOLERANCE and len(self._recent) > 1:
            self._sampled = reading.at
            self._samples.append(encoded(sample(told)))
            self._send(event("sample", self._samples[-1]))
        if shown:
            self._shown_at = reading.at
            self._shown = encoded({**self._about, **told, **{name: table() for name, table in self._tables.items()}})
            self._send(event("now", self._shown))
        self._pause = LEISURE * (self._worked() - begun)

    def current(self) -> bytes:
        """Return what there is to see now, as JSON; it is read anew where that was a second ago."""
        if self._elapsed() - self._shown_at >= max(PACE, self._pause):
            self.update(shown=True)
        return self._shown

    def refresh(self) -> None:
        """Have it read anew for whoever comes next: something was changed."""
        self._shown_at = -HOUR

    def history(self) -> bytes:
        """Return the last hour, as JSON."""
        head = encoded({"columns": SAMPLE, "interval": INTERVAL, "seconds": HOUR})
        return b'%b,"samples":[%b]}' % (head[:-1], b",".join(self._samples))

    # ---------------------------------------------------------------- who looks

    def has_room(self, prefix: bytes) -> bool:
        """Tell whether one more of a client prefix may look: there is room, or who has more than it gives way."""
        have = self._have()
        return have.total() < MAX_VIEWERS or max(have.values()) > have[prefix] + 1

    def greeting(self) -> bytes:
        """Return what whoever comes is told first: the hour, and what there is to see now."""
        return b"retry: 2000\n\n" + event("history", self.history()) + event("now", self.current())

    def add(self, viewer: Viewer) -> None:
        """Tell one more what happens, from now on; where there is no room, the oldest of the prefix with most ends."""
        if len(self._viewers) >= MAX_VIEWERS:
            ((most, _),) = self._have().most_common(1)
            oldest = next(each for each in self._viewers if each.prefix == most)
            self.remove(oldest)
            oldest.end()
        self._viewers[viewer] = None
        if len(self._viewers) == 1 and self._timer is not None:
            self._timer.cancel()
            self._come_back()

    def remove(self, viewer: Viewer) -> None:
        """Tell one no more."""
        self._viewers.pop(viewer, None)

    def _have(self) -> Counter[bytes]:
        """Return how many of each client prefix look."""
        return Counter(each.prefix for each in self._viewers)

    def _send(self, data: bytes) -> None:
        for viewer in list(self._viewers):  # who does not read leaves meanwhile
            viewer.write(data)
