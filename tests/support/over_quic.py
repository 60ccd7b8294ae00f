"""Know how to ask over QUIC (RFC 9250), or by HTTP/3 (RFC 8484): a client of aioquic's, used like a socket.

It goes on while something is asked of it, and else says nothing, as those of a client that sleeps do.
"""

import select
import socket
import struct
import time

import dns.exception
import dns.name
import dns.wire
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

from support.certificates import HOST
from support.client import address_of, frame

ALPN = {"quic": "doq", "h3": "h3"}
AT_ONCE = 32  # queries that wait for their responses
LARGEST = 65536
OPT, PADDING, BLOCK = 41, 12, 468  # octets of a block (RFC 8467 4.1)


class Response:
    """What came on a stream."""

    def __init__(self):
        self.octets, self.status, self.is_over = b"", None, False


class OverQuic:
    """A connection over `transport`, "quic" or "h3", to a server that shows what `trusted`, a file, says."""

    def __init__(self, server, transport, *, trusted, source="127.0.0.1", name=HOST, timeout=10.0, **settings):
        self.server, self.transport, self._name = address_of(server), transport, name
        self.tickets = []  # by which its session can be resumed
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.connect(self.server)
        self.socket.setblocking(False)
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True, alpn_protocols=[ALPN[transport]], server_name=name, cafile=str(trusted), **settings
            ),
            session_ticket_handler=self.tickets.append,
        )  # fmt: skip
        self._h3, self._responses = None, {}
        self.is_established, self.error = False, None
        self.quic.connect(self.server, now=time.monotonic())
        self.pump(timeout, until=lambda: self.is_established or self.error is not None)
        if not self.is_established:
            self.close()
            raise ConnectionError(f"no handshake: {self.error}")
        self.flush()

    def ask(self, wire):
        """Ask a query, and return its stream."""
        stream = self.quic.get_next_available_stream_id()
        self._responses[stream] = Response()
        if self._h3:
            pseudo = {":method": "POST", ":scheme": "https", ":authority": self._name, ":path": "/dns-query"}
            fields = {**pseudo, "content-type": "application/dns-message"}
            self._h3.send_headers(stream, [(name.encode(), value.encode()) for name, value in fields.items()])
            self._h3.send_data(stream, wire, end_stream=True)
        else:
            self.quic.send_stream_data(stream, frame(wire), end_stream=True)
        self.flush()
        return stream

    def reply(self, stream, seconds):
        """Return the response on a stream, None where there is none within so many seconds, or never."""
        response = self._responses[stream]
        self.pump(seconds, until=lambda: response.is_over or self.error is not None)
        if self._h3:
            return response.octets if response.is_over and response.status == 200 else None
        if not response.is_over or not response.octets:
            return None
        assert len(response.octets) == 2 + int.from_bytes(response.octets[:2]), response.octets.hex()
        return response.octets[2:]

    def pump(self, seconds, until=lambda: False):
        """Take and send what there is, for so many seconds at most."""
        end = time.monotonic() + seconds
        while not until():
            self.flush()
            now, due = time.monotonic(), self.quic.get_timer()
            if due is not None and due <= now:
                self.quic.handle_timer(now)
            elif select.select([self.socket], [], [], max(min(due or end, end) - now, 0.0))[0]:
                self.quic.receive_datagram(self.socket.recv(LARGEST), self.server, time.monotonic())
            elif now >= end:
                return
            self._follow()

    def close(self):
        """Leave without a word."""
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.quic.close()
        self.flush()
        self.close()

    def flush(self):
        """Send what there is to be sent."""
        for datagram, _ in self.quic.datagrams_to_send(now=time.monotonic()):
            self.socket.send(datagram)

    def _follow(self):
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.is_established = True
                self._h3 = H3Connection(self.quic) if self.transport == "h3" else None
            elif isinstance(event, ConnectionTerminated):
                self.error = event.error_code
            elif isinstance(event, StreamReset):
                self._responses[event.stream_id].is_over = True
            elif self._h3:
                for each in self._h3.handle_event(event):
                    self._take(each)
            elif isinstance(event, StreamDataReceived):
                self._responses[event.stream_id].octets += event.data
                self._responses[event.stream_id].is_over |= event.end_stream

    def _take(self, event):
        response = self._responses[event.stream_id]
        response.octets += getattr(event, "data", b"")
        response.status = int(dict(getattr(event, "headers", ())).get(b":status", response.status or 0))
        response.is_over |= event.stream_ended


def ask_all(server, queries, transport, *, trusted, timeout=10.0):
    """Return the response to each query without its padding, in the order of the queries, on one connection."""
    replies, waiting = [], []
    with OverQuic(server, transport, trusted=trusted) as client:
        for query in queries:
            waiting.append((query, client.ask(b"\0\0" + query[2:])))
            if len(waiting) == AT_ONCE or query is queries[-1]:
                came = [(asked, client.reply(stream, timeout)) for asked, stream in waiting]
                assert all(reply is not None for _, reply in came), f"no response: {client.error}"
                replies += [asked[:2] + unpadded(reply)[2:] for asked, reply in came]
                waiting.clear()
    return replies


def unpadded(wire):
    """Return a response without its padding, which makes it a whole number of blocks; what cannot be read as it is."""
    try:
        begin, size = _opt_of(wire)
    except dns.exception.DNSException:
        return wire
    at, end = begin, begin + size
    while at < end:
        code, length = struct.unpack_from("!HH", wire, at)
        after = at + 4 + length
        if code == PADDING:
            assert len(wire) % BLOCK == 0, f"{len(wire)} octets"
            return wire[: begin - 2] + (size - 4 - length).to_bytes(2) + wire[begin:at] + wire[after:]
        at = after
    return wire


def _opt_of(wire):
    """Return where the data of the OPT record are, and how many octets; 0, if there is none."""
    parser = dns.wire.Parser(wire)
    _, _, questions, *counts = parser.get_struct("!6H")
    for _ in range(questions):
        dns.name.from_wire_parser(parser)
        parser.get_struct("!2H")
    for _ in range(sum(counts)):
        dns.name.from_wire_parser(parser)
        rdtype, _, _, size = parser.get_struct("!HHIH")
        if rdtype == OPT:
            return parser.current, size
        parser.get_bytes(size)
    return 0, 0
