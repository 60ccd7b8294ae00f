"""What comes over TCP, in pieces: queries of a client or a front proxy, and responses of an upstream."""

import asyncio
import atexit
import contextlib
import socket
from types import SimpleNamespace

from support.proxied import told
from support.tcp_worker import Running, connect
from support.until import until

from funkenshield.cache._entry import is_response_to
from funkenshield.upstream import streams
from funkenshield.wire._proxy_protocol import parse_header

from .messages import framed, query_of, reply_to, unframed

PEER = ("192.0.2.9", 4000)
ASKED = bytes.fromhex("0000 0100 0001 0000 0000 0000 03777777 076578616d706c65 03636f6d 00 0001 0001")


def made(dice):
    """Return a stream that is cut somewhere: the pieces in which it comes, each behind its length."""
    query = query_of(dice, "www.example.com.", "A")
    query.id = 0
    stream = dice.choice([b"", told("192.0.2.1", transport=1)])
    stream += framed(query.to_wire(), reply_to(dice, query).to_wire(max_size=65535), query_of(dice).to_wire())
    cuts = sorted(dice.sample(range(len(stream)), dice.choice([0, 1, 3])))
    return framed(*(stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)))


class _Transport(SimpleNamespace):
    """A connection that notes what is written, and how it ends."""

    def __init__(self):
        super().__init__(written=[], ended=False, reading=True)

    def get_extra_info(self, what):
        told = {"peername": PEER, "sockname": PEER, "socket": SimpleNamespace(setsockopt=lambda *_: None)}
        return told.get(what)

    def is_closing(self):
        return self.ended

    def write(self, octets):
        self.written.append(octets)

    def close(self):
        self.ended = True

    abort = close

    def set_write_buffer_limits(self, high):
        assert high

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


def one(data):
    """Let a client, a front proxy and an upstream say it."""
    pieces = unframed(data)
    for proxied in (False, True):
        _from_client(pieces, proxied)
    LOOP.run_until_complete(_from_upstream(pieces))


def _whole(stream):
    """Return the whole messages of a stream."""
    found = []
    while len(stream) >= 2 and len(stream) >= (end := 2 + int.from_bytes(stream[:2])):
        found.append(stream[2:end])
        stream = stream[end:]
    return found


def _is_broken(message):
    """Tell whether a message can be no query, which ends its connection."""
    return len(message) < streams.HEADER or message[2] & streams.QR


def _from_client(pieces, proxied):
    """Every whole query is answered once, in order; whoever sends no header where there must be one is cut off."""
    stream, shield = b"".join(pieces), SHIELDS[proxied]
    before = shield.counters()
    with contextlib.ExitStack() as stack:
        sock = connect(stack, shield)
        answered = b""
        with contextlib.suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while octets := sock.recv(1 << 16):
                answered += octets
    until(lambda: shield.limits.held == (0, 0))
    counted = {name: count - before[name] for name, count in shield.counters().items()}
    if proxied:
        try:
            header, _ = parse_header(stream)
        except ValueError:
            header = None
            assert counted["proxy_protocol_invalid"] == 1
        stream = stream[header:] if header else b""
    asked = _whole(stream)
    broken = next((at for at, message in enumerate(asked) if _is_broken(message)), None)
    if broken is None:
        assert [reply[:2] for reply in _whole(answered)] == [message[:2] for message in asked]
    else:
        asked = asked[: broken + 1]
    assert (counted["queries"], counted["tcp_protocol_errors"]) == (len(asked), broken is not None)


async def _from_upstream(pieces):
    """The first response to a query is the answer, and nothing else is."""
    pool, transport = streams.ConnectionPool(), _Transport()
    connection = streams.Connection(pool)
    connection.connected(transport, None)
    exchange = asyncio.create_task(connection.exchange(ASKED))
    await asyncio.sleep(0)
    number = transport.written[0][2:4]
    replies = [number + each[2:] if each[:2] == b"\0\0" else each for each in _whole(b"".join(pieces))]
    for octet in framed(*replies)[:600]:
        connection.data_received(bytes([octet]))
    for piece in (framed(*replies)[600:], b""):
        connection.data_received(piece)
    await asyncio.sleep(0)
    if exchange.done() and not exchange.exception():
        assert is_response_to(ASKED, exchange.result())
        assert exchange.result() in replies
    connection.close()
    await asyncio.wait([exchange])
    assert exchange.exception() or exchange.result()
    assert pool.all == []


LOOP = asyncio.new_event_loop()
OPENED = contextlib.ExitStack()
SHIELDS = {proxied: Running(OPENED, refuses=True, proxied=proxied) for proxied in (False, True)}
atexit.register(OPENED.close)
