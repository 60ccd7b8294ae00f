"""Loops: an upstream that is this shield itself, and queries that come back from where they were passed on to.

What is cached waits behind itself when it comes back; what is passed on would be sent again each time. It knows
addresses and octets; `_admission` counts queries that come again, and what becomes of one is for the forwarder.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..config import Config
from ..config.types import Endpoint, sockaddr
from ..core.logs import RateLimited
from ..errors import ConfigError

log = logging.getLogger(__name__)

EQUAL = 3  # queries, equal but for the ID, that an upstream may have passed on to us at once: as many as it has tries
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def refuse_itself(config: Config) -> None:
    """See that no upstream is where the shield listens; ConfigError names one that is."""
    for upstream in sorted({each.endpoint for each in config.all_upstreams if not each.endpoint.is_name}):
        if listener := itself_at(upstream, config.endpoints):
            raise ConfigError(f"upstreams: {upstream} is the shield itself, which listens on {listener}")


def itself_at(upstream: Endpoint, listeners: Iterable[Endpoint]) -> Endpoint | None:
    """Return the one of our listeners that an upstream is, if any."""
    for listener in listeners:
        if upstream.port == listener.port and _is_same(_reached(upstream), _reached(listener), listener):
            return listener
    return None


def _reached(endpoint: Endpoint) -> IPv4Address | IPv6Address:
    """Return the address that packets for an endpoint go to."""
    address = ip_address(LOOPBACK.get(endpoint.host, endpoint.host))
    return getattr(address, "ipv4_mapped", None) or address


def _is_same(upstream: IPv4Address | IPv6Address, own: IPv4Address | IPv6Address, listener: Endpoint) -> bool:
    if upstream == own:
        return True
    return listener.host in LOOPBACK and upstream.version == own.version and _is_here(upstream)


def _is_here(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of this machine's."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind(sockaddr(str(address), 0))
        return True
    return False


class Loops:
    """Which queries, of those that are passed on for somebody alone, come back from an upstream: there a loop ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._limited = RateLimited(log, clock)
        self._upstreams: frozenset[bytes] = frozenset()

    def configure(self, addresses: Iterable[str]) -> None:
        """Take these for the addresses that our own queries may come back from."""
        self._upstreams = frozenset(ip_address(address).packed for address in addresses)

    def is_one(self, source: bytes, waiting: int) -> bool:
        """Tell whether a query from here goes round in a loop, while so many wait that are equal but for the ID."""
        if waiting < EQUAL or source not in self._upstreams:
            return False
        self._limited.warning(
            "loop", "forwarding loop, query refused: upstream %s sends our queries back to us",
            ip_address(source),
        )  # fmt: skip
        return True
