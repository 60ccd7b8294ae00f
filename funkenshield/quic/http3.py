"""DNS over HTTPS by HTTP/3 (RFC 8484, 9114): the requests of one connection, with the rules of `server/_http2`.

It knows requests; frames and fields are qh3's. Who may ask is decided elsewhere.
"""

import contextlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from qh3.h3.connection import H3Connection, ProtocolError, Setting
from qh3.h3.events import DataReceived, HeadersReceived
from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.quic.events import StopSendingReceived, StreamDataReceived, StreamReset

from ..server._http_fields import is_query, query_of
from .requests import BAD_REQUEST, Asking, Channel

NO_ERROR, EXCESSIVE_LOAD, REQUEST_CANCELLED, REQUEST_INCOMPLETE = 0x100, 0x107, 0x10C, 0x10D  # RFC 9114 8.1
FINE, NOT_FOUND, NOT_ALLOWED, TOO_LARGE, TOO_LONG, OTHER_TYPE, FIELDS_TOO_LARGE = 200, 404, 405, 413, 414, 415, 431
MESSAGE_MAX, TARGET_MAX, FIELDS_MAX, FIELD_EXTRA = 65535, 8192, 16384, 32  # octets
CONTROL_MAX = 16384  # octets of frames that are no requests', before they are whole
METHODS = {b"GET", b"HEAD", b"POST"}
QR, HEADER, NUMBER_MAX = 0x80, 12, 10


@dataclass
class Request:
    """What a client has said on a stream by now."""

    since: float
    fields: dict[bytes, bytes] = field(default_factory=dict)
    query: bytearray = field(default_factory=bytearray)
    held: int = 0  # octets that came
    is_whole: bool = False
    ended: bool = False

    @property
    def is_post(self) -> bool:
        """Whether the query is what the request contains."""
        return self.fields.get(b":method") == b"POST"


class Frames(H3Connection):
    """qh3's frames and fields, without what takes datagrams of QUIC, which are not offered (RFC 9297 2.1.1)."""

    def _get_local_settings(self) -> dict[int, int]:
        return {name: value for name, value in super()._get_local_settings().items() if name != Setting.H3_DATAGRAM}


class Http3:
    """What one client asks, and gets."""

    excessive_load = EXCESSIVE_LOAD

    def __init__(
        self, channel: Channel, asking: Asking, quic: QuicConnection, paths: Collection[bytes], statuses: Counter[int]
    ) -> None:
        self._channel, self._asking, self._paths, self._statuses = channel, asking, paths, statuses
        self._h3 = Frames(quic)
        self._requests: dict[int, Request] = {}
        self._over: set[int] = set()  # streams that were answered, and whose client has not said all
        self.held = 0  # octets that wait to be whole

    def receive(self, stream: int, octets: bytes, ended: bool, now: float) -> None:
        """Take what came on a stream."""
        if stream in self._over:
            if ended:
                self._end(stream)
            return
        if stream % 4 == 0:
            request = self._requests.setdefault(stream, Request(now))
            if not request.is_whole:  # fields that are not decoded included
                request.held += len(octets)
                self.held += len(octets)
        for event in self._h3.handle_event(StreamDataReceived(octets, ended, stream)):
            if isinstance(event, HeadersReceived | DataReceived) and event.stream_id in self._requests:
                self._take(event, self._requests[event.stream_id])
        if ended:
            self._over.discard(stream)
        if stream % 4 and self._collected() > CONTROL_MAX:
            self._channel.close(EXCESSIVE_LOAD, "a frame too long")

    def _collected(self) -> int:
        """Return the octets of frames that are no requests', and not whole yet, which qh3 collects."""
        return sum(len(each.buffer) for stream, each in self._h3._stream.items() if stream % 4)

    def _end(self, stream: int) -> None:
        """Let a stream be over whose client has said all, after its answer."""
        self._over.discard(stream)
        self._h3.handle_event(StreamReset(NO_ERROR, stream))

    def _take(self, event: HeadersReceived | DataReceived, request: Request) -> None:
        request.ended |= event.stream_ended
        if request.is_whole:
            return
        status = FINE
        if isinstance(event, DataReceived):
            if request.is_post:
                request.query += event.data
            status = FINE if len(request.query) <= MESSAGE_MAX else TOO_LARGE
        elif not request.fields:
            status = self._judge(request, event.headers)
        if status != FINE:
            self._answer(event.stream_id, status)
        elif request.ended:
            self._ask(event.stream_id, request)

    def _judge(self, request: Request, fields: list[tuple[bytes, bytes]]) -> int:
        """Return what is wrong with a request, as far as its fields say."""
        request.fields.update(fields)
        target, method = request.fields.get(b":path", b""), request.fields.get(b":method")
        wrong = [
            status
            for status, is_so in (
                (FIELDS_TOO_LARGE, sum(len(name) + len(value) + FIELD_EXTRA for name, value in fields) > FIELDS_MAX),
                (TOO_LONG, len(target) > TARGET_MAX),
                (NOT_FOUND, target.partition(b"?")[0] not in self._paths),
                (NOT_ALLOWED, method not in METHODS),
                (OTHER_TYPE, request.is_post and not is_query(request.fields.get(b"content-type", b""))),
                (TOO_LARGE, request.is_post and _number(request.fields.get(b"content-length", b"0")) > MESSAGE_MAX),
            )
            if is_so
        ]
        request.fields = {b":method": method if method in METHODS else b""}  # few octets can have told many
        if wrong:
            return wrong[0]
        if request.is_post:
            return FINE
        query = query_of(target)
        request.query += query or b""
        return FINE if query is not None else BAD_REQUEST

    def _ask(self, stream: int, request: Request) -> None:
        request.is_whole = True
        self.held -= request.held
        request.held = 0
        query, request.query = bytes(request.query), bytearray()
        if len(query) < HEADER or query[2] & QR:
            self._answer(stream, BAD_REQUEST)
        else:
            self._asking.ask(stream, query)

    def respond(self, stream: int, message: bytes, lifetime: int) -> None:
        """Send a response."""
        more = ((b"content-type", b"application/dns-message"), (b"cache-control", b"max-age=%d" % lifetime))
        self._answer(stream, FINE, message, more)

    def refuse(self, stream: int, status: int) -> None:
        """Send a status alone."""
        self._answer(stream, status)

    def _answer(
        self, stream: int, status: int, content: bytes = b"", more: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        request = self._forget(stream)
        if request is None:
            return
        if status == NOT_ALLOWED:
            more = ((b"allow", b"GET, HEAD, POST"),)
        fields = [(b":status", b"%d" % status), *more]
        if request.fields.get(b":method") == b"HEAD":  # some clients take a length for that of what comes
            content = b""
        else:
            fields.append((b"content-length", b"%d" % len(content)))
        self._statuses[status] += 1
        with contextlib.suppress(ProtocolError, QuicConnectionError):  # it is gone by now
            self._h3.send_headers(stream, fields, end_stream=not content)
            if content:
                self._h3.send_data(stream, content, end_stream=True)
        if not request.ended:
            self._over.add(stream)
            self._channel.stop(stream, NO_ERROR)

    def _forget(self, stream: int) -> Request | None:
        request = self._requests.pop(stream, None)
        self.held -= request.held if request else 0
        return request

    def abandon(self, stream: int, *, ended: bool) -> None:
        """Forget what was asked on a stream, whose client does not want it any more; `ended`: and says no more."""
        request = self._forget(stream)
        for event in (StopSendingReceived(NO_ERROR, stream), StreamReset(NO_ERROR, stream))[: 1 + ended]:
            self._h3.handle_event(event)
        if ended:
            self._over.discard(stream)
            if request:  # or the stream would never be over
                self._channel.reset(stream, REQUEST_CANCELLED)
        elif request and not request.ended:
            self._over.add(stream)

    def expire(self, since: float) -> bool:
        """Give up on requests that began before, and are not whole; tell whether others wait to be."""
        partial = {stream: each for stream, each in self._requests.items() if not each.is_whole}
        late = [stream for stream, each in partial.items() if each.since < since]
        for stream in late:
            self._channel.stop(stream, REQUEST_INCOMPLETE)
            self._channel.reset(stream, REQUEST_INCOMPLETE)
            self.abandon(stream, ended=False)
        return len(partial) > len(late)


def _number(text: bytes) -> int:
    """Return a number that is written in decimal; what is none is too large for anything."""
    return int(text) if text.isdigit() and len(text) < NUMBER_MAX else MESSAGE_MAX + 1
