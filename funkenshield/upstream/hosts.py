"""Upstreams by host name: the addresses that each name has now, and those in the file that `resolv.conf` stands for.

The system's resolver looks names up, each on a thread of its own, so that neither a query nor anything else waits for
one. It knows names, and when each is looked up again. Who is asked at an address is for `pool`.
"""

import asyncio
import contextlib
import logging
import math
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import Config, Endpoint
from ..config.types import RESOLV_CONF, parse_address
from ..core._limits import MEMBERS_MAX
from ..core.files import Version, read_text, version_of

log = logging.getLogger(__name__)

FILE = Path("/etc") / RESOLV_CONF
WAIT = 1.0  # seconds that a start, or a reload, waits for names that are new; it goes on without those that take longer
RETRY = 1.0  # seconds after a look-up that failed; doubled up to `resolve_interval`
URGENT = 5.0  # seconds between two look-ups of a host, one of whose addresses is down

Lookup = Callable[[Endpoint], Sequence[str]]  # addresses; OSError where there are none


@dataclass
class _Host:
    """What is known of one name: its addresses, and when (seconds) it was and will be looked up."""

    found: frozenset[Endpoint] = frozenset()
    addresses: tuple[Endpoint, ...] = ()  # of these, the ones that are not our own
    began: float = -math.inf
    due: float = math.inf
    wait: float = 0.0  # after the next failure; 0: the last look-up did not fail
    version: Version | None = None  # of the file, when it was read
    looking: asyncio.Future[None] | None = None


def system_lookup(place: Endpoint) -> Sequence[str]:
    """Return the addresses of a host, by whatever this machine knows names by; it may take long."""
    if place.host == RESOLV_CONF:
        return nameservers(read_text(FILE))
    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM, flags=socket.AI_ADDRCONFIG)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def nameservers(text: str) -> list[str]:
    """Return the addresses of nameservers in a file as resolv.conf(5) has it; what is no address is left out."""
    found = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                with contextlib.suppress(ValueError):
                    found.append(str(parse_address(address)))
    return found


class Hosts:
    """All names of upstreams. `changed` is called where one has other addresses than before."""

    def __init__(
        self,
        seconds: Callable[[], float],
        changed: Callable[[], None],
        itself_at: Callable[[Endpoint], Endpoint | None],
        lookup: Lookup = system_lookup,
    ) -> None:
        """`itself_at` returns the listener of ours that an address is, which would be a loop."""
        self._seconds, self._changed, self._itself_at, self._lookup = seconds, changed, itself_at, lookup
        self._hosts: dict[Endpoint, _Host] = {}
        self._interval = math.inf

    @property
    def addresses(self) -> dict[Endpoint, tuple[Endpoint, ...]]:
        """The addresses of each name; none where it has never been found."""
        return {place: host.addresses for place, host in self._hosts.items()}

    @property
    def failing(self) -> int:
        """How many names could not be resolved when they were looked up last."""
        return sum(host.wait > 0 for host in self._hosts.values())

    def configure(self, config: Config) -> None:
        """Follow these names from now on, and no others; what is known stays."""
        self._interval = config.forward.resolve_interval
        self._hosts = {place: self._hosts.get(place) or _Host() for place in config.host_names}

    async def look_up_new(self, config: Config) -> None:
        """Look up the names that have not been looked up, and wait for them, but not for long."""
        for place in config.host_names:
            host = self._hosts.setdefault(place, _Host())
            if host.began == -math.inf:
                self._begin(place, host)
        if waited := [host.looking for host in self._hosts.values() if host.looking]:
            await asyncio.wait(waited, timeout=WAIT)

    def housekeeping(self, down: Collection[Endpoint]) -> None:
        """Begin what look-ups are due, those of hosts first that are down; called about once a second."""
        now = self._seconds()
        for place, host in self._hosts.items():
            is_due = now >= host.due or (now >= host.began + URGENT and not host.found.isdisjoint(down))
            if place.host == RESOLV_CONF:
                is_due = is_due or version_of(FILE) != host.version
            if is_due and host.looking is None:
                self._begin(place, host)

    def _begin(self, place: Endpoint, host: _Host) -> None:
        loop = asyncio.get_running_loop()
        host.began, host.looking = self._seconds(), loop.create_future()
        if place.host == RESOLV_CONF:
            host.version = version_of(FILE)

        def look_up() -> None:
            found: Sequence[str] | Exception
            try:
                found = self._lookup(place)
            except Exception as error:  # also of a name that cannot be encoded
                found = error
            with contextlib.suppress(RuntimeError):  # nobody is there any more
                loop.call_soon_threadsafe(self._take, place, host, found)

        try:  # the end of the daemon waits for no such thread
            threading.Thread(target=look_up, name="resolver", daemon=True).start()
        except RuntimeError as error:
            self._take(place, host, error)

    def _take(self, place: Endpoint, host: _Host, found: Sequence[str] | Exception) -> None:
        """Take what a look-up found, or why it did not."""
        if host.looking:
            host.looking.set_result(None)
        host.looking = None
        if isinstance(found, Exception) or not found:
            self._take_failure(place, host, found if isinstance(found, Exception) else OSError("no address is there"))
            return
        host.wait, host.due = 0.0, self._seconds() + self._interval
        endpoints = sorted({Endpoint(str(parse_address(each)), place.port) for each in found})[:MEMBERS_MAX]
        if host.found == set(endpoints):
            return
        host.found = frozenset(endpoints)
        listeners = {each: self._itself_at(each) for each in endpoints}
        for each, listener in listeners.items():
            if listener:
                log.warning("upstream %s: %s left out: it is the shield itself, listening on %s", place, each, listener)
        host.addresses = tuple(each for each, listener in listeners.items() if not listener)
        log.info("upstream %s resolved: %s", place, ", ".join(map(str, host.addresses)) or "no address is left")
        self._changed()

    def _take_failure(self, place: Endpoint, host: _Host, error: Exception) -> None:
        if not host.wait:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            then = "its last addresses stay in use" if host.addresses else "it is not queried until it can be"
            log.warning("upstream %s cannot be resolved: %s; %s", place, why, then)
        host.wait = min(host.wait * 2 or RETRY, self._interval)
        host.due = self._seconds() + host.wait
