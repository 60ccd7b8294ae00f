"""The nameservers behind the shield: their sockets, their connections, and which one is asked next.

It knows how an upstream is reached and how it has been doing. Which queries go there, and what becomes
of them when it fails, is the forwarder's business.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

from ._answer import is_response_to
from ._clock import Clock
from ._sockets import Sockets
from .config import UPSTREAMS_MAX, ForwardSection
from .fields import Endpoint

log = logging.getLogger(__name__)

PORT_TRIES = 8
SUSPECT_FIRST, SUSPECT_LONGEST = 1.0, 16.0  # seconds that an upstream which is silent is left alone
CONNECTION_IDLE = 10.0  # seconds that a TCP connection is kept for the next query
TRANSFER_IDLE = 30.0  # seconds between two messages of a transfer
PIPELINE = 1024  # queries that wait on one connection
UNSENT = 1 << 20  # octets that wait to be sent on one connection


class UpstreamError(OSError):
    """An upstream cannot be reached, or went away."""


class Upstream:
    """One nameserver: a pool of UDP sockets that turns over, and a few TCP connections."""

    def __init__(self, number: int, endpoint: Endpoint, sockets: Sockets, clock: Clock) -> None:
        self.number = number
        self.endpoint = endpoint
        self.suspect_until = 0.0
        self._suspicion = 0.0
        self._seen = (0, 0)
        self._pool = sockets
        self._clock = clock
        self._sockets: deque[tuple[float, int]] = deque()
        self._connections: list[Connection] = []

    # ---------------------------------------------------------------- sockets for the fast gear

    def turn_over(self, count: int, life: float) -> None:
        """Keep `count` sockets open, each on a random port (RFC 5452) and none longer than `life` seconds."""
        now = self._clock.seconds()
        while self._sockets and (self._sockets[0][0] + life <= now or len(self._sockets) > count):
            self._pool.retire(self._sockets.popleft()[1])
        while len(self._sockets) < count:
            try:
                opened = open_udp(self.endpoint)
                self._sockets.append((now, self._pool.add(self.number, opened.fileno())))
                opened.detach()
            except OSError as error:
                log.warning("no socket to upstream %s: %s", self.endpoint, error.strerror or error)
                return

    def renew_one(self, count: int, life: float) -> None:
        """Replace the oldest socket, so that ports change one by one rather than all at once."""
        if self._sockets:
            self._pool.retire(self._sockets.popleft()[1])
        self.turn_over(count, life)

    def judge(self) -> None:
        """Leave an upstream alone for a while if it was asked and said nothing since the last judgement."""
        counters = self.counters()
        answered, unanswered = counters["answered"], counters["timeouts"] + counters["errors"]
        now = self._clock.seconds()
        if answered > self._seen[0]:
            if self._suspicion:
                log.info("upstream %s answers again", self.endpoint)
            self._suspicion = self.suspect_until = 0.0
        elif unanswered > self._seen[1] and now >= self.suspect_until:
            if not self._suspicion:
                log.warning("upstream %s does not answer", self.endpoint)
            self._suspicion = min(max(2 * self._suspicion, SUSPECT_FIRST), SUSPECT_LONGEST)
            self.suspect_until = now + self._suspicion
        self._seen = (answered, unanswered)

    def counters(self) -> dict[str, int]:
        """Return what happened over UDP, as numbers by name."""
        return self._pool.counters(self.number)

    def close(self) -> None:
        """Retire all sockets and close all connections."""
        while self._sockets:
            self._pool.retire(self._sockets.popleft()[1])
        for connection in list(self._connections):
            connection.close()

    # ---------------------------------------------------------------- one query at a time

    async def exchange_udp(self, query: bytes) -> bytes:
        """Return the response to a query that no other shares, over a socket of its own; OSError where none comes.

        A datagram that is no answer to it is ignored, as if it had not come.
        """
        loop = asyncio.get_running_loop()
        wire = secrets.token_bytes(2) + query[2:]
        with open_udp(self.endpoint) as opened:
            await loop.sock_sendall(opened, wire)
            while True:
                response = await loop.sock_recv(opened, 65535)
                if response[:2] == wire[:2] and is_response_to(query, response):
                    return response

    async def exchange_tcp(self, query: bytes, most: int) -> bytes:
        """Return the response to a query over a kept connection, at most `most` of them; OSError where none comes."""
        connection = min(self._connections, key=lambda kept: kept.waiting, default=None)
        if connection is not None and (connection.waiting == 0 or len(self._connections) >= most):
            try:
                return await connection.exchange(query)
            except UpstreamError:  # it may have been closed for idleness while our query was on its way
                pass
        return await self._connect().exchange(query)

    def _connect(self) -> "Connection":
        """Return a connection that is being made; what is asked meanwhile is sent when it is there."""
        connection = Connection(self._connections)
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(
            asyncio.wait_for(loop.create_connection(lambda: connection, *self.endpoint), CONNECTION_IDLE)
        )
        connecting.add_done_callback(connection.connected)
        return connection

    async def transfer(self, query: bytes, patience: float) -> AsyncIterator[bytes]:
        """Yield the messages of a zone transfer (RFC 5936, 1995), over a connection of its own; OSError where it ends.

        The first message must come within `patience` seconds.
        """
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(*self.endpoint)
        wire = secrets.token_bytes(2) + query[2:]
        try:
            writer.write(struct.pack("!H", len(wire)) + wire)
            while True:
                async with asyncio.timeout(patience):
                    length = struct.unpack("!H", await reader.readexactly(2))[0]
                    response = await reader.readexactly(length)
                if response[:2] != wire[:2] or not is_response_to(query, response):
                    raise UpstreamError("a message of another transfer")
                yield response
                patience = TRANSFER_IDLE
        except asyncio.IncompleteReadError:
            raise UpstreamError("the upstream ended the transfer") from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Connection(asyncio.Protocol):
    """A TCP connection to an upstream: pipelined, answers in any order (RFC 7766), closed when idle."""

    def __init__(self, siblings: list["Connection"]) -> None:
        siblings.append(self)  # at once, so that their number is bounded
        self._siblings = siblings
        self._open: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._early = bytearray()
        self._heard = 0
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def waiting(self) -> int:
        """Return how many queries wait for an answer."""
        return len(self._open)

    async def exchange(self, query: bytes) -> bytes:
        """Return the response to a query; UpstreamError where the connection ends before it."""
        if self._over or (self._transport is not None and self._transport.is_closing()):
            raise UpstreamError("the connection is closed")
        if len(self._open) >= PIPELINE or self._unsent() > UNSENT:
            raise UpstreamError("the upstream is too slow")
        heard = self._heard
        number = secrets.randbits(16)
        while number in self._open:
            number = secrets.randbits(16)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open[number] = (query, future)
        framed = struct.pack("!HH", len(query), number) + query[2:]
        if self._transport is None:
            self._early += framed
        else:
            self._transport.write(framed)
        try:
            return await future
        except asyncio.CancelledError:  # out of patience
            if heard == self._heard:  # and nothing came for anybody: the next query deserves another connection
                self.close()
            raise
        finally:
            self._open.pop(number, None)
            self._rest()

    def connected(self, connecting: asyncio.Task[object]) -> None:
        """Note that there is no connection, where there is none."""
        if connecting.cancelled() or connecting.exception() is not None:
            self._end("the upstream cannot be reached")

    def _rest(self) -> None:
        if self._idle:
            self._idle.cancel()
        if self._over:
            return
        self._idle = asyncio.get_running_loop().call_later(CONNECTION_IDLE, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._open:
            self.close()

    def _unsent(self) -> int:
        """Return the octets that the upstream has not taken yet."""
        return len(self._early) if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """End the connection; whoever waits gets UpstreamError."""
        self._end("the connection was given up")
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what was asked meanwhile."""
        self._transport = cast(asyncio.WriteTransport, transport)
        if self._over:
            self._transport.abort()
            return
        self._transport.write(bytes(self._early))
        self._early.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the connections that can be used."""
        self._end("the upstream closed the connection")

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._siblings.remove(self)
        if self._idle:
            self._idle.cancel()
        for _, future in self._open.values():
            if not future.done():
                future.set_exception(UpstreamError(why))

    def data_received(self, data: bytes) -> None:
        """Give each whole message to the query that it answers."""
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + (self._buffer[0] << 8 | self._buffer[1]):
            end = 2 + (self._buffer[0] << 8 | self._buffer[1])
            response = bytes(self._buffer[2:end])
            del self._buffer[:end]
            self._heard += 1
            query, future = self._open.get(int.from_bytes(response[:2]), (b"", None))
            if future is not None and not future.done() and is_response_to(query, response):
                future.set_result(response)


def open_udp(endpoint: Endpoint) -> socket.socket:
    """Return a connected, non-blocking UDP socket on a random port; OSError where none can be had."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for _ in range(PORT_TRIES):
            with contextlib.suppress(OSError):
                opened.bind(("", 1024 + secrets.randbelow(64512)))
                break
        opened.connect(endpoint)
    except OSError:
        opened.close()
        raise
    return opened


class Upstreams:
    """All nameservers behind the shield, in groups, and whose turn it is."""

    def __init__(self, sockets: Sockets, clock: Clock) -> None:
        self._pool = sockets
        self._clock = clock
        self._settings = ForwardSection()
        self._turn = 0
        self._next_number = 0
        self._next_renewal = 0.0
        self.all: list[Upstream] = []
        self.groups: dict[int, list[Upstream]] = {}

    def configure(self, groups: Mapping[int, Sequence[Endpoint]], settings: ForwardSection) -> None:
        """Ask these from now on; those that stay keep their sockets and counters."""
        self._settings = settings
        endpoints = [endpoint for group in groups.values() for endpoint in group]
        kept = {upstream.endpoint: upstream for upstream in self.all}
        for endpoint, upstream in kept.items():
            if endpoint not in endpoints:
                upstream.close()
        taken = {upstream.number for endpoint, upstream in kept.items() if endpoint in endpoints}
        free = (number % UPSTREAMS_MAX for number in range(self._next_number, self._next_number + UPSTREAMS_MAX))
        free = (number for number in free if number not in taken)
        self.all = []
        for endpoint in dict.fromkeys(endpoints):
            if endpoint not in kept:
                number = next(free)
                self._next_number = number + 1  # one that was given back is used last: answers to it may still come
                self._pool.forget(number)
                kept[endpoint] = Upstream(number, endpoint, self._pool, self._clock)
            self.all.append(kept[endpoint])
            kept[endpoint].turn_over(settings.sockets, settings.port_life)
        self.groups = {number: [kept[endpoint] for endpoint in group] for number, group in groups.items()}

    def choose(self, group: int, but: int = -1) -> Upstream:
        """Return whose turn it is in a group, passing over `but` and those that were silent where there are others."""
        now = self._clock.seconds()
        members = self.groups.get(group) or self.groups[0]  # a reload may have ended the group meanwhile
        others = [upstream for upstream in members if upstream.number != but] or members
        best = [upstream for upstream in others if upstream.suspect_until <= now] or others
        self._turn += 1
        return best[self._turn % len(best)]

    def keep_house(self) -> None:
        """Turn ports over and judge who answers; called about once a second."""
        now = self._clock.seconds()
        renew = now >= self._next_renewal
        if renew:
            self._next_renewal = now + self._settings.port_life / self._settings.sockets
        for upstream in self.all:
            upstream.judge()
            if renew:
                upstream.renew_one(self._settings.sockets, self._settings.port_life)

    def close(self) -> None:
        """Give up all sockets and connections."""
        for upstream in self.all:
            upstream.close()
