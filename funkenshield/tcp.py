"""Clients over TCP (RFC 7766): pipelined, answered in any order, bounded in every direction.

It knows connections and framing, and the header of a front proxy before it. What a query gets is decided
where UDP's is: `submit` leads there. A slow reader, a half-open or a silent client costs nothing but its
own connection.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import cast

from ._inflight import Inflight
from ._proxied import told_by
from .config import TcpSection
from .fields import parse_address

SWEEP = 0.5  # seconds between two looks for idle connections
SHARE = 8  # queries that a connection has taken in one go; who asks more takes turns with others who do
TRIED = 8  # connections that are asked to give way to another one
TURNS = 4  # in one turn of the loop: so whoever asks little waits but for these


class TcpServer:
    """All connections of clients, by number; the forwarder writes to them."""

    def __init__(self, inflight: Inflight, dispatch: Callable[[], None], settings: TcpSection) -> None:
        self.inflight = inflight
        self.dispatch = dispatch
        self.settings = settings
        self.connections: OrderedDict[int, Connection] = OrderedDict()  # who was silent the longest comes first
        self.by_client: Counter[bytes] = Counter()
        self.accepted = self.refused = self.gave_way = self.timed_out = self.bad_proxied = 0
        self._next = 0
        self._queue: deque[Connection] = deque()
        self._going_on = False

    def protocol(self, listener: int = 0) -> "Connection":
        """Return the protocol of one more connection, to the listener of this number."""
        self._next += 1
        return Connection(self, self._next, listener)

    def has_enough(self, client: bytes) -> bool:
        """Tell whether a client holds as many connections as one may."""
        return self.by_client[client] >= self.settings.per_client

    def make_room(self) -> bool:
        """See that there may be one more, and tell whether: where all are taken, who is silent the longest gives way.

        That is what RFC 7766 6.2.3 lets a server do; who waits for an answer stays.
        """
        if len(self.connections) < self.settings.connections:
            return True
        for number, connection in islice(self.connections.items(), TRIED):
            if connection.is_silent():
                self.gave_way += 1
                del self.connections[number]
                connection.abort()
                return True
        return False

    def queue(self, connection: "Connection") -> None:
        """Let a connection take its turn."""
        self._queue.append(connection)
        self._go_on()

    def _go_on(self) -> None:
        if self._queue and not self._going_on:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._going_on = False
        for _ in range(min(TURNS, len(self._queue))):
            self._queue.popleft().take_turn()
        self._go_on()

    def write(self, stream: int, framed: bytes) -> None:
        """Give a connection an answer, if it is still there."""
        connection = self.connections.get(stream)
        if connection is not None:
            connection.answer(framed)

    async def drained(self, stream: int) -> bool:
        """Wait until a connection takes more; False: it is gone."""
        connection = self.connections.get(stream)
        if connection is not None:
            await connection.writable.wait()
        return stream in self.connections

    def expect_more(self, stream: int) -> None:
        """Say that the next answer to a connection is not the last to its query."""
        if stream in self.connections:
            self.connections[stream].expect(1)

    def complete(self, stream: int) -> None:
        """Say that the answer before was the last to its query."""
        if stream in self.connections:
            self.connections[stream].expect(-1)

    def end(self, stream: int) -> None:
        """End a connection whose answer cannot be completed: nothing else tells the client."""
        if stream in self.connections:
            self.connections[stream].finish()

    async def close_idle(self) -> None:
        """Close connections without traffic, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP)
            before = clock() - self.settings.idle
            for number, connection in enumerate([each for each in self.connections.values() if each.is_idle(before)]):
                self.timed_out += 1
                connection.abort()
                if number % TURNS == 0:  # a thousand at once would hold up everybody
                    await asyncio.sleep(0)

    def close(self) -> None:
        """Close all connections, once what was written has gone out."""
        for connection in list(self.connections.values()):
            connection.finish()


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: TcpServer, number: int, listener: int) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self._server = server
        self._number = number
        self._listener = listener
        self._peer = b""
        self._address = b""  # the client's, once it is known whose connection this is
        self._buffer = bytearray()
        self._waiting = 0
        self._ended = False
        self._queued = False
        self._held: list[bytes] | None = None
        self._active = asyncio.get_running_loop().time
        self._last = self._active()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or end it where there are too many; a front proxy has to say first whose it is."""
        server = self._server
        self._transport = transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # it is gone already
            transport.abort()
            return
        self._peer = parse_address(peer[0]).packed
        by_proxy = server.inflight.reception.is_proxy(self._peer)
        if (not by_proxy and server.has_enough(self._peer)) or not server.make_room():
            self._refuse()
            return
        server.connections[self._number] = self
        transport.set_write_buffer_limits(high=server.settings.write_buffer)
        if not by_proxy:
            self._admit(self._peer)

    def _admit(self, address: bytes) -> bool:
        """Count the connection as this client's, or end it where he has too many."""
        server = self._server
        if server.has_enough(address):
            self._refuse()
            return False
        server.accepted += 1
        server.by_client[address] += 1
        self._address = address
        return True

    def _refuse(self) -> None:
        self._server.refused += 1
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; answers that still come for it go nowhere."""
        self.writable.set()
        self._buffer.clear()
        self._server.connections.pop(self._number, None)
        if self._address:
            self._server.by_client[self._address] -= 1
            if not self._server.by_client[self._address]:
                del self._server.by_client[self._address]

    def data_received(self, data: bytes) -> None:
        """Take the whole queries that have come."""
        self._buffer += data
        if not self._queued and (self._address or self._take_header()):
            self._take_queries()

    def _take_header(self) -> bool:
        """Take a front proxy's header; False: it is not whole yet, or the connection ends for it."""
        try:
            length, address = told_by(bytes(self._buffer))
        except ValueError:
            self._server.bad_proxied += 1
            self.abort()
            return False
        if not length or not self._admit(address or self._peer):
            return False
        del self._buffer[:length]
        self._move()
        return True

    def _take_queries(self) -> None:
        """Submit a share of what is whole, as long as neither too many wait nor too much is unread."""
        taken = 0
        share = SHARE
        buffer = self._buffer
        while share and self._may_ask() and len(buffer) - taken >= 2:
            end = taken + 2 + (buffer[taken] << 8 | buffer[taken + 1])
            if len(buffer) < end:
                break
            query = bytes(buffer[taken + 2 : end])
            self._waiting += self._server.inflight.submit(self._number, self._address, query, self._listener)
            taken = end
            share -= 1
        if taken:
            self._move()
            del buffer[:taken]
            self._dispatch()
        if self._may_ask() and self._has_query():
            self._queue()
        self._pace()

    def _dispatch(self) -> None:
        """Have decided what was submitted, and write in one go what is known at once."""
        held = self._held = []
        self._server.dispatch()
        self._held = None
        if held:
            self._transport.write(b"".join(held))

    def _queue(self) -> None:
        """Go on when it is this one's turn."""
        if not self._queued:
            self._queued = True
            self._server.queue(self)

    def take_turn(self) -> None:
        """Take the next share."""
        self._queued = False
        self._take_queries()

    def _has_query(self) -> bool:
        """Tell whether a whole query has come and was not taken yet."""
        return len(self._buffer) >= 2 and len(self._buffer) >= 2 + (self._buffer[0] << 8 | self._buffer[1])

    def _may_ask(self) -> bool:
        return self._waiting < self._server.settings.queries and self.writable.is_set()

    def _pace(self) -> None:
        """Read on only while the client may ask; what it sends meanwhile stays in the kernel, then with it."""
        if self._transport.is_closing():
            return
        if self._may_ask() and not self._queued:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
        if self._ended and not self._waiting and not self._has_query():
            self._transport.close()

    def answer(self, framed: bytes) -> None:
        """Write an answer, behind its two octets of length."""
        was_full = not self._may_ask()
        self._move()
        self._waiting = max(self._waiting - 1, 0)
        if self._held is None:
            self._transport.write(framed)
        else:
            self._held.append(framed)
        if was_full or self._ended:
            self._queue()

    def expect(self, more: int) -> None:
        """Wait for more answers than there were queries, or for fewer."""
        self._waiting += more
        if more < 0:
            self._queue()

    def pause_writing(self) -> None:
        """Take no more queries from a client that does not read."""
        self.writable.clear()
        self._pace()

    def resume_writing(self) -> None:
        """Go on where it reads again."""
        self._move()
        self.writable.set()
        self._queue()

    def eof_received(self) -> bool:
        """Keep the connection until what was asked is answered (RFC 7766 6.2.3)."""
        self._ended = True
        return self._address != b"" and (self._waiting > 0 or self._has_query())

    def _move(self) -> None:
        """Note that something moved now."""
        self._last = self._active()
        if self._number in self._server.connections:
            self._server.connections.move_to_end(self._number)

    def is_idle(self, before: float) -> bool:
        """Tell whether nothing moved since `before`, and the client waits for nothing."""
        return self._last < before and self.is_silent()

    def is_silent(self) -> bool:
        """Tell whether the client waits for nothing, or does not read what it waited for."""
        return not self._waiting or not self.writable.is_set()

    def abort(self) -> None:
        """End the connection now."""
        self._transport.abort()

    def finish(self) -> None:
        """End the connection once what was written has gone out."""
        self._transport.close()
