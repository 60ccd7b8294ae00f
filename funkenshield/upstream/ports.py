"""Which local ports and addresses queries leave from, and the UDP sockets there.

The ports are those of the kernel's own range, but for what others need. It knows the kernel's settings and the
operator's. What goes through a socket, and how long one is used, is for those above.
"""

import contextlib
import errno
import secrets
import socket
from collections.abc import Sequence
from functools import lru_cache
from itertools import compress
from pathlib import Path

from ..config.types import Endpoint, parse_ports, sockaddr
from ..errors import ConfigError

SETTINGS = Path("/proc/sys/net/ipv4")  # which hold for IPv6, too
DEFAULT_RANGE = "32768 60999"
LOWEST = 1024  # that needs no privilege
FEW = 4096  # that are little for a forger to guess, and for sockets to turn over
PORT_TRIES = 8
RECEIVE_BUFFER = 1 << 20  # octets of each socket: what comes while the control thread waits for its turn


def usable(avoided: Sequence[tuple[int, int]] = ()) -> tuple[int, ...]:
    """Return the ports of the kernel's range that are neither reserved (ip_local_reserved_ports) nor avoided.

    Raises ConfigError where none is left.
    """
    ports = ports_of(_read("ip_local_port_range") or DEFAULT_RANGE, _read("ip_local_reserved_ports"), tuple(avoided))
    if not ports:
        raise ConfigError("forward.source_port_avoid: no source port is left of net.ipv4.ip_local_port_range")
    return ports


@lru_cache(4)
def ports_of(span: str, reserved: str, avoided: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Return what is left of a range as the kernel writes it, without the reserved and the avoided ones."""
    first, last = map(int, span.split())
    left = bytearray(b"\1" * 65536)
    for low, high in (*map(parse_ports, filter(None, reserved.split(","))), *avoided):
        left[low : high + 1] = bytes(high + 1 - low)
    wanted = slice(max(first, LOWEST), last + 1)
    return tuple(compress(range(65536)[wanted], left[wanted]))


def _read(name: str) -> str:
    try:
        return (SETTINGS / name).read_text(encoding="ascii").strip()
    except OSError:  # a container may hide them
        return ""


def open_udp(endpoint: Endpoint, source: str = "", ports: Sequence[int] = ()) -> socket.socket:
    """Return a connected, non-blocking UDP socket on a random port (RFC 5452); OSError where none can be had."""
    ports = ports or usable()
    opened = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        for _ in range(PORT_TRIES):
            with contextlib.suppress(OSError):
                opened.bind(sockaddr(source, secrets.choice(ports)))
                break
        else:
            opened.bind(sockaddr(source, 0))  # says why
        opened.connect(endpoint.sockaddr)
    except OSError:
        opened.close()
        raise
    return opened


def local_address(endpoint: Endpoint, source: str = "") -> str:
    """Return our address that the kernel would send from to another now; empty where there is no route."""
    try:
        with socket.socket(endpoint.family, socket.SOCK_DGRAM) as probe:
            if source:
                probe.bind(sockaddr(source, 0))
            probe.connect(endpoint.sockaddr)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def has_address(host: str) -> bool:
    """Tell whether an address is this machine's."""
    try:
        with socket.socket(Endpoint(host, 0).family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
