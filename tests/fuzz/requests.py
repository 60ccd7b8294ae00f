"""What a client of DNS over HTTPS sends, in pieces: whatever it is, he gets whole frames, and nothing twice."""

import h2.config
import h2.connection
from support.http2 import GOAWAY, MESSAGE, SETTINGS, in_target

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.server._http import converse
from funkenshield.server._http2 import Http2Listener, HttpManner

from .messages import framed, query_of, unframed

LONGEST = 16384  # octets in a frame
ANSWER = bytes(range(256)) * 80
LISTENER = Http2Listener(Cache(1 << 22, Clock()))
LISTENER.use(HttpManner(["/dns-query"], [(bytes(4), 0)]))


def made(dice):
    """Return what a client sends who means well, cut somewhere: the pieces, each behind its length."""
    config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    for number in range(1, dice.randrange(1, 6) * 2, 2):
        wire = query_of(dice).to_wire()[:500]
        posts = dice.random() < 0.5
        fields = [
            (":method", "POST" if posts else dice.choice(["GET", "HEAD"])), (":scheme", "https"), (":authority", "a"),
            (":path", "/dns-query" if posts else in_target(wire)), ("x-forwarded-for", "192.0.2.1, 2001:db8::1"),
        ]  # fmt: skip
        client.send_headers(number, [*fields, ("content-type", MESSAGE)] if posts else fields, end_stream=not posts)
        if posts:
            client.send_data(number, wire, end_stream=dice.random() < 0.9)
        if dice.random() < 0.2:
            client.reset_stream(number)
        if dice.random() < 0.2:
            client.ping(bytes(8))
    stream = client.data_to_send()[:1800]
    cuts = sorted(dice.sample(range(len(stream)), dice.choice([0, 1, 3])))
    return framed(*(stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)))


def one(data):
    """Say it in pieces, at once, and octet by octet; what is asked differs, for what was answered cannot be reset."""
    pieces = unframed(data)
    whole = b"".join(pieces)
    for cut in (pieces, [whole], [whole[at : at + 1] for at in range(len(whole))]):
        _converse(cut)


def _converse(pieces):
    """See that what is sent are frames, and that no stream asks twice."""
    asked, sent, ends = converse(LISTENER, pieces, ANSWER)
    assert len({number for number, _ in asked}) == len(asked)
    at, kinds = 0, []
    while at < len(sent):
        length = int.from_bytes(sent[at : at + 3])
        assert length <= LONGEST
        kinds.append(sent[at + 3])
        at += 9 + length
    assert at == len(sent)
    assert not ends or GOAWAY in kinds or GOAWAY in b"".join(pieces)  # one of the two has said so
    assert kinds[:1] in ([SETTINGS], [GOAWAY], [])
