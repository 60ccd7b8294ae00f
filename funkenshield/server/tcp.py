"""Clients over TCP (RFC 7766): pipelined, answered in any order, bounded in every direction.

It knows connections and framing, and the header of a front proxy before it. What a query gets is decided
where UDP's is: `submit` leads there. A slow reader, a half-open or a silent client costs nothing but its
own connection.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import islice
from struct import pack
from typing import Any, cast

from ..config import TcpSection
from ..config.types import parse_address
from ..core.fair_shares import Holders, Shares, client_of, may_take_one_more, prefix_of
from ..core.logs import RateLimited
from ..forward._inflight import Inflight
from ..wire._proxy_protocol import ends_told, told_by

limited = RateLimited(logging.getLogger(__name__))

HEADER, QR = 12, 0x80  # octets of the least message; the bit in its third that makes it a response
SWEEP = 0.5  # seconds between two looks for idle connections
SHARE = 8  # queries that a connection has taken in one go; who asks more takes turns with others who do
TRIED = 8  # connections of a prefix that are asked to give way to another one of it
LITTLE = 4 << 10  # octets; what one answer may take beside `tcp.memory` until the kernel does
GONE = 1.0  # seconds after which a client that has said all, and for which a transfer stands still, counts as gone
TURNS = 4  # in one turn of the loop: so whoever asks little waits but for these


class TcpServer:
    """All connections of clients, by number; the forwarder writes to them.

    How many there are, and how many octets wait in them, is bounded, and both are shared by the law of `fair_shares`.
    """

    def __init__(self, inflight: Inflight, dispatch: Callable[[], None], settings: TcpSection) -> None:
        self.inflight = inflight
        self.dispatch = dispatch
        self.settings = settings
        self.connections: dict[int, Connection] = {}
        self.silent: OrderedDict[int, Connection] = OrderedDict()  # who was silent the longest comes first
        self.unread: OrderedDict[int, Connection] = OrderedDict()  # in which octets wait, the longest first
        self.by_client: Counter[bytes] = Counter()
        self.by_prefix: Holders[Connection] = Holders()
        self.memory = Shares()  # octets that wait in connections
        self.accepted = self.evicted_idle = self.idle_timeouts = self.proxy_protocol_invalid = self.protocol_errors = 0
        self.refused_per_client = self.refused_per_prefix = self.evicted_waiting = self.evicted_memory = 0
        self._next = 0
        self._queue: OrderedDict[int, Connection] = OrderedDict()
        self._going_on = False
        self._written: set[Connection] = set()

    def protocol(self, listener: int = 0) -> "Connection":
        """Return the protocol of one more connection, to the listener of this number."""
        self._next += 1
        return Connection(self, self._next, listener)

    @property
    def refused(self) -> int:
        """Return how many connections were over a bound."""
        return self.refused_per_client + self.refused_per_prefix

    def has_enough(self, client: bytes) -> bool:
        """Tell whether a client holds as many connections as one may."""
        return self.by_client[client] >= self.settings.max_connections_per_client

    def make_room(self, prefix: bytes) -> bool:
        """See that a prefix may have one more connection, and tell whether.

        Where it has as many as are free, the longest silent one of its own gives way (RFC 7766 6.2.3 lets a server do
        that). Where all are taken, and it has fewer than another, the longest silent of all does; where all wait for
        answers, the oldest of the prefix that has the most.
        """
        mine = self.by_prefix.of(prefix)
        free = self.settings.max_connections - len(self.connections)
        if may_take_one_more(len(mine), free):
            return True
        silent: Iterable[Connection] = islice(mine.values(), TRIED)
        if free <= 0 and len(mine) < max(self.by_prefix.most, 1):
            silent = self.silent.values()
        victim = next((each for each in silent if each.is_silent()), None)
        if victim is not None:
            self.evicted_idle += 1
        elif free <= 0 and len(mine) < self.by_prefix.most:
            self.evicted_waiting += 1
            victim = self.by_prefix.oldest_of_most()
        else:
            return False
        victim.leave()
        return True

    def note_move(self, connection: "Connection") -> None:
        """Note that something moved on a connection now."""
        number = connection.number
        if number not in self.connections:
            return
        if connection.address:
            self.by_prefix.move(connection.prefix, number)
        self.silent.pop(number, None)
        if connection.is_silent():
            self.silent[number] = connection

    def add(self, connection: "Connection") -> None:
        """Take a connection, whoever is at its other end."""
        self.connections[connection.number] = connection
        self.note_move(connection)

    def admit(self, connection: "Connection") -> None:
        """Count a connection for its client."""
        self.accepted += 1
        self.by_client[client_of(connection.address)] += 1
        self.by_prefix.add(connection.prefix, connection.number, connection)

    def forget(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self.silent.pop(connection.number, None)
        self._queue.pop(connection.number, None)
        self._written.discard(connection)
        if self.connections.pop(connection.number, None) is None or not connection.address:
            return
        self.by_prefix.remove(connection.prefix, connection.number)
        client = client_of(connection.address)
        self.by_client[client] -= 1
        if not self.by_client[client]:
            del self.by_client[client]

    # ---------------------------------------------------------------- memory

    def count(self, connection: "Connection", octets: int) -> None:
        """Note how many octets wait in a connection now."""
        number = connection.number
        if octets != connection.octets:
            self.memory.add(connection.prefix, octets - connection.octets)
            connection.octets = octets
        if not octets:
            self.unread.pop(number, None)
        elif number not in self.unread:
            self.unread[number] = connection

    def is_tight(self, prefix: bytes) -> bool:
        """Tell whether connections of a prefix must take turns: what gives way is free only in the loop's next one."""
        free = self.settings.memory - self.memory.taken
        return self.memory.of(prefix) * 2 > free or self.memory.taken > free

    def has_memory(self, connection: "Connection") -> bool:
        """See that a connection may hold more octets, and tell whether.

        Where its prefix holds as much as is free, and more than its share, the largest of the prefix gives way, maybe
        this one. Where it holds less, others hold more than theirs: who has not read for the longest gives way.
        """
        prefix = connection.prefix
        while not self.memory.may_take(prefix, self.settings.memory):
            if self._has_more_than_its_share(prefix):
                own = islice(self.by_prefix.of(prefix).values(), TRIED)
                victim = max(own, key=lambda each: each.octets, default=connection)
            else:
                victim = self._longest_unread() or connection
            if victim is connection or not victim.octets:
                return False
            if (octets := victim.waiting()) < victim.octets:  # it has read since it was counted
                self.count(victim, octets)
            else:
                victim.end_for_memory()
        return True

    def _has_more_than_its_share(self, prefix: bytes) -> bool:
        return self.memory.of(prefix) * (len(self.memory) + 1) > self.settings.memory

    def _longest_unread(self) -> "Connection | None":
        for _ in range(len(self.unread)):
            number, connection = next(iter(self.unread.items()))
            if self._has_more_than_its_share(connection.prefix):
                return connection
            self.unread.move_to_end(number)  # so that it is not looked at again soon
        return None

    def count_later(self, connection: "Connection") -> None:
        """Count anew what waits in a connection, once the loop has had its turn to send it."""
        if not self._written:
            asyncio.get_running_loop().call_soon(self._count_written)
        self._written.add(connection)

    def _count_written(self) -> None:
        written, self._written = self._written, set()
        for connection in written:
            connection.count()

    # ---------------------------------------------------------------- turns

    def queue(self, connection: "Connection") -> None:
        """Let a connection take its turn."""
        self._queue[connection.number] = connection
        self._go_on()

    def _go_on(self) -> None:
        if self._queue and not self._going_on:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._going_on = False
        for _ in range(TURNS):
            if not self._queue:  # a turn may end connections that wait for theirs
                break
            self._queue.popitem(last=False)[1].take_turn()
        self._go_on()

    async def close_idle(self) -> None:
        """Close connections without traffic, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP)
            before = clock() - self.settings.idle_timeout
            for connection in list(self.unread.values()):
                connection.count()
            for number, connection in enumerate([each for each in self.connections.values() if each.is_idle(before)]):
                self.idle_timeouts += 1
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
        self.number = number
        self.address = b""  # the client's, once it is known whose connection this is
        self.prefix = b""
        self.octets = 0  # that wait in it, as they were counted last
        self.works: set[asyncio.Task[Any]] = set()  # that are done for nobody else
        self.writable = asyncio.Event()
        self.writable.set()
        self._server = server
        self._listener = listener
        self._peer = b""
        self._ends = b""  # the client's port, the port that was asked, and the address of that
        self._buffer = bytearray()
        self._waiting = 0
        self._ended = False
        self._queued = False
        self._held: list[bytes] | None = None
        self._largest = 0  # octets that were written at once, of those that do not go out
        self._active = asyncio.get_running_loop().time
        self._last = self._active()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or end it where there are too many; a front proxy has to say first whose it is."""
        server = self._server
        self._transport = transport = cast(asyncio.Transport, transport)
        peer, ours = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer is None or ours is None:  # it is gone already
            transport.abort()
            return
        self._peer = parse_address(peer[0]).packed
        self._ends = pack("!HH", peer[1], ours[1]) + parse_address(ours[0]).packed
        if server.inflight.settings_writer.is_proxy(self._peer):
            if not server.make_room(b""):
                self._refuse_prefix(b"")
                return
            server.add(self)
        elif not self._admit(self._peer):
            return
        transport.set_write_buffer_limits(high=server.settings.write_buffer)

    def _admit(self, address: bytes) -> bool:
        """Count the connection as this client's, or end it where the client, or its prefix, has too many."""
        server, prefix = self._server, prefix_of(address)
        if server.has_enough(client_of(address)):
            server.refused_per_client += 1
            limited.warning(
                "client",
                "TCP connection from %s refused: tcp.max_connections_per_client reached",
                ip_address(address),
            )
            self._transport.abort()
            return False
        server.forget(self)  # a proxy's is counted once
        if not server.make_room(prefix):
            self._refuse_prefix(address)
            return False
        server.count(self, 0)
        self.address, self.prefix = address, prefix
        server.admit(self)
        server.add(self)
        return True

    def _refuse_prefix(self, address: bytes) -> None:
        self._server.refused_per_prefix += 1
        limited.warning(
            "prefix", "TCP connection from %s refused: its prefix holds its share of tcp.max_connections",
            ip_address(address or self._peer),
        )  # fmt: skip
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; answers that still come for it go nowhere, and what is done for it alone ends."""
        self.writable.set()
        self._buffer.clear()
        self._server.count(self, 0)
        self._server.forget(self)
        for task in self.works:
            task.cancel()

    def waiting(self) -> int:
        """Return how many octets are held here: what came and was not taken, and what does not go out.

        What goes out at once is held until the last octet of it has gone.
        """
        unsent = self._transport.get_write_buffer_size()
        if not unsent:
            self._largest = 0
        return len(self._buffer) + unsent + self._largest

    def count(self) -> None:
        """Count what waits here, and end where it may not."""
        if self._transport.is_closing():
            return
        octets = self.waiting()
        if octets <= self.octets or self._server.has_memory(self):
            self._server.count(self, octets)
        else:
            self.end_for_memory()

    def data_received(self, data: bytes) -> None:
        """Take the whole queries that have come."""
        self._buffer += data
        if not self._queued and (self.address or self._take_header()):
            if self._server.is_tight(self.prefix):
                self._queue()
                self._pace()
            else:
                self._take_queries()
        if self._buffer or self.octets:
            self.count()

    def end_for_memory(self) -> None:
        """End the connection for what waits in it."""
        self._server.evicted_memory += 1
        limited.warning(
            "memory", "TCP connection from %s closed: %d octets are buffered, and its prefix holds %d of tcp.memory",
            ip_address(self.address or self._peer), self.octets, self._server.memory.of(self.prefix),
        )  # fmt: skip
        self.leave()

    def leave(self) -> None:
        """End the connection now, and have no part in any bound from here on."""
        self._buffer.clear()
        self._transport.abort()
        self._server.count(self, 0)
        self._server.forget(self)

    def _take_header(self) -> bool:
        """Take a front proxy's header; False: it is not whole yet, or the connection ends for it."""
        try:
            length, address = told_by(bytes(self._buffer))
        except ValueError:
            self._server.proxy_protocol_invalid += 1
            self.abort()
            return False
        if not length or not self._admit(address or self._peer):
            return False
        self._ends = ends_told(bytes(self._buffer[:length])) or self._ends
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
            self._waiting += self._server.inflight.submit(self.number, self.address, query, self._listener, self._ends)
            taken = end
            share -= 1
            if len(query) < HEADER or query[2] & QR:  # who says such things is broken, or hostile (RFC 7766 8)
                self._server.protocol_errors += 1
                self.leave()
                return
        if taken:
            del buffer[:taken]
            self._dispatch()
            self._move()
        if self._may_ask() and self._has_query():
            self._queue()
        self._pace()

    def _dispatch(self) -> None:
        """Have decided what was submitted, and write in one go what is known at once."""
        held = self._held = []
        self._server.dispatch()
        self._held = None
        if held:
            self._write(held)

    def _write(self, framed: list[bytes]) -> None:
        """Write what is framed; what is little, before one who reads, is not worth to be counted."""
        if self._transport.is_closing():
            return
        octets = sum(map(len, framed))
        if octets > LITTLE or self._transport.get_write_buffer_size():
            if not self._server.has_memory(self):
                self.end_for_memory()
                return
            self._largest = max(self._largest, octets)
            self._server.count(self, self.octets + octets)
            self._server.count_later(self)
        if octets > LITTLE:
            self._transport.writelines(framed)
        else:
            self._transport.write(b"".join(framed))

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
        return self._waiting < self._server.settings.max_in_flight and self.writable.is_set()

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
        self._waiting = max(self._waiting - 1, 0)
        if self._held is not None:
            self._held.append(framed)
            return
        self._move()
        self._write([framed])
        if was_full or self._ended:
            self._queue()

    def expect(self, more: int) -> None:
        """Wait for more answers than there were queries, or for fewer."""
        self._waiting += more
        self._move()
        if more < 0:
            self._queue()

    async def drained(self) -> bool:
        """Wait until the client takes more; False: it is gone."""
        await self.writable.wait()
        return self.number in self._server.connections

    def pause_writing(self) -> None:
        """Take no more queries from a client that does not read."""
        self.writable.clear()
        self._server.note_move(self)
        self._pace()

    def resume_writing(self) -> None:
        """Go on where it reads again."""
        self.writable.set()
        self._move()
        self._server.unread.pop(self.number, None)
        self.count()
        self._queue()

    def eof_received(self) -> bool:
        """Keep the connection until what was asked is answered (RFC 7766 6.2.3)."""
        self._ended = True
        if self.works:
            asyncio.get_running_loop().call_later(GONE, self._end_works, self._last)
        return self.address != b"" and (self._waiting > 0 or self._has_query())

    def _end_works(self, last: float) -> None:
        """End what is done for a client, unless something moved since, or it has to read: that shows if it is there."""
        if self.works and self._last == last and not self._transport.get_write_buffer_size():
            self.abort()

    def _move(self) -> None:
        """Note that something moved now."""
        self._last = self._active()
        self._server.note_move(self)

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
