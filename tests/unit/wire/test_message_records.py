"""Show what the walk over records reads of a message: what dnspython reads, up to what is no record."""

from struct import pack, unpack_from

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wires import record_wire

from funkenshield.wire._message import inspect_records

A, SOA, OPT = 1, 6, 41
ANSWER, AUTHORITY, ADDITIONAL = range(3)
QUESTION = b"\3www\7example\0" + pack("!2H", A, 1)
START = 12 + len(QUESTION)
ADDRESS = record_wire(A, bytes(4))


def message(records=b"", counts=(0, 0, 0), *, questions=1, question=QUESTION):
    return pack("!6H", 7, 0x8000, questions, *counts) + question + records


def types(wire):
    """Return (section, type) of all records that are read, and whether that is all."""
    records, whole = inspect_records(wire)
    return [(section, rdtype) for section, rdtype, *_ in records], whole


def test_all_parts_of_all_records_are_found():
    response = dns.message.make_response(dns.message.make_query("www.example.", "A", use_edns=0))
    response.answer.append(dns.rrset.from_text("www.example.", 300, "IN", "A", "192.0.2.1", "192.0.2.2"))
    response.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "a.example. b. 1 2 3 4 5"))
    wire = response.to_wire()
    records, whole = inspect_records(wire)
    assert whole
    assert types(wire)[0] == [(ANSWER, A), (ANSWER, A), (AUTHORITY, SOA), (ADDITIONAL, OPT)]
    assert [owner for *_, owner, _, _ in records] == [START, *(end for *_, end in records[:-1])]
    for _, rdtype, _, data, end in records:
        assert unpack_from("!H", wire, data - 10)[0] == rdtype
        assert unpack_from("!H", wire, data - 2)[0] == end - data
    addresses = [wire[data:end] for _, rdtype, _, data, end in records if rdtype == A]
    assert sorted(addresses) == [b"\xc0\0\2\1", b"\xc0\0\2\2"]  # dnspython shuffles them
    assert records[-1][-1] == len(wire)


@pytest.mark.parametrize("counts", [(3, 0, 0), (0, 3, 0), (0, 0, 3), (1, 0, 2), (0, 2, 1), (1, 1, 1)])
def test_sections_have_as_many_records_as_the_header_announces(counts):
    sections = [section for section, count in enumerate(counts) for _ in range(count)]
    assert types(message(3 * ADDRESS, counts)) == ([(section, A) for section in sections], True)


def test_a_message_without_records_or_question_has_been_read_as_a_whole():
    assert types(message()) == ([], True)
    assert types(message(questions=0, question=b"")) == ([], True)
    assert types(message(record_wire(A, bytes(4), owner=b"\0"), (1, 0, 0), questions=0, question=b"")) == (
        [(ANSWER, A)], True)  # fmt: skip


def test_of_what_is_cut_off_all_that_is_whole_is_read():
    wire = message(3 * ADDRESS, (1, 1, 1))
    for length in range(START, len(wire)):
        records, whole = inspect_records(wire[:length])
        assert len(records) == (length - START) // len(ADDRESS)
        assert not whole


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 0, 0), (3, 0, 0), (0, 0, 65535)])
def test_it_is_not_all_where_more_or_less_was_announced(counts):
    assert types(message(2 * ADDRESS, counts)) == ([(counts.index(max(counts)), A)] * min(max(counts), 2), False)


OWNERS = {
    "to itself": pack("!H", 0xC000 | START + len(ADDRESS)),
    "forward": pack("!H", 0xC000 | START + len(ADDRESS) + 12),
    "into the header": pack("!H", 0xC000 | 11),
    "behind the end": b"\xff\xff",
    "half a pointer": b"\xc0",
    "an unknown kind of label": b"\x40",
    "longer than a name": b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\0",
}


@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
def test_where_an_owner_is_no_name_the_walk_ends(owner):
    assert types(message(ADDRESS + record_wire(A, bytes(4), owner=owner), (2, 0, 0))) == ([(ANSWER, A)], False)


@pytest.mark.parametrize(
    "wire",
    [
        message(ADDRESS, (1, 0, 0), questions=2),
        message(ADDRESS, (1, 0, 0), question=b"\3www"),
        message(ADDRESS, (1, 0, 0), question=b"\xc0\x0c" + QUESTION[-4:]),
        message(question=QUESTION[:-1]),
    ],
    ids=["two questions", "no name", "a pointer", "half a class"],
)
def test_behind_a_question_that_is_none_nothing_is_read(wire):
    assert types(wire) == ([], False)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.binary(max_size=80), st.booleans())
def test_records_follow_each_other_and_end_in_the_message(counts, tail, asked):
    wire = message(ADDRESS + tail, counts, questions=asked, question=QUESTION if asked else b"")
    records, whole = inspect_records(wire)
    at = START if asked else 12
    for _, _, start, data, end in records:
        assert start == at < data - 10
        assert data <= end <= len(wire)
        at = end
    assert whole == (len(records) == sum(counts) and at == len(wire))


@pytest.mark.parametrize("wire", [b"", bytes(11), bytes(65536)])
def test_what_has_no_header_or_is_too_long_is_no_message(wire):
    with pytest.raises(ValueError, match="12 to 65535 octets"):
        inspect_records(wire)
