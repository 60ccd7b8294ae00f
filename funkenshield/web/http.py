"""HTTP as it is served here: one request a connection, a response or a stream of events, and all of it bounded.

A flood of connections, or of requests that cost much to read, waits in the kernel, or unread: the thread that forwards
misses has little time for them.

It knows connections, limits and time; h11 knows the protocol. What is asked for, and what is answered, is for `site`.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from ipaddress import ip_address
from typing import Protocol, cast

import h11

from ..core.fair_shares import Holders, may_take_one_more, prefix_of
from ..core.logs import RateLimited
from .budget import Budget

limited = RateLimited(logging.getLogger(__name__))

MAX_CONNECTIONS = 32  # at once; each client prefix has its fair share
TIMEOUT = 10.0  # seconds that a request may take to come, and a response to be read
ANSWER_TIMEOUT = 60.0  # seconds that it may take to be made: a reload reads rules, a purge waits for the disk
HEAD_MAX, BODY_MAX = 8192, 16384  # octets of a request
PARTS_MAX = 64  # that a body comes in: chunks cost more than octets
UNREAD_MAX = 1 << 18  # octets that a client of a stream may leave unread
AT_ONCE, PAUSE = 16, 0.02  # connections that are taken in so many seconds: 800 a second take a twentieth
SHARE = 0.05  # of the time, for what all ask
COST = 0.0005  # seconds that a request takes; to read it may take more

Headers = dict[str, str]


class Viewer(Protocol):
    """Who reads a stream, and the client prefix that it counts for."""

    prefix: bytes

    def write(self, data: bytes) -> None:
        """Send this; who does not read what came before is dropped."""

    def end(self) -> None:
        """Send no more."""


class Stream(Protocol):
    """What is sent for as long as somebody reads it; a response's body comes before."""

    def add(self, viewer: Viewer) -> None:
        """Begin to send."""

    def remove(self, viewer: Viewer) -> None:
        """End: it is gone."""


@dataclass(frozen=True)
class Request:
    """A request that is whole; the names of fields are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    source: str = ""  # the address of who asks
    prefix: bytes = b""  # that it counts for


@dataclass(frozen=True)
class Response:
    """What is answered: a body, and maybe a stream that goes on from there."""

    status: int = 200
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Headers = field(default_factory=dict)
    stream: Stream | None = None


class HttpServer:
    """All connections; `respond` answers what they ask."""

    def __init__(
        self, respond: Callable[[Request], Awaitable[Response]], elapsed: Callable[[], float] = time.monotonic
    ) -> None:
        self.respond = respond
        self.budget = Budget(elapsed, SHARE)
        self.connections: Holders[Connection] = Holders()
        self.count = 0
        self._next = 0
        self._taken: set[asyncio.Task[object]] = set()  # connections that are about to be made

    def serve(self, listening: socket.socket) -> "Door":
        """Take connections from a listening socket, until that is closed."""
        listening.setblocking(False)
        return Door(listening, self.take)

    def take(self, accepted: socket.socket) -> None:
        """Take a connection."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self.protocol, accepted))
        self._taken.add(task)
        task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[object]) -> None:
        self._taken.discard(task)
        if not task.cancelled() and (error := task.exception()):
            limited.warning("connection", "no connection for HTTP: %s", error)

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


class Door:
    """Lets connections in, some at once; who comes meanwhile waits in the kernel."""

    def __init__(self, listening: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._listening, self._take = listening, take
        self._loop = asyncio.get_running_loop()
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None  # when it is open for others
        self._open()

    def close(self) -> None:
        """Let nobody in any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _open(self) -> None:
        self._left, self._timer = AT_ONCE, None
        self._loop.add_reader(self._listening, self._let_in)

    def _let_in(self) -> None:
        self._timer = self._timer or self._loop.call_later(PAUSE, self._open)
        try:
            while self._left:
                self._take(self._listening.accept()[0])
                self._left -= 1
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor is left, or who came is gone
            limited.warning("accept", "no connection for HTTP: %s", error.strerror)
        self._loop.remove_reader(self._listening)


class Connection(asyncio.Protocol):
    """One connection: a request, an answer, the end."""

    def __init__(self, server: HttpServer, number: int) -> None:
        self._server = server
        self._number = number
        self._source, self.prefix = "", b""
        self._http = h11.Connection(h11.SERVER, HEAD_MAX)
        self._asked: h11.Request | None = None
        self._body, self._parts = b"", 0
        self._stream: Stream | None = None
        self.answering: asyncio.Task[None] | None = None  # None: there is no request yet
        self._timer: asyncio.TimerHandle | None = None
        self._has_turn = False
        self._turn: asyncio.TimerHandle | None = None  # when it may have one
        self._transport: asyncio.Transport

    # ---------------------------------------------------------------- it comes, and goes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; another one may be closed for it."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # it is gone already
            self._transport.abort()
            return
        self._source = peer[0].partition("%")[0]
        self.prefix = prefix_of(ip_address(self._source).packed)
        self._server.make_room(self.prefix)
        self._server.connections.add(self.prefix, self._number, self)
        self._server.count += 1
        self._end_in(TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        self._end_in(None)
        if self._turn is not None:
            self._turn.cancel()
        if self.answering is not None:
            self.answering.cancel()
        self._forget()

    def abort(self) -> None:
        """End the connection now."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        if self._stream is not None:
            self._stream.remove(self)
            self._stream = None
        if self._number in self._server.connections.of(self.prefix):
            self._server.connections.remove(self.prefix, self._number)
            self._server.count -= 1

    def _end_in(self, seconds: float | None) -> None:
        """Set how long it may take from now on."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.abort)

    # ---------------------------------------------------------------- it asks

    def data_received(self, data: bytes) -> None:
        """Answer the request, once it is whole, and all who ask have not taken yet what they may."""
        if self.answering is not None:  # one request a connection: whatever comes behind it waits
            self._transport.pause_reading()
        elif not self._transport.is_closing():
            self._http.receive_data(data)
            self._read_in_turn()

    def _read_in_turn(self) -> None:
        if self._transport.is_closing():
            return
        if self._has_turn or self._server.budget.has_turn(self.prefix):
            self._transport.resume_reading()
            self._read()
        else:
            self._transport.pause_reading()
            self._turn = asyncio.get_running_loop().call_later(PAUSE, self._read_in_turn)

    def _read(self) -> None:
        begun = time.thread_time()
        try:
            while (event := self._http.next_event()) is not h11.NEED_DATA and self.answering is None:
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._send(Response(error.error_status_hint))
        took = time.thread_time() - begun
        self._server.budget.spend(self.prefix, took if self._has_turn else took + COST)
        self._has_turn = True

    def _take(self, event: object) -> None:
        """Take one part of the request."""
        match event:
            case h11.Request():
                self._asked = event
            case h11.Data():
                self._body += event.data
                self._parts += 1
                if len(self._body) > BODY_MAX or self._parts > PARTS_MAX:
                    raise h11.RemoteProtocolError("too long", error_status_hint=413)
            case h11.EndOfMessage():
                self._end_in(ANSWER_TIMEOUT)
                self.answering = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        assert self._asked is not None
        path, _, query = self._asked.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._asked.headers}
        request = Request(
            self._asked.method.decode("latin-1"), path, query, headers, self._body, self._source, self.prefix
        )
        try:
            self._send(await self._server.respond(request))
        except Exception as error:  # whatever it is, who asked is told, and nothing stays taken
            limited.warning("page", "internal error, no page: %r", error)
            if self._http.our_state is h11.SEND_RESPONSE:
                self._send(Response(500))
            else:
                self.abort()

    # ---------------------------------------------------------------- it is answered

    def _send(self, response: Response) -> None:
        fields = {"Date": formatdate(usegmt=True), "Content-Type": response.kind, "Connection": "close"}
        if response.stream is None:
            fields["Content-Length"] = str(len(response.body))
        reason = HTTPStatus(response.status).phrase.encode()
        head = h11.Response(
            status_code=response.status, reason=reason, headers=list((fields | response.headers).items())
        )
        self._transport.write(self._http.send(head) or b"")
        if self._asked is None or self._asked.method != b"HEAD":
            self._transport.write(self._http.send(h11.Data(response.body)) or b"")
            if response.stream is not None:
                self._end_in(None)
                self._stream = response.stream
                self._stream.add(self)
                return
        self._end_in(TIMEOUT)
        self._transport.close()

    def write(self, data: bytes) -> None:
        """Send more of a stream."""
        if self._transport.get_write_buffer_size() > UNREAD_MAX:
            self.abort()
        elif not self._transport.is_closing():
            self._transport.write(self._http.send(h11.Data(data)) or b"")

    def end(self) -> None:
        """End a stream."""
        self._transport.write(self._http.send(h11.EndOfMessage()) or b"")
        self._end_in(TIMEOUT)
        self._transport.close()
