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
from collections.abc import AsyncIterator, Callable
from functools import partial

from ..cache._entry import is_response_to
from ..config import Member, UpstreamSection
from ..config.types import Endpoint, sockaddr
from ..core.logs import RateLimited
from ..errors import ConfigError
from ..wire._message import inspect_query
from .axfr import IXFR
from .tls import Tls, read_authorities

limited = RateLimited(logging.getLogger(__name__))

CONNECTING = 5.0  # seconds until a connection must be there, handshake included
CONNECTION_IDLE = 10.0  # seconds that a connection is kept for the next query
TRANSFER_IDLE = 30.0  # seconds between two messages of a transfer
PIPELINE = 1024  # queries that wait on one connection
LOSSES = 4  # connections that may end under a query
SPENT = 0.1  # seconds that one is open which has given all the answers that we know of, until it is asked for more
UNSENT = 1 << 20  # octets that wait to be sent on one connection
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
        raise ConfigError(f"upstream {Member(endpoint, section)}: {error}") from None


class Siblings:
    """The connections to an upstream that queries share, how much each is good for, and who waits for one.

    An upstream may end a connection after so many answers, whatever else was asked on it (RFC 7766 6.2.4): then no more
    than that is asked. One that gives more, or stays open, has twice as many asked on it.
    """

    def __init__(self) -> None:
        self.all: list[Connection] = []
        self.takes = 0  # queries that one connection is good for; 0: any number
        self.heard = 0  # answers, on whichever
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._most = 1

    def usable(self, most: int) -> "tuple[Connection | None, bool]":
        """Return the one with the least to do, if one takes another query, and whether there may be one more."""
        self._most = most
        able = [each for each in list(self.all) if each.is_open() and not (self.takes and each.taken >= self.takes)]
        return min(able, key=lambda each: each.waiting, default=None), len(self.all) < most

    async def room(self) -> None:
        """Wait until a connection that can take another query may be there."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._call()  # somebody else may have our turn
            raise

    def _call(self) -> None:
        """Let as many go on as there is room for."""
        free = len(self._waiting)
        if self.takes:
            there = sum(max(self.takes - each.taken, 0) for each in self.all)
            free = there + (self._most - len(self.all)) * self.takes
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def note_answer(self, connection: "Connection") -> None:
        """Take in that a connection gave an answer."""
        self.heard += 1
        if self.takes:
            self.takes = max(self.takes, connection.heard)

    def note_loss(self, connection: "Connection") -> None:
        """Take in that the upstream ended a connection that had more queries to answer.

        What it answered may be lost with it, by RST.
        """
        takes = connection.heard or self.takes or 1
        if all(each.heard <= takes for each in self.all):
            self.takes = takes
            for each in self.all:
                each.rest()

    def doubt(self) -> None:
        """Take in that one is open still that has given all the answers that we know of."""
        self.takes *= 2
        if self.takes >= PIPELINE:
            self.takes = 0
        self._call()

    def forget(self) -> None:
        """Let everybody go on who waits."""
        self.takes = 0
        self._call()

    def remove(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self.all.remove(connection)
        self._call()


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
        self._asked = Member(endpoint, section).asked
        self._source = str(section.source or "")
        self._tls = tls_of(endpoint, section, wall, authorities)
        self._kept = Siblings()
        self._alone = Siblings()
        self._turns = (0, asyncio.Semaphore(0))
        self._trouble = ""
        self._closed = False

    async def exchange(self, query: bytes, most: int, proxied: bytes = b"", *, once: bool = False) -> bytes:
        """Return the response to a query over one of at most `most` kept connections; UpstreamError where none comes.

        With `proxied`, octets that tell whose query it is, the connection begins with these and serves no other
        query; where there are `most` of that kind, it waits for its turn. So does what is sent `once`: a connection
        that is kept may end while it is on its way, and it could not be sent again. What else an upstream leaves over
        when it ends a connection is asked on another one, unless it ended for this query; the last time alone.
        """
        if proxied or once:
            return await self._exchange_alone(query, most, proxied)
        for _ in range(LOSSES - 1):
            connection, heard = await self._free(most), self._kept.heard
            try:
                return await connection.exchange(query)
            except _LostError:
                # Nothing was heard on any connection, and nobody else asked on this one: it ended for this query.
                moves = connection.taken > 1 or self._kept.takes or self._kept.heard != heard
                if not moves or query[2] & OPCODE:
                    raise
        return await self._exchange_alone(query, most)  # where nobody else's query can end it

    async def _free(self, most: int) -> "Connection":
        """Return a connection that takes a query: an idle one, or a new one if there may be one more."""
        while True:
            connection, more = self._kept.usable(most)
            if connection is not None and (connection.waiting == 0 or not more):
                return connection
            if more or self._closed:
                return self._connect(self._kept)
            await self._kept.room()

    async def _exchange_alone(self, query: bytes, most: int, proxied: bytes = b"") -> bytes:
        if self._turns[0] != most:
            self._turns = (most, asyncio.Semaphore(most))
        async with self._turns[1]:
            connection = self._connect(self._alone, proxied)
            try:
                return await connection.exchange(query)
            finally:
                connection.close()

    async def transfer(
        self, query: bytes, patience: float, proxied: bytes = b"", *, first: float
    ) -> AsyncIterator[bytes]:
        """Yield the messages of a zone transfer (RFC 5936, 1995), over a connection of its own; OSError where it ends.

        The connection must be there within `patience` seconds, and the `first` message after so many more. What follows
        a lone SOA record where changes were asked for must come within `patience`: it may have been all that there is.
        """
        reader = asyncio.StreamReader()
        async with asyncio.timeout(patience):
            transport = await self._open(asyncio.StreamReaderProtocol(reader), proxied)
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
                wait = TRANSFER_IDLE if records > 1 or not changes else patience
        except asyncio.IncompleteReadError:
            raise UpstreamError("connection closed during the transfer") from None
        finally:
            transport.abort()

    def leave_other_than(self, ours: str) -> None:
        """Use no connection any more that is from another address of ours: no answer may come to it."""
        for connection in [*self._kept.all]:
            if connection.address not in ("", ours):
                connection.close()

    def close(self) -> None:
        """End all connections for good; whoever waits gets UpstreamError. Transfers go on."""
        self._closed = True
        for connection in [*self._kept.all, *self._alone.all]:
            connection.close()
        self._kept.forget()

    # ---------------------------------------------------------------- making one

    def _connect(self, siblings: Siblings, proxied: bytes = b"") -> "Connection":
        """Return a connection that is being made; what is asked meanwhile is sent when it is there."""
        if self._closed:
            raise UnsentError("the upstream is no longer configured")
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
                limited.warning(f"{self._asked} {trouble}", "upstream %s: %s", self._asked, trouble)
            self._trouble = trouble
            raise UpstreamError(_number(error), trouble) from None
        self._trouble = ""
        self.opened += 1
        peer = transport.get_extra_info("ssl_object")
        self.resumed += peer is not None and bool(peer.session_reused)
        return transport

    async def _connected(self) -> socket.socket:
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

    async def _reach(self, protocol: asyncio.Protocol, first: bytes) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        # Until the upstream has proved who it is, whatever it says is said to nobody.
        opened = await self._connected()
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
        return f"cannot be reached: no connection within {CONNECTING:g} s"
    return str(error) or "cannot be reached: it closed the connection at once"


class Connection(asyncio.Protocol):
    """One connection that queries share until it is idle; it is given up where nothing comes on it."""

    def __init__(self, siblings: Siblings) -> None:
        siblings.all.append(self)  # at once, so that their number is bounded
        self.taken = self.heard = 0  # queries, and answers
        self.making: asyncio.Task[None] | None = None
        self._siblings = siblings
        self._open: dict[int, tuple[bytes, asyncio.Future[bytes], int]] = {}  # with what had been heard before
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._keep_session: Callable[[], bool] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def waiting(self) -> int:
        """Return how many queries wait for an answer."""
        return len(self._open)

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
        if len(self._open) >= PIPELINE or self._unsent() > UNSENT:
            raise UpstreamError("too many outstanding queries on the connection")
        heard = self.heard
        self.taken += 1
        number = secrets.randbits(16)
        while number in self._open:
            number = secrets.randbits(16)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open[number] = (query, future, heard)
        if self._transport is not None:
            self._transport.write(_frame(number, query))
        try:
            return await future
        except asyncio.CancelledError:  # out of patience
            if heard == self.heard and self._transport is not None:
                silent = UpstreamError(errno.ETIMEDOUT, "no response on the connection")
                self.end(silent)  # the next query deserves another connection
            raise
        finally:
            self._open.pop(number, None)
            self.rest()

    def begin(self, transport: asyncio.Transport, keep_session: Callable[[], bool] | None) -> None:
        """Send what was asked meanwhile; `keep_session` is called until it has kept one."""
        if self._over:
            transport.abort()
            return
        self._transport = transport
        self._keep_session = keep_session
        for number, (query, _, _) in self._open.items():
            transport.write(_frame(number, query))  # a TLS record each: NSD 4.6 answers but the first query of a record

    def close(self) -> None:
        """End the connection, or the making of it; whoever waits gets UpstreamError."""
        self.end(_LostError(errno.ECONNRESET, "connection closed by the shield"))
        if self.making is not None:
            self.making.cancel()

    def end(self, why: UpstreamError) -> None:
        """Tell everybody who waits why no answer comes."""
        if self._over:
            return
        if self._transport is None:
            why = UnsentError(why.errno or 0, str(why))
        self._over = True
        self._siblings.remove(self)
        if self._idle:
            self._idle.cancel()
        for _, future, _ in self._open.values():
            if not future.done():
                future.set_exception(why)
        if self._transport is not None:
            self._learn_session()
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the connections that can be used."""
        if not self._over and self._left_over():
            self._siblings.note_loss(self)
        self.end(_LostError(errno.ECONNRESET, "the upstream closed the connection"))

    def _left_over(self) -> bool:
        """Tell whether queries wait that were sent with others, or before the last answer, and not just too late."""
        if not self.heard:
            return len(self._open) > 1
        return any(heard < self.heard for _, _, heard in self._open.values())

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
            if len(response) < HEADER or not (response[2] & QR or int.from_bytes(response[:2]) in self._open):
                self.end(UpstreamError("the upstream sent a malformed message"))
                return
            self._take(response)

    def _take(self, response: bytes) -> None:
        self.heard += 1
        self._siblings.note_answer(self)
        self._learn_session()
        query, future, _ = self._open.get(int.from_bytes(response[:2]), (b"", None, 0))
        if future is not None and not future.done() and is_response_to(query, response):
            future.set_result(response)

    def _learn_session(self) -> None:
        """Keep the TLS session; in TLS 1.3 it comes some time after the handshake."""
        if self._keep_session is not None and self._keep_session():
            self._keep_session = None

    def rest(self) -> None:
        """See to it that the connection does not stay for ever when nobody asks anything on it."""
        if self._idle:
            self._idle.cancel()
        if self._over:
            return
        wait = SPENT if 0 < self._siblings.takes <= self.taken else CONNECTION_IDLE
        self._idle = asyncio.get_running_loop().call_later(wait, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._open:
            return
        if 0 < self._siblings.takes <= self.heard:
            self._siblings.doubt()
            self.rest()
        else:
            self.close()

    def _unsent(self) -> int:
        """Return the octets that the upstream has not taken yet."""
        if self._transport is None:
            return sum(len(query) for query, _, _ in self._open.values())
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
