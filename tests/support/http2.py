"""Know how to ask by HTTP/2 (RFC 8484, 9113): clients that do well by hyper's `h2`, and frames octet by octet."""

import base64
import contextlib
import ssl
import struct
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from support import client

PATH = "/dns-query"
MESSAGE = "application/dns-message"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
NO_ERROR, PROTOCOL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 8, 11
GONE = h2.exceptions.StreamClosedError, h2.exceptions.ProtocolError


def frame(kind, flags, stream, payload=b""):
    """Return a frame (RFC 9113 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def in_target(wire, path=PATH):
    """Return the target of a GET for a query."""
    return f"{path}?dns={base64.urlsafe_b64encode(wire).rstrip(b'=').decode()}"


@dataclass
class Response:
    """What came of a stream so far."""

    headers: dict = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self):
        return int(self.headers[":status"]) if self.headers else None


class Client:
    """A connection, and what came of its streams; the windows are opened again for what comes, if it is `greedy`."""

    def __init__(self, sock, *, greedy=True, settings=None):
        self.sock, self.greedy = sock, greedy
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8",
            validate_outbound_headers=False, normalize_outbound_headers=False,
        )  # fmt: skip
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.responses = {}
        self.goaway = None  # its error code
        self.last_stream = None  # that it says was looked at
        self.pings = 0  # that were answered
        self.ended = False
        self.flush()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def begin(self, headers=(), *, method="GET", target=PATH, body=None, end=True, flush=True, **more):
        """Send a request; return the number of its stream."""
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "dns.test"), (":path", target), *headers]
        self.responses[stream] = Response()
        self.h2.send_headers(stream, fields, end_stream=end and body is None, **more)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
        if flush:
            self.flush()
        return stream

    def get(self, wire, **how):
        return self.begin(target=in_target(wire, how.pop("path", PATH)), **how)

    def post(self, wire, content_type=MESSAGE, headers=(), path=PATH, **how):
        return self.begin([("content-type", content_type), *headers], method="POST", target=path, body=wire, **how)

    def octets(self, *frames):
        """Send octets as they are."""
        self.flush()
        with contextlib.suppress(OSError):
            self.sock.sendall(b"".join(frames))

    def pump(self):
        """Read once; False: the shield has ended the connection."""
        try:
            octets = self.sock.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError:
            octets = b""
        if not octets:
            self.ended = True
            return False
        self.take(octets)
        return True

    def take(self, octets):
        """Take what has come."""
        for event in self.h2.receive_data(octets):
            self._take(event)
        with contextlib.suppress(OSError):
            self.flush()

    def _take(self, event):
        response = self.responses.setdefault(getattr(event, "stream_id", 0), Response())
        match event:
            case h2.events.ResponseReceived():
                response.headers = dict(event.headers)
            case h2.events.DataReceived():
                response.body += event.data
                if self.greedy and event.flow_controlled_length:
                    with contextlib.suppress(*GONE):
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                response.ended = True
            case h2.events.StreamReset():
                response.reset = int(event.error_code)
            case h2.events.PingAckReceived():
                self.pings += 1
            case h2.events.ConnectionTerminated():
                self.goaway, self.last_stream = int(event.error_code), event.last_stream_id
                if self.goaway == NO_ERROR:  # what was asked before may still be answered (RFC 9113 6.8)
                    self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def response(self, stream):
        """Return what comes of a stream, once it has ended or was reset; EOFError where the connection ends before."""
        while not self.responses[stream].ended and self.responses[stream].reset is None:
            if not self.pump():
                raise EOFError(f"the connection ended, with {self.goaway}")
        return self.responses[stream]

    def ask(self, wire, **how):
        """Return the response to a query that is asked by POST."""
        return self.response(self.post(wire, **how))

    def until_end(self):
        """Read until the shield ends the connection; return the error code of its GOAWAY."""
        while self.pump():
            pass
        return self.goaway

    def is_served(self):
        """Tell whether the connection goes on: a ping comes back."""
        before = self.pings
        self.h2.ping(b"12345678")
        self.flush()
        while self.pings == before:
            if not self.pump():
                return False
        return True


@contextlib.contextmanager
def connected(address, *, context=None, name="dns.test", timeout=10.0, source="127.0.0.1", receive_buffer=None, **how):
    """Connect to a listener, with TLS if there is a `context`; yield the Client."""
    with (
        client.connected(address, source, receive_buffer, timeout) as sock,
        context.wrap_socket(sock, server_hostname=name) if context else contextlib.nullcontext(sock) as opened,
    ):
        yield Client(opened, **how)


def trusting(file, *, protocols=("h2",)):
    """Return the context of a client that believes an authority, and speaks these protocols."""
    context = ssl.create_default_context(cafile=str(file))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
