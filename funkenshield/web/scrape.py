"""The metrics as they are scraped: one snapshot for all who come within a second, one page of each form made of it.

Pages are made one at a time, on a thread that nobody waits for. Where they take long, they are made more seldom, so
that however many scrape, that has its share of the time at most.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ..admin import prometheus
from .budget import SHARE

PACE = 1.0  # seconds for which a snapshot is told, at least

Snapshot = dict[str, Any]
Page = tuple[str, bytes]  # its content type, and itself


class Scrapes:
    """Whoever scrapes."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], render: Callable[..., Page] = prometheus.render,
        elapsed: Callable[[], float] = time.monotonic, worked: Callable[[], float] = time.thread_time,
    ) -> None:  # fmt: skip
        """`elapsed` is the time, `worked` that of it which the thread that asks was at work."""
        self._snapshot, self._render, self._elapsed, self._worked = snapshot, render, elapsed, worked
        self._taken: Snapshot = {}
        self._taken_at, self._spent = float("-inf"), 0.0
        self._pages: dict[bool, asyncio.Task[Page]] = {}  # by whether they are OpenMetrics
        self._turn = asyncio.Lock()

    async def page(self, accept: str) -> Page:
        """Return the content type of the metrics, as of now or a moment ago, and the page."""
        now = self._elapsed()
        if now - self._taken_at >= max(PACE, self._spent / SHARE):
            self._take(now)
        openmetrics = prometheus.wants_openmetrics(accept)
        if (making := self._pages.get(openmetrics)) is None:
            # A thread cannot be cancelled: where the client goes away, whoever comes next has what it makes.
            making = asyncio.get_running_loop().create_task(self._make(self._taken, openmetrics=openmetrics))
            self._pages[openmetrics] = making
        return await asyncio.shield(making)

    def _take(self, now: float) -> None:
        begun = self._worked()
        self._taken, self._pages = self._snapshot(), {}
        self._taken_at, self._spent = now, self._worked() - begun

    async def _make(self, taken: Snapshot, *, openmetrics: bool) -> Page:
        async with self._turn:
            try:
                page, spent = await asyncio.to_thread(self._timed, taken, openmetrics=openmetrics)
            except BaseException:
                self._taken_at = float("-inf")  # the next one may be better
                raise
        self._spent += spent
        return page

    def _timed(self, taken: Snapshot, *, openmetrics: bool) -> tuple[Page, float]:
        begun = self._worked()
        page = self._render(taken, openmetrics=openmetrics)
        return page, self._worked() - begun
