"""Queries to the worker, and what comes back: frames with a number on one connection (`server/_relayed`)."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from struct import Struct
from typing import cast

from ..server._relayed import RESPONSE_HEADER

ENDS = Struct("!16sBH16sBH")  # client's address, its octets, port; and those that it asked
QUERY = Struct("!HI")
RESPONSE = Struct("!HII")
NUMBERS = 1 << 32

Reply = Callable[[int, bytes, int], None]  # stream, message (b"": it is refused), seconds to keep it or status


def ends_of(client: tuple[str, int], asked: tuple[str, int]) -> bytes:
    """Return how the worker is told who asks, and whom."""
    packed = [(ip_address(host.partition("%")[0]).packed, port) for host, port in (client, asked)]
    return ENDS.pack(*(part for address, port in packed for part in (address, len(address), port)))


class Relay(asyncio.Protocol):
    """The worker, as the front sees it. Where the connection ends, so does the front."""

    def __init__(self, ended: "asyncio.Future[None]") -> None:
        """`ended` is told once that nothing more can be asked."""
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._unsent: list[bytes] = []
        self._number = 0
        self._waiting: dict[int, tuple[Reply, int]] = {}
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that nothing more can be asked."""
        if not self._ended.done():
            self._ended.set_result(None)

    def ask(self, ends: bytes, query: bytes, reply: Reply, stream: int) -> None:
        """Ask a query of the worker; `reply` is called with the stream once it has decided."""
        self._number = self._number % (NUMBERS - 1) + 1  # 0 is none
        self._waiting[self._number] = (reply, stream)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent += (QUERY.pack(len(query), self._number), ends, query)

    def _send(self) -> None:
        """Send all that was asked on this turn of the loop."""
        assert self._transport is not None
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, octets: bytes) -> None:
        """Give each reply that is whole to whom it is for."""
        octets = self._received + octets if self._received else octets
        at, end = 0, len(octets)
        while end - at >= RESPONSE_HEADER:
            length, number, told = RESPONSE.unpack_from(octets, at)
            if end - at < RESPONSE_HEADER + length:
                break
            at += RESPONSE_HEADER + length
            if waiting := self._waiting.pop(number, None):
                waiting[0](waiting[1], octets[at - length : at], told)
        self._received = octets[at:]
