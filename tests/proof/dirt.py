"""Know how messages get dirty, by dice: queries and responses that are nearly right, and wrong in any way.

They are mutated as octets, so that no library keeps them from being nonsense.
"""

from random import Random
from struct import pack, unpack_from

import dns.exception
from fuzz.messages import query_of, read, reply_to, ttls_at
from support import quick
from support.wires import record_wire

HEADER, LARGEST = 12, 60_000  # octets
LIE = b"\x03lie"  # as a TXT
OPT, TSIG, SIG, CNAME, SOA, NS = 41, 250, 24, 5, 6, 2
OPTIONS = [(3, 0), (5, 4), (8, 7), (8, 8), (10, 8), (10, 24), (10, 41), (11, 2), (12, 9), (15, 2), (65001, 1), (26, 0)]


def query(dice: Random, names):
    """Return a query for one of these names, more or less; it may be whole."""
    return mutated(dice, query_of(dice, dice.choice(names)).to_wire(), dice.choice([0, 1, 1, 2, 3]))


def response(dice: Random, asked, names):
    """Return a response to a query, more or less, that may tell lies about these names, which were not asked for."""
    lie = quick.query(dice.choice(names))
    if dice.random() < 0.1:
        return mutated(dice, asked[:2] + quick.answer(lie, b"lie")[2:], dice.choice([0, 0, 1]))
    message = read(asked)
    try:
        wire = reply_to(dice, message).to_wire(max_size=LARGEST)
    except (AttributeError, ValueError, dns.exception.DNSException):  # to what cannot be read
        wire = asked[:2] + pack("!H", 0x8400 | dice.getrandbits(16) & 0x790F) + asked[4:]
    if len(wire) >= HEADER and dice.random() < 0.3:
        wire = lying(dice, wire, lie[HEADER:-4])
    return mutated(dice, wire, dice.choice([0, 1, 1, 2, 3]))


def lying(dice, wire, name):
    """Return a message with a record more that is none of its business."""
    soa = bytes(2) + pack("!5I", 1, 3600, 600, 86400, 86400)
    records = [
        record_wire(quick.TXT, LIE, 86400, name),
        record_wire(CNAME, name) + record_wire(quick.TXT, LIE, 86400, name),
        record_wire(SOA, soa, 86400, dice.choice([b"\0", name, b"\5clean\0"])),
        record_wire(NS, name, 86400, dice.choice([b"\0", b"\5clean\0"])),
    ]
    return _with_record(wire, dice.choice(records), at=dice.choice([6, 8, 10]))


def mutated(dice, wire, times):
    """Return a message after so many mutations."""
    for _ in range(times):
        if len(wire) < HEADER:
            break
        wire = dice.choice(MUTATIONS)(dice, wire)
    return wire[:LARGEST]


# ------------------------------------------------------------ mutations: the dice and a message, and another message


def other_id(dice, wire):
    return dice.randbytes(2) + wire[2:]


def other_flags(dice, wire):
    return _put(wire, 2, pack("!H", unpack_from("!H", wire, 2)[0] ^ 1 << dice.randrange(16)))


def other_opcode(dice, wire):
    return _put(wire, 2, bytes([wire[2] & 0x87 | dice.randrange(16) << 3]))


def other_count(dice, wire):
    return _put(wire, dice.choice([4, 6, 8, 10]), pack("!H", dice.choice([0, 1, 2, 255, 65535])))


def other_sections(dice, wire):
    counts = list(unpack_from("!3H", wire, 6))
    dice.shuffle(counts)
    return _put(wire, 6, pack("!3H", *counts))


def without_question(dice, wire):
    return wire[:4] + bytes(8) if dice.random() < 0.5 else _put(wire, 4, bytes(2))


def other_octets(dice, wire):
    return _put(wire, dice.randrange(HEADER - 1, len(wire)), dice.randbytes(dice.choice([1, 1, 2, 4])))


def a_pointer(dice, wire):
    at = dice.randrange(HEADER - 1, len(wire))
    return _put(wire, at, pack("!H", 0xC000 | dice.choice([0, HEADER, at, at + 1, at + 2, dice.getrandbits(14)])))


def other_rdlength(dice, wire):
    places = ttls_at(wire) or [HEADER]
    length = dice.choice([0, 1, 3, 16, 17, 255, 65535, dice.randrange(len(wire))])
    return _put(wire, dice.choice(places) + 4, pack("!H", length))


def other_ttl(dice, wire):
    places = ttls_at(wire) or [HEADER]
    return _put(wire, dice.choice(places), pack("!I", dice.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])))


def other_case(dice, wire):
    return bytes(octet ^ 0x20 * (chr(octet).isalpha() and dice.random() < 0.5) for octet in wire)


def truncated(dice, wire):
    return _put(wire, 2, bytes([wire[2] | 2]))


def cut(dice, wire):
    return wire[: dice.randrange(len(wire) + 1)]


def with_tail(dice, wire):
    return wire + dice.randbytes(dice.choice([1, 2, 11, 600]))


def doubled(dice, wire):
    start = dice.randrange(HEADER - 1, len(wire))
    end = dice.randrange(start, len(wire) + 1)
    return wire[:end] + wire[start:end] * dice.choice([1, 2, 20]) + wire[end:]


def with_opt(dice, wire):
    """Add an OPT record, of some version, whose options are right or not."""
    options = b""
    for code, size in dice.sample(OPTIONS, dice.choice([0, 1, 1, 2])):
        told = size if dice.random() < 0.8 else dice.choice([0, 255, 65535])
        data = dice.randbytes(size)
        if code == 8 and dice.random() < 0.8:
            data = pack("!HBB", dice.choice([1, 1, 2, 3]), dice.choice([0, 8, 24, 32, 33, 128]), dice.choice([0, 24]))
            data += dice.choice([b"", b"\x0a\1\2", b"\x0a\1\2\3"])
            told = len(data)
        options += pack("!HH", code, told) + data
    owner = dice.choice([b"\0", b"\0", b"\0", b"\1a\0", b"\xc0\x0c"])
    version, flags = dice.choice([0, 0, 0, 1, 255]), dice.choice([0, 0x8000, 0x4000, dice.getrandbits(16)])
    fixed = pack("!2H2BHH", OPT, dice.choice([0, 512, 1232, 65535]), 0, version, flags, len(options))
    return _with_record(wire, owner + fixed + options)


def with_signature(dice, wire):
    """Add a record that looks like TSIG or SIG(0)."""
    mac = dice.randbytes(dice.choice([0, 16, 32]))
    signed = b"\x0bhmac-sha256\0" + dice.randbytes(6) + pack("!HH", 300, len(mac)) + mac + wire[:2] + bytes(4)
    fields = pack("!HHIH", dice.choice([TSIG, SIG]), 255, 0, len(signed))
    return _with_record(wire, b"\3key\0" + fields + signed)


MUTATIONS = [
    other_id, other_flags, other_opcode, other_count, other_sections, without_question, other_octets, a_pointer,
    other_rdlength, other_ttl, other_case, truncated, cut, with_tail, doubled, with_opt, with_opt, with_opt,
    with_signature,
]  # fmt: skip


def _put(wire, at, octets):
    return wire[:at] + octets + wire[at + len(octets) :]


def _with_record(wire, record, at=10):
    """Return a message with one more record behind it, in the section whose count is there."""
    return _put(wire, at, pack("!H", unpack_from("!H", wire, at)[0] + 1 & 0xFFFF)) + record
