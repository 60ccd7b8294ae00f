"""The metrics as they are scraped: pages are made one at a time, on a thread that nobody waits for."""

import asyncio
from collections.abc import Callable

Render = Callable[[str], Callable[[], tuple[str, bytes]]]  # by the Accept header: what makes (content type, page)


class Scrapes:
    """Whoever scrapes, one after another."""

    def __init__(self, render: Render) -> None:
        self.render = render
        self._turn = asyncio.Lock()
        self._making: asyncio.Task[tuple[str, bytes]] | None = None

    async def page(self, accept: str) -> tuple[str, bytes]:
        """Return the content type of the metrics as of now, and the page."""
        await self._turn.acquire()
        # A thread cannot be cancelled: where the client goes away, the next page still waits for the end of this one.
        self._making = asyncio.get_running_loop().create_task(self._make(accept))
        return await asyncio.shield(self._making)

    async def _make(self, accept: str) -> tuple[str, bytes]:
        try:
            return await asyncio.to_thread(self.render(accept))
        finally:
            self._turn.release()
