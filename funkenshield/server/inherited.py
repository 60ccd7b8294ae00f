"""Sockets that others have bound: the daemon before us, or a service manager (socket activation, sd_listen_fds(3)).

Each is found by its type and its address. What they are for, nobody says but our own configuration.
"""

import logging
import os
import socket
from collections.abc import Iterable, MutableMapping

from ..config.types import Endpoint
from ..errors import FunkenShieldError

log = logging.getLogger(__name__)

LISTEN_FDS_START = 3  # <systemd/sd-daemon.h>


class Inherited:
    """Bound sockets, until somebody takes those of an address; the others are closed with it."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sockets: dict[tuple[int, str], list[socket.socket]] = {}
        for each in sockets:
            each.setblocking(False)
            each.set_inheritable(False)
            self._sockets.setdefault((each.type, _name(each)), []).append(each)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "Inherited":
        """Return the sockets that a service manager has opened for this process; our own children have none of them."""
        told = {key: environment.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        if told["LISTEN_PID"] != str(os.getpid()) or not told["LISTEN_FDS"].isdecimal():
            return cls()
        last = LISTEN_FDS_START + int(told["LISTEN_FDS"])
        try:
            return cls([socket.socket(fileno=fd) for fd in range(LISTEN_FDS_START, last)])
        except OSError as error:
            raise FunkenShieldError(f"LISTEN_FDS: what the service manager opened is no socket: {error}") from None

    def take(self, place: Endpoint | str, kind: socket.SocketKind, count: int = 1) -> list[socket.socket]:
        """Return so many sockets of this address, or path; none where there is none.

        Where there are fewer, several are one: the kernel gives each datagram, and each connection, to one of those who
        wait.
        """
        found = self._sockets.pop((kind, _told(place)), [])
        for each in found[count:]:
            each.close()
        return found[:count] + [found[k % len(found)].dup() for k in range(len(found), count) if found]

    def close(self) -> None:
        """Close what nobody took; it is logged, for it is named in somebody's configuration."""
        for (kind, name), sockets in self._sockets.items():
            log.warning("socket closed: nothing listens on %s, %s", name, socket.SocketKind(kind).name)
            for each in sockets:
                each.close()
        self._sockets = {}


def _name(bound: socket.socket) -> str:
    """Return where a socket is bound, as `_told` does."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return os.path.abspath(os.fsdecode(name))  # a command line says so what its file may have said from where it is
    return str((*name[:2], name[3] if len(name) > 2 else 0))


def _told(place: Endpoint | str) -> str:
    if isinstance(place, str):
        return os.path.abspath(place)
    name = place.sockaddr
    return str((*name[:2], name[3] if len(name) > 2 else 0))
