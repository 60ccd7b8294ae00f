"""Know how to draw questions at random about the zones of `zones`, and how to ask them with dig.

Whoever draws with the same seed draws the same. Who is asked, and what is right to answer, is not known here.
"""

import random
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from struct import pack

import dns.edns
import dns.flags
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.zone

from support.client import Address
from support.zones import NAMES, zone_text

OPTION = dns.edns.OptionType
CO, Z = 0x4000, 0x0040  # compact denial (RFC 9824), and the header's bit that is always to be zero
EXPIRE, KEEPALIVE, PADDING, KEY_TAG, ZONEVERSION, UNKNOWN = 9, 11, 12, 14, 19, 65001

FLAG_CHANCES = {dns.flags.RD: 0.5, dns.flags.AD: 0.3, dns.flags.CD: 0.3, Z: 0.07}
PAYLOADS = (512, 600, 800, 1232, 1232, 4096, 0, 65535)
MNEMONICS = """
A AAAA NS SOA MX TXT CNAME DNAME DS DS DNSKEY NSEC NSEC3 NSEC3PARAM RRSIG RRSIG ANY ANY ANY CAA SRV LOC HTTPS SVCB
NAPTR TLSA PTR TYPE65280 TYPE1234 TYPE0 NULL OPT TKEY MAILB MAILA
"""
TYPES = [dns.rdatatype.from_text(mnemonic) for mnemonic in MNEMONICS.split()]
CLASSES = [dns.rdataclass.CH, dns.rdataclass.ANY, dns.rdataclass.HS, 4711]
LABELS = [b"*", b"www", b"absent", b"a", b"A", b"\0", b"\xff\xc0", b".", b"\\", b'"', b" ", b"_dns", b"x" * 63]
ELSEWHERE = [dns.name.from_text(text) for text in (".", "test.", "www.elsewhere.test.", "example.", "x.plain.test2.")]
CHAOS = [dns.name.from_text(f"{text}.") for text in ("version.bind", "hostname.bind", "id.server", "version.server")]


@dataclass(frozen=True)
class Edns:
    """What an OPT record says (RFC 6891); `options` are pairs of code and octets."""

    payload: int
    flags: int = 0
    version: int = 0
    options: tuple[tuple[int, bytes], ...] = ()

    def to_wire(self):
        options = b"".join(pack("!HH", code, len(data)) + data for code, data in self.options)
        return (
            b"\0"
            + pack("!HHBBHH", dns.rdatatype.OPT, self.payload, 0, self.version, self.flags, len(options))
            + options
        )


@dataclass(frozen=True)
class Question:
    """A query of opcode QUERY in every detail but its ID."""

    name: dns.name.Name
    rdtype: int
    rdclass: int
    flags: int
    edns: Edns | None

    def to_wire(self):
        """Return the query, its ID 0."""
        head = pack("!6H", 0, self.flags, 1, 0, 0, self.edns is not None)
        question = self.name.to_wire() + pack("!2H", self.rdtype, self.rdclass)
        return head + question + (self.edns.to_wire() if self.edns else b"")

    def dig(self, server: Address, *options):
        """Return the command that asks `server` this question."""
        said = [*options, "+ignore", "+tries=1"]
        for flag, option in HEADER_OPTIONS.items():
            said.append(f"+{option}" if self.flags & flag else f"+no{option}")
        if self.edns is None:
            said.append("+noedns")
        else:
            said += [f"+edns={self.edns.version}", "+noednsnegotiation", f"+bufsize={self.edns.payload}", "+nocookie"]
            said += ["+dnssec" if self.edns.flags & dns.flags.DO else "+nodnssec"]
            said += [f"+ednsflags={self.edns.flags & ~dns.flags.DO:#x}"]
            said += [f"+ednsopt={code}:{data.hex()}" for code, data in self.edns.options]
        asked = ["-t", f"TYPE{self.rdtype}", "-c", f"CLASS{self.rdclass}", "-q", self.name.to_text()]
        return shlex.join(["dig", f"@{server.host}", "-p", str(server.port), *asked, *said])


HEADER_OPTIONS = {
    dns.flags.AA: "aaflag",
    dns.flags.TC: "tcflag",
    dns.flags.RD: "rdflag",
    dns.flags.RA: "raflag",
    Z: "zflag",
    dns.flags.AD: "adflag",
    dns.flags.CD: "cdflag",
}


def draw(seed, count):
    """Return `count` different questions; some differ from one before, often just before, in a single respect."""
    rng = random.Random(seed)
    questions: dict[Question, None] = {}
    while len(questions) < count:
        related = questions and rng.random() < 0.4
        question = _vary(rng, rng.choice([*questions][-rng.choice([8, count]) :])) if related else _question(rng)
        questions[question] = None
    return [*questions]


def respell(name, rng):
    """Return the name with each letter in a case drawn at random."""
    return dns.name.Name(
        bytes(
            octet ^ 0x20 if chr(octet).isascii() and chr(octet).isalpha() and rng.random() < 0.5 else octet
            for octet in label
        )
        for label in name
    )


@cache
def _owners():
    """Return the owner names of all zones, each with its types."""
    owners = {}
    for zone in NAMES:
        for name, node in dns.zone.from_text(zone_text(zone), f"{zone}.", relativize=False).items():
            owners[name] = [rdataset.rdtype for rdataset in node]
    return owners


def _question(rng):
    owner = rng.choice([*_owners()])
    name, rdclass = _name(rng, owner), dns.rdataclass.IN
    rdtype = rng.choice(_owners()[owner]) if rng.random() < 0.6 else rng.choice(TYPES)
    chance = rng.random()
    if chance < 0.03:
        name, rdtype, rdclass = rng.choice(CHAOS), dns.rdatatype.TXT, dns.rdataclass.CH
    elif chance < 0.08:
        rdclass = rng.choice(CLASSES)
    if rng.random() < 0.2:
        name = respell(name, rng)
    return Question(name, rdtype, rdclass, _flags(rng), _edns(rng))


def _vary(rng, question):
    """Return a question that differs from another in one respect."""
    match rng.choice(["edns", "options", "flags", "type", "class"]):
        case "edns":
            return replace(question, edns=_edns(rng))
        case "options" if question.edns:
            return replace(question, edns=replace(question.edns, options=_options(rng)))
        case "flags":
            return replace(question, flags=question.flags ^ rng.choice([*FLAG_CHANCES]))
        case "type":
            return replace(question, rdtype=rng.choice(TYPES))
        case _:
            return replace(question, rdclass=rng.choice([dns.rdataclass.IN, *CLASSES]))


def _name(rng, owner):
    match rng.choices(["owner", "below", "beside", "above", "longest", "elsewhere"], [10, 4, 2, 1, 1, 1])[0]:
        case "owner":
            return owner
        case "below":
            return _fitting([*(_label(rng) for _ in range(rng.randint(1, 3))), *owner])
        case "beside":
            return _fitting([_label(rng), *owner[1:]])
        case "above":
            return owner.parent()
        case "longest":
            return dns.name.Name([*_filling(rng, 255 - len(owner.to_wire())), *owner])
        case _:
            return rng.choice(ELSEWHERE)


def _label(rng):
    return rng.choice(LABELS) if rng.random() < 0.8 else rng.randbytes(rng.choice([1, 2, 20, 63]))


def _fitting(labels):
    """Return the name of these labels, or of the last of them that fit in one."""
    while sum(1 + len(label) for label in labels) > 255:
        labels = labels[1:]
    return dns.name.Name(labels)


def _filling(rng, octets) -> Iterator[bytes]:
    """Yield labels that take so many octets; for a single one there is none."""
    while octets > 1:
        size = min(63, octets - 1)
        if octets - size == 2:
            size -= 1
        yield bytes([rng.choice(b"abcXYZ-_")]) * size
        octets -= 1 + size


def _flags(rng):
    rare = [dns.flags.AA, dns.flags.TC, dns.flags.RA]
    drawn = sum(flag for flag, chance in FLAG_CHANCES.items() if rng.random() < chance)
    return drawn | (rng.choice(rare) if rng.random() < 0.05 else 0)


def _edns(rng):
    if rng.random() < 0.25:
        return None
    flags = sum(flag for flag, chance in {dns.flags.DO: 0.5, CO: 0.1, 1: 0.03}.items() if rng.random() < chance)
    return Edns(rng.choice(PAYLOADS), flags, int(rng.random() < 0.03), _options(rng) if rng.random() < 0.45 else ())


def _options(rng):
    """Return a few EDNS options, most often one."""
    drawn = {
        OPTION.NSID: b"",
        OPTION.ECS: _subnet(rng),
        OPTION.COOKIE: rng.randbytes(8),
        KEEPALIVE: b"",
        PADDING: bytes(rng.randrange(100)),
        OPTION.DAU: b"\x08\x0d\x0f",
        OPTION.DHU: b"\x01\x02\x04",
        OPTION.N3U: b"\x01",
        EXPIRE: b"",
        KEY_TAG: b"\x12\x67",
        ZONEVERSION: b"",
        UNKNOWN: rng.randbytes(rng.randrange(8)),
    }
    codes = rng.choices([*drawn], [2, 4, 4, 2, 3, 1, 1, 1, 1, 1, 1, 1], k=rng.choice([1, 1, 1, 2]))
    return tuple((int(code), drawn[code]) for code in dict.fromkeys(codes))


def _subnet(rng):
    """Return a client subnet (RFC 7871 6): of IPv4 or IPv6, of any length, of no length."""
    family, longest = rng.choice([(1, 32), (2, 128)])
    source = rng.choice([0, 8, 20, 24, longest])
    octets = bytearray(rng.randbytes((source + 7) // 8))
    if source % 8:
        octets[-1] &= 0xFF00 >> source % 8
    return pack("!HBB", family, source, 0) + octets
