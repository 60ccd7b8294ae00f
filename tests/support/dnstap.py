"""Know Frame Streams and dnstap from the other side: a collector, and what its messages say.

It is written after the specifications alone (dnstap.proto, fstrm/control.h), and shares nothing with the shield.
"""

import contextlib
import socket
import struct
import threading

CONTENT = b"protobuf:dnstap.Dnstap"
ACCEPT, START, STOP, READY, FINISH = range(1, 6)
TYPES = {5: "CQ", 6: "CR", 7: "FQ", 8: "FR", 13: "UQ", 14: "UR"}


def fields(octets):
    """Yield (number, value) of each field of a protobuf message: numbers, or octets."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            octet = octets[at]
            at += 1
            value |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return value

    while at < len(octets):
        tag = varint()
        match tag & 7:
            case 0:
                value = varint()
            case 2:
                length = varint()
                value = octets[at : at + length]
                assert len(value) == length
                at += length
            case 5:
                (value,) = struct.unpack_from("<I", octets, at)
                at += 4
            case other:
                raise AssertionError(f"dnstap has no fields of wire type {other}")
        yield tag >> 3, value


def message(frame):
    """Return a dnstap message as a dict, by names that say what it is."""
    outer = dict(fields(frame))
    inner = dict(fields(outer[14]))
    assert outer[15] == 1  # MESSAGE
    found = {
        "identity": outer.get(1, b"").decode(), "version": outer.get(2, b"").decode(),
        "extra": outer.get(3, b"").decode(), "type": TYPES[inner[1]], "family": inner[2], "protocol": inner[3],
        "client": inner.get(4), "server": inner.get(5), "port": inner.get(6), "server_port": inner.get(7),
        "query": inner.get(10), "response": inner.get(14), "asked": inner[8] + inner[9] / 1e9,
    }  # fmt: skip
    return found | ({"answered": inner[12] + inner[13] / 1e9} if 12 in inner else {})


def control(kind):
    """Return a control frame; those that have one say the content type."""
    body = struct.pack("!I", kind)
    if kind in (ACCEPT, READY, START):
        body += struct.pack("!II", 1, len(CONTENT)) + CONTENT
    return struct.pack("!II", 0, len(body)) + body


class Collector:
    """Whoever listens for dnstap, at the path of a UNIX socket or an address; `messages` are what came."""

    def __init__(self, at, accepts=True):
        self._at, self._accepts = at, accepts
        self.frames, self.messages, self.controls, self.connections = [], [], [], 0
        self.going_on = threading.Event()
        self.going_on.set()

    def __enter__(self):
        if isinstance(self._at, tuple):
            self._listener = socket.create_server(self._at)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._at.unlink(missing_ok=True)
            self._listener.bind(str(self._at))
            self._listener.listen()
        self.address = self._listener.getsockname()
        self._open = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.going_on.set()
        for each in (self._listener, self._open):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                self._open, _ = self._listener.accept()
                self.connections += 1
                with self._open, self._open.makefile("rb") as stream, contextlib.suppress(OSError, EOFError):
                    self._read(stream)

    def _read(self, stream):
        while self.going_on.wait():
            (length,) = struct.unpack("!I", _exactly(stream, 4))
            if length:
                self.frames.append(_exactly(stream, length))
                self.messages.append(message(self.frames[-1]))
                continue
            body = _exactly(stream, struct.unpack("!I", _exactly(stream, 4))[0])
            (kind,) = struct.unpack_from("!I", body)
            self.controls.append(kind)
            assert kind == STOP or body[4:] == struct.pack("!II", 1, len(CONTENT)) + CONTENT
            if kind in (READY, STOP):
                self._open.sendall(control(ACCEPT if kind == READY and self._accepts else FINISH))


def _exactly(stream, length):
    octets = stream.read(length)
    if len(octets) < length:
        raise EOFError
    return octets
