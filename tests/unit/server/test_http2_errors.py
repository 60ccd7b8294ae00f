"""Show what comes of each mistake that RFC 9113 and RFC 7541 name: the error that they ask for, and what goes on."""

import contextlib
import struct

import pytest
from support import http2
from support.http2 import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, MESSAGE, PING, PREFACE, SETTINGS, frame
from support.quick import query
from support.tcp_worker import Running, connect
from support.until import until

_http2 = pytest.importorskip("funkenshield.server._http2")
WIRE = query("a.test")
PADDED, HAS_PRIORITY = 8, 32
ITSELF = bytes([0, 0, 0, 1, 0])  # stream 1 depends on stream 1
WHOLE = END_HEADERS | END_STREAM
OURS = b"is heard"
A_PING = frame(PING, 0, 0, OURS)
ERRORS = [
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
]  # fmt: skip


def literal(name, value):
    """Return a field as it is, which no table takes up (RFC 7541 6.2.2)."""
    return b"".join([b"\0", *(bytes([len(text)]) + text for text in (name.encode(), value.encode()))])


PSEUDO = [(":method", "POST"), (":scheme", "https"), (":path", "/dns-query"), (":authority", "a")]
TYPE = ("content-type", MESSAGE)


def block(*fields):
    return b"".join(literal(*field) for field in fields)


ASKS = block(*PSEUDO, TYPE)


def headers(stream, fields=ASKS, flags=END_HEADERS):
    return frame(HEADERS, flags, stream, fields)


def asks(stream, wire=WIRE):
    return headers(stream) + frame(DATA, END_STREAM, stream, wire)


def setting(number, value):
    return frame(SETTINGS, 0, 0, struct.pack("!HI", number, value))


def grows(stream, octets):
    return frame(http2.WINDOW_UPDATE, 0, stream, octets.to_bytes(4))


def without(name, *more):
    return block(*(field for field in (*PSEUDO, TYPE) if field[0] != name), *more)


RESET = headers(1) + frame(http2.RST_STREAM, 0, 1, bytes(4))

# What is said after preface and settings, and what comes of it: "answered", "ignored", or an error of the
# connection, or of stream 1.
MISTAKES = {
    # Frames (4)
    "4.1 a kind that nobody knows": (frame(0xFE, 255, 0, b"x") + asks(1), "answered"),
    "4.1 flags that mean nothing": (frame(PING, 0x16, 0, bytes(8)) + asks(1), "answered"),
    "4.1 the reserved bit of a stream": (frame(PING, 0, 1 << 31, bytes(8)) + asks(1), "answered"),
    "4.2 content longer than a frame may be": (
        headers(1) + frame(DATA, 0, 1, bytes(16385)), "connection FRAME_SIZE_ERROR"),
    "4.2 fields longer than a frame may be": (headers(1, bytes(16385)), "connection FRAME_SIZE_ERROR"),
    "4.3 another frame among fields": (
        headers(1, flags=0) + frame(http2.PRIORITY, 0, 1, bytes(5)), "connection PROTOCOL_ERROR"),
    "4.3 fields of two streams at once": (headers(1, flags=0) + headers(3), "connection PROTOCOL_ERROR"),
    "4.3 another stream's fields go on": (
        headers(1, flags=0) + frame(http2.CONTINUATION, END_HEADERS, 3, ASKS), "connection PROTOCOL_ERROR"),
    "5.5 an unknown frame among fields": (headers(1, flags=0) + frame(0xFE, 0, 0, b""), "connection PROTOCOL_ERROR"),
    # Streams (5.1)
    "5.1 content of an idle stream": (frame(DATA, END_STREAM, 1, WIRE), "connection PROTOCOL_ERROR"),
    "5.1 a reset of an idle stream": (frame(http2.RST_STREAM, 0, 1, bytes(4)), "connection PROTOCOL_ERROR"),
    "5.1 a window of an idle stream": (grows(1, 1), "connection PROTOCOL_ERROR"),
    "5.1 more fields of an idle stream": (frame(http2.CONTINUATION, END_HEADERS, 1, ASKS), "connection PROTOCOL_ERROR"),
    "5.1 content after the end": (asks(1) + frame(DATA, END_STREAM, 1, b"x"), "connection STREAM_CLOSED"),
    "5.1 fields after the end": (asks(1) + headers(1), "connection STREAM_CLOSED"),
    "5.1 more fields after the end": (
        asks(1) + frame(http2.CONTINUATION, END_HEADERS, 1, ASKS), "connection PROTOCOL_ERROR"),
    "5.1 content after a reset": (RESET + frame(DATA, END_STREAM, 1, b"x") + asks(3), "answered"),
    "5.1 fields after a reset": (RESET + headers(1) + asks(3), "answered"),
    "5.1 fields after a reset, which tables take up": (
        RESET + headers(1, ASKS + b"\x40\4x-yz\3one") + headers(3, ASKS + b"\xbe") + frame(DATA, END_STREAM, 3, WIRE),
        "answered"),
    "5.1 a window after the end": (asks(1) + grows(1, 1), "answered"),
    "5.1 a reset after a reset": (RESET + frame(http2.RST_STREAM, 0, 1, bytes(4)) + asks(3), "answered"),
    "5.1.1 a stream of the server": (asks(2), "connection PROTOCOL_ERROR"),
    "5.1.1 a stream before one that was": (asks(5) + asks(3), "answered"),  # one of them: it is closed by then
    "5.3 a stream that begins as depending on itself": (
        headers(1, ITSELF + ASKS, END_HEADERS | HAS_PRIORITY), "connection PROTOCOL_ERROR"),
    "5.3 a stream that is to depend on itself": (
        headers(1) + frame(http2.PRIORITY, 0, 1, ITSELF) + frame(DATA, END_STREAM, 1, WIRE), "answered"),
    # Each frame by itself (6)
    "6.1 content of no stream": (frame(DATA, END_STREAM, 0, WIRE), "connection PROTOCOL_ERROR"),
    "6.1 content with more padding than frame": (
        headers(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x10x"), "connection PROTOCOL_ERROR"),
    "6.1 content with padding": (headers(1) + frame(DATA, PADDED | END_STREAM, 1, b"\3" + WIRE + bytes(3)), "answered"),
    "6.2 fields of no stream": (headers(0), "connection PROTOCOL_ERROR"),
    "6.2 fields with more padding than frame": (
        headers(1, b"\xff" + ASKS, END_HEADERS | PADDED), "connection PROTOCOL_ERROR"),
    "6.2 fields with padding": (
        headers(1, b"\2" + ASKS + bytes(2), END_HEADERS | PADDED) + frame(DATA, END_STREAM, 1, WIRE), "answered"),
    "6.2 a priority without room for it": (
        headers(1, b"\0\0\0", END_HEADERS | HAS_PRIORITY), "connection FRAME_SIZE_ERROR"),
    "6.3 a priority of no stream": (frame(http2.PRIORITY, 0, 0, bytes(5)), "connection PROTOCOL_ERROR"),
    "6.3 a priority of another length": (
        headers(1) + frame(http2.PRIORITY, 0, 1, bytes(4)), "connection FRAME_SIZE_ERROR"),
    "6.4 a reset of no stream": (frame(http2.RST_STREAM, 0, 0, bytes(4)), "connection PROTOCOL_ERROR"),
    "6.4 a reset of another length": (
        headers(1) + frame(http2.RST_STREAM, 0, 1, bytes(3)), "connection FRAME_SIZE_ERROR"),
    "6.5 settings of a stream": (frame(SETTINGS, 0, 1), "connection PROTOCOL_ERROR"),
    "6.5 settings of another length": (frame(SETTINGS, 0, 0, bytes(3)), "connection FRAME_SIZE_ERROR"),
    "6.5 settings that acknowledge and set": (frame(SETTINGS, ACK, 0, bytes(6)), "connection FRAME_SIZE_ERROR"),
    "6.5.2 push that is neither on nor off": (setting(2, 2), "connection PROTOCOL_ERROR"),
    "6.5.2 a window above the largest": (setting(4, 1 << 31), "connection FLOW_CONTROL_ERROR"),
    "6.5.2 frames below the shortest": (setting(5, 16383), "connection PROTOCOL_ERROR"),
    "6.5.2 frames above the longest": (setting(5, 1 << 24), "connection PROTOCOL_ERROR"),
    "6.5.2 a setting that nobody knows": (setting(255, 7) + asks(1), "answered"),
    "6.6 a promise": (frame(http2.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + ASKS), "connection PROTOCOL_ERROR"),
    "6.7 a ping of a stream": (frame(PING, 0, 1, bytes(8)), "connection PROTOCOL_ERROR"),
    "6.7 a ping of another length": (frame(PING, 0, 0, bytes(6)), "connection FRAME_SIZE_ERROR"),
    "6.7 an answer to no ping": (frame(PING, ACK, 0, bytes(8)) + asks(1), "answered"),
    "6.8 the end of a stream as that of all": (frame(GOAWAY, 0, 1, bytes(8)), "connection PROTOCOL_ERROR"),
    "6.8 an end that is too short": (frame(GOAWAY, 0, 0, bytes(4)), "connection FRAME_SIZE_ERROR"),
    "6.9 a window of another length": (frame(http2.WINDOW_UPDATE, 0, 0, bytes(3)), "connection FRAME_SIZE_ERROR"),
    "6.9 a window that does not grow": (grows(0, 0), "connection PROTOCOL_ERROR"),
    "6.9 a stream's window that does not grow": (headers(1) + grows(1, 0), "connection PROTOCOL_ERROR"),
    "6.9.1 a window above the largest": (grows(0, (1 << 31) - 1), "connection FLOW_CONTROL_ERROR"),
    "6.9.1 a stream's window above the largest": (headers(1) + grows(1, (1 << 31) - 1), "stream FLOW_CONTROL_ERROR"),
    "6.9.2 windows that settings make too large": (
        headers(1) + grows(1, (1 << 31) - 1 - 65535) + setting(4, 65536), "stream FLOW_CONTROL_ERROR"),
    "6.10 fields in pieces": (
        headers(1, ASKS[:9], 0) + frame(http2.CONTINUATION, 0, 1, ASKS[9:20])
        + frame(http2.CONTINUATION, END_HEADERS, 1, ASKS[20:]) + frame(DATA, END_STREAM, 1, WIRE), "answered"),
    "6.10 more fields than all": (
        headers(1) + frame(http2.CONTINUATION, END_HEADERS, 1, ASKS), "connection PROTOCOL_ERROR"),
    "6.10 more fields of no stream": (
        headers(1, flags=0) + frame(http2.CONTINUATION, END_HEADERS, 0, ASKS), "connection PROTOCOL_ERROR"),
    "6.10 content among fields": (headers(1, flags=0) + frame(DATA, END_STREAM, 1, WIRE), "connection PROTOCOL_ERROR"),
    # What a request is (8)
    "8.1 trailers that do not end it": (headers(1) + headers(1, block(("x", "y"))), "stream PROTOCOL_ERROR"),
    "8.2.1 a name in upper case": (headers(1, ASKS + literal("X-Y", "z")), "stream PROTOCOL_ERROR"),
    "8.2.1 a name with a space": (headers(1, ASKS + literal("x y", "z")), "stream PROTOCOL_ERROR"),
    "8.2.1 a value with a line's end": (headers(1, ASKS + literal("x", "y\r\nz")), "stream PROTOCOL_ERROR"),
    "8.2.1 a value that begins with a space": (headers(1, ASKS + literal("x", " y")), "stream PROTOCOL_ERROR"),
    "8.2.2 a field for the connection": (headers(1, ASKS + literal("connection", "x")), "stream PROTOCOL_ERROR"),
    "8.2.2 an encoding of HTTP/1.1": (
        headers(1, ASKS + literal("transfer-encoding", "chunked")), "stream PROTOCOL_ERROR"),
    "8.2.2 another TE than trailers": (headers(1, ASKS + literal("te", "gzip")), "stream PROTOCOL_ERROR"),
    "8.2.2 TE for trailers": (
        headers(1, ASKS + literal("te", "trailers")) + frame(DATA, END_STREAM, 1, WIRE), "answered"),
    "8.3 a pseudo-field that nobody knows": (headers(1, block((":x", "y")) + ASKS), "stream PROTOCOL_ERROR"),
    "8.3 a pseudo-field of a response": (headers(1, block((":status", "200")) + ASKS), "stream PROTOCOL_ERROR"),
    "8.3 a pseudo-field behind others": (
        headers(1, block(TYPE, *PSEUDO)), "stream PROTOCOL_ERROR"),
    "8.3 a pseudo-field twice": (headers(1, block(*PSEUDO, PSEUDO[0], TYPE)), "stream PROTOCOL_ERROR"),
    "8.3 a pseudo-field in trailers": (
        headers(1) + headers(1, block((":method", "GET")), WHOLE), "stream PROTOCOL_ERROR"),
    "8.3.1 no method": (headers(1, without(":method")), "stream PROTOCOL_ERROR"),
    "8.3.1 no scheme": (headers(1, without(":scheme")), "stream PROTOCOL_ERROR"),
    "8.3.1 no path": (headers(1, without(":path")), "stream PROTOCOL_ERROR"),
    "8.3.1 an empty path": (headers(1, block((":path", "")) + without(":path")), "stream PROTOCOL_ERROR"),
    "8.1.1 less content than announced": (
        headers(1, ASKS + literal("content-length", "99")) + frame(DATA, END_STREAM, 1, WIRE), "stream PROTOCOL_ERROR"),
    "8.1.1 more content than announced": (
        headers(1, ASKS + literal("content-length", "1")) + frame(DATA, END_STREAM, 1, WIRE), "stream PROTOCOL_ERROR"),
    "8.1.1 a length that is no number": (headers(1, ASKS + literal("content-length", "1x")), "stream PROTOCOL_ERROR"),
    # HPACK (RFC 7541)
    "HPACK 2.3.3 an entry that is not there": (headers(1, ASKS + b"\xfe"), "connection COMPRESSION_ERROR"),
    "HPACK 6.1 the entry 0": (headers(1, ASKS + b"\x80"), "connection COMPRESSION_ERROR"),
    "HPACK 4.2 a new size behind a field": (headers(1, ASKS + b"\x20"), "connection COMPRESSION_ERROR"),
    "HPACK 6.3 a table above the largest": (headers(1, b"\x3f\xe2\x1f" + ASKS), "connection COMPRESSION_ERROR"),
    "HPACK 5.1 a number without an end": (headers(1, b"\x7f" + b"\xff" * 12), "connection COMPRESSION_ERROR"),
    "HPACK 5.2 a text longer than its frame": (headers(1, ASKS + b"\0\x7fx"), "connection COMPRESSION_ERROR"),
    "HPACK 5.2 padding of ones that is too long": (
        headers(1, ASKS + b"\0\1x\x82\x1f\xff"), "connection COMPRESSION_ERROR"),
    "HPACK 5.2 padding of zeros": (headers(1, ASKS + b"\0\1x\x81\x18"), "connection COMPRESSION_ERROR"),
    "HPACK 5.2 the end of text within": (
        headers(1, ASKS + b"\0\1x\x84\xff\xff\xff\xff"), "connection COMPRESSION_ERROR"),
}  # fmt: skip


@pytest.fixture(scope="module")
def running():
    """Return a worker that refuses whatever it is asked."""
    with contextlib.ExitStack() as stack:
        yield Running(stack, refuses=True, manner=_http2.HttpManner(["/dns-query"]))


def frames(sock):
    """Yield frames as (kind, flags, stream, payload), until the connection ends."""
    with sock.makefile("rb") as stream, contextlib.suppress(ConnectionResetError):
        while head := stream.read(9):
            length, (kind, flags, number) = int.from_bytes(head[:3]), struct.unpack("!BBI", head[3:])
            yield kind, flags, number, stream.read(length)


CONNECTION_FLOW = "connection FLOW_CONTROL_ERROR"  # nghttp2 1.70 has it for a stream's window, too


def outcome(sock, octets):
    """Say something; return what comes of it, or the first error of a stream, once all of it has been heard."""
    found, pings = "ignored", 2  # the first is answered before what it comes behind
    sock.sendall(octets + A_PING)
    for kind, flags, _, payload in frames(sock):
        if kind == GOAWAY:
            return f"connection {ERRORS[int.from_bytes(payload[4:8])]}"
        if kind == http2.RST_STREAM:
            found = f"stream {ERRORS[int.from_bytes(payload)]}"
        elif kind == DATA and found == "ignored":
            found = "answered"
        elif (kind, flags) == (PING, ACK) and payload == OURS:
            pings -= 1
            if not pings:
                return found
            sock.sendall(A_PING)
    return "an end without a word"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_its_error(running, mistake):
    said, wanted = MISTAKES[mistake]
    with contextlib.ExitStack() as stack:
        sock = connect(stack, running)
        found = outcome(sock, PREFACE + frame(SETTINGS, 0, 0) + said)
        assert found == wanted or (found, wanted) == (CONNECTION_FLOW, "stream FLOW_CONTROL_ERROR")
        if not found.startswith("connection"):
            assert outcome(sock, asks(11)) == "answered"
    until(lambda: running.connections == 0)


def test_an_answer_comes_as_far_as_windows_let_it(running):
    with contextlib.ExitStack() as stack:
        sock = connect(stack, running, PREFACE + setting(4, 1) + asks(1))
        heard = frames(sock)

        def octets_after(said=b""):
            """Return how many octets of content come, up to the answer to a second ping."""
            octets = 0
            for ping in said + A_PING, A_PING:
                sock.sendall(ping)
                while (got := next(heard))[:2] != (PING, ACK):
                    octets += len(got[3]) if got[0] == DATA else 0
            return octets

        assert octets_after() == 1
        assert octets_after(setting(4, 5)) == 4
        assert octets_after(setting(4, 0)) == 0  # by now it is below nothing
        assert octets_after(grows(1, 5)) == 0
        assert octets_after(grows(1, 2)) == 2
        assert octets_after(setting(4, 1000)) == len(WIRE) - 7


def test_settings_are_acknowledged_each_by_itself(running):
    with contextlib.ExitStack() as stack:
        sock = connect(stack, running, PREFACE + setting(4, 1000) + setting(3, 1) + setting(255, 1) + A_PING)
        said = []
        for kind, flags, number, payload in frames(sock):
            said.append((kind, flags, number))
            if payload == OURS:
                break
    assert said[0] == (SETTINGS, 0, 0)
    assert said.count((SETTINGS, ACK, 0)) == 3
