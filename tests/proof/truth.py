"""Know the one right answer to each query for a name below `clean.`: it differs wherever the keys of a cache should."""

import zlib
from struct import error, pack, unpack_from
from typing import NamedTuple

from fuzz.messages import ttls_at
from support import quick
from support.edns import OPT, SUBNET, split_opt
from support.wires import record_wire

HEADER, PAYLOAD, UDP_PLAIN, LARGEST = 12, 1232, 512, 65535  # octets
SOA, NXDOMAIN = 6, 3
KEY_FLAGS, KEY_EDNS_FLAGS = 0x0130, 0xC000  # RD, AD, CD; DO, CO
HINTS = {5, 6, 7, 10}  # options that tell no questions apart, and so may be in a query whose answer is kept
SIZES = [40, 300, 900, 3000]  # octets of a seal: fits always, fits, fits with EDNS, never fits
ZONE = b"\5clean\0"
KINDS = ("all", "net", "none")  # what a name begins with: one answer for everybody, one for each /24, NXDOMAIN


class Asked(NamedTuple):
    """A query below `clean.` whose answer may be kept: what that depends on, and how large it may be over UDP."""

    name: str
    question: bytes
    flags: int
    edns_flags: int | None
    subnet: bytes
    limit: int

    @property
    def network(self):
        """The first three octets of an IPv4 subnet that is told, or b""."""
        return self.subnet[4:7] if self.subnet[:2] == b"\0\1" and self.subnet[2:3] >= b"\x18" else b""


def read(wire):
    """Return what a query asks; None if it is for another name, or is such that it waits alone, or is none."""
    try:
        flags, *counts = unpack_from("!5H", wire, 2)
        labels, at = [], HEADER
        while 0 < wire[at] < 64:
            labels.append(wire[at + 1 : at + 1 + wire[at]].decode("latin-1").lower())
            at += 1 + wire[at]
        question, opt = wire[HEADER : at + 5], wire[at + 5 :]
        if labels[-1:] != ["clean"] or flags & 0xF800 or counts[:3] != [1, 0, 0] or counts[3] != bool(opt):
            return None
        edns_flags, limit, options = _read_opt(opt) if opt else (None, UDP_PLAIN, {})
    except (error, IndexError, ValueError):
        return None
    return Asked(".".join(labels), question, flags, edns_flags, options.get(SUBNET, b""), limit)


def _read_opt(opt):
    root, rdtype, payload, _, version, flags, rdlength = unpack_from("!B2H2BHH", opt)
    options, at = {}, 11
    while at < len(opt):
        code, size = unpack_from("!HH", opt, at)
        options[code] = opt[at + 4 : at + 4 + size]
        at += 4 + size
    if root or rdtype != OPT or version or rdlength + 11 != at or at != len(opt) or set(options) - HINTS - {SUBNET}:
        raise ValueError
    return flags, min(max(payload, UDP_PLAIN), PAYLOAD), options


def answer(asked):
    """Return the answer with ID 0 and without OPT, and the scope that it is for."""
    seed = zlib.crc32(asked.name.encode())
    kind = next((kind for kind in KINDS if asked.name.startswith(kind)), "all")
    network = asked.network if kind == "net" else b""
    ttl = 0 if kind == "net" and not network else 2 if seed & 1 else 300
    edns = None if asked.edns_flags is None else asked.edns_flags & KEY_EDNS_FLAGS
    rdtype, rdclass = asked.question[-4:-2], asked.question[-2:]
    if positive := rdtype == b"\0\x10" and kind != "none":
        version = zlib.crc32(repr((asked.flags & KEY_FLAGS, edns, rdclass, network)).encode())
        payload = quick.sealed(asked.name, version, SIZES[seed // 2 % len(SIZES)])
        rest = quick.answer(bytes(HEADER) + asked.question, payload, ttl=ttl)[HEADER:]
    else:
        data = bytes(2) + pack("!5I", seed, 3600, 600, 86400, ttl)
        zone = pack("!H", 0xC000 | HEADER + len(asked.question) - 4 - len(ZONE))
        rest = asked.question + record_wire(SOA, data, ttl, zone)
    flags = 0x8400 | asked.flags & 0x0110 | (NXDOMAIN if kind == "none" else 0)
    return pack("!6H", 0, flags, 1, positive, not positive, 0) + rest, 24 * bool(network)


def cut(asked, message):
    """Return the question of a message alone, with TC."""
    return message[:2] + bytes([message[2] | 2, message[3], 0, 1]) + bytes(6) + asked.question


def assert_right(query, reply, *, tcp):
    """Assert that a reply to a query is the right one but for ID, TTLs and what is in its OPT."""
    asked = read(query)
    right, _ = answer(asked)
    whole, options = split_opt(reply)
    assert (options is None) == (asked.edns_flags is None), "an OPT too many, or too few"
    limit = LARGEST if tcp else asked.limit
    assert len(reply) <= limit, f"{len(reply)} octets"
    if len(right) + len(reply) - len(whole) > limit:
        right = cut(asked, right)
    assert _timeless(whole) == _timeless(right)


def _timeless(message):
    """Return a message without its ID and its TTLs."""
    for at in ttls_at(message):
        message = message[:at] + bytes(4) + message[at + 4 :]
    return message[2:]
