"""A frame of Ethernet: a query is found in it, or none, and an answer goes back to where it says that it is from."""

from support import frames
from support.frames import IPV4, IPV6, SERVICE_TAG, TAG, UDP

from funkenshield.xdp._frame import answered

from .messages import query_of

ENDS = [(("192.0.2.9", 5353), ("192.0.2.1", 53)), (("2001:db8::9", 5353), ("2001:db8::1", 53))]


def made(dice):
    """Return a query in a frame."""
    tags = [(dice.choice([TAG, SERVICE_TAG]), dice.getrandbits(16)) for _ in range(dice.randrange(4))]
    return frames.query(query_of(dice).to_wire(), *dice.choice(ENDS), tags=tags)


def one(data):
    """Find the query, and answer it."""
    message = data[::-1]
    found, expected = answered(data, message), _read(data)
    if expected is None:
        assert found is None
        return
    query, _, server, port, frame = found
    client, to, asking, asked, payload, tags = expected
    assert (query, server, port) == (payload, to, asked)
    sent = frames.read(frame)
    assert sent.checked
    assert (sent.to, sent.source) == (_unmarked(data[6:12]), _unmarked(data[:6]))
    assert (frames.packed(sent.client[0]), sent.client[1]) == (to, asked)
    assert (frames.packed(sent.server[0]), sent.server[1]) == (client, asking)
    assert (sent.payload, sent.tags) == (message[:65000], tags)


def _unmarked(address):
    """Return an address of Ethernet as it is without the kernel's mark."""
    return bytes([address[0] & ~1]) + address[1:]


def _read(data):
    """Return who asks whom, by address and port, what, behind which tags; None: it is no query for us to answer."""
    at, tags = 12, []
    while (kind := int.from_bytes(data[at : at + 2])) in (TAG, SERVICE_TAG) and len(tags) < 2:
        tags.append((kind, int.from_bytes(data[at + 2 : at + 4])))
        at += 4
    ip = data[at + 2 :]
    if kind == IPV4 and len(ip) >= 20 and ip[0] == 0x45 and ip[9] == UDP and not int.from_bytes(ip[6:8]) & 0x3FFF:
        begin, end, client, to = 20, int.from_bytes(ip[2:4]), ip[12:16], ip[16:20]
    elif kind == IPV6 and len(ip) >= 40 and ip[0] >> 4 == 6 and ip[6] == UDP:
        begin, end, client, to = 40, 40 + int.from_bytes(ip[4:6]), ip[8:24], ip[24:40]
    else:
        return None
    if end > len(ip) or end < begin + 20:
        return None
    asking, asked, length = (int.from_bytes(ip[begin + k : begin + k + 2]) for k in (0, 2, 4))
    if not asking or not 20 <= length <= end - begin:
        return None
    return client, to, asking, asked, ip[begin + 8 : begin + length], tuple(tags)
