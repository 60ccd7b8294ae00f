"""The connections to an upstream, TCP or TLS, and the queries that travel on them (RFC 7766, 7858).

It knows streams: how one is made, shared, and given up. Which upstream is asked, and what becomes of a
response, is for those above.
"""

import asyncio
import logging
import os
import secrets
import struct
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from ._answer import is_response_to
from ._wire import inspect_query
from .config import UpstreamSection
from .errors import ConfigError
from .fields import Endpoint
from .logs import RateLimited
from .tls import Tls, read_authorities
from .transfer import IXFR

limited = RateLimited(logging.getLogger(__name__))

CONNECTING = 5.0  # seconds until a connection must be there, handshake included
CONNECTION_IDLE = 10.0  # seconds that a connection is kept for the next query
TRANSFER_IDLE = 30.0  # seconds between two messages of a transfer
PIPELINE = 1024  # queries that wait on one connection
UNSENT = 1 << 20  # octets that wait to be sent on one connection
HEADER, QR = 12, 0x80  # octets of the least message; the bit in its third that makes it a response


class UpstreamError(OSError):
    """An upstream cannot be reached, or went away."""


class _LostError(UpstreamError):
    """A connection ended before the answer came; another one may do better."""


def tls_of(
    endpoint: Endpoint, section: UpstreamSection, wall: Callable[[], float] = time.time, authorities: str | None = None
) -> Tls | None:
    """Return what an upstream must prove, if it is asked over TLS; ConfigError where that cannot be had as wanted.

    `authorities` is what is in the file that the section names, if it was read already.
    """
    if section.transport != "tls":
        return None
    try:
        return Tls(section.tls, read_authorities(section.tls) if authorities is None else authorities, wall)
    except ConfigError as error:
        raise ConfigError(f"upstream {endpoint}: {error}") from None


class Connections:
    """The TCP or TLS connections to one upstream: kept open, pipelined, answers out of order, bounded.

    `opened` of them were made, of which `resumed` went on with an earlier TLS session; `failed` could not be had.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        section: UpstreamSection,
        wall: Callable[[], float] = time.time,
        authorities: str | None = None,
    ) -> None:
        """Connect to nobody yet; ConfigError where TLS cannot be had as it is wanted.

        `wall` is the clock that certificates go by, `authorities` what is in the file that the section names, if it was
        read already.
        """
        self.opened = self.resumed = self.failed = 0
        self._endpoint = endpoint
        self._source = (str(section.source), 0) if section.source else None
        self._tls = tls_of(endpoint, section, wall, authorities)
        self._kept: list[Connection] = []
        self._alone: list[Connection] = []
        self._turns = (0, asyncio.Semaphore(0))
        self._trouble = ""
        self._closed = False

    async def exchange(self, query: bytes, most: int, proxied: bytes = b"") -> bytes:
        """Return the response to a query over one of at most `most` kept connections; UpstreamError where none comes.

        With `proxied`, octets that tell whose query it is, the connection begins with these and serves no other
        query; where there are `most` of that kind, it waits for its turn.
        """
        if proxied:
            return await self._exchange_alone(query, most, proxied)
        connection = self._least_busy()
        if connection is not None and (connection.waiting == 0 or len(self._kept) >= most):
            try:
                return await connection.exchange(query)
            except _LostError:  # it may have been closed for idleness while our query was on its way
                connection = self._least_busy()
        if connection is None or len(self._kept) < most:
            connection = self._connect(self._kept)
        return await connection.exchange(query)

    def _least_busy(self) -> "Connection | None":
        return min(self._kept, key=lambda kept: kept.waiting, default=None)

    async def _exchange_alone(self, query: bytes, most: int, proxied: bytes) -> bytes:
        if self._turns[0] != most:
            self._turns = (most, asyncio.Semaphore(most))
        async with self._turns[1]:
            connection = self._connect(self._alone, proxied)
            try:
                return await connection.exchange(query)
            finally:
                connection.close()

    async def transfer(self, query: bytes, patience: float, proxied: bytes = b"") -> AsyncIterator[bytes]:
        """Yield the messages of a zone transfer (RFC 5936, 1995), over a connection of its own; OSError where it ends.

        The first message must come within `patience` seconds, and so must what follows a lone SOA record where changes
        were asked for: it may have been all that there is to say.
        """
        reader = asyncio.StreamReader()
        async with asyncio.timeout(patience):
            transport = await self._open(asyncio.StreamReaderProtocol(reader), proxied)
        wire = secrets.token_bytes(2) + query[2:]
        records, changes = 0, inspect_query(query).get("qtype") == IXFR
        try:
            transport.write(struct.pack("!H", len(wire)) + wire)
            while True:
                async with asyncio.timeout(patience):
                    length = struct.unpack("!H", await reader.readexactly(2))[0]
                    response = await reader.readexactly(length)
                if response[:2] != wire[:2] or not is_response_to(query, response, continued=records > 0):
                    raise UpstreamError("a message of another transfer")
                yield response
                records += int.from_bytes(response[6:8])
                if records > 1 or not changes:
                    patience = TRANSFER_IDLE
        except asyncio.IncompleteReadError:
            raise UpstreamError("the upstream ended the transfer") from None
        finally:
            transport.abort()

    def close(self) -> None:
        """End all connections for good; whoever waits gets UpstreamError. Transfers go on."""
        self._closed = True
        for connection in [*self._kept, *self._alone]:
            connection.close()

    # ---------------------------------------------------------------- making one

    def _connect(self, siblings: "list[Connection]", proxied: bytes = b"") -> "Connection":
        """Return a connection that is being made; what is asked meanwhile is sent when it is there."""
        if self._closed:
            raise UpstreamError("the upstream was given up")
        connection = Connection(siblings)
        connection.making = asyncio.get_running_loop().create_task(self._make(connection, proxied))
        return connection

    async def _make(self, connection: "Connection", proxied: bytes) -> None:
        try:
            transport = await self._open(connection, proxied)
        except UpstreamError as error:
            connection.end(error)
            return
        peer = transport.get_extra_info("ssl_object")
        connection.begin(transport, partial(self._tls.keep_session, peer) if self._tls else None)

    async def _open(self, protocol: asyncio.Protocol, first: bytes = b"") -> asyncio.Transport:
        """Return a connection to the upstream that we want; UpstreamError says why there is none.

        `first` is sent before all else, TLS included.
        """
        try:
            async with asyncio.timeout(CONNECTING):
                transport = await self._reach(protocol, first)
        except OSError as error:
            self.failed += 1
            trouble = _explain(error)
            if trouble != self._trouble:  # it may come and go with each connection
                limited.warning(f"{self._endpoint} {trouble}", "upstream %s: %s", self._endpoint, trouble)
            self._trouble = trouble
            raise UpstreamError(trouble) from None
        self._trouble = ""
        self.opened += 1
        peer = transport.get_extra_info("ssl_object")
        self.resumed += peer is not None and bool(peer.session_reused)
        return transport

    async def _reach(self, protocol: asyncio.Protocol, first: bytes) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        # Until the upstream has proved who it is, whatever it says is said to nobody.
        plain, _ = await loop.create_connection(asyncio.Protocol, *self._endpoint, local_addr=self._source)
        transport = plain
        try:
            if not plain.is_closing():
                plain.write(first)
                transport = await self._tls.start(plain, protocol) if self._tls else plain
            if transport.is_closing():
                raise ConnectionResetError
            if transport is plain:
                plain.set_protocol(protocol)
        except BaseException:
            plain.abort()
            raise
        protocol.connection_made(transport)
        return transport


def _explain(error: OSError) -> str:
    """Return what an operator should know about a connection that could not be had."""
    if error.errno:
        return f"cannot be reached: {os.strerror(error.errno)}"
    if isinstance(error, TimeoutError):
        return f"cannot be reached: no connection within {CONNECTING:g} s"
    return str(error) or "cannot be reached: it closed the connection at once"


class Connection(asyncio.Protocol):
    """One connection that queries share until it is idle; it is given up where nothing comes on it."""

    def __init__(self, siblings: list["Connection"]) -> None:
        siblings.append(self)  # at once, so that their number is bounded
        self.making: asyncio.Task[None] | None = None
        self._siblings = siblings
        self._open: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._heard = 0
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._keep_session: Callable[[], bool] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def waiting(self) -> int:
        """Return how many queries wait for an answer."""
        return len(self._open)

    async def exchange(self, query: bytes) -> bytes:
        """Return the response to a query; UpstreamError where the connection ends before it."""
        if self._transport is not None and self._transport.is_closing():
            self.close()
        if self._over:
            raise _LostError("the connection is closed")
        if len(self._open) >= PIPELINE or self._unsent() > UNSENT:
            raise UpstreamError("the upstream is too slow")
        heard = self._heard
        number = secrets.randbits(16)
        while number in self._open:
            number = secrets.randbits(16)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open[number] = (query, future)
        if self._transport is not None:
            self._transport.write(_frame(number, query))
        try:
            return await future
        except asyncio.CancelledError:  # out of patience
            if heard == self._heard and self._transport is not None:
                self.end(UpstreamError("the upstream is silent"))  # the next query deserves another connection
            raise
        finally:
            self._open.pop(number, None)
            self._rest()

    def begin(self, transport: asyncio.Transport, keep_session: Callable[[], bool] | None) -> None:
        """Send what was asked meanwhile; `keep_session` is called until it has kept one."""
        if self._over:
            transport.abort()
            return
        self._transport = transport
        self._keep_session = keep_session
        for number, (query, _) in self._open.items():
            transport.write(_frame(number, query))  # a TLS record each: NSD 4.6 answers but the first query of a record

    def close(self) -> None:
        """End the connection, or the making of it; whoever waits gets UpstreamError."""
        self.end(_LostError("the connection was given up"))
        if self.making is not None:
            self.making.cancel()

    def end(self, why: UpstreamError) -> None:
        """Tell everybody who waits why no answer comes."""
        if self._over:
            return
        self._over = True
        self._siblings.remove(self)
        if self._idle:
            self._idle.cancel()
        for _, future in self._open.values():
            if not future.done():
                future.set_exception(why)
        if self._transport is not None:
            self._learn_session()
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the connections that can be used."""
        self.end(_LostError("the upstream closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Give each whole message to the query that it answers."""
        if self._transport is None or self._over:
            return  # nobody asked anything yet, or any more
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + (self._buffer[0] << 8 | self._buffer[1]):
            end = 2 + (self._buffer[0] << 8 | self._buffer[1])
            response = bytes(self._buffer[2:end])
            del self._buffer[:end]
            if len(response) < HEADER or not (response[2] & QR or int.from_bytes(response[:2]) in self._open):
                self.end(UpstreamError("the upstream speaks no DNS"))
                return
            self._take(response)

    def _take(self, response: bytes) -> None:
        self._heard += 1
        self._learn_session()
        query, future = self._open.get(int.from_bytes(response[:2]), (b"", None))
        if future is not None and not future.done() and is_response_to(query, response):
            future.set_result(response)

    def _learn_session(self) -> None:
        """Keep the TLS session; in TLS 1.3 it comes some time after the handshake."""
        if self._keep_session is not None and self._keep_session():
            self._keep_session = None

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
        if self._transport is None:
            return sum(len(query) for query, _ in self._open.values())
        return self._transport.get_write_buffer_size()


def _frame(number: int, query: bytes) -> bytes:
    """Return a query under another ID, with its length before it (RFC 1035 4.2.2)."""
    return struct.pack("!HH", len(query), number) + query[2:]
