"""Sockets that clients send to: bound before privileges are dropped, one UDP socket for each worker."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator

from ..config.types import Endpoint
from ..errors import FunkenShieldError

IP_PKTINFO = 8  # <linux/in.h>; the socket module names it from Python 3.14 on
BACKLOG = 1024
# What the kernel takes for a connection: it counts twice these octets at most, where it would take ten megabytes.
UNSENT = 256 << 10  # octets that can go out, and wait to be acknowledged
UNTAKEN = 64 << 10  # octets that came


class BindError(FunkenShieldError):
    """An address cannot be listened on, `for_want_of_privileges` or for another reason."""

    for_want_of_privileges = False


@contextlib.contextmanager
def explained(endpoint: Endpoint, transport: str) -> Iterator[None]:
    """Turn the OSError of a bind into one line that a person can act on."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "address in use by another program",
            errno.EACCES: "ports below 1024 need root, or CAP_NET_BIND_SERVICE (AmbientCapabilities= of a service)",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        told = BindError(f"cannot listen on {endpoint}, {transport}: {reason}")
        told.for_want_of_privileges = error.errno == errno.EACCES
        raise told from None


def _open(endpoint: Endpoint, kind: socket.SocketKind) -> socket.socket:
    opened = socket.socket(endpoint.family, kind)
    opened.setblocking(False)
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened


def probe(endpoint: Endpoint, protocol: str, name: str) -> None:
    """Raise BindError where an address is taken, by what is bound with or without SO_REUSEPORT.

    Those that are bound with it would share the address with others without a word, and with our own, where one is a
    wildcard and another one of its addresses: then the kernel gives what comes to that to the latter. `protocol` is
    "udp", "tcp" or "quic", which is over UDP, and `name` what the transport is called.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with explained(endpoint, name), _open(endpoint, kind) as probing:
        if protocol == "tcp":
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probing.bind(endpoint.sockaddr)


def bind(endpoint: Endpoint, protocol: str, count: int, receive_buffer: int) -> list[socket.socket]:
    """Return `count` sockets on one address, among which the kernel spreads clients (SO_REUSEPORT).

    Those for TCP listen; those for UDP have a buffer of so many octets. Raises BindError where there can be none;
    whether others have the address is for `probe`.
    """
    if protocol != "tcp":
        return bind_udp(endpoint, count, receive_buffer)
    return [bind_listening(endpoint, "TCP", shared=True) for _ in range(count)]


def fit(opened: socket.socket, endpoint: Endpoint, protocol: str, receive_buffer: int) -> socket.socket:
    """Return a bound socket, as `bind` makes them, whoever has bound it."""
    if protocol == "tcp":
        return _listening(opened)
    return _fit_udp(opened, endpoint, receive_buffer)


def bind_udp(endpoint: Endpoint, count: int, receive_buffer: int) -> list[socket.socket]:
    """Return `count` UDP sockets on one address, as `bind` does."""
    with explained(endpoint, "UDP"):
        return [_bind_shared(endpoint, receive_buffer) for _ in range(count)]


def _bind_shared(endpoint: Endpoint, receive_buffer: int) -> socket.socket:
    opened = _open(endpoint, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _fit_udp(opened, endpoint, receive_buffer)
    opened.bind(endpoint.sockaddr)
    return opened


def _fit_udp(opened: socket.socket, endpoint: Endpoint, receive_buffer: int) -> socket.socket:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, receive_buffer)
    if endpoint.host == "0.0.0.0":
        opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    elif endpoint.host == "::":
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return opened


def turn_away(udp: Iterable[socket.socket]) -> None:
    """Have the kernel give UDP sockets nothing more; what came stays, and they can send to anybody.

    A socket with a peer, which is itself here, hears nobody else.
    """
    for opened in udp:
        with contextlib.suppress(OSError):
            opened.connect(opened.getsockname())


def bind_listening(endpoint: Endpoint, transport: str, *, shared: bool = False) -> socket.socket:
    """Return a listening TCP socket; BindError where there can be none.

    One that is `shared` has others of this user beside it.
    """
    with explained(endpoint, transport):
        opened = _open(endpoint, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        opened.bind(endpoint.sockaddr)
        return _listening(opened)


def _listening(opened: socket.socket) -> socket.socket:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each connection to it has the same
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNTAKEN)
    opened.listen(BACKLOG)
    return opened
