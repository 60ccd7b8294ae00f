"""Clients over TCP (RFC 7766): pipelined, answered in any order, bounded in every direction.

It knows connections and framing, and the header of a front proxy before it. What a query gets is decided
where UDP's is: `submit` leads there. A slow reader, a half-open or an idle client costs nothing but its
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
from ..wire._proxy_protocol import parse_endpoints, parse_header

limited = RateLimited(logging.getLogger(__name__))

HEADER, QR = 12, 0x80  # octets of the least message; the bit in its third that makes it a response
SWEEP = 0.5  # seconds between two looks for idle connections
QUERIES_PER_TURN = 8  # taken from a connection at once; those that send more take turns
CANDIDATES = 8  # connections of a prefix among which one to close is looked for
SMALL = 4 << 10  # octets of a write that is not counted in `tcp.memory`: the kernel takes it at once
HALF_CLOSED = 1.0  # seconds after which a client that has closed its side, and reads nothing of a transfer, is gone
TURNS = 4  # in one iteration of the loop: a client that sends little waits for no more than these


class TcpServer:
    """All connections of clients, by number; the forwarder writes to them.

    How many there are, and how many octets wait in them, is bounded, and both are shared by the rule of `fair_shares`.
    """

    def __init__(self, inflight: Inflight, dispatch: Callable[[], None], settings: TcpSection) -> None:
        self.inflight = inflight
        self.dispatch = dispatch
        self.settings = settings
        self.connections: dict[int, Connection] = {}
        self.idle: OrderedDict[int, Connection] = OrderedDict()  # the longest idle comes first
        self.buffering: OrderedDict[int, Connection] = OrderedDict()  # those in which octets wait, the longest first
        self.by_client: Counter[bytes] = Counter()
        self.by_prefix: Holders[Connection] = Holders()
        self.memory = Shares()  # octets that wait in connections
        self.accepted = self.evicted_idle = self.idle_timeouts = self.proxy_protocol_invalid = self.protocol_errors = 0
        self.refused_per_client = self.refused_per_prefix = self.evicted_waiting = self.evicted_memory = 0
        self._next = 0
        self._queue: OrderedDict[int, Connection] = OrderedDict()
        self._turn_scheduled = False
        self._written: set[Connection] = set()

    def protocol(self, listener: int = 0) -> "Connection":
        """Return the protocol of one more connection, to the listener of this number."""
        self._next += 1
        return Connection(self, self._next, listener)

    @property
    def refused(self) -> int:
        """Return how many connections were over a bound."""
        return self.refused_per_client + self.refused_per_prefix

    def is_at_client_limit(self, client: bytes) -> bool:
        """Tell whether a client holds as many connections as one may."""
        return self.by_client[client] >= self.settings.max_connections_per_client

    def make_room(self, prefix: bytes) -> bool:
        """Make room for one more connection of a prefix; False: it may have no more.

        Where it has as many as are free, the longest idle one of its own is closed (RFC 7766 6.2.3 lets a server do
        that). Where all are taken, and it has fewer than another, the longest idle of all is; where all wait for
        answers, the oldest of the prefix that has the most.
        """
        mine = self.by_prefix.of(prefix)
        free = self.settings.max_connections - len(self.connections)
        if may_take_one_more(len(mine), free):
            return True
        idle: Iterable[Connection] = islice(mine.values(), CANDIDATES)
        if free <= 0 and len(mine) < max(self.by_prefix.most, 1):
            idle = self.idle.values()
        victim = next((each for each in idle if each.is_idle()), None)
        if victim is not None:
            self.evicted_idle += 1
        elif free <= 0 and len(mine) < self.by_prefix.most:
            self.evicted_waiting += 1
            victim = self.by_prefix.oldest_of_most()
        else:
            return False
        victim.evict()
        return True

    def touch(self, connection: "Connection") -> None:
        """Note that a connection is active now."""
        number = connection.number
        if number not in self.connections:
            return
        if connection.address:
            self.by_prefix.move(connection.prefix, number)
        self.idle.pop(number, None)
        if connection.is_idle():
            self.idle[number] = connection

    def add(self, connection: "Connection") -> None:
        """Take a connection, of a client or of a front proxy."""
        self.connections[connection.number] = connection
        self.touch(connection)

    def admit(self, connection: "Connection") -> None:
        """Count a connection for its client."""
        self.accepted += 1
        self.by_client[client_of(connection.address)] += 1
        self.by_prefix.add(connection.prefix, connection.number, connection)

    def forget(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self.idle.pop(connection.number, None)
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
            self.buffering.pop(number, None)
        elif number not in self.buffering:
            self.buffering[number] = connection

    def is_memory_tight(self, prefix: bytes) -> bool:
        """Tell whether connections of a prefix must take turns: what is closed is only free in the loop's next one."""
        free = self.settings.memory - self.memory.taken
        return self.memory.of(prefix) * 2 > free or self.memory.taken > free

    def has_memory(self, connection: "Connection") -> bool:
        """Make room for more octets in a connection; False: it may hold no more.

        Where its prefix holds as much as is free, and more than its share, the largest of the prefix is closed, maybe
        this one. Where it holds less, others hold more than theirs: the one that has not read for the longest is.
        """
        prefix = connection.prefix
        while not self.memory.may_take(prefix, self.settings.memory):
            if self._exceeds_its_share(prefix):
                own = islice(self.by_prefix.of(prefix).values(), CANDIDATES)
                victim = max(own, key=lambda each: each.octets, default=connection)
            else:
                victim = self._longest_buffering() or connection
            if victim is connection or not victim.octets:
                return False
            if (octets := victim.waiting()) < victim.octets:  # it has read since it was counted
                self.count(victim, octets)
            else:
                victim.evict_for_memory()
        return True

    def _exceeds_its_share(self, prefix: bytes) -> bool:
        return self.memory.of(prefix) * (len(self.memory) + 1) > self.settings.memory

    def _longest_buffering(self) -> "Connection | None":
        for _ in range(len(self.buffering)):
            number, connection = next(iter(self.buffering.items()))
            if self._exceeds_its_share(connection.prefix):
                return connection
            self.buffering.move_to_end(number)  # so that it is not looked at again soon
        return None

    def count_later(self, connection: "Connection") -> None:
        """Count again what waits in a connection, once the loop has had its turn to send it."""
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
        self._schedule_turn()

    def _schedule_turn(self) -> None:
        if self._queue and not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._turn_scheduled = False
        for _ in range(TURNS):
            if not self._queue:  # a turn may end connections that wait for theirs
                break
            self._queue.popitem(last=False)[1].take_turn()
        self._schedule_turn()

    async def close_idle(self) -> None:
        """Close connections without traffic, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP)
            before = clock() - self.settings.idle_timeout
            for connection in list(self.buffering.values()):
                connection.count()
            idle = [each for each in self.connections.values() if each.is_idle_since(before)]
            for number, connection in enumerate(idle):
                self.idle_timeouts += 1
                connection.abort()
                if number % TURNS == 0:  # a thousand at once would hold up everybody
                    await asyncio.sleep(0)

    def close(self) -> None:
        """Close all connections, once what was written has gone out."""
        for connection in list(self.connections.values()):
            connection.close()


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: TcpServer, number: int, listener: int) -> None:
        self.number = number
        self.address = b""  # the client's, once it is known whose connection this is
        self.prefix = b""
        self.octets = 0  # that wait in it, as they were counted last
        self.tasks: set[asyncio.Task[Any]] = set()  # that are done for nobody else
        self.writable = asyncio.Event()
        self.writable.set()
        self._server = server
        self._listener = listener
        self._peer = b""
        self._ends = b""  # the client's port, the port that was asked, and the address of that
        self._buffer = bytearray()
        self._in_flight = 0
        self._eof = False
        self._queued = False
        self._batch: list[bytes] | None = None
        self._largest = 0  # octets that were written at once, of those that do not go out
        self._now = asyncio.get_running_loop().time
        self._last_active = self._now()
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
                self._refuse_for_prefix(b"")
                return
            server.add(self)
        elif not self._admit(self._peer):
            return
        transport.set_write_buffer_limits(high=server.settings.write_buffer)

    def _admit(self, address: bytes) -> bool:
        """Count the connection as this client's, or end it where the client, or its prefix, has too many."""
        server, prefix = self._server, prefix_of(address)
        if server.is_at_client_limit(client_of(address)):
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
            self._refuse_for_prefix(address)
            return False
        server.count(self, 0)
        self.address, self.prefix = address, prefix
        server.admit(self)
        server.add(self)
        return True

    def _refuse_for_prefix(self, address: bytes) -> None:
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
        for task in self.tasks:
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
            self.evict_for_memory()

    def data_received(self, data: bytes) -> None:
        """Take the whole queries that have come."""
        self._buffer += data
        if not self._queued and (self.address or self._read_proxy_header()):
            if self._server.is_memory_tight(self.prefix):
                self._queue()
                self._update_reading()
            else:
                self._take_queries()
        if self._buffer or self.octets:
            self.count()

    def evict_for_memory(self) -> None:
        """End the connection for what waits in it."""
        self._server.evicted_memory += 1
        limited.warning(
            "memory", "TCP connection from %s closed: %d octets are buffered, and its prefix holds %d of tcp.memory",
            ip_address(self.address or self._peer), self.octets, self._server.memory.of(self.prefix),
        )  # fmt: skip
        self.evict()

    def evict(self) -> None:
        """End the connection now, and have no part in any bound from here on."""
        self._buffer.clear()
        self._transport.abort()
        self._server.count(self, 0)
        self._server.forget(self)

    def _read_proxy_header(self) -> bool:
        """Take a front proxy's header; False: it is not whole yet, or the connection ends for it."""
        try:
            length, address = parse_header(bytes(self._buffer))
        except ValueError:
            self._server.proxy_protocol_invalid += 1
            self.abort()
            return False
        if not length or not self._admit(address or self._peer):
            return False
        self._ends = parse_endpoints(bytes(self._buffer[:length])) or self._ends
        del self._buffer[:length]
        self._touch()
        return True

    def _take_queries(self) -> None:
        """Submit so many of the whole queries, while neither too many are in flight nor too much is unread."""
        taken = 0
        left = QUERIES_PER_TURN
        buffer = self._buffer
        while left and self._takes_queries() and len(buffer) - taken >= 2:
            end = taken + 2 + (buffer[taken] << 8 | buffer[taken + 1])
            if len(buffer) < end:
                break
            query = bytes(buffer[taken + 2 : end])
            self._in_flight += self._server.inflight.submit(
                self.number, self.address, query, self._listener, self._ends
            )
            taken = end
            left -= 1
            if len(query) < HEADER or query[2] & QR:  # whoever sends that is broken, or hostile (RFC 7766 8)
                self._server.protocol_errors += 1
                self.evict()
                return
        if taken:
            del buffer[:taken]
            self._dispatch()
            self._touch()
        if self._takes_queries() and self._has_query():
            self._queue()
        self._update_reading()

    def _dispatch(self) -> None:
        """Have decided what was submitted, and write in one go what is known at once."""
        batch = self._batch = []
        self._server.dispatch()
        self._batch = None
        if batch:
            self._write(batch)

    def _write(self, framed: list[bytes]) -> None:
        """Write what is framed; a small write to a client that reads is not counted."""
        if self._transport.is_closing():
            return
        octets = sum(map(len, framed))
        if octets > SMALL or self._transport.get_write_buffer_size():
            if not self._server.has_memory(self):
                self.evict_for_memory()
                return
            self._largest = max(self._largest, octets)
            self._server.count(self, self.octets + octets)
            self._server.count_later(self)
        if octets > SMALL:
            self._transport.writelines(framed)
        else:
            self._transport.write(b"".join(framed))

    def _queue(self) -> None:
        """Go on when it is this one's turn."""
        if not self._queued:
            self._queued = True
            self._server.queue(self)

    def take_turn(self) -> None:
        """Take the next queries."""
        self._queued = False
        self._take_queries()

    def _has_query(self) -> bool:
        """Tell whether a whole query has come and was not taken yet."""
        return len(self._buffer) >= 2 and len(self._buffer) >= 2 + (self._buffer[0] << 8 | self._buffer[1])

    def _takes_queries(self) -> bool:
        return self._in_flight < self._server.settings.max_in_flight and self.writable.is_set()

    def _update_reading(self) -> None:
        """Read on only while the client may ask; what it sends else stays in the kernel, then with it."""
        if self._transport.is_closing():
            return
        if self._takes_queries() and not self._queued:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
        if self._eof and not self._in_flight and not self._has_query():
            self._transport.close()

    def answer(self, framed: bytes) -> None:
        """Write an answer, behind its two octets of length."""
        was_full = not self._takes_queries()
        self._in_flight = max(self._in_flight - 1, 0)
        if self._batch is not None:
            self._batch.append(framed)
            return
        self._touch()
        self._write([framed])
        if was_full or self._eof:
            self._queue()

    def expect(self, more: int) -> None:
        """Wait for more answers than there were queries, or for fewer."""
        self._in_flight += more
        self._touch()
        if more < 0:
            self._queue()

    async def drained(self) -> bool:
        """Wait until the client takes more; False: it is gone."""
        await self.writable.wait()
        return self.number in self._server.connections

    def pause_writing(self) -> None:
        """Take no more queries from a client that does not read."""
        self.writable.clear()
        self._server.touch(self)
        self._update_reading()

    def resume_writing(self) -> None:
        """Go on where it reads again."""
        self.writable.set()
        self._touch()
        self._server.buffering.pop(self.number, None)
        self.count()
        self._queue()

    def eof_received(self) -> bool:
        """Keep the connection until what was asked is answered (RFC 7766 6.2.3)."""
        self._eof = True
        if self.tasks:
            asyncio.get_running_loop().call_later(HALF_CLOSED, self._cancel_tasks, self._last_active)
        return self.address != b"" and (self._in_flight > 0 or self._has_query())

    def _cancel_tasks(self, last: float) -> None:
        """Cancel what is done for a client, unless it was active since, or has to read: that shows if it is there."""
        if self.tasks and self._last_active == last and not self._transport.get_write_buffer_size():
            self.abort()

    def _touch(self) -> None:
        """Note that it is active now."""
        self._last_active = self._now()
        self._server.touch(self)

    def is_idle_since(self, before: float) -> bool:
        """Tell whether it was not active since `before`, and the client waits for nothing."""
        return self._last_active < before and self.is_idle()

    def is_idle(self) -> bool:
        """Tell whether the client waits for nothing, or does not read what it waited for."""
        return not self._in_flight or not self.writable.is_set()

    def abort(self) -> None:
        """End the connection now."""
        self._transport.abort()

    def close(self) -> None:
        """End the connection once what was written has gone out."""
        self._transport.close()
