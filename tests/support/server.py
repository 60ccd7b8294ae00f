"""Know how to serve UDP and TCP on one loopback port from a thread, and remember everything received.

What becomes of a query is for the subclasses: `upstream` answers it from a script, `relay` passes it on.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import dns.exception
import dns.message
import dns.name
import dns.rdatatype

from support.client import LARGEST, Address, bind_pair, frame

Send = Callable[[bytes], None]


@dataclass(frozen=True)
class Received:
    """One message as it came in: octets, "udp" or "tcp", and who sent it."""

    wire: bytes
    transport: str
    source: Address

    @cached_property
    def message(self):
        """The parsed Message (TSIG is not validated), or None for what does not parse."""
        try:
            return dns.message.from_wire(self.wire, keyring=False, ignore_trailing=True)
        except dns.exception.DNSException:
            return None

    @property
    def question(self):
        """The first question as a dns.rrset.RRset, or None."""
        return self.message.question[0] if self.message and self.message.question else None

    @property
    def name(self):
        return None if self.question is None else self.question.name

    @property
    def rdtype(self):
        return None if self.question is None else self.question.rdtype

    def __str__(self):
        return f"{self.transport} {self.source} {self.wire.hex() if self.question is None else self.question}"


class LoopbackServer:
    """Serve one port of `host`, this one or one that is free, while the context is entered.

    The loop and all its sockets belong to the thread; others only read `received` and `address`. An exception
    out of `serve` is kept and raised when the context is left.
    """

    def __init__(self, host="127.0.0.1", port=0):
        self.received: list[Received] = []
        self._host, self._port = host, port
        self._news = threading.Condition()
        self._errors: list[Exception] = []

    def serve(self, query: Received, send: Send):
        """Deal with one message; `send` takes the replies, now or later. Runs in the loop's thread."""
        raise NotImplementedError

    def release(self):
        """Close what the subclass opened. Runs in the loop's thread, as its last act."""

    def count(self, name=None, rdtype=None, transport=None):
        """Return how many messages came with this question name (in any case), type and transport."""
        name = name and dns.name.from_text(name)
        rdtype = rdtype and dns.rdatatype.RdataType.make(rdtype)
        return sum(
            name in (None, query.name) and rdtype in (None, query.rdtype) and transport in (None, query.transport)
            for query in list(self.received)
        )

    def wait_for(self, n, timeout=10.0):
        """Wait until `n` messages have come and return all; raise AssertionError after `timeout` seconds."""
        with self._news:
            enough = self._news.wait_for(lambda: len(self.received) >= n, timeout)
            assert enough, f"{len(self.received)} of {n} came: {[str(query) for query in self.received]}"
            return list(self.received)

    def __enter__(self):
        self._datagrams, self._listener = bind_pair(self._host, self._port)
        self.address = Address(*self._listener.getsockname()[:2])
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, name=f"{type(self).__name__} {self.address}")
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._errors and kind is None:
            raise self._errors[0]

    def _run(self):
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve_until_stopped())

    async def _serve_until_stopped(self):
        datagrams, _ = await self._loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=self._datagrams)
        async with await asyncio.start_server(self._connected, sock=self._listener, limit=LARGEST):
            await self._stop.wait()
            self.release()
            datagrams.abort()
            for writer in self._writers:
                writer.transport.abort()

    async def _connected(self, reader, writer):
        self._writers.add(writer)
        try:
            await self.stream(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def stream(self, reader, writer):
        """Serve one connection: each message that comes, until its client closes."""
        source = Address(*writer.get_extra_info("peername")[:2])
        async for wire in frames(reader):
            self._take(Received(wire, "tcp", source), lambda reply: writer.write(frame(reply)))

    def _take(self, query, send):
        self._record(query)
        with self._errors_kept():
            self.serve(query, send)

    def _record(self, query):
        with self._news:
            self.received.append(query)
            self._news.notify_all()

    @contextlib.contextmanager
    def _errors_kept(self):
        try:
            yield
        except Exception as error:
            self._errors.append(error)


class _Datagrams(asyncio.DatagramProtocol):
    """Hand each datagram to its server."""

    def __init__(self, server):
        self._server = server

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, addr):
        def send(reply):
            if not self._transport.is_closing():  # what was to leave later stays
                self._transport.sendto(reply, addr)

        self._server._take(Received(data, "udp", Address(*addr[:2])), send)


async def frames(reader):
    """Yield each whole message of a TCP stream, until the stream ends or breaks."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            yield await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
