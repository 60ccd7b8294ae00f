"""The process beside a daemon: rounds of looking, deciding and telling, until a signal or the speaker ends it.

At its end, the routes are withdrawn, unless this is the last node: nobody would watch over them any more.
"""

import asyncio
import contextlib
import logging
import signal
import time

from ..admin.process import notify
from ..config import Config
from ..core import logs
from ..errors import ConfigError, FunkenShieldError
from .decision import Standing, decide
from .looking import asked_addresses, is_last, look
from .speakers import Bird, ExaBgp, Speaker

log = logging.getLogger(__name__)
limited = logs.RateLimited(log)


class Announcer:
    """Looks after the routes of one shield, for as long as `run` runs."""

    def __init__(self, config: Config, speaker: Speaker) -> None:
        self._config, self._speaker = config, speaker
        self._standing = Standing()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Go round until it is told to end."""
        section = self._config.announce
        asked = ", ".join(map(str, asked_addresses(self._config)))
        log.info("asking %s for %s %s every %g s", asked, section.name, section.type, section.interval)
        while not self.ended.is_set():
            began = time.monotonic()
            await self._round()
            _housekeeping()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), began + section.interval - time.monotonic())
        await self._leave()

    async def _round(self) -> None:
        before = self._standing
        seen = await look(self._config, announced=before.announced is True)
        if self.ended.is_set():
            return
        now = time.monotonic()
        self._standing = after = decide(before, seen, now, self._config.announce)
        if after.announced and not before.announced:
            log.info("announced")
        elif after.announced is False and before.announced is not False:
            log.warning("withdrawn: %s", seen.why)
        elif seen.why and seen.last and after.announced:
            limited.warning("last", "not withdrawn, for this is the last node: %s", seen.why)
        elif seen.why and after.announced is not False:
            limited.warning("bad", "%s", seen.why)
        elif not seen.why and after.announced is False and after.held_until() > now:
            limited.info("held", "well again; announced in %.0f s", after.held_until() - now)
        if after.announced is not None:
            self._tell(announced=after.announced)

    def _tell(self, *, announced: bool) -> None:
        try:
            self._speaker.tell(announced=announced)
        except FunkenShieldError as error:
            limited.warning("speaker", "not told, and told again soon: %s", error)

    async def _leave(self) -> None:
        if await is_last(self._config.announce):
            log.warning("ends; not withdrawn, for this is the last node")
            return
        log.info("ends, and withdraws")
        self._tell(announced=False)


def _housekeeping() -> None:
    """Do what is due in each round: a service manager that hears nothing for its WatchdogSec= ends this process."""
    logs.summarize()
    notify("READY=1\nWATCHDOG=1")


def announce(config: Config) -> None:
    """Run beside a daemon, as its configuration says, until SIGTERM or SIGINT, or until ExaBGP ends."""
    section = config.announce
    if section.engine == "off":
        raise ConfigError('announce.engine: "off"; which BGP speaker is it, "exabgp" or "bird"?')
    logs.set_up(config.log.level, config.log.format)

    async def main() -> None:
        speaker = Bird(section) if section.engine == "bird" else ExaBgp(section)
        announcer = Announcer(config, speaker)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, announcer.ended.set)
        if isinstance(speaker, ExaBgp):
            loop.add_reader(speaker.replies, speaker.read, announcer.ended.set)
        await announcer.run()

    try:
        asyncio.run(main())
    finally:
        logs.flush()
