"""One client's connection: qh3's state machine, what is spoken on it, and what it may take.

It knows no socket: datagrams come in, and go out by a function. What holds for all connections together is in
`bounds`, and where datagrams belong in `front`.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from qh3.quic.connection import QuicConnectionError
from qh3.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from ..core.fair_shares import prefix_of
from ..core.logs import RateLimited
from .bounds import Bounds, client_of
from .doq import Doq
from .handshake import Address, ServerConnection
from .http3 import Http3
from .relay import Reply, ends_of
from .requests import UNAVAILABLE, Application

limited = RateLimited(logging.getLogger(__name__))

NOTHING_MAX = 1 << 20  # octets in a row that lead to no query
HANDSHAKE_MAX = 1 << 15  # octets of a handshake, those that came again included
WHOLE_WITHIN = 10.0  # seconds that a query may take to come
BLOCKED = 0.1  # seconds after which what waits for the client's address to be shown is looked at again
NO_ERROR = {"doq": 0, "h3": 0x100}
INTERNAL_ERROR = 1


class Services(NamedTuple):
    """What a connection takes of its listener."""

    alpn: str
    paths: Collection[bytes]
    bounds: Bounds
    counters: Counter[str]
    statuses: Counter[int]
    ask: Callable[[bytes, bytes, Reply, int], None]
    send: Callable[[bytes, Address, bytes], None]  # a datagram, to where, and from where
    route: Callable[[bytes, "Connection | None"], None]  # packets for a connection ID are whose
    flush_later: Callable[["Connection"], None]  # it has something to send
    ended: Callable[["Connection"], None]


class Connection:
    """A connection, from its first packet on. Whoever has it calls `flush` after everything else."""

    def __init__(
        self, services: Services, quic: ServerConnection, number: int, address: Address, asked: Address, local: bytes,
        now: float,
    ) -> None:  # fmt: skip
        self._services, self._quic, self.number, self._asked, self._local = services, quic, number, asked, local
        packed = ip_address(address[0].partition("%")[0]).packed
        self.client, self.prefix, self.began = client_of(packed), prefix_of(packed), now
        self._application: Application | None = None
        self._seen: Address | None = None  # the client, and how the worker is told of it
        self._ends = b""
        self._in_flight: dict[int, int] = {}  # octets of the query that is asked on each stream
        self._nothing = 0
        self._held = self._unsent = 0  # octets
        self._cids: set[bytes] = set()
        self.is_over = False
        self.has_partial = self.is_established = False

    # ---------------------------------------------------------------- what comes

    @property
    def is_idle(self) -> bool:
        """Whether the client waits for nothing."""
        return not self._in_flight

    @property
    def can_wait(self) -> bool:
        """Whether nothing is to be sent but what tells that something came, and allows more."""
        return self.is_established and self._quic.is_open and self._held == self._queried

    def receive(self, datagram: bytes, address: Address, now: float) -> None:
        """Take a datagram."""
        self._nothing += len(datagram)
        self._work(self._quic.receive_datagram, datagram, address, now, now=now)

    def handle_timer(self, now: float) -> None:
        """Do what is due by now."""
        self._work(self._quic.handle_timer, now, now=now)

    def _work(self, work: Callable[..., None], *arguments: object, now: float) -> None:
        with self._alone():
            work(*arguments)
            while not self.is_over and (event := self._quic.next_event()) is not None:
                self._handle(event, now)
            if not self.is_over:
                self._measure()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let a fault be this connection's: whatever a stranger has found, a panic of Rust's too, others are served."""
        try:
            yield
        except BaseException as error:
            self._services.counters["internal_errors"] += 1
            limited.warning("error", "QUIC: internal error, a connection is dropped: %r", error)
            self.end()

    def _handle(self, event: object, now: float) -> None:
        application = self._application
        if isinstance(event, StreamDataReceived):
            if application is not None and self._quic.is_open:
                application.receive(event.stream_id, event.data, event.end_stream, now)
        elif isinstance(event, StreamReset | StopSendingReceived):
            if application is not None:
                application.abandon(event.stream_id, ended=isinstance(event, StreamReset))
        elif isinstance(event, ProtocolNegotiated):
            self._application = self._spoken()
        elif isinstance(event, HandshakeCompleted):
            self.is_established = True
            self._services.bounds.end_handshake(self)
            self._services.counters["handshakes_resumed" if event.session_resumed else "handshakes_full"] += 1
        elif isinstance(event, ConnectionIdIssued):
            self.add_route(event.connection_id)
        elif isinstance(event, ConnectionIdRetired):
            self._cids.discard(event.connection_id)
            self._services.route(event.connection_id, None)
        elif isinstance(event, ConnectionTerminated):
            self.end()

    def _spoken(self) -> Application:
        services = self._services
        if services.alpn == "h3":
            return Http3(self, self, self._quic, services.paths, services.statuses)
        return Doq(self, self)

    def _measure(self) -> None:
        """Count what is held, and end where that is too much; so does what leads to nothing."""
        application, services = self._application, self._services
        if application is None:
            if self._nothing > HANDSHAKE_MAX:
                services.counters["excessive_load"] += 1
                self.end()
            return
        self.has_partial = application.held > 0
        grown = application.held + self._queried + self._unsent - self._held
        self._held += grown
        has_room = services.bounds.count(self, grown) if grown else True
        if self._quic.is_open and (not has_room or self._nothing > NOTHING_MAX):
            services.counters["excessive_load"] += 1
            self.close(application.excessive_load, "too much")

    def expire(self, now: float) -> None:
        """Give up on queries that take too long to come; called about once a second."""
        if self._application is not None:
            with self._alone():
                self._application.expire(now - WHOLE_WITHIN)

    # ---------------------------------------------------------------- queries

    def ask(self, stream: int, query: bytes) -> None:
        """Ask a query, unless too many wait, or responses that the client does not let come do."""
        assert self._application is not None
        services, limits = self._services, self._services.bounds.limits
        self._nothing = 0
        if len(self._in_flight) >= limits.max_in_flight or self._held - self._queried > limits.write_buffer:
            self._application.refuse(stream, UNAVAILABLE)
            return
        peer = self._quic.peer
        if peer != self._seen:
            self._seen, self._ends = peer, ends_of(peer, self._asked)
        self._in_flight[stream] = len(query)
        services.bounds.touch(self)
        services.ask(self._ends, query, self._answered, stream)

    def _answered(self, stream: int, message: bytes, told: int) -> None:
        del self._in_flight[stream]
        if self._application is None or self.is_over:
            return
        with self._alone():
            if message:
                self._application.respond(stream, message, told)
            else:
                self._application.refuse(stream, told)
        if not self.is_over:
            self._services.bounds.touch(self)
            self._services.flush_later(self)

    @property
    def _queried(self) -> int:
        """Octets of queries that were asked, and wait in the worker, or on the way there."""
        return sum(self._in_flight.values())

    # ---------------------------------------------------------------- streams

    def send(self, stream: int, octets: bytes, *, ended: bool) -> None:
        """Send octets on a stream, as the client lets them come."""
        with contextlib.suppress(QuicConnectionError):  # it is gone by now
            self._quic.send_stream_data(stream, octets, ended)

    def reset(self, stream: int, code: int) -> None:
        """Send nothing more on a stream."""
        with contextlib.suppress(QuicConnectionError):
            self._quic.reset_stream(stream, code)

    def stop(self, stream: int, code: int) -> None:
        """Take nothing more of a stream."""
        with contextlib.suppress(QuicConnectionError):
            self._quic.stop_stream(stream, code)

    def close(self, code: int, reason: str) -> None:
        """End the connection, with its error."""
        self._quic.close(code, reason_phrase=reason)

    # ---------------------------------------------------------------- what goes, and the end

    def flush(self, now: float) -> float | None:
        """Send what there is to be sent; return when something is due, None: never."""
        if self.is_over:
            return None
        self._work(self._transmit, now, now=now)
        if self.is_over:
            return None
        if not self._quic.is_open:  # nothing that the client says after that matters
            self.end()
            return None
        with self._alone():
            due = self._quic.get_timer()
            return max(due, now + BLOCKED) if due is not None and self._quic.is_blocked else due
        return None

    def _transmit(self, now: float) -> None:
        for datagram, address in self._quic.transmits(now):
            self._services.send(datagram, address, self._local)
        self._unsent = self._quic.get_send_buffer_size()

    def give_way(self, now: float) -> None:
        """End, so that others find room."""
        with self._alone():
            self.close(NO_ERROR[self._services.alpn], "")
        self.flush(now)
        self.end()

    def add_route(self, cid: bytes) -> None:
        """Have packets for a connection ID."""
        self._cids.add(cid)
        self._services.route(cid, self)

    def end(self) -> None:
        """Forget the connection; what comes of it from now on is nobody's."""
        if self.is_over:
            return
        self.is_over = True
        services = self._services
        for cid in self._cids:
            services.route(cid, None)
        services.bounds.count(self, -self._held)
        if services.bounds.is_shaking(self):
            services.counters["handshakes_failed"] += 1
        services.bounds.remove(self)
        services.ended(self)
