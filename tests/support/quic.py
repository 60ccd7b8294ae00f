"""A client of aioquic's, and its connection at the front, in memory: without a socket, by a clock of ours."""

import ssl
from collections import Counter
from types import SimpleNamespace

from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from qh3.quic.packet import encode_quic_retry

from funkenshield.quic.bounds import Bounds, Limits
from funkenshield.quic.connection import Connection, Services
from funkenshield.quic.handshake import ServerConnection, Shown
from funkenshield.quic.resets import Resets
from funkenshield.quic.tickets import Tickets
from funkenshield.server.quic import QuicContexts

CLIENT, SERVER = ("192.0.2.1", 4000), ("192.0.2.53", 853)
LIMITS = Limits(
    max_connections=100, max_connections_per_client=0, memory=8 << 20, max_in_flight=100, write_buffer=256 << 10,
    idle_timeout=30.0, handshakes_per_client=0.0, handshake_timeout=5.0,
)  # fmt: skip
TRANSIT = 0.001  # seconds
SECRET, LIFETIME = bytes(range(32)), 3600.0


class Server:
    """What connections have in common, and what the worker was asked."""

    def __init__(self, certificates, alpn="doq", limits=LIMITS):
        self.alpn, self.now, self.wall = alpn, 1.0, 1e9
        contexts = QuicContexts(certificates, alpn, ticket_secret=SECRET, ticket_lifetime=LIFETIME)
        self.resets = Resets(SECRET, alpn)
        self.shown = Shown(contexts, Tickets(SECRET, LIFETIME, alpn, lambda: self.wall), self.resets.token)
        self.counters, self.statuses, self.routes, self.sent = Counter(), Counter(), {}, []
        self.bounds = Bounds(limits, self.counters)
        self.asked = []  # (ends, query, reply, stream)
        self.services = Services(
            alpn=alpn, paths={b"/dns-query"}, bounds=self.bounds, counters=self.counters, statuses=self.statuses,
            ask=lambda *what: self.asked.append(what), send=lambda *what: self.sent.append(what),
            route=self._route, flush_later=lambda connection: None, ended=lambda connection: None,
        )  # fmt: skip
        self.number = 0

    def _route(self, cid, connection):
        self.routes.pop(cid, None)
        if connection is not None:
            self.routes[cid] = connection

    def answer(self, message=b"\0\0\x84\0" + bytes(8), lifetime=60):
        """Have the worker answer all that it was asked; return the queries."""
        asked, self.asked[:] = list(self.asked), []
        for _, _, reply, stream in asked:
            reply(stream, message, lifetime)
        return [query for _, query, _, _ in asked]


class Client:
    """A client, from its handshake on."""

    def __init__(self, server, name="dns.test", address=CLIENT, **settings):
        self.server, self.address, self.tickets = server, address, []
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True, alpn_protocols=[settings.pop("alpn", server.alpn)], server_name=name,
                verify_mode=ssl.CERT_NONE, **settings,
            ),
            session_ticket_handler=self.tickets.append,
        )  # fmt: skip
        self.received, self.events = {}, []
        self.ended, self.resets, self.stopped = set(), {}, {}
        self.h3 = None
        self._begin()

    def _begin(self):
        self.quic.connect(SERVER, now=self.server.now)
        first = self.quic.datagrams_to_send(now=self.server.now)[0][0]
        original = first[6 : 6 + first[5]]
        at = 6 + first[5]
        source = first[at + 1 : at + 1 + first[at]]
        ours = bytes(range(8))
        self.quic.receive_datagram(encode_quic_retry(1, ours, source, original, b"token"), SERVER, self.server.now)
        self.server.number += 1
        self.connection = Connection(
            self.server.services, ServerConnection(self.server.shown, original, ours), self.server.number,
            self.address, SERVER, b"", self.server.now,
        )  # fmt: skip
        self.is_admitted = self.server.bounds.admit(self.connection, self.server.now)
        self.connection.add_route(ours)
        self.exchange()

    @property
    def terminated(self):
        """The error with which either side has closed the connection; None: neither has."""
        return self.quic._close_event and self.quic._close_event.error_code

    def exchange(self, seconds=0.0, turns=20):
        """Let both say what they have, some time later."""
        server = self.server
        server.now += seconds
        for _ in range(turns):
            server.now += TRANSIT
            timer = self.connection.flush(server.now)
            if timer is not None and timer <= server.now:
                self.connection.handle_timer(server.now)
                self.connection.flush(server.now)
            due = self.quic.get_timer()
            if due is not None and due <= server.now:
                self.quic.handle_timer(server.now)
            sent, server.sent[:] = list(server.sent), []
            for datagram, _, _ in sent:
                self.quic.receive_datagram(datagram, SERVER, server.now)
            self._follow()
            came = self.quic.datagrams_to_send(server.now)
            for datagram, _ in came:
                self.connection.receive(self.distorted(datagram), self.address, server.now)
            if not came and not sent:
                break

    def distorted(self, datagram):
        """Return what becomes of a datagram on its way."""
        return datagram

    def _follow(self):
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, HandshakeCompleted) and event.alpn_protocol == "h3":
                self.h3 = H3Connection(self.quic)
            if isinstance(event, StreamReset):
                self.resets[event.stream_id] = event.error_code
            elif isinstance(event, StopSendingReceived):
                self.stopped[event.stream_id] = event.error_code
            elif isinstance(event, StreamDataReceived) and self.h3 is None:
                self.received[event.stream_id] = self.received.get(event.stream_id, b"") + event.data
                self.ended |= {event.stream_id} if event.end_stream else set()
            if self.h3 is not None:
                for each in self.h3.handle_event(event):
                    self._take(each)

    def _take(self, event):
        response = self.received.setdefault(event.stream_id, SimpleNamespace(fields={}, content=b"", ended=False))
        response.fields.update({name.decode(): value.decode() for name, value in getattr(event, "headers", ())})
        response.content += getattr(event, "data", b"")
        response.ended |= event.stream_ended

    def send(self, octets, *, ended=True, stream=None):
        """Send octets on a stream of its own, and return that."""
        stream = self.quic.get_next_available_stream_id() if stream is None else stream
        self.quic.send_stream_data(stream, octets, ended)
        self.exchange()
        return stream

    def request(self, method="GET", path="/dns-query", content=b"", ended=True, **fields):
        """Send a request, and return its stream."""
        stream = self.quic.get_next_available_stream_id()
        pseudo = {":method": method, ":scheme": "https", ":authority": "dns.test", ":path": path}
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        headers = [(name.encode(), value.encode()) for name, value in {**pseudo, **named}.items()]
        self.h3.send_headers(stream, headers, end_stream=ended and not content)
        if content:
            self.h3.send_data(stream, content, end_stream=ended)
        self.exchange()
        return stream
