"""Know how a message is told in words, how that looks in octets, and where it differs from what came.

A message is told in clauses with commas between them. Every message knows these:

    www.example. A [CH]                     a question (class IN); `no question`
    AA TC RD RA Z AD CD, no RD              flags of the header; RD is set in a query unless it says no
    opcode NOTIFY                           QUERY unless told
    OPT, no OPT, payload N, version N, DO, CO, edns flags HEX
    cookie HEX, ecs ADDR/SOURCE[/SCOPE], nsid [HEX], padding N, keepalive [HEX], EDE N, option CODE [HEX]
    answer | authority | additional [OWNER] TTL [CLASS] TYPE RDATA
    append HEX                              octets behind the last record
    hex HEX                                 the whole message; ID and QUESTION stand for the query's

`X*N` is X, N times over; "text" in HEX is its octets; `*` at the end of a cookie is any rest, as a TTL any TTL.
Any other word is an error. Nothing here knows who says what, nor when.
"""

import io
import ipaddress
import re
import struct

import dns.exception
import dns.flags
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire

HEADER_FLAGS = {"QR": 0x8000, "AA": 0x0400, "TC": 0x0200, "RD": 0x0100, "RA": 0x80, "Z": 0x40, "AD": 0x20, "CD": 0x10}
EDNS_FLAGS = {"DO": 0x8000, "CO": 0x4000}
RCODES = {name: int(rcode) for name, rcode in dns.rcode.Rcode.__members__.items()}
SECTIONS = ("answer", "authority", "additional")
OPTIONS = {"nsid": 3, "ecs": 8, "cookie": 10, "keepalive": 11, "padding": 12, "EDE": 15}
OPT = 41
SIGNATURES = (24, 250)  # SIG(0) and TSIG come last
PAYLOAD = 1232  # octets, the shield's and everybody's unless told


def clauses(text):
    """Return the clauses of a text: what stands between commas that are in no quotes, as lists of words."""
    parts = re.findall(r'(?:"[^"]*"|[^,"])+', text)
    return [re.findall(r'(?:"[^"]*"|\S)+', part) for part in parts]


def repeated(word):
    """Return a word with X*N written out."""
    found = re.fullmatch(r'("?)([^"]*)("?)\*(\d+)', word)
    return found[1] + found[2] * int(found[4]) + found[3] if found else word


def octets(words, **named):
    """Return what hexadecimal words, quoted texts, and the `named` ones stand for."""
    wire = b""
    for word in map(repeated, words):
        if word in named:
            wire += named[word]
        else:
            wire += word.strip('"').encode() if word.startswith('"') else bytes.fromhex(word)
    return wire


def ecs(text):
    """Return the octets of a CLIENT-SUBNET option (RFC 7871 6) told as ADDRESS/SOURCE[/SCOPE]."""
    address, *prefixes = text.split("/")
    source, scope = (*map(int, prefixes), 0)[:2]
    packed = ipaddress.ip_address(address).packed
    return bytes([0, 1 if len(packed) == 4 else 2, source, scope]) + packed[: (source + 7) // 8]


class Record:
    """A resource record; no `owner` is the name of the question, no `ttl` is any."""

    def __init__(self, words):
        words = list(words)
        self.owner = dns.name.from_text(words.pop(0)) if words[0].endswith(".") else None
        ttl = words.pop(0)
        self.ttl = None if ttl == "*" else int(ttl)
        self.rdclass = words.pop(0) if words[0] in dns.rdataclass.RdataClass.__members__ else None
        self.rdtype = dns.rdatatype.from_text(words.pop(0))
        self._text = " ".join(map(repeated, words))
        self.rdata("IN")

    def rdata(self, rdclass):
        """Return the Rdata, in the class of the question unless another was told."""
        return dns.rdata.from_text(self.rdclass or rdclass, self.rdtype, self._text, relativize=False)


class Message:
    """What queries and responses have in common."""

    def __init__(self):
        self.questions = []
        self.questionless = False
        self.opcode = None
        self.rcode = 0
        self.flags = {}
        self.opt = None
        self.edns = False
        self.payload = PAYLOAD
        self.version = 0
        self.edns_flags = 0
        self.options = []
        self.records = {section: [] for section in SECTIONS}
        self.append = []
        self.hex = []

    @classmethod
    def told(cls, text):
        """Return the message that a text tells; ValueError names the clause that cannot be understood."""
        message = cls()
        for words in clauses(text):
            try:
                known = message.take(words)
            except (ValueError, IndexError, dns.exception.DNSException) as error:
                raise ValueError(f"{' '.join(words)}: {error}") from None
            if not known:
                raise ValueError(f"unknown: {' '.join(words)}")
        return message

    def take(self, words):
        """Take a clause; return whether it is known."""
        match words:
            case ["no", "question"]:
                self.questionless = True
            case ["OPT"]:
                self.opt = True
            case ["no", "OPT"]:
                self.opt = False
            case ["no", flag] if flag in HEADER_FLAGS:
                self.flags[flag] = False
            case [flag] if flag in HEADER_FLAGS:
                self.flags[flag] = True
            case ["opcode", name]:
                self.opcode = dns.opcode.from_text(name)
            case ["hex", *rest]:
                self.hex = rest
                octets(rest, ID=b"", QUESTION=b"")
            case ["append", *rest]:
                self.append = rest
                octets(rest)
            case [section, *rest] if section in SECTIONS:
                self.records[section].append(Record(rest))
            case [name, rdtype, *rdclass] if name.endswith(".") and len(rdclass) <= 1:
                rdclass = dns.rdataclass.from_text(*rdclass or ["IN"])
                self.questions.append((dns.name.from_text(name), dns.rdatatype.from_text(rdtype), rdclass))
            case _:
                return self._take_edns(words)
        return True

    def _take_edns(self, words):
        match words:
            case [flag] if flag in EDNS_FLAGS:
                self.edns_flags |= EDNS_FLAGS[flag]
            case ["edns", "flags", number]:
                self.edns_flags |= int(number, 16)
            case ["payload", number]:
                self.payload = int(number)
            case ["version", number]:
                self.version = int(number)
            case ["cookie", "given"]:
                self.options.append((OPTIONS["cookie"], "given"))
            case ["cookie", *rest, last]:
                rest.append(last.removesuffix("*"))
                self.options.append((OPTIONS["cookie"], octets(rest).hex() + "*" * last.endswith("*")))
            case ["ecs", told]:
                self.options.append((OPTIONS["ecs"], ecs(told).hex()))
            case ["EDE", number]:
                self.options.append((OPTIONS["EDE"], f"{int(number):04x}"))
            case ["padding", number]:
                self.options.append((OPTIONS["padding"], "00" * int(number)))
            case ["nsid" | "keepalive" as name, *rest]:
                self.options.append((OPTIONS[name], octets(rest).hex()))
            case ["option", code, *rest]:
                self.options.append((int(code), octets(rest).hex()))
            case _:
                return False
        self.edns = True
        return True

    # ------------------------------------------------------------ octets

    def write(self, ident, flags, *, opt, edns_flags=0, question=b"", given=b""):
        """Return the message with this ID and these flags, and the octets of a `question` where none was told.

        `given` are the octets of the cookie that is told as "given".
        """
        out = io.BytesIO()
        echo = b"" if self.questions or self.questionless else question
        name, rdclass = self.context(question)
        sizes = [len(self.questions) + bool(echo), *(len(self.records[section]) for section in SECTIONS)]
        sizes[3] += opt
        out.write(struct.pack("!6H", ident, flags | self.rcode & 15, *sizes) + echo)
        places = {name: 12} if echo else {}
        for qname, rdtype, qclass in self.questions:
            qname.to_wire(out, places)
            out.write(struct.pack("!2H", rdtype, qclass))
        signed = any(record.rdtype in SIGNATURES for record in self.records["additional"])
        for section in SECTIONS:
            if section == "additional" and opt and signed:
                out.write(self._opt_record(edns_flags, given))
            for record in self.records[section]:
                _write_record(out, record, record.owner or name, rdclass, places)
        if opt and not signed:
            out.write(self._opt_record(edns_flags, given))
        return out.getvalue() + octets(self.append)

    def context(self, question):
        """Return the name and class that records have unless they say otherwise."""
        if self.questions:
            return self.questions[0][0], self.questions[0][2]
        if not question:
            return dns.name.root, dns.rdataclass.IN
        return dns.name.from_wire(question, 0)[0], int.from_bytes(question[-2:])

    def _opt_record(self, edns_flags, given):
        options = b""
        for code, told in self.options:
            value = given if told == "given" else bytes.fromhex(told)
            options += struct.pack("!2H", code, len(value)) + value
        fixed = OPT, self.payload, self.rcode >> 4, self.version, self.edns_flags | edns_flags, len(options)
        return b"\0" + struct.pack("!2H2B2H", *fixed) + options

    # ------------------------------------------------------------ lines, to be compared

    def lines(self, flags, *, opt, edns_flags=0, question=b""):
        """Yield the lines of the message, each with its TTL or None; what is given is as for `write`."""
        name, rdclass = self.context(question)
        yield from head_lines(self.rcode, flags)
        if self.questions:
            yield from ((question_line(*each), None) for each in self.questions)
        elif question and not self.questionless:
            yield question_line(name, *struct.unpack("!2H", question[-4:])), None
        for section in SECTIONS:
            for record in self.records[section]:
                rdata = record.rdata(rdclass)
                yield record_line(section, record.owner or name, rdata), record.ttl
        if opt:
            yield opt_line(self.payload, self.version, self.edns_flags | edns_flags), None
            for code, told in self.options:
                yield f"option {code} {told}{'*' * (code == OPTIONS['EDE'])}", None
        if self.append:
            yield f"append {octets(self.append).hex()}", None


def _write_record(out, record, owner, rdclass, places):
    rdata = record.rdata(rdclass)
    owner.to_wire(out, places)
    out.write(struct.pack("!HHI", record.rdtype, rdata.rdclass, record.ttl or 0))
    at = out.tell()
    out.write(b"\0\0")
    rdata.to_wire(out, places)
    end = out.tell()
    out.seek(at)
    out.write((end - at - 2).to_bytes(2))
    out.seek(end)


def record_line(section, owner, rdata):
    """Return a record as it is compared: all but its TTL, names in lower case."""
    text = rdata.to_text()
    text = text if '"' in text else text.lower()
    kind = f"{dns.rdataclass.to_text(rdata.rdclass)} {dns.rdatatype.to_text(rdata.rdtype)}"
    return f"{section} {owner.to_text().lower()} {kind} {text}"


def opt_line(payload, version, edns_flags):
    """Return an OPT record as it is compared: all but its options."""
    flags = [flag for flag, bit in EDNS_FLAGS.items() if edns_flags & bit]
    rest = edns_flags & ~sum(EDNS_FLAGS.values())
    return " ".join([f"OPT payload {payload} version {version}", *flags, *[f"{rest:04x}"] * bool(rest)])


def head_lines(rcode, flags):
    """Return the lines of a header: rcode, opcode and flags."""
    yield dns.rcode.to_text(rcode), None
    yield f"opcode {dns.opcode.to_text(flags >> 11 & 15)}", None
    yield " ".join(["flags", *(flag for flag, bit in HEADER_FLAGS.items() if flags & bit)]), None


def question_line(name, rdtype, rdclass):
    """Return a question as it is compared, in the case in which it came."""
    return f"question {name.to_text()} {dns.rdatatype.to_text(rdtype)} {dns.rdataclass.to_text(rdclass)}"


def lines_of(wire):
    """Yield the lines of a message as it came, each with its TTL or None; FormError where it ends early."""
    parser = dns.wire.Parser(wire)
    _, flags, questions, *counts = parser.get_struct("!6H")
    body = [(question_line(_name(parser), *parser.get_struct("!2H")), None) for _ in range(questions)]
    opts = []
    for section, count in zip(SECTIONS, counts, strict=True):
        for _ in range(count):
            owner = _name(parser)
            rdtype, rdclass, ttl, size = parser.get_struct("!HHIH")
            with parser.restrict_to(size):
                if rdtype == OPT:
                    opts.append((rdclass, ttl, parser.get_remaining()))
                else:
                    rdata = dns.rdata.from_wire_parser(rdclass, rdtype, parser)
                    body.append((record_line(section, owner, rdata), ttl))
    yield from head_lines(flags & 15 | (opts[0][1] >> 20 & 0xFF0 if opts else 0), flags)
    yield from body
    for payload, fields, options in opts:
        yield opt_line(payload, fields >> 16 & 255, fields & 0xFFFF), None
        yield from _option_lines(options)
    if parser.remaining():
        yield f"append {parser.get_remaining().hex()}", None


def _name(parser):
    return dns.name.from_wire_parser(parser)


def _option_lines(options):
    while len(options) >= 4:
        size = int.from_bytes(options[2:4])
        yield f"option {int.from_bytes(options[:2])} {options[4 : 4 + size].hex()}", None
        options = options[4 + size :]


def options_of(wire, code):
    """Return the octets of each option with this code in a message."""
    start = f"option {code} "
    return [bytes.fromhex(line.removeprefix(start)) for line, _ in lines_of(wire) if line.startswith(start)]


def difference(expected, actual):
    """Return how lines that were expected differ from those that came, "" where they do not.

    The running clock is allowed one second; an expected line that ends in * is a beginning.
    """
    if len(expected) == len(actual) and all(map(_agree, expected, actual)):
        return ""
    shown = [*map(_show, expected), "but came:", *map(_show, actual)]
    return "\n    ".join(["expected:", *shown])


def _agree(expected, actual):
    (line, ttl), (came, aged) = expected, actual
    if not (came.startswith(line[:-1]) if line.endswith("*") else came == line):
        return False
    return ttl is None or aged == ttl or (aged == ttl - 1 and ttl > 1)


def _show(line):
    text, ttl = line
    return text if ttl is None else f"{text} (TTL {ttl})"
