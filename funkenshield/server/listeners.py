"""The listeners that are open: each an endpoint, its transport, its number, and its sockets.

A socket is of an endpoint and a protocol, whatever is spoken there. Numbers are what workers, rules and counters know
listeners by.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from socket import socket
from typing import Literal, NamedTuple

from ..config import Config
from ..config.listeners import NAMES, Listener
from ..config.types import Endpoint
from ..core._limits import CONNECTION_WORKERS_MAX
from . import sockets

Protocol = Literal["udp", "tcp"]
Place = tuple[Endpoint, Protocol]  # what sockets are bound to

PROTOCOLS: dict[str, tuple[Protocol, ...]] = {"udp+tcp": ("udp", "tcp"), "tls": ("tcp",), "https": ("tcp",),
                                              "http": ("tcp",)}  # fmt: skip


class OpenListener(NamedTuple):
    """An address that clients come to."""

    number: int  # as workers, rules and counters know it
    endpoint: Endpoint
    transport: str
    udp: Sequence[socket] = ()  # one for each worker; or none
    tcp: Sequence[socket] = ()  # one for each worker that holds connections; or none


def places_of(listener: Listener, config: Config) -> list[Place]:
    """Return what a listener's sockets are bound to."""
    protocols = PROTOCOLS[listener.section.transport]
    return [(listener.endpoint, each) for each in protocols if each == "udp" or config.tcp.max_connections != 0]


class Listeners:
    """All listeners that are open.

    Memory ownership: sockets are its own, also those that are `given`, by what they are bound to.
    """

    def __init__(self, workers: int, given: Mapping[Place, Sequence[socket]] | None = None) -> None:
        self._count = {"udp": workers, "tcp": min(workers, CONNECTION_WORKERS_MAX)}
        self._sockets = dict(given or {})
        self.open: list[OpenListener] = []

    def bind(self, config: Config) -> None:
        """Open the listeners of a configuration; BindError where one cannot be, and nothing is bound."""
        wanted = {place: each for each in config.all_listeners for place in places_of(each, config)}
        new = {place: each for place, each in wanted.items() if place not in self._sockets}
        for (endpoint, protocol), each in new.items():
            sockets.probe(endpoint, protocol, _name(each, protocol))
        with ExitStack() as bound:
            opened = {place: self._bind(place, config.udp.receive_buffer, bound) for place in new}
            bound.pop_all()
        self._sockets |= opened
        self.open = [
            OpenListener(
                number, each.endpoint, each.section.transport,
                self._sockets.get((each.endpoint, "udp"), ()), self._sockets.get((each.endpoint, "tcp"), ()),
            )
            for number, each in enumerate(config.all_listeners)
        ]  # fmt: skip

    def _bind(self, place: Place, receive_buffer: int, bound: ExitStack) -> list[socket]:
        endpoint, protocol = place
        opened = sockets.bind(endpoint, protocol, self._count[protocol], receive_buffer)
        return [bound.enter_context(each) for each in opened]

    def close(self) -> None:
        """Close all sockets; nobody may be at them any more."""
        for opened in (each for several in self._sockets.values() for each in several):
            opened.close()


def _name(listener: Listener, protocol: Protocol) -> str:
    """Return what operators call what is bound."""
    return NAMES.get(listener.section.transport, protocol.upper())
