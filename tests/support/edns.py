"""Know how an OPT record, and the client's subnet in it, look octet by octet (RFC 6891, 7871)."""

from ipaddress import ip_address, ip_network
from struct import pack, unpack_from

OPT, SUBNET, COOKIE, EDE = 41, 8, 10, 15


def with_opt(message, *options, rcode_high=0):
    """Return a message that had no OPT record with one, of these `options`, behind everything else."""
    joined = b"".join(options)
    count = unpack_from("!H", message, 10)[0] + 1
    opt = b"\0" + pack("!2H2BHH", OPT, 1232, rcode_high, 0, 0, len(joined)) + joined
    return message[:10] + pack("!H", count) + message[12:] + opt


def split_opt(message):
    """Return a message without its OPT record, which must be the last, and that record's options, or None."""
    questions, *counts = unpack_from("!4H", message, 4)
    at = 12
    for _ in range(questions):
        at = _behind_name(message, at) + 4
    for _ in range(sum(counts)):
        start = at
        at = _behind_name(message, at)
        rdtype, rdlength = unpack_from("!H6xH", message, at)
        at += 10 + rdlength
    assert at == len(message)
    if not sum(counts) or rdtype != OPT:
        return message, None
    return message[:10] + pack("!H", counts[2] - 1) + message[12:start], message[start + 11 :]


def _behind_name(message, at):
    while 0 < message[at] < 0xC0:
        at += 1 + message[at]
    return at + (2 if message[at] else 1)


def option(code, data):
    return pack("!2H", code, len(data)) + data


def subnet(address, source, scope=0):
    """Return the CLIENT-SUBNET option for the first `source` bits of an address."""
    network = ip_network((ip_address(address), source), strict=False)
    family = {4: 1, 6: 2}[network.version]
    octets = network.network_address.packed[: (source + 7) // 8]
    return option(SUBNET, pack("!H2B", family, source, scope) + octets)
