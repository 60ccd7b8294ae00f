"""The connections to an upstream, TCP or TLS, and the queries that travel on them (RFC 7766, 7858).

It knows streams: how one is made, shared, and given up. Which upstream is asked, and what becomes of a
response, is for those above.
"""

import asyncio
import errno
import logging
import os
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial

from ..cache._entry import is_response_to
from ..config import Member, UpstreamSection
from ..config.types import Endpoint, sockaddr
from ..core.logs import RateLimited
from ..errors import ConfigError
from ..wire._message import inspect_query
from .axfr import IXFR
from .tls import Tls, read_ca_file

limited = RateLimited(logging.getLogger(__name__))

CONNECT_TIMEOUT = 5.0  # seconds until a connection must be there, handshake included
IDLE_TIMEOUT = 10.0  # seconds that a connection is kept for the next query
TRANSFER_TIMEOUT = 30.0  # seconds between two messages of a transfer
MAX_PIPELINED = 1024  # queries that wait on one connection
ATTEMPTS = 4  # connections that a query is sent on, where they end before its answer
SPENT_TIMEOUT = 0.1  # seconds that one stays open which has reached the limit of answers, until the limit is raised
MAX_UNSENT = 1 << 20  # octets that wait to be sent on one connection
COPIES, UNSOLICITED_MAX = 2, 16  # answers to one query, and those to nothing on one connection, before it is given up
IP_BIND_ADDRESS_NO_PORT = 24  # <linux/in.h>: the port is chosen when it is known where it leads to
HEADER, QR, OPCODE = 12, 0x80, 0x78  # octets of the least message; bits in its third: it is a response, or no QUERY


class UpstreamError(OSError):
    """An upstream cannot be reached, or went away; `errno` is 0 where the network has no number for it."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class UnsentError(UpstreamError):
    """Nothing of a query was sent."""


class _LostError(UpstreamError):
    """A connection ended before the answer came; another one may do better."""


def tls_of(
    endpoint: Endpoint, section: UpstreamSection, wall: Callable[[], float] = time.time, ca_pem: str | None = None
) -> Tls | None:
    """Return what an upstream must prove, if it is asked over TLS; ConfigError where that cannot be had as wanted.

    `ca_pem` is the text of the section's `ca_file`, if it was read already.
    """
    if section.transport != "tls":
        return None
    try:
        return Tls(section.tls, read_ca_file(section.tls) if ca_pem is None else ca_pem, wall)
    except ConfigError as error:
        raise ConfigError(f"upstream {Member(endpoint, section)}: {error}") from None


class ConnectionPool:
    """Connections to an upstream, how many queries each takes, and who waits for one.

    An upstream may end a connection after so many answers, whatever else was asked on it (RFC 7766 6.2.4): then no more
    than that is asked. Where one gives more, or stays open, the limit is raised.
    """

    def __init__(self) -> None:
        self.all: list[Connection] = []
        self.limit = 0  # queries that one connection is good for; 0: any number
        self.answers = 0  # of all
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._max_connections = 1

    def usable(self, max_connections: int) -> "tuple[Connection | None, bool]":
        """Return the one with the least to do, if one takes another query, and whether there may be one more."""
        self._max_connections = max_connections
        able = [each for each in list(self.all) if each.is_open() and not (self.limit and each.queries >= self.limit)]
        return min(able, key=lambda each: each.waiting, default=None), len(self.all) < max_connections

    async def wait_for_room(self) -> None:
        """Wait until a connection that can take another query may be there."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._wake()  # somebody else may have our turn
            raise

    def _wake(self) -> None:
        """Wake as many as there is room for."""
        free = len(self._waiting)
        if self.limit:
            there = sum(max(self.limit - each.queries, 0) for each in self.all)
            free = there + (self._max_connections - len(self.all)) * self.limit
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def note_answer(self, connection: "Connection") -> None:
        """Count an answer of a connection."""
        self.answers += 1
        if self.limit:
            self.limit = max(self.limit, connection.answers)

    def note_loss(self, connection: "Connection") -> None:
        """Learn the limit: the upstream ended a connection that had more queries to answer.

        What it answered may be lost with it, by RST.
        """
        limit = connection.answers or self.limit or 1
        if all(each.answers <= limit for each in self.all):
            self.limit = limit
            for each in self.all:
                each.restart_idle_timer()

    def raise_limit(self) -> None:
        """Double the limit: a connection that has reached it is still open."""
        self.limit *= 2
        if self.limit >= MAX_PIPELINED:
            self.limit = 0
        self._wake()

    def lift_limit(self) -> None:
        """Have no limit, and wake all who wait."""
        self.limit = 0
        self._wake()

    def remove(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self.all.remove(connection)
        self._wake()


class Connections:
    """The TCP or TLS connections to one upstream: kept open, pipelined, answers out of order, bounded.

    `opened` of them were made, of which `resumed` went on with an earlier TLS session; `failed` could not be had.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        section: UpstreamSection,
        wall: Callable[[], float] = time.time,
        ca_pem: str | None = None,
    ) -> None:
        """Connect to nobody yet; ConfigError where TLS cannot be had as it is wanted.

        `wall` is the clock for certificates, `ca_pem` the text of the section's `ca_file`, if it was read already.
        """
        self.opened = self.resumed = self.failed = 0
        self._endpoint = endpoint
        self._asked = Member(endpoint, section).asked
        self._source = str(section.source or "")
        self._tls = tls_of(endpoint, section, wall, ca_pem)
        self._shared = ConnectionPool()
        self._exclusive = ConnectionPool()
        self._slots = (0, asyncio.Semaphore(0))
        self._last_error = ""
        self._closed = False

    async def exchange(self, query: bytes, max_connections: int, header: bytes = b"", *, once: bool = False) -> bytes:
        """Return the response to a query over one of so many shared connections; UpstreamError where none comes.

        With `header`, of the PROXY protocol, the connection begins with that and serves no other query; where there
        are so many of that kind, it waits for its turn. So does what is sent `once`: a shared connection may end while
        it is on its way, and it could not be sent again. Where an upstream ends a connection for another's sake, what
        waited on it is asked on another one, the last time alone.
        """
        if header or once:
            return await self._exchange_exclusively(query, max_connections, header)
        for _ in range(ATTEMPTS - 1):
            connection, answers = await self._free(max_connections), self._shared.answers
            try:
                return await connection.exchange(query)
            except _LostError:
                # No answer came on any connection, and nobody else asked on this one: it ended for this query.
                moves = connection.queries > 1 or self._shared.limit or self._shared.answers != answers
                if not moves or query[2] & OPCODE:
                    raise
        return await self._exchange_exclusively(query, max_connections)  # where nobody else's query can end it

    async def _free(self, max_connections: int) -> "Connection":
        """Return a connection that takes a query: an idle one, or a new one if there may be one more."""
        while True:
            connection, more = self._shared.usable(max_connections)
            if connection is not None and (connection.waiting == 0 or not more):
                return connection
            if more or self._closed:
                return self._connect(self._shared)
            await self._shared.wait_for_room()

    async def _exchange_exclusively(self, query: bytes, max_connections: int, header: bytes = b"") -> bytes:
        if self._slots[0] != max_connections:
            self._slots = (max_connections, asyncio.Semaphore(max_connections))
        async with self._slots[1]:
            connection = self._connect(self._exclusive, header)
            try:
                return await connection.exchange(query)
            finally:
                connection.close()

    async def transfer(
        self, query: bytes, timeout: float, header: bytes = b"", *, first: float
    ) -> AsyncGenerator[bytes]:
        """Yield the messages of a zone transfer (RFC 5936, 1995), over a connection of its own; OSError where it ends.

        The connection must be there within `timeout` seconds, and the `first` message after so many more. What follows
        a lone SOA record where changes were asked for must come within `timeout`: it may have been all that there is.
        """
        reader = asyncio.StreamReader()
        async with asyncio.timeout(timeout):
            transport = await self._open(asyncio.StreamReaderProtocol(reader), header)
        wire = secrets.token_bytes(2) + query[2:]
        records, changes = 0, inspect_query(query).get("qtype") == IXFR
        wait = first
        try:
            transport.write(struct.pack("!H", len(wire)) + wire)
            while True:
                async with asyncio.timeout(wait):
                    length = struct.unpack("!H", await reader.readexactly(2))[0]
                    response = await reader.readexactly(length)
                acknowledge(transport)
                if response[:2] != wire[:2] or not is_response_to(query, response, continued=records > 0):
                    raise UpstreamError("a message does not belong to the transfer")
                yield response
                records += int.from_bytes(response[6:8])
                wait = TRANSFER_TIMEOUT if records > 1 or not changes else timeout
        except asyncio.IncompleteReadError:
            raise UpstreamError("connection closed during the transfer") from None
        finally:
            transport.abort()

    def close_other_sources(self, ours: str) -> None:
        """Close the shared connections from other addresses of ours: no answer may come to them."""
        for connection in [*self._shared.all]:
            if connection.address not in ("", ours):
                connection.close()

    def close(self) -> None:
        """End all connections for good; all that waits gets UpstreamError. Transfers go on."""
        self._closed = True
        for connection in [*self._shared.all, *self._exclusive.all]:
            connection.close()
        self._shared.lift_limit()

    # ---------------------------------------------------------------- making one

    def _connect(self, pool: ConnectionPool, header: bytes = b"") -> "Connection":
        """Return a connection that is being made; queries are sent when it is there."""
        if self._closed:
            raise UnsentError("the upstream is no longer configured")
        connection = Connection(pool)
        connection.connecting = asyncio.get_running_loop().create_task(self._establish(connection, header))
        return connection

    async def _establish(self, connection: "Connection", header: bytes) -> None:
        try:
            transport = await self._open(connection, header)
        except UpstreamError as error:
            connection.end(error)
            return
        peer = transport.get_extra_info("ssl_object")
        connection.connected(transport, partial(self._tls.keep_session, peer) if self._tls else None)

    async def _open(self, protocol: asyncio.Protocol, first: bytes = b"") -> asyncio.Transport:
        """Return a connection to the upstream that we want; UpstreamError says why there is none.

        `first` is sent before all else, TLS included.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                transport = await self._start(protocol, first)
        except OSError as error:
            self.failed += 1
            reason = _explain(error)
            if reason != self._last_error:  # it may come and go with each connection
                limited.warning(f"{self._asked} {reason}", "upstream %s: %s", self._asked, reason)
            self._last_error = reason
            raise UpstreamError(_number(error), reason) from None
        self._last_error = ""
        self.opened += 1
        peer = transport.get_extra_info("ssl_object")
        self.resumed += peer is not None and bool(peer.session_reused)
        return transport

    async def _connected_socket(self) -> socket.socket:
        """Return a socket that is connected to the upstream; OSError where there is none."""
        opened = socket.socket(self._endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._source:
                opened.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                opened.bind(sockaddr(self._source, 0))
            await asyncio.get_running_loop().sock_connect(opened, self._endpoint.sockaddr)
        except BaseException:
            opened.close()
            raise
        return opened

    async def _start(self, protocol: asyncio.Protocol, first: bytes) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        # Until the upstream has proved who it is, whatever it says is said to nobody.
        opened = await self._connected_socket()
        try:
            plain, _ = await loop.create_connection(asyncio.Protocol, sock=opened)
        except BaseException:
            opened.close()
            raise
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


def _number(error: OSError) -> int:
    """Return the network's number for an error, 0 where it has none."""
    if isinstance(error, TimeoutError):
        return errno.ETIMEDOUT
    return error.errno or (errno.ECONNRESET if isinstance(error, ConnectionResetError) else 0)


def _explain(error: OSError) -> str:
    """Return what an operator should know about a connection that could not be had."""
    if error.errno:
        return f"cannot be reached: {os.strerror(error.errno)}"
    if isinstance(error, TimeoutError):
        return f"cannot be reached: no connection within {CONNECT_TIMEOUT:g} s"
    return str(error) or "cannot be reached: it closed the connection at once"


class Connection(asyncio.Protocol):
    """One connection that queries share until it is idle; it is given up where nothing comes on it."""

    def __init__(self, pool: ConnectionPool) -> None:
        pool.all.append(self)  # at once, so that their number is bounded
        self.queries = self.answers = 0
        self.connecting: asyncio.Task[None] | None = None
        self._pool = pool
        self._outstanding: dict[int, tuple[bytes, asyncio.Future[bytes], int]] = {}  # and how many answers came before
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._keep_session: Callable[[], bool] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def waiting(self) -> int:
        """Return how many queries wait for an answer."""
        return len(self._outstanding)

    @property
    def address(self) -> str:
        """Return our address that it is from, if it is there."""
        ours = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return str(ours[0]).partition("%")[0] if ours else ""

    def is_open(self) -> bool:
        """Tell whether queries can be asked on it, now or when it is made."""
        if self._transport is not None and self._transport.is_closing():
            self.connection_lost(None)
        return not self._over

    async def exchange(self, query: bytes) -> bytes:
        """Return the response to a query; UpstreamError where the connection ends before it."""
        if len(self._outstanding) >= MAX_PIPELINED or self._unsent() > MAX_UNSENT:
            raise UpstreamError("too many outstanding queries on the connection")
        answers = self.answers
        self.queries += 1
        number = secrets.randbits(16)
        while number in self._outstanding:
            number = secrets.randbits(16)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._outstanding[number] = (query, future, answers)
        if self._transport is not None:
            self._transport.write(_frame(number, query))
        try:
            return await future
        except asyncio.CancelledError:  # it timed out
            if answers == self.answers and self._transport is not None:
                silent = UpstreamError(errno.ETIMEDOUT, "no response on the connection")
                self.end(silent)  # the next query deserves another connection
            raise
        finally:
            self._outstanding.pop(number, None)
            self.restart_idle_timer()

    def connected(self, transport: asyncio.Transport, keep_session: Callable[[], bool] | None) -> None:
        """Send the queries that wait; `keep_session` is called until it has kept one."""
        if self._over:
            transport.abort()
            return
        self._transport = transport
        self._keep_session = keep_session
        for number, (query, _, _) in self._outstanding.items():
            transport.write(_frame(number, query))  # a TLS record each: NSD 4.6 answers but the first query of a record

    def close(self) -> None:
        """End the connection, or its attempt; all that waits gets UpstreamError."""
        self.end(_LostError(errno.ECONNRESET, "connection closed by the shield"))
        if self.connecting is not None:
            self.connecting.cancel()

    def end(self, why: UpstreamError) -> None:
        """Fail all that waits."""
        if self._over:
            return
        if self._transport is None:
            why = UnsentError(why.errno or 0, str(why))
        self._over = True
        self._pool.remove(self)
        if self._idle:
            self._idle.cancel()
        for _, future, _ in self._outstanding.values():
            if not future.done():
                future.set_exception(why)
        if self._transport is not None:
            try:
                self._learn_session()
            finally:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool, and fail all that waits."""
        if not self._over and self._has_lost_queries():
            self._pool.note_loss(self)
        self.end(_LostError(errno.ECONNRESET, "the upstream closed the connection"))

    def _has_lost_queries(self) -> bool:
        """Tell whether queries wait that were sent with others, or before the last answer, and not just too late."""
        if not self.answers:
            return len(self._outstanding) > 1
        return any(answers < self.answers for _, _, answers in self._outstanding.values())

    def data_received(self, data: bytes) -> None:
        """Give each whole message to the query that it answers."""
        if self._transport is None or self._over:
            return  # nobody asked anything yet, or any more
        acknowledge(self._transport)
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + (self._buffer[0] << 8 | self._buffer[1]):
            end = 2 + (self._buffer[0] << 8 | self._buffer[1])
            response = bytes(self._buffer[2:end])
            del self._buffer[:end]
            if len(response) < HEADER or not (response[2] & QR or int.from_bytes(response[:2]) in self._outstanding):
                self.end(UpstreamError("the upstream sent a malformed message"))
                return
            # Whoever sends each answer twice does no harm; whoever sends without end would have us read for ever.
            if self.answers >= COPIES * self.queries + UNSOLICITED_MAX:
                self.end(UpstreamError("the upstream sent more answers than there were queries"))
                return
            self._take(response)

    def _take(self, response: bytes) -> None:
        self.answers += 1
        self._pool.note_answer(self)
        self._learn_session()
        query, future, _ = self._outstanding.get(int.from_bytes(response[:2]), (b"", None, 0))
        if future is not None and not future.done() and is_response_to(query, response):
            future.set_result(response)

    def _learn_session(self) -> None:
        """Keep the TLS session; in TLS 1.3 it comes some time after the handshake."""
        if self._keep_session is not None and self._keep_session():
            self._keep_session = None

    def restart_idle_timer(self) -> None:
        """Have the connection closed when nothing has been asked on it for a while."""
        if self._idle:
            self._idle.cancel()
        if self._over:
            return
        wait = SPENT_TIMEOUT if 0 < self._pool.limit <= self.queries else IDLE_TIMEOUT
        self._idle = asyncio.get_running_loop().call_later(wait, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._outstanding:
            return
        if 0 < self._pool.limit <= self.answers:
            self._pool.raise_limit()
            self.restart_idle_timer()
        else:
            self.close()

    def _unsent(self) -> int:
        """Return the octets that the upstream has not taken yet."""
        if self._transport is None:
            return sum(len(query) for query, _, _ in self._outstanding.values())
        return self._transport.get_write_buffer_size()


def acknowledge(transport: asyncio.BaseTransport) -> None:
    """Have the kernel acknowledge at once what came; by itself it would take 40 ms, for which it forgets this again.

    Most nameservers send no answer while one before it is not acknowledged (RFC 896): what is asked together would
    not come together.
    """
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _frame(number: int, query: bytes) -> bytes:
    """Return a query under another ID, with its length before it (RFC 1035 4.2.2)."""
    return struct.pack("!HH", len(query), number) + query[2:]
