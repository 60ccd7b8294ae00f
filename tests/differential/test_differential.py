"""Know that nobody can tell the shield from the nameserver behind it, whatever he asks.

A round draws five hundred questions, and puts them to NSD, Knot DNS and BIND directly and through the shield: cold and
warm, over UDP and over TCP, and some over TLS, QUIC and HTTP/3, and by frames. Each reply must equal the direct one
under the one law (`support.law`).

`make test` has four rounds for each nameserver. For more, say so many questions:

    FUNKENSHIELD_DIFFERENTIAL=20000 .venv/bin/python -m pytest tests/differential

A round is known by its seed, which the test's name tells; FUNKENSHIELD_SEED=N begins with another one. A question that
was answered otherwise is printed as a dig command for either side; with `--pdb` both are there to be asked again.
"""

import os
import random
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from support import over_quic
from support.control import stats
from support.fitting import is_what_fits
from support.law import HOP_BY_HOP, assert_lawful, envelope, is_lawful
from support.pipeline import ask_all
from support.questions import KEEPALIVE, OPTION, draw, respell
from support.until import until

A_ROUND = 500  # questions
OVER_TLS, OVER_QUIC = 5, 20  # one in so many is asked over TLS too, and over QUIC and HTTP/3,
BY_FRAMES = 5  # and by frames, until the kernel answers;
FEW = 20  # that it does, where a machine is slow
PLAIN = "UDP", "XDP"
ROUNDS = -(-int(os.environ.get("FUNKENSHIELD_DIFFERENTIAL", 4 * A_ROUND)) // A_ROUND)
SEED = int(os.environ.get("FUNKENSHIELD_SEED", "2011"))
MESSAGE_MAX, UDP_PLAIN = 65535, 512  # octets
PAYLOAD = 1232  # octets; what the shield takes from the nameserver, and gives to a client, over UDP
SHOWN = 5  # differences, of those that there are

PASSED_ON = {dns.rdatatype.OPT, *range(dns.rdatatype.TKEY, dns.rdatatype.AXFR + 1)}  # types that are never kept
HINTS = {OPTION.DAU, OPTION.DHU, OPTION.N3U}


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_nobody_can_tell_the_shield_from_the_nameserver(nameserver, shield, doors, seed):
    questions = draw(seed, A_ROUND)
    direct = answers_of(nameserver, questions)
    expected = list(zip(questions, direct, strict=True))
    spelled = random.Random(seed)
    odd = [(replace(asked, name=respell(asked.name, spelled)), answers) for asked, answers in expected]
    assert sum(is_kept(*each) for each in expected) > A_ROUND / 2

    ask = partial(differing, shield, doors, nameserver)
    differences = []
    for first, second, step in (
        ("UDP", "TCP", 1), ("TCP", "UDP", 1), ("TLS", "UDP", OVER_TLS), ("QUIC", "H3", OVER_QUIC),
    ):  # fmt: skip
        some = expected[::step]
        kept = sum(is_kept(*each) for each in some)
        apart = len({key(asked) for asked, _ in some})
        shield.command("purge", "--all")
        start = time.monotonic()
        hits = stats(shield)["cache_hits"]
        differences += ask(some, over=first, since=start, when="cold")
        cold = stats(shield)["cache_hits"]
        assert cold - hits <= len(some) - apart
        differences += ask(odd[::step], over=first, since=start, when="warm")
        differences += ask(some, over=second, since=start, when="warm")
        assert stats(shield)["cache_hits"] - cold >= 2 * kept
    if "xdp" in doors:
        shield.command("purge", "--all")
        start, in_kernel = time.monotonic(), stats(shield)["kernel_answers"]
        for when in "cold", "warm", "warm", "warm", "hot", "hot":
            differences += ask(expected[::BY_FRAMES], over="XDP", since=start, when=when)
        few = [each for each in expected[::BY_FRAMES] if is_kept(*each)][:FEW]  # asked for again within a second

        def kernel_answered():
            differences.extend(ask(few, over="XDP", since=start, when="hot"))
            return stats(shield)["kernel_answers"] > in_kernel

        until(kernel_answered, 30)
    if differences:
        pytest.fail(f"{len(differences)} answers differ\n\n" + "\n\n".join(differences[:SHOWN]), pytrace=False)


@dataclass(frozen=True)
class Answers:
    """What the nameserver answers to a question: over UDP as asked, over UDP as the shield asks, and over TCP."""

    udp: bytes
    shields: bytes
    tcp: bytes

    @cached_property
    def all(self):
        """The different ones, as Messages by their octets."""
        return {wire: parsed(wire) for wire in (self.shields, self.tcp, self.udp)}

    @cached_property
    def whole(self):
        """Those that say everything. Some servers echo TC in an error, even over TCP."""
        return {wire: direct for wire, direct in self.all.items() if wire == self.tcp or not is_truncated(wire)}


def answers_of(nameserver, questions):
    """Ask the nameserver itself; return the Answers to each question."""
    wires = [asked.to_wire() for asked in questions]
    shields = [as_the_shield_asks(asked).to_wire() for asked in questions]
    return [
        Answers(*each)
        for each in zip(
            ask_all(nameserver, wires),
            ask_all(nameserver, shields),
            ask_all(nameserver, wires, tcp=True),
            strict=True,
        )
    ]


def as_the_shield_asks(asked):
    """Return the question with the payload size of the shield, and without what is hop by hop."""
    if asked.edns is None:
        return asked
    options = tuple((code, data) for code, data in asked.edns.options if code not in HOP_BY_HOP)
    return replace(asked, edns=replace(asked.edns, payload=PAYLOAD, options=options))


def as_quic_allows(asked):
    """Return the question without what would end the connection (RFC 9250 5.5.2)."""
    if asked.edns is None:
        return asked
    options = tuple((code, data) for code, data in asked.edns.options if code != KEEPALIVE)
    return replace(asked, edns=replace(asked.edns, options=options))


def differing(shield, doors, nameserver, expected, *, over, since, when):
    """Ask the shield; return a text about each answer that is not as expected, with a dig command for either side."""
    server, options = doors.get(over.lower(), shield), [] if over in PLAIN else [f"+{over.lower()}"]
    queries = [(asked if over != "QUIC" else as_quic_allows(asked)).to_wire() for asked, _ in expected]
    if over in ("QUIC", "H3"):
        replies = over_quic.ask_all(server, queries, over.lower(), trusted=server.authority.file)
    else:
        replies = ask_all(server, queries, tcp=over == "TCP", tls=server.context() if over == "TLS" else None)
    aged = int(time.monotonic() - since) + 1
    told = []
    for (asked, answers), reply in zip(expected, replies, strict=True):
        try:
            assert_right(asked, answers, reply, tcp=over not in PLAIN, aged=aged)
        except (AssertionError, dns.exception.DNSException) as error:
            directly = [] if over in PLAIN else ["+tcp"]
            commands = f"{asked.dig(server.address, *options)}\n{asked.dig(nameserver.address, *directly)}"
            told.append(f"{when}, over {over}:\n{commands}\n{error!s:.3000}")
    return told


def assert_right(asked, answers, wire, *, tcp, aged):
    """Assert that a reply to a question is what the nameserver answers, or is truncated where it must be."""
    own = asked.to_wire()[:2], asked.name.to_wire()
    if any(wire == respelled(direct, *own) for direct in answers.whole):
        return  # octet by octet
    reply = parsed(wire)
    limit = limit_of(asked, tcp)
    assert len(wire) <= limit, f"{len(wire)} octets"
    assert [question.name.labels for question in reply.question] in ([], [asked.name.labels]), "spelled otherwise"
    if any(is_lawful(reply, direct, aged=aged) for direct in answers.whole.values()):
        return
    options = [option for option in reply.options if option.otype != OPTION.EDE]
    bare = [option for option in answers.all[answers.tcp].options if option.otype != OPTION.EDE]
    added = sum(4 + len(option.to_wire()) for option in bare) - sum(4 + len(option.to_wire()) for option in options)
    if any(is_what_fits(wire, direct, limit, aged=aged, added=max(added, 0)) for direct in answers.whole):
        assert truncated_envelope(reply) in map(truncated_envelope, answers.all.values())
        return
    if tcp or not is_truncated(wire):
        assert_lawful(reply, next(iter(answers.whole.values())), aged=aged)
    assert is_truncated(answers.udp), f"truncated without need; from the nameserver:\n{answers.all[answers.udp]}"
    told = [truncated_envelope(direct) for direct in answers.all.values()]
    assert truncated_envelope(reply) in told, f"through the shield:\n{reply}\n\nfrom the nameserver:\n{told}"


def respelled(direct, ident, name):
    """Return an answer with this ID, and this name in its question, which is in another case at most."""
    return ident + direct[2:12] + name + direct[12 + len(name) :]


def truncated_envelope(message):
    """Return what a message says beside its sections once it is truncated; extended errors go first (RFC 8914 3)."""
    opcode, rcode, flags, edns, options = envelope(message)
    return opcode, rcode, flags | dns.flags.TC, edns, [(code, data) for code, data in options if code != OPTION.EDE]


def limit_of(asked, tcp):
    """Return the octets of the largest reply to a question."""
    if tcp:
        return MESSAGE_MAX
    return min(max(asked.edns.payload, UDP_PLAIN), PAYLOAD) if asked.edns else UDP_PLAIN


def is_truncated(wire):
    return bool(wire[2] & dns.flags.TC >> 8)


def parsed(wire):
    """Return the Message, each record in an RRset of its own, so that none is taken for another's double."""
    return dns.message.from_wire(wire, one_rr_per_rrset=True)


def is_kept(asked, answers):
    """Tell whether the answer to a question is held (docs/caching.md)."""
    options = {code for code, _ in asked.edns.options} if asked.edns else set()
    if asked.rdtype in PASSED_ON or options - HOP_BY_HOP - HINTS or (asked.edns and asked.edns.version):
        return False
    direct = answers.all[answers.tcp]
    types = {rrset.rdtype for rrset in direct.authority}
    failure = direct.rcode() in (dns.rcode.SERVFAIL, dns.rcode.REFUSED)
    negative = direct.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) and dns.rdatatype.SOA in types
    positive = direct.rcode() == dns.rcode.NOERROR and (direct.answer or dns.rdatatype.NS in types)
    lasting = all(rrset.ttl for section in direct.sections[1:] for rrset in section)
    return bool(direct.question and (failure or (lasting and (negative or positive))))


def key(asked):
    """Return what tells questions apart, options aside: two that differ here never share an answer."""
    return asked.name, asked.rdtype, asked.rdclass, asked.flags, asked.edns and asked.edns.flags
