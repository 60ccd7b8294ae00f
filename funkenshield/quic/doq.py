"""DNS over dedicated QUIC connections (RFC 9250): one query, and its response, on each stream of the client's.

It knows streams as octets that come in pieces. Who may ask is decided elsewhere, and what QUIC makes of it is qh3's.
"""

from collections.abc import Iterator
from struct import pack, unpack_from

from ..wire._message import inspect_records
from .requests import FORBIDDEN, Asking, Channel

NO_ERROR, PROTOCOL_ERROR, EXCESSIVE_LOAD, UNSPECIFIED_ERROR = 0, 2, 4, 5  # RFC 9250 8.4
HEADER, LENGTH = 12, 2  # octets
QR = 0x80
ADDITIONAL, OPT = 2, 41
KEEPALIVE = 11


class Doq:
    """What one client asks, and gets."""

    excessive_load = EXCESSIVE_LOAD

    def __init__(self, channel: Channel, asking: Asking) -> None:
        self._channel, self._asking = channel, asking
        self._over: set[int] = set()  # streams that were answered, and whose client has not said all
        self.held = 0  # octets that wait to be whole
        self._partial: dict[int, tuple[bytearray, float]] = {}  # and since when
        self._asked: dict[int, bool] = {}  # whether the client has said all on a stream with an open query

    def receive(self, stream: int, octets: bytes, ended: bool, now: float) -> None:
        """Take what came on a stream."""
        if stream % 4:  # of the client's, for both directions
            self._channel.close(PROTOCOL_ERROR, "no stream for queries")
        elif stream in self._asked or stream in self._over:
            if octets and stream in self._asked:
                self._channel.close(PROTOCOL_ERROR, "more than one query on a stream")
            elif ended:
                self._over.discard(stream)
                self._asked.update({stream: True} if stream in self._asked else {})
        else:
            self._take(stream, octets, ended, now)

    def _take(self, stream: int, octets: bytes, ended: bool, now: float) -> None:
        collected = self._partial.get(stream, (octets, now))[0]
        if isinstance(collected, bytearray):
            collected += octets
            self.held += len(octets)
        length = LENGTH + unpack_from("!H", collected)[0] if len(collected) >= LENGTH else LENGTH
        if len(collected) == length and len(collected) >= LENGTH:
            self._ask(stream, bytes(collected[LENGTH:]), ended)
        elif ended or len(collected) > length:
            self._channel.close(PROTOCOL_ERROR, "not one whole query on a stream")
        elif stream not in self._partial:
            self._partial[stream] = (bytearray(octets), now)
            self.held += len(octets)

    def _ask(self, stream: int, query: bytes, ended: bool) -> None:
        self._forget(stream)
        if mistake := _mistake_in(query):
            self._channel.close(PROTOCOL_ERROR, mistake)
        else:
            self._asked[stream] = ended
            self._asking.ask(stream, query)

    def _forget(self, stream: int) -> None:
        if partial := self._partial.pop(stream, None):
            self.held -= len(partial[0])

    def respond(self, stream: int, message: bytes, lifetime: int) -> None:
        """Send the response to a query, which is all on its stream."""
        if stream in self._asked:
            self._channel.send(stream, pack("!H", len(message)) + message, ended=True)
            self._end(stream, NO_ERROR)

    def refuse(self, stream: int, status: int) -> None:
        """Send nothing in response to a query, and say so."""
        if stream in self._asked:
            code = UNSPECIFIED_ERROR if status == FORBIDDEN else EXCESSIVE_LOAD
            self._channel.reset(stream, code)
            self._end(stream, code)

    def _end(self, stream: int, code: int) -> None:
        if not self._asked.pop(stream, False):
            self._over.add(stream)
            self._channel.stop(stream, code)

    def abandon(self, stream: int, *, ended: bool) -> None:
        """Forget what was asked on a stream, whose client does not want it any more; `ended`: and says no more."""
        is_open = stream in self._asked or stream in self._partial
        self._forget(stream)
        if self._asked.pop(stream, False) or ended:
            self._over.discard(stream)
        elif is_open:
            self._over.add(stream)
        if is_open and ended:  # or the stream would never be over
            self._channel.reset(stream, NO_ERROR)

    def expire(self, since: float) -> bool:
        """Give up on streams that began before, and are not whole; tell whether others wait to be."""
        for stream in [each for each, (_, began) in self._partial.items() if began < since]:
            self._channel.reset(stream, EXCESSIVE_LOAD)
            self._forget(stream)
            self._end(stream, EXCESSIVE_LOAD)
        return bool(self._partial)


def _mistake_in(message: bytes) -> str:
    """Return what is wrong with a query for this transport (RFC 9250 4.2.1, 5.5.2); "": nothing."""
    if len(message) < HEADER or message[2] & QR:
        return "no query"
    if message[0] or message[1]:
        return "a message ID other than 0"
    return "the option edns-tcp-keepalive" if KEEPALIVE in _options(message) else ""


def _options(message: bytes) -> Iterator[int]:
    """Yield the EDNS options of a message by number, as far as it can be read."""
    if bytes((0, KEEPALIVE)) not in message:  # nobody asks for others
        return
    for section, rtype, _, begin, end in inspect_records(message)[0]:
        at = begin if (section, rtype) == (ADDITIONAL, OPT) else end
        while at + 4 <= end:
            option, length = unpack_from("!HH", message, at)
            at += 4 + length
            yield option
