"""The HTTP endpoint that Prometheus scrapes: one request per connection, bounded like all that strangers can reach.

It knows as much of HTTP as a scrape takes. What the page says is for `prometheus`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import cast

from ..core.fair_shares import Holders, may_take_one_more, prefix_of
from ..core.logs import RateLimited

limited = RateLimited(logging.getLogger(__name__))

MAX_CONNECTIONS = 32  # at once; each client prefix has its fair share
TIMEOUT = 10.0  # seconds that a connection may take, from its first octet to its last
REQUEST_MAX = 8192  # octets
HEALTHY, UNHEALTHY = ("200 OK", b"ok\n"), ("503 Service Unavailable", b"not serving\n")

Render = Callable[[str], Callable[[], tuple[str, bytes]]]  # by the Accept header: what makes (content type, page)


class MetricsServer:
    """All connections to the endpoint; pages are made one at a time, on a thread that nobody waits for."""

    def __init__(self, render: Render, probes: Mapping[str, Callable[[], bool]]) -> None:
        """`probes` are the paths that say whether something is so."""
        self.render = render
        self.probes = probes
        self.connections: Holders[Connection] = Holders()
        self.count = 0
        self._turn = asyncio.Lock()
        self._making: asyncio.Task[tuple[str, bytes]] | None = None
        self._next = 0

    def protocol(self) -> "Connection":
        """Return the protocol of one more connection."""
        self._next += 1
        return Connection(self, self._next)

    def make_room(self, prefix: bytes) -> None:
        """Close a connection where a prefix may have no more: one of its own, else the oldest of who has most."""
        mine = self.connections.of(prefix)
        if may_take_one_more(len(mine), MAX_CONNECTIONS - self.count):
            return
        own = next((each for each in mine.values() if each.answering is None), next(iter(mine.values()), None))
        (own or self.connections.oldest_of_most()).abort()

    async def page(self, accept: str) -> tuple[str, bytes]:
        """Return the page as of now, with its content type."""
        await self._turn.acquire()
        # A thread cannot be cancelled: where the client goes away, the next page still waits for the end of this one.
        self._making = asyncio.get_running_loop().create_task(self._make(accept))
        return await asyncio.shield(self._making)

    async def _make(self, accept: str) -> tuple[str, bytes]:
        try:
            return await asyncio.to_thread(self.render(accept))
        finally:
            self._turn.release()


class Connection(asyncio.Protocol):
    """One connection: a request, an answer, the end."""

    def __init__(self, server: MetricsServer, number: int) -> None:
        self._server = server
        self._number = number
        self._prefix = b""
        self._request = b""
        self.answering: asyncio.Task[None] | None = None  # None: there is no request yet
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; another one may be closed for it."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # it is gone already
            self._transport.abort()
            return
        self._prefix = prefix_of(ip_address(peer[0]).packed)
        self._server.make_room(self._prefix)
        self._server.connections.add(self._prefix, self._number, self)
        self._server.count += 1
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self.answering is not None:
            self.answering.cancel()
        self._forget()

    def _forget(self) -> None:
        if self._number in self._server.connections.of(self._prefix):
            self._server.connections.remove(self._prefix, self._number)
            self._server.count -= 1

    def abort(self) -> None:
        """End the connection now."""
        self._forget()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer the request, once it is whole."""
        if self.answering is not None or self._transport.is_closing():
            return
        self._request += data
        if len(self._request) > REQUEST_MAX:
            self._respond("431 Request Header Fields Too Large")
        elif b"\r\n\r\n" in self._request:
            self.answering = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        first, *lines = self._request.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            self._respond("405 Method Not Allowed", more="Allow: GET, HEAD\r\n")
        elif probe := self._server.probes.get(path):
            status, page = HEALTHY if probe() else UNHEALTHY
            self._respond(status, page=page, bare=method == "HEAD")
        elif path != "/metrics":
            self._respond("404 Not Found")
        else:
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            try:
                kind, page = await self._server.page(headers.get("accept", ""))
            except Exception as error:  # whatever it is, who asked is told
                limited.warning("page", "internal error, no metrics page: %r", error)
                self._respond("500 Internal Server Error")
            else:
                self._respond("200 OK", kind, page, bare=method == "HEAD")

    def _respond(
        self, status: str, kind: str = "text/plain", page: bytes = b"", *, more: str = "", bare: bool = False
    ) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(page)}\r\nConnection: close\r\n"
        self._transport.write(f"{head}{more}\r\n".encode() + (b"" if bare else page))
        self._transport.close()
