"""The header of a front proxy, and what follows it: it is read whole, or not at all, and says what it says."""

from struct import unpack_from

from support.proxied import DGRAM, INET, INET6, PROXY, SIGNATURE, STREAM, UNIX, block, local, told

from funkenshield.wire._proxy_protocol import header, parse_header

from .messages import query_of

WIDTHS = {INET: 4, INET6: 16, UNIX: 108}
KNOWN = {family | transport: WIDTHS[family] for family in WIDTHS for transport in (STREAM, DGRAM)}


def made(dice):
    """Return a header, and a query behind it."""
    tlvs = dice.choice([b"", b"\4\0\3abc", bytes(20)])
    headers = [told("192.0.2.1", tlvs=tlvs), told("2001:db8::1", tlvs=tlvs), local(tlvs)]
    headers += [block(PROXY, UNIX | STREAM, bytes(216)), block(PROXY, 0, tlvs)]
    return dice.choice(headers) + query_of(dice).to_wire()


def one(data):
    """Read a header, and all of it that has come by any time."""
    assert _found(data) == _read(data)
    for end in {0, 11, 12, 15, 16, len(data) // 2, max(len(data) - 1, 0)}:
        assert _found(data[:end]) == _read(data[:end])
    if len(data) > 36:
        source, destination = data[:16], data[16 : 32 if data[32] & 1 else 20]
        port, to_port = unpack_from("!2H", data, 33)
        written = header(source, port, destination, to_port, datagram=bool(data[32] & 2))
        assert parse_header(written + data) == (len(written), source)


def _found(octets):
    try:
        return parse_header(octets)
    except ValueError:
        return None


def _read(octets):
    """Return what `parse_header` should, by the words of HAProxy's specification; None: that is no header."""
    if len(octets) < 16:
        return (0, None) if octets[:12] == SIGNATURE[: len(octets)] else None
    command, family, rest = unpack_from("!BBH", octets, 12)
    known = command == 0x20 or (command == 0x21 and (not family or family in KNOWN))
    width = KNOWN.get(family, 0) if command == 0x21 else 0
    if octets[:12] != SIGNATURE or not known or rest < 2 * width + 4 * (0 < width < 108):
        return None
    if len(octets) < 16 + rest:
        return 0, None
    return 16 + rest, octets[16 : 16 + width] if width in {4, 16} else None
