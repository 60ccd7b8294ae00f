"""Reloads, one after another: each is logged, and whoever asked for it is told what became of it.

It knows that one waits for another. SIGHUP is caught in `daemon`, whose `configure` does what a reload does.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .admin.process import notify
from .errors import FunkenShieldError

log = logging.getLogger(__name__)

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Reloaded:
    """What became of a reload: without errors, the new configuration is in force, but for what the warnings say."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, line: str) -> None:
        """Take up, and log, what of the new configuration is not in force."""
        self.warnings.append(line)
        log.warning("%s", line)

    def fail(self, line: str) -> None:
        """Take up, and log, why the old configuration is in force."""
        self.errors.append(line)
        log.error("reload failed: %s", line)


STOPPED = Reloaded(["the daemon has stopped meanwhile"])


class Reloads:
    """Has a configuration applied whenever that is asked for; who asks while one is applied gets the next one."""

    def __init__(self, apply: Callable[[Warn], Awaitable[None]]) -> None:
        """`apply` raises FunkenShieldError, with a line for each mistake, where it has changed nothing."""
        self._apply = apply
        self._next: asyncio.Future[Reloaded] | None = None
        self._running: asyncio.Task[None] | None = None

    def request(self) -> asyncio.Future[Reloaded]:
        """Have a reload begin, or follow the one in progress; return what will tell what became of it."""
        loop = asyncio.get_running_loop()
        self._next = self._next or loop.create_future()
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        else:
            log.info("a reload is in progress; another one follows")
        return self._next

    async def _run(self) -> None:
        while self._next is not None:
            asked, self._next = self._next, None
            try:
                asked.set_result(await self._reload())
            finally:
                if not asked.done():  # where this was cancelled
                    asked.set_result(STOPPED)

    async def _reload(self) -> Reloaded:
        reloaded = Reloaded()
        notify("RELOADING=1")
        try:
            await self._apply(reloaded.warn)
        except FunkenShieldError as error:
            for line in str(error).splitlines():
                reloaded.fail(line)
        except Exception as error:  # whatever it is, the next reload may go better
            log.exception("reload failed")
            reloaded.errors.append(f"internal error: {error!r}")
        else:
            log.info("reloaded")
        notify("READY=1")
        return reloaded

    async def wait(self) -> None:
        """Wait until nothing is left to be applied."""
        if self._running is not None:
            await self._running

    async def close(self) -> None:
        """Have no reload end in the midst of stopping."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._next is not None:
            self._next.set_result(STOPPED)
