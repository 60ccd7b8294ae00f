"""Show that the parser reads queries as dnspython does, whatever was done to them, and what makes a cache key.

What is a query, what is none, and what only the upstream can answer is in a table; everything else is random.
"""

from itertools import combinations
from struct import pack

import dns.edns
import dns.exception
import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.examples import examples

from funkenshield.wire._message import error_response, inspect_query

THOROUGH = examples(400)

QR, OPCODES, FLAGS, RCODE = 0x8000, 0x7800, 0x07FF, 0x000F
OPT, SIG, TKEY, TSIG, AXFR = 41, 24, 249, 250, 252
COOKIE, PADDING = 10, 12
HOP_BY_HOP = {5, 6, 7, 11, 12}  # DAU, DHU, N3U, TCP-KEEPALIVE, PADDING
ONLY_UPSTREAM = {OPT, *range(TKEY, AXFR + 1)}  # question types


def is_cookie(data):
    return len(data) == 8 or 16 <= len(data) <= 40


# ---------------------------------------------------------------- queries as they should be

labels = st.one_of(st.sampled_from([b"www", b"Example", b"COM", b"x" * 63]), st.binary(min_size=1, max_size=63))
names = st.lists(labels, max_size=6).filter(lambda found: sum(map(len, found)) + len(found) < 255)
numbers = st.integers(0, 0xFFFF)
rdtypes = st.one_of(st.sampled_from([1, 2, 5, 6, 15, 16, 28, 65, 255, *ONLY_UPSTREAM]), numbers)
classes = st.one_of(st.just(1), st.sampled_from([3, 254, 255]), numbers)
harmless = st.one_of(
    st.tuples(st.sampled_from(sorted(HOP_BY_HOP)), st.binary(max_size=40)),
    st.tuples(st.just(COOKIE), st.sampled_from([8, 16, 24, 40]).map(bytes)),
)
anything = st.tuples(st.one_of(st.sampled_from([3, 8, 9, COOKIE, 15, 19]), numbers), st.binary(max_size=42))
options = st.lists(st.one_of(harmless, harmless, anything), max_size=4)
opts = st.fixed_dictionaries(
    {
        "version": st.sampled_from([0, 0, 0, 1, 255]),
        "payload": numbers,
        "flags": st.one_of(st.sampled_from([0, 0x8000, 0x4000]), numbers),
        "options": options,
    }
)
facts = st.fixed_dictionaries(
    {
        "ident": numbers,
        "flags": st.one_of(st.sampled_from([0, 0x0100, 0x0020, 0x0110]), st.integers(0, FLAGS)),
        "opcode": st.sampled_from([0] * 6 + [1, 2, 4, 5, 6, 15]),
        "labels": names,
        "rdtype": rdtypes,
        "rdclass": classes,
        "opt": st.one_of(st.none(), opts, opts),
    }
)


def made(fact):
    """Return the octets of a query as dnspython writes it."""
    query = dns.message.QueryMessage(fact["ident"])
    query.flags = fact["flags"] | fact["opcode"] << 11
    name = dns.name.Name([*fact["labels"], b""])
    query.question.append(dns.rrset.RRset(name, fact["rdclass"], fact["rdtype"]))
    if fact["opt"]:
        opt = fact["opt"]
        query.use_edns(
            opt["version"],
            opt["version"] << 16 | opt["flags"],
            opt["payload"],
            options=[dns.edns.GenericOption(code, data) for code, data in opt["options"]],
        )
    return query.to_wire(max_size=65535)


def expected_verdict(fact):
    opt = fact["opt"] or {"version": 0, "options": []}
    cookies = [data for code, data in opt["options"] if code == COOKIE]
    plain = (
        fact["opcode"] == 0
        and fact["rdtype"] not in ONLY_UPSTREAM
        and opt["version"] == 0
        and all(code in {COOKIE, *HOP_BY_HOP} for code, _ in opt["options"])
        and len(cookies) <= 1
        and all(map(is_cookie, cookies))
    )
    return "plain" if plain else "special"


@THOROUGH
@given(facts)
def test_a_query_is_read_as_it_was_meant(fact):
    found = inspect_query(made(fact))
    assert found["verdict"] == expected_verdict(fact)
    assert (found["qtype"], found["qclass"]) == (fact["rdtype"], fact["rdclass"])
    assert found["qname"] == dns.name.Name([*fact["labels"], b""]).to_wire()
    if fact["opt"]:
        assert found["edns_flags"] == fact["opt"]["flags"]
        assert found["payload"] == max(fact["opt"]["payload"], 512)
    else:
        assert "payload" not in found


# ---------------------------------------------------------------- and what becomes of them

positions = st.integers(0, 400)
edits = st.one_of(
    st.tuples(st.just("set"), positions, st.binary(min_size=1, max_size=1)),
    st.tuples(
        st.just("set"), st.integers(0, 30), st.sampled_from([b"\0", b"\1", b"\x3f", b"\x40", b"\xc0\x0c", b"\xff"])
    ),
    st.tuples(st.just("cut"), positions, st.just(b"")),
    st.tuples(st.just("put in"), positions, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("set"), st.just(4), st.tuples(*[st.integers(0, 2)] * 4).map(lambda found: pack("!4H", *found))),
)


def spoilt(wire, changes):
    """Return the octets after each change: some set, cut off, put in or appended."""
    for kind, position, octets in changes:
        at = position % (len(wire) + 1)
        match kind:
            case "set":
                wire = (wire[:at] + octets + wire[at + len(octets) :])[: max(len(wire), 1)]
            case "cut":
                wire = wire[:at]
            case "put in":
                wire = wire[:at] + octets + wire[at:]
            case "append":
                wire += octets
    return wire


def read(wire):
    """Return the message as dnspython reads it with all strictness, or None."""
    try:
        return dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        return None


def is_query_with_at_most_an_opt(wire, message):
    """Tell whether a message is what a cache might answer; names in question and OPT must stand there in full."""
    opcode_and_counts = int.from_bytes(wire[2:4]) & (QR | OPCODES), wire[4:10]
    if opcode_and_counts != (0, b"\0\1\0\0\0\0"):
        return False
    name = message.question[0].name.to_wire()
    opt = wire[12 + len(name) + 4 :]
    return wire[12:].startswith(name) and int.from_bytes(wire[10:12]) == (message.opt is not None) and opt[:1] in b"\0"


def compare(wire):
    found, message = inspect_query(wire), read(wire)
    if found["verdict"] == "plain":
        assert message is not None, "plain, but dnspython cannot read it"
        (question,) = message.question
        assert question.name.to_wire() == found["qname"]
        assert (question.rdtype, question.rdclass) == (found["qtype"], found["qclass"])
        assert found["key"][12:] == question.name.canonicalize().to_wire()
        assert message.section_count(dns.message.ADDITIONAL) == (message.edns == 0)
        assert message.answer == message.authority == []
        assert (message.edns == 0) == ("payload" in found)
        if message.edns == 0:
            assert max(message.payload, 512) == found["payload"]
            assert message.ednsflags & 0xFFFF == found["edns_flags"]
        assert is_query_with_at_most_an_opt(wire, message)
    if len(wire) < 12 or wire[2] & 0x80:
        assert found == {"verdict": "unanswerable"}
    elif message is not None and is_query_with_at_most_an_opt(wire, message):
        assert found["verdict"] in {"plain", "special"}
    return found["verdict"]


@THOROUGH
@given(facts, st.lists(edits, min_size=1, max_size=4))
def test_a_spoilt_query_is_read_as_dnspython_reads_it_or_by_nobody(fact, changes):
    compare(spoilt(made(fact), changes))


@THOROUGH
@given(st.binary(max_size=80))
@example(b"")
def test_noise_is_read_as_dnspython_reads_it_or_by_nobody(noise):
    compare(noise)
    compare(b"\x12\x34\1\0\0\1\0\0\0\0" + noise)


@pytest.mark.slow
def test_each_single_octet_may_be_anything():
    wire = made(SAMPLE | {"opt": OPT_SAMPLE | {"options": [(COOKIE, bytes(8)), (PADDING, bytes(3))]}})
    verdicts = {compare(wire[:at] + bytes([octet]) + wire[at + 1 :]) for at in range(len(wire)) for octet in range(256)}
    assert verdicts == {"plain", "special", "malformed", "unanswerable"}


def test_a_query_cut_anywhere_is_none():
    wire = made(SAMPLE | {"opt": OPT_SAMPLE})
    assert [compare(wire[:end]) for end in range(len(wire))] == ["unanswerable"] * 12 + ["malformed"] * (len(wire) - 12)


@THOROUGH
@given(facts, st.lists(edits, max_size=3), st.integers(1, 15))
def test_an_error_echoes_what_was_understood(fact, changes, rcode):
    wire = spoilt(made(fact), changes)
    found = inspect_query(wire)
    if found["verdict"] == "unanswerable":
        with pytest.raises(ValueError, match="nobody answers that"):
            error_response(wire, rcode)
        return
    error = error_response(wire, rcode)
    head = int.from_bytes(error[2:4])
    assert error[:2] == wire[:2]
    assert head == QR | int.from_bytes(wire[2:4]) & (OPCODES | 0x0110) | rcode
    question = wire[12 : 16 + len(found["qname"])] if "qname" in found else b""
    assert error[12 : 12 + len(question)] == question
    assert error[4:12] == pack("!4H", bool(question), 0, 0, "payload" in found)
    rest = error[12 + len(question) :]
    assert rest == (opt(rdclass=512, ttl=found["edns_flags"] & 0x8000) if "payload" in found else b"")


# ---------------------------------------------------------------- keys

SAMPLE = {
    "ident": 7, "flags": 0x0100, "opcode": 0, "labels": [b"www", b"Example", b"com"], "rdtype": 1, "rdclass": 1,
    "opt": None,
}  # fmt: skip
OPT_SAMPLE = {"version": 0, "payload": 1232, "flags": 0, "options": []}
IN_THE_KEY = {
    "as it is": {},
    "name": {"labels": [b"ww", b"Example", b"com"]},
    "label border": {"labels": [b"wwwExample", b"com"]},
    "beyond ASCII": {"labels": [b"www", b"Example", b"c\xd6m"]},
    "beyond ASCII, other case": {"labels": [b"www", b"Example", b"c\xf6m"]},
    "not quite letters": {"labels": [b"www", b"Example", b"@["]},
    "not quite letters, plus 32": {"labels": [b"www", b"Example", b"`{"]},
    "type": {"rdtype": 28},
    "class": {"rdclass": 3},
    **{f"flag {1 << bit:#06x}": {"flags": 0x0100 ^ 1 << bit} for bit in (8, 5, 4)},
    "OPT": {"opt": OPT_SAMPLE},
    "DO": {"opt": OPT_SAMPLE | {"flags": 0x8000}},
    "CO": {"opt": OPT_SAMPLE | {"flags": 0x4000}},
    "DO and CO": {"opt": OPT_SAMPLE | {"flags": 0xC000}},
}


def key(fact):
    return inspect_query(made(fact))["key"]


def test_keys_differ_where_answers_may():
    keys = {name: key(SAMPLE | change) for name, change in IN_THE_KEY.items()}
    assert not [pair for pair in combinations(keys, 2) if keys[pair[0]] == keys[pair[1]]]


NOT_IN_THE_KEY = {
    "ID": {"ident": 65535},
    **{f"flag {1 << bit:#06x}": {"flags": 0x0100 | 1 << bit} for bit in (10, 9, 7, 6, 3, 2, 1, 0)},
    **{f"EDNS flag {1 << bit:#06x}": {"opt": OPT_SAMPLE | {"flags": 1 << bit}} for bit in range(14)},
    "case": {"labels": [b"WWW", b"eXAMPLE", b"cOm"]},
    "payload": {"opt": OPT_SAMPLE | {"payload": 4096}},
    "payload of nothing": {"opt": OPT_SAMPLE | {"payload": 0}},
    "cookie": {"opt": OPT_SAMPLE | {"options": [(COOKIE, b"abcdefgh")]}},
    "server cookie": {"opt": OPT_SAMPLE | {"options": [(COOKIE, bytes(40))]}},
    **{f"option {code}": {"opt": OPT_SAMPLE | {"options": [(code, b"\1\2")]}} for code in HOP_BY_HOP},
    "all options": {"opt": OPT_SAMPLE | {"options": [(code, bytes(8)) for code in (COOKIE, *HOP_BY_HOP)]}},
}


@pytest.mark.parametrize("change", NOT_IN_THE_KEY.values(), ids=NOT_IN_THE_KEY)
def test_keys_are_equal_where_answers_are(change):
    assert key(SAMPLE | change) == key(SAMPLE | {"opt": OPT_SAMPLE if "opt" in change else None})


bits = st.sampled_from([0, 0x8000, 0x4000, 0xC000])
asked_for = st.fixed_dictionaries(
    {
        "labels": st.lists(st.sampled_from([b"a", b"B", b"\xc4", b"A"]), max_size=2),
        "rdtype": st.sampled_from([1, 28]),
        "rdclass": st.sampled_from([1, 3]),
        "flags": st.sampled_from([0, 0x0100, 0x0020, 0x0010]),
        "edns": st.one_of(st.none(), bits),
    }
)
besides = st.fixed_dictionaries(
    {
        "ident": numbers,
        "payload": numbers,
        "options": st.lists(harmless, max_size=3, unique_by=lambda option: option[0]),
    }
)


@THOROUGH
@given(asked_for, asked_for, besides, besides)
def test_keys_are_equal_if_and_only_if_the_same_was_asked(one, other, besides_one, besides_other):
    def key_of(asked, besides):
        opt = {"version": 0, "flags": asked["edns"]} | besides if asked["edns"] is not None else None
        return key(asked | {"opcode": 0, "ident": besides["ident"], "opt": opt})

    def folded(asked):
        return asked | {"labels": [label.lower() for label in asked["labels"]]}

    same = folded(one) == folded(other)
    assert (key_of(one, besides_one) == key_of(other, besides_other)) == same
    assert key_of(one, besides_one) == key_of(folded(one), besides_other)


# ---------------------------------------------------------------- verdicts

NAME = b"\3www\7example\3com\0"
QUESTION = NAME + b"\0\1\0\1"


def packet(*parts, flags=0x0100, counts=None):
    """Return a header and what follows it: a question, and each other part is an additional record."""
    counts = counts or (1, 0, 0, len(parts) - 1)
    return pack("!6H", 0x1234, flags, *counts) + b"".join(parts)


def question(name=NAME, rdtype=1, rdclass=1):
    return name + pack("!2H", rdtype, rdclass)


def record(rdtype, rdata=b"", *, owner=b"\0", rdclass=255, ttl=0, size=None):
    return owner + pack("!2HIH", rdtype, rdclass, ttl, len(rdata) if size is None else size) + rdata


def opt(*options, **fields):
    return record(OPT, b"".join(pack("!2H", code, len(data)) + data for code, data in options), **fields)


LONGEST = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
VERDICTS = {
    "plain": {
        "no OPT": packet(QUESTION),
        "the root": packet(question(b"\0")),
        "a name of 255 octets": packet(question(LONGEST)),
        "a label of 63 octets": packet(question(b"\x3f" + b"-" * 63 + b"\0")),
        "class CH": packet(question(rdclass=3)),
        "class ANY": packet(question(rdclass=255)),
        "type ANY": packet(question(rdtype=255)),
        "OPT": packet(QUESTION, opt()),
        "OPT with every flag": packet(QUESTION, opt(ttl=0xFFFF)),
        "padding of nothing": packet(QUESTION, opt((PADDING, b""))),
        "padding twice": packet(QUESTION, opt((PADDING, bytes(9)), (PADDING, b""))),
        **{f"option {code}": packet(QUESTION, opt((code, b"\1"))) for code in HOP_BY_HOP},
        **{f"cookie of {size}": packet(QUESTION, opt((COOKIE, bytes(size)))) for size in (8, 16, 40)},
    },
    "special": {
        **{f"opcode {opcode}": packet(QUESTION, flags=opcode << 11) for opcode in range(1, 16)},
        "another opcode without a question": packet(b"\xff" * 30, flags=0x2800, counts=(0, 9, 9, 9)),
        "another opcode, and noise behind the question": packet(
            QUESTION, b"\xff" * 30, flags=0x2800, counts=(1, 9, 9, 9)
        ),
        "nothing but a cookie": packet(b"", opt((COOKIE, bytes(8))), counts=(0, 0, 0, 1)),
        "EDNS version 1": packet(QUESTION, opt(ttl=0x00010000)),
        "an answer in the query": packet(QUESTION, record(1, bytes(4)), counts=(1, 1, 0, 0)),
        "an authority in the query": packet(QUESTION, record(6, bytes(22)), counts=(1, 0, 1, 0)),
        "TSIG": packet(QUESTION, record(TSIG, bytes(30))),
        "OPT and TSIG": packet(QUESTION, opt(), record(TSIG, bytes(30), owner=b"\xc0\x0c")),
        "TSIG and OPT": packet(QUESTION, record(TSIG, bytes(30)), opt()),
        "SIG(0)": packet(QUESTION, record(SIG, bytes(30))),
        "any other record": packet(QUESTION, record(1, bytes(4), owner=NAME)),
        **{f"type {rdtype}": packet(question(rdtype=rdtype)) for rdtype in sorted(ONLY_UPSTREAM)},
        **{
            f"option {code}": packet(QUESTION, opt((PADDING, b""), (code, bytes(8))))
            for code in (0, 3, 8, 9, 13, 14, 15, 19, 65001, 65535)
        },
        **{f"cookie of {size}": packet(QUESTION, opt((COOKIE, bytes(size)))) for size in (0, 7, 9, 15, 41)},
        "two cookies": packet(QUESTION, opt((COOKIE, bytes(8)), (COOKIE, bytes(8)))),
    },
    "malformed": {
        "a header alone": packet(b""),
        "no question": packet(b"", counts=(0, 0, 0, 0)),
        "no question but OPT": packet(b"", opt(), counts=(0, 0, 0, 1)),
        "no question but padding": packet(b"", opt((PADDING, bytes(8))), counts=(0, 0, 0, 1)),
        "a cookie without question, then noise": packet(b"", opt((COOKIE, bytes(8))), b"\0", counts=(0, 0, 0, 1)),
        "two questions": packet(QUESTION, QUESTION, counts=(2, 0, 0, 0)),
        "two questions with another opcode": packet(QUESTION, QUESTION, flags=0x2800, counts=(2, 0, 0, 0)),
        "another opcode and a pointer": packet(question(b"\xc0\x0c"), flags=0x1000),
        "another opcode and noise": packet(b"\xff" * 30, flags=0x2800),
        "65535 questions": packet(QUESTION, counts=(65535, 0, 0, 0)),
        "a label of 64 octets": packet(question(b"\x40" + b"a" * 64 + b"\0")),
        "a label type of old": packet(question(b"\x80" + b"a" * 128 + b"\0")),
        "a name of 256 octets": packet(question(b"\1a" + LONGEST[2:-1] + b"\1a\0")),
        "a name without end": packet(b"\1a" * 200),
        "a pointer to itself": packet(question(b"\xc0\x0c")),
        "a pointer into the header": packet(question(b"\xc0\x04")),
        "a pointer behind labels": packet(question(b"\3www\xc0\x0c")),
        "a question past the end": packet(QUESTION[:-1]),
        "a name past the end": packet(b"\3ww"),
        "an octet behind the question": packet(QUESTION, b"\0", counts=(1, 0, 0, 0)),
        "an octet behind OPT": packet(QUESTION, opt() + b"\0"),
        "an OPT too few": packet(QUESTION, opt(), counts=(1, 0, 0, 2)),
        "an OPT too many": packet(QUESTION, opt(), counts=(1, 0, 0, 0)),
        "two OPTs": packet(QUESTION, opt(), opt()),
        "two OPTs and a TSIG": packet(QUESTION, opt(), record(TSIG, bytes(30)), opt()),
        "OPT with an owner": packet(QUESTION, opt(owner=b"\1a\0")),
        "OPT with a compressed owner": packet(QUESTION, opt(owner=b"\xc0\x0c")),
        "OPT whose RDATA is missing": packet(QUESTION, opt(size=4)),
        "half an option": packet(QUESTION, record(OPT, b"\0\x0c\0")),
        "an option that overruns": packet(QUESTION, record(OPT, b"\0\x0c\0\1")),
        "a second option that overruns": packet(QUESTION, record(OPT, b"\0\x0c\0\0\0\x0c\xff\xff")),
        "an owner that points forward": packet(QUESTION, record(1, bytes(4), owner=b"\xc0\xff")),
    },
    "unanswerable": {
        "nothing": b"",
        "eleven octets": packet(QUESTION)[:11],
        "a response": packet(QUESTION, flags=QR),
        "a response with another opcode": packet(QUESTION, flags=QR | 0x2000),
    },
}


@pytest.mark.parametrize(
    ("wire", "verdict"),
    [
        pytest.param(wire, verdict, id=f"{verdict}: {name}")
        for verdict, wires in VERDICTS.items()
        for name, wire in wires.items()
    ],
)
def test_verdicts(wire, verdict):
    found = inspect_query(wire)
    assert found["verdict"] == verdict
    assert ("key" in found) == (verdict == "plain")


def test_a_message_is_no_longer_than_dns_allows():
    longest = packet(QUESTION, opt((PADDING, bytes(65535 - len(packet(QUESTION, opt((PADDING, b""))))))))
    assert len(longest) == 65535
    assert inspect_query(longest)["verdict"] == "plain"
    with pytest.raises(ValueError, match="at most 65535 octets, not 65536"):
        inspect_query(longest + b"\0")
