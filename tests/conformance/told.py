"""Know how each side of a conversation is told: a client's query, an upstream's reply, what is expected.

    query       also: any, from 127.0.0.N, udp, tcp, tls, id N, N times
    reply       also: RCODE, silence, held, wrong id, wrong source, counts Q A N D
    expected    also: RCODE, at most N octets, any order, untouched

A reply echoes ID, question, RD and CD of its query, and has OPT and DO where the query has; so has what is
expected of the shield, whose question is the client's in every letter. What is not told is not there: flags,
records and options are told in full. A query that stands for those that an upstream replies to is different:
it matches each query that has all that is told.
"""

import struct

import dns.exception

from conformance.message import (
    EDNS_FLAGS,
    HEADER_FLAGS,
    RCODES,
    Message,
    difference,
    lines_of,
    octets,
    question_line,
)

ECHOED = HEADER_FLAGS["RD"] | HEADER_FLAGS["CD"]
OPCODE = 0x7800


class Asked:
    """What a reply needs of the octets of a query, which may be none."""

    def __init__(self, wire):
        self.wire = wire
        self.id, self.flags, questions = struct.unpack_from("!3H", wire.ljust(12, b"\0"))
        self.question = _question(wire) if questions == 1 else b""
        try:
            self.lines = [line for line, _ in lines_of(wire)]
        except (dns.exception.DNSException, ValueError):
            self.lines = []
        opts = [line.split() for line in self.lines if line.startswith("OPT ")]
        self.opt = bool(opts)
        self.do = EDNS_FLAGS["DO"] if any("DO" in words for words in opts) else 0

    def echo(self, told):
        """Return the header flags of a reply that tells these."""
        flags = HEADER_FLAGS["QR"] | self.flags & (ECHOED | OPCODE)
        if told.opcode is not None:
            flags = flags & ~OPCODE | told.opcode << 11
        for flag, is_set in told.flags.items():
            flags = flags & ~HEADER_FLAGS[flag] | HEADER_FLAGS[flag] * is_set
        return flags


def _question(wire):
    """Return the octets of the first question, b"" where there is none."""
    at = 12
    while at < len(wire) and 0 < wire[at] < 64:
        at += 1 + wire[at]
    return wire[12 : at + 5] if at + 5 <= len(wire) and at < 12 + 255 and not wire[at] else b""


class Query(Message):
    """What a client asks, what an upstream received, or which queries an upstream replies to."""

    def __init__(self):
        super().__init__()
        self.source = "127.0.0.1"
        self.transport = None
        self.id = None
        self.times = 1

    def take(self, words):
        match words:
            case ["any"]:
                pass
            case ["from", address]:
                self.source = address
            case ["udp" | "tcp" | "tls" as transport]:
                self.transport = transport
            case ["id", number]:
                self.id = int(number)
            case [number, "times"]:
                self.times = int(number)
            case _:
                return super().take(words)
        return True

    @property
    def _flags(self):
        told = {"RD": True} | self.flags
        return sum(HEADER_FLAGS[flag] for flag, is_set in told.items() if is_set) | (self.opcode or 0) << 11

    def to_wire(self, ident, given=b""):
        """Return the octets of the query; `given` is the cookie that its client was given last."""
        if self.hex:
            return octets(self.hex, ID=ident.to_bytes(2))
        return self.write(ident, self._flags, opt=bool(self.opt or self.edns), given=given)

    def matches(self, wire, transport):
        """Tell whether a query that came has all that is told of this one."""
        asked = Asked(wire)
        came = {line.lower() for line in asked.lines}
        wanted = {question_line(*question).lower() for question in self.questions}
        wanted |= {f"option {code} {told}" for code, told in self.options}
        return (
            wanted <= came
            and self.transport in (None, transport)
            and (self.opcode is None or self.opcode << 11 == asked.flags & OPCODE)
            and self.opt in (None, asked.opt)
            and self.edns_flags & EDNS_FLAGS["DO"] in (0, asked.do)
            and all(bool(asked.flags & HEADER_FLAGS[flag]) == is_set for flag, is_set in self.flags.items())
        )

    def differs_from(self, wire):
        """Return how a query that came differs from this one, "" where it does not."""
        expected = self.lines(self._flags, opt=bool(self.opt or self.edns))
        return difference(_folded(expected), _folded(lines_of(wire)))


def _folded(lines):
    return [(line.lower() if line.startswith("question") else line, ttl) for line, ttl in lines]


class Reply(Message):
    """What an upstream says to a query, well or badly."""

    def __init__(self):
        super().__init__()
        self.silence = self.held = self.wrong_id = self.wrong_source = False
        self.counts = []

    def take(self, words):
        match words:
            case [name] if name in RCODES:
                self.rcode = RCODES[name]
            case ["silence"]:
                self.silence = True
            case ["held"]:
                self.held = True
            case ["wrong", "id"]:
                self.wrong_id = True
            case ["wrong", "source"]:
                self.wrong_source = True
            case ["counts", *numbers] if len(numbers) == 4:
                self.counts = [int(number) for number in numbers]
            case _:
                return super().take(words)
        return True

    def to_wire(self, wire):
        """Return the octets of the reply to a query."""
        query = Asked(wire)
        ident = query.id ^ self.wrong_id
        if self.hex:
            return octets(self.hex, ID=ident.to_bytes(2), QUESTION=query.question)
        opt = query.opt if self.opt is None else self.opt
        reply = self.write(ident, query.echo(self), opt=opt, edns_flags=query.do, question=query.question)
        counts = struct.pack("!4H", *self.counts) if self.counts else reply[4:12]
        return reply[:4] + counts + reply[12:]


class Expected(Message):
    """What a client gets."""

    def __init__(self):
        super().__init__()
        self.untouched = self.any_order = False
        self.most = 65535

    def take(self, words):
        match words:
            case [name] if name in RCODES:
                self.rcode = RCODES[name]
            case ["untouched"]:
                self.untouched = True
            case ["any", "order"]:
                self.any_order = True
            case ["at", "most", number, "octets"]:
                self.most = int(number)
            case _:
                return super().take(words)
        return True

    def differs_from(self, wire, reply, sent):
        """Return how the reply to a query differs from what is expected; `sent` is what the upstream said last."""
        query = Asked(wire)
        if reply[:2] != wire[:2]:
            return f"asked with ID {wire[:2].hex()}, answered with {reply[:2].hex()}"
        if len(reply) > self.most:
            return f"{len(reply)} octets came, at most {self.most} were expected"
        if self.untouched or self.hex:
            whole = octets(self.hex, ID=wire[:2], QUESTION=query.question) if self.hex else wire[:2] + sent[2:]
            return "" if reply == whole else f"expected:\n    {whole.hex()}\nbut came:\n    {reply.hex()}"
        opt = query.opt if self.opt is None else self.opt
        expected = list(self.lines(query.echo(self), opt=opt, edns_flags=query.do, question=query.question))
        came = list(lines_of(reply))
        if self.any_order:
            expected, came = sorted(expected, key=str), sorted(came, key=str)
        return difference(expected, came)
