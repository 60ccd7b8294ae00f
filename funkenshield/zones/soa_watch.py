"""Has a zone changed at the origin? Its SOA serial shows (RFC 1035 3.3.13, RFC 1982).

It knows when to ask and what a serial means. How a query gets to an upstream, and what becomes of the
zone's entries, is for those who are given to it.
"""

import asyncio
import logging
import random as random_numbers
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import NamedTuple

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from ..core.logs import RateLimited
from ..wire.messages import read_message
from ..wire.names import READ_MAX

log = logging.getLogger(__name__)
limited = RateLimited(log)

RETRY = 5.0  # seconds after the first failure, then twice as long each time, up to the interval
MIN_INTERVAL = 1.0  # seconds between two queries, however many ask for one
POLLS_MAX = 8  # queries to one upstream at once, which may serve thousands of watched zones
SETTLING = 60.0  # seconds in which a zone that says it has changed is looked at more often: it may be on its way


class NoSerialError(Exception):
    """A response does not tell the zone's serial."""


@dataclass(eq=False)
class Watcher:
    """Asks for a zone's serial every `interval` seconds, more or less by the ratio `jitter`, and tells when it changes.

    Any other is a change, a smaller one too: a zone that was restored from a backup is not the zone in the cache.

    The first serial alone says nothing about entries that are already there. So `serial` is the one from which
    they are at the earliest, and `restored` says that there are some of a serial that nobody remembers: then, and
    after a beginning in which the zone could not be asked, the first serial counts as a change too.
    """

    zone: dns.name.Name
    ask: Callable[[bytes], Awaitable[bytes]]  # sends a query under an ID of its own choice; raises OSError
    changed: Callable[[int], None]  # is told the serial
    _: KW_ONLY
    interval: float
    jitter: float
    serial: int | None = None
    restored: bool = False
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random_numbers.random

    def __post_init__(self) -> None:
        self._failing = False
        self._wanted = asyncio.Event()
        # Neither RD nor EDNS: it asks an authoritative, and one SOA record fits everywhere.
        self._query = dns.message.make_query(self.zone, dns.rdatatype.SOA, flags=0, id=0).to_wire()

    def poll_now(self) -> None:
        """Ask without waiting for the interval, and some times more until the serial is another; several are one."""
        self._wanted.set()

    async def run(self) -> None:
        """Ask for ever."""
        retry = RETRY
        settled = 0.0
        while True:
            asked = self.clock()
            before = self.serial
            if self._wanted.is_set():
                retry, settled = RETRY, asked + SETTLING
            self._wanted.clear()  # before asking: the response may be older than a NOTIFY that comes meanwhile
            if await self._poll_safely() and (self.serial != before or asked >= settled):
                retry = RETRY
                pause = self.interval
            else:
                pause = min(retry, self.interval)
                retry = 2 * pause
            pause *= 1 + self.jitter * (2 * self.random() - 1)
            await self._sleep_until_due(max(0.0, asked + pause - self.clock()))

    async def _poll_safely(self) -> bool:
        """Ask once, whatever goes wrong: no fault of ours ends the watch, for nobody would see that it has ended."""
        try:
            return await self._poll()
        except Exception as error:
            limited.warning(
                str(self.zone), "zone %s: internal error, its serial is looked at again: %r", self.zone, error
            )
            self.restored = True
            return False

    async def _poll(self) -> bool:
        """Ask once; return whether the serial is known."""
        try:
            serial = _read_serial(await self.ask(self._query), self.zone)
        except (OSError, dns.exception.DNSException, NoSerialError) as error:
            if not self._failing:
                log.warning("zone %s: SOA query failed: %s", self.zone, str(error) or "timed out")
            self._failing = self.restored = True
            return False
        if self._failing:
            log.info("zone %s: SOA queries succeed again", self.zone)
        self._failing = False
        self._compare(serial)
        return True

    def _compare(self, serial: int) -> None:
        before = self.serial
        if serial != before and (before is not None or self.restored):
            self.changed(serial)  # before it is noted: where this fails, the next response tells of the change again
            if before is None:
                log.info("zone %s: serial %d, and the cache has entries from before it was known", self.zone, serial)
            else:
                how = "increased" if (serial - before) % 2**32 < 2**31 else "decreased"  # RFC 1982 3.2
                log.info("zone %s: serial %s from %d to %d", self.zone, how, before, serial)
        self.serial = serial

    async def _sleep_until_due(self, pause: float) -> None:
        """Wait so many seconds, or less if somebody wants to know now."""
        pausing = asyncio.ensure_future(self.sleep(pause))
        sleeping = asyncio.ensure_future(self.sleep(min(MIN_INTERVAL, pause)))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait([pausing, wanted], return_when=asyncio.FIRST_COMPLETED)
            await sleeping
        finally:
            for each in (pausing, sleeping, wanted):
                each.cancel()


class WatchedZone(NamedTuple):
    """A zone at one of its upstreams, by how that is asked: each has its own serial, until the zone has come to all."""

    zone: str
    origin: str

    def __str__(self) -> str:
        return f"{self.zone} {self.origin}"


class PollInterval(NamedTuple):
    """How often a serial is asked for, in seconds, and by which share of that more or less.

    With an interval of infinity it is asked for once, and then when somebody says that it has changed.
    """

    interval: float
    jitter: float


class Watchers:
    """All that is watched, and the time that it goes by.

    `ask` sends a query to an upstream, `changed` is told of a zone that has changed there, and its serial.
    """

    def __init__(
        self,
        ask: Callable[[str, bytes], Awaitable[bytes]],
        changed: Callable[[str, int], None],
        clock: Callable[[], float],
    ) -> None:
        self._entries = False
        self._clock = clock
        self._asleep: list[tuple[float, asyncio.Future[None]]] = []
        self._serials: dict[str, int] = {}
        self._ask = ask
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(POLLS_MAX))
        self._changed = changed
        self._running: dict[WatchedZone, tuple[PollInterval, Watcher, asyncio.Task[None]]] = {}
        self._of: dict[str, list[Watcher]] = {}  # by zone

    @property
    def serials(self) -> dict[str, int]:
        """Return the serials that are known, by zone and upstream."""
        return self._serials | {
            str(watched): watcher.serial
            for watched, (_, watcher, _) in self._running.items()
            if watcher.serial is not None
        }

    def serials_of(self, zone: str) -> frozenset[int] | None:
        """Return the serials of a zone that are known now: one, or several until it has come to all upstreams.

        None: it is watched, and none is known yet.
        """
        watchers = self._of.get(zone, ())
        known = frozenset(each.serial for each in watchers if each.serial is not None)
        return known if known or not watchers else None

    def restore(self, serials: Mapping[str, int], *, entries: bool) -> None:
        """Remember from which serials the entries are, if there are any."""
        self._serials, self._entries = dict(serials), entries

    def configure(self, wanted: Mapping[WatchedZone, PollInterval]) -> None:
        """Watch these from now on; what is watched as before is not disturbed."""
        self._serials = self.serials
        for watched in [each for each, (interval, *_) in self._running.items() if wanted.get(each) != interval]:
            self._running.pop(watched)[2].cancel()
        for watched, interval in wanted.items():
            if watched not in self._running:
                self._running[watched] = self._watch(watched, interval)
        self._of = {}
        for watched, (_, watcher, _) in self._running.items():
            self._of.setdefault(watched.zone, []).append(watcher)
        names = {str(each) for each in wanted}
        self._serials = {name: serial for name, serial in self._serials.items() if name in names}
        self._entries = True  # whatever is watched later has entries from before

    def _watch(self, watched: WatchedZone, interval: PollInterval) -> tuple[PollInterval, Watcher, asyncio.Task[None]]:
        watcher = Watcher(
            dns.name.from_text(watched.zone),
            partial(self._ask_in_turn, watched.origin),
            partial(self._changed, watched.zone),
            interval=interval.interval,
            jitter=interval.jitter,
            serial=self._serials.get(str(watched)),
            restored=self._entries,
            sleep=self._sleep,
            clock=self._clock,
        )
        return interval, watcher, asyncio.get_running_loop().create_task(watcher.run())

    async def _ask_in_turn(self, origin: str, query: bytes) -> bytes:
        async with self._turns[origin]:
            return await self._ask(origin, query)

    async def _sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._asleep.append((self._clock() + seconds, woken))
        await woken

    def wake(self) -> None:
        """Wake those whose time has come; called about once a second."""
        now, asleep, self._asleep = self._clock(), self._asleep, []
        for until, woken in asleep:
            if woken.done():
                continue
            if until <= now:
                woken.set_result(None)
            else:
                self._asleep.append((until, woken))

    def poll_now(self, zone: str) -> bool:
        """Ask for a zone's serial at once, wherever it is watched; False: it is not."""
        for watcher in self._of.get(zone, ()):
            watcher.poll_now()
        return zone in self._of

    def close(self) -> None:
        """Watch no more; the serials stay known."""
        self._serials = self.serials
        for *_, task in self._running.values():
            task.cancel()
        self._running.clear()


def _read_serial(response: bytes, zone: dns.name.Name) -> int:
    """Return the serial that the answer section gives for just this zone; NoSerialError or DNSException where none."""
    if len(response) > READ_MAX:
        raise NoSerialError("the response is too large")
    message = read_message(response)
    if message.rcode() != dns.rcode.NOERROR:
        raise NoSerialError(f"the response is {dns.rcode.to_text(message.rcode())}")
    found = message.get_rrset(message.answer, zone, dns.rdataclass.IN, dns.rdatatype.SOA)
    if not found:
        raise NoSerialError("the response has no SOA record of the zone")
    return int(found[0].serial)
