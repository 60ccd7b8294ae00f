"""Know how dnspython writes messages, drawn by dice, and reads them; and how an input holds several of them."""

from random import Random

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.wire

ADDRESS = bytes([192, 0, 2, 1])
LARGEST = 65535
COOKIE, PADDING, KEEPALIVE = 10, 12, 11
NAMES = ["www.Example.COM.", "example.com.", "a.b.c.example.com.", ".", f"{'y' * 63}.example.com.", "*.example.com."]
TYPES = ["A", "AAAA", "MX", "TXT", "NS", "SOA", "CNAME", "DS", "ANY", "HTTPS", "TSIG"]
RDATA = {
    "A": ["192.0.2.1", "192.0.2.2"],
    "AAAA": ["2001:db8::1"],
    "CNAME": ["www.example.com.", "alias.example.com."],
    "MX": ["5 mail.example.com."],
    "TXT": ['"a" "b"'],
    "NS": ["ns1.example.com.", "ns2.example.com."],
    "SOA": ["ns1.example.com. root.example.com. 1 3600 600 86400 300"],
    "SRV": ["0 0 53 ns1.example.com."],
    "RRSIG": ["A 8 3 300 20370101000000 20200101000000 1 example.com. AAAA"],
    "NSEC": ["c.example.com. A NS RRSIG NSEC"],
}
OPTIONS = [
    (3, b""), (8, b"\0\1\x18\0\xc0\0\2"), (8, b"\0\2\x38\0\x20\1\x0d\xb8\0\0\0"), (COOKIE, bytes(8)),
    (COOKIE, b"01234567" + b"\1\0\0\0" + bytes(12)), (KEEPALIVE, b""), (PADDING, bytes(5)), (15, b"\0\3stale"),
    (65001, b"?"),
]  # fmt: skip


def framed(*messages):
    """Return messages as one input, each behind its length."""
    return b"".join(len(message).to_bytes(2) + message for message in messages)


def unframed(data):
    """Return the messages of an input; what is cut off counts as one."""
    found = []
    while data:
        end = 2 + int.from_bytes(data[:2])
        found.append(data[2:end])
        data = data[end:]
    return found


def read(wire):
    """Return a message as dnspython reads it with all strictness, or None."""
    try:
        return dns.message.from_wire(wire, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError):
        return None


def ttls_at(wire):
    """Return where the TTLs are; None unless the records that the header announces are there, whole, and no more."""
    parser, places = dns.wire.Parser(wire), []
    try:
        *_, questions, answers, authorities, additionals = parser.get_struct("!6H")
        for number in range(questions + answers + authorities + additionals):
            while 0 < (size := parser.get_uint8()) < 0xC0:
                parser.get_bytes(size)
            parser.get_bytes(size >= 0xC0)
            rdtype, _ = parser.get_struct("!HH")
            if number >= questions:
                places += [parser.current] if rdtype != dns.rdatatype.OPT else []
                _, size = parser.get_struct("!IH")
                parser.get_bytes(size)
    except dns.exception.FormError:
        return None
    return None if parser.remaining() else places


def is_whole(wire):
    """Tell whether a message can be taken apart, though what is in its names and its RDATA may be nonsense."""
    return ttls_at(wire) is not None


def query_of(dice: Random, name="", rdtype="", edns=0.7):
    """Return a query."""
    query = dns.message.make_query(
        name or dice.choice(NAMES), rdtype or dice.choice(TYPES), dice.choice(["IN", "IN", "IN", "CH"]),
        id=dice.getrandbits(16), flags=dice.choice([0, dns.flags.RD, dns.flags.CD | dns.flags.RD | dns.flags.AD]),
    )  # fmt: skip
    if dice.random() < edns:
        query.use_edns(0, dice.choice([0, 0x8000, 0x4000]), dice.choice([0, 1232, 65535]), options=_options(dice))
    if dice.random() < 0.1:
        query.set_opcode(dice.choice([1, 2, 4, 5]))
    return query


def reply_to(dice: Random, query):
    """Return a response to a query: of any kind, and with records that fit or do not."""
    reply = dns.message.make_response(query)
    reply.flags |= dice.choice([0, dns.flags.AA, dns.flags.AA | dns.flags.RA, dns.flags.TC])
    name = str(query.question[0].name) if query.question else "."
    reply.answer = _records(dice, name, ["A", "A", "CNAME", "AAAA", "MX", "TXT", "SRV", "RRSIG", "SOA"])
    reply.authority = _records(dice, "example.com.", ["SOA", "NS", "NSEC", "RRSIG"])
    reply.additional = _records(dice, "ns1.example.com.", ["A", "AAAA", "TXT"])
    if query.edns >= 0 and dice.random() < 0.9:
        reply.use_edns(0, dice.choice([0, 0x8000]), 1232, options=_options(dice))
    reply.set_rcode(dice.choice([0, 0, 0, 3, 3, 2, 5, 16 if reply.edns == 0 else 1]))
    return reply


def _options(dice):
    return [dns.edns.GenericOption(code, data) for code, data in dice.sample(OPTIONS, dice.choice([0, 0, 1, 2]))]


def _records(dice, name, types):
    """Return records, each by itself: those of an RRset would be shuffled, and no input be the same again."""
    some = sorted(set(dice.choices(types, k=dice.choice([0, 1, 2]))))
    ttl = dice.choice([0, 1, 300, 90000])
    return [dns.rrset.from_text(name, ttl, "IN", each, rdata) for each in some for rdata in RDATA[each]]
