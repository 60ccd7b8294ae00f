"""Show that what dnspython cannot parse for a name in the data of a record is not stored, and what it can parse is.

Records are told by their data, whose names may be compressed or not, and are then spoilt octet by octet. What
dnspython does not know, or reads more strictly than names go, is told apart by table.
"""

import time
from struct import pack

import dns.exception
import dns.message
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import quick
from support.examples import examples

from funkenshield.cache._entry import is_response_to
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

THOROUGH = examples(200)
CACHE = Cache(1 << 22, Clock())
ASKED = quick.query("www.example.com")
START = len(ASKED) + 12  # where the data of the first record stands, whose owner is a pointer
PLAIN = [b"\0", b"\3ns1\7example\3net\0", b"\x3f" + b"x" * 63 + b"\0"]
NAMES = [*PLAIN, b"\xc0\x0c", b"\xc0\x10", b"\1a\xc0\x18", b"\4mail\xc0\x10"]

SIGNATURES = (24, 46)

# type: (octets before names, how many names, octets behind them; None: any)
READ = {  # by dnspython, too
    "NS": (2, 0, 1, 0), "CNAME": (5, 0, 1, 0), "SOA": (6, 0, 2, 20), "PTR": (12, 0, 1, 0), "MX": (15, 2, 1, 0),
    "RP": (17, 0, 2, 0), "AFSDB": (18, 2, 1, 0), "RT": (21, 2, 1, 0), "NSAP-PTR": (23, 0, 1, 0),
    "SIG": (24, 18, 1, None), "PX": (26, 2, 2, 0), "SRV": (33, 6, 1, 0), "KX": (36, 2, 1, 0), "DNAME": (39, 0, 1, 0),
    "RRSIG": (46, 18, 1, None), "LP": (107, 2, 1, 0),
}  # fmt: skip
UNKNOWN = {  # to dnspython: it takes any octets
    "MD": (3, 0, 1, 0), "MF": (4, 0, 1, 0), "MB": (7, 0, 1, 0), "MG": (8, 0, 1, 0), "MR": (9, 0, 1, 0),
    "MINFO": (14, 0, 2, 0), "NXT": (30, 0, 1, None), "TALINK": (58, 0, 2, 0),
}  # fmt: skip
STRICTER = {  # dnspython reads more than the name
    "NSEC": (47, 0, 1, None), "SVCB": (64, 2, 1, None), "HTTPS": (65, 2, 1, None),
}  # fmt: skip
TYPES = READ | UNKNOWN | STRICTER
NEVER_COMPRESSED = {
    23,
    36,
    39,
    46,
    47,
    64,
    65,
    107,
}  # dnspython follows no pointer there; whoever does reads the message


def told(rdtype, data, more=b""):
    """Return a response with two records of a type: one of the data, and an address behind it."""
    fixed = b"\xc0\x0c" + pack("!HHIH", rdtype, 1, 300, len(data))
    behind = b"\xc0\x0c" + pack("!HHIH", 1, 1, 300, 4) + bytes(4)
    return ASKED[:2] + pack("!5H", 0x8180, 1, 2, 0, 0) + ASKED[12:] + fixed + data + behind + more


def is_kept(response, asked=ASKED):
    return CACHE.store(asked, response)


def is_read(response):
    """Tell whether dnspython can read a response with all strictness."""
    try:
        dns.message.from_wire(response)
    except (dns.exception.DNSException, ValueError):
        return False
    return True


def points_into_the_header(wire):
    """Tell whether there may be a pointer to an octet of the header: dnspython follows it, and nobody writes it."""
    return any(wire[at] == 0xC0 and wire[at + 1] < 12 for at in range(START, len(wire) - 1))


@st.composite
def data(draw, types):
    """Draw a type, and data that is in order."""
    rdtype, before, names, behind = types[draw(st.sampled_from(sorted(types)))]
    octets = draw(st.binary(min_size=before, max_size=before))
    if rdtype in SIGNATURES:  # of something, and for years
        octets = b"\0\1" + octets[2:8] + pack("!I", int(time.time()) + (1 << 28)) + octets[12:]
    for _ in range(names):
        octets += draw(st.sampled_from(PLAIN if rdtype in NEVER_COMPRESSED else NAMES))
    size = draw(st.integers(0, 30)) if rdtype in SIGNATURES else behind or 0
    return rdtype, octets + draw(st.binary(min_size=size, max_size=size))


spoils = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.sampled_from(["set", "cut", "add"]),
        st.one_of(
            st.binary(min_size=1, max_size=2), st.sampled_from([b"\x40", b"\x80", b"\xc0\xff", b"\x4f", b"\x3f"])
        ),
    ),
    min_size=1,
    max_size=2,
)


def spoilt(octets, changes):
    for position, how, new in changes:
        at = position % (len(octets) + 1)
        octets = octets[:at] + (b"" if how == "cut" else new) + octets[at + (0 if how == "add" else len(new)) :]
    return octets


@THOROUGH
@given(data(TYPES))
def test_what_is_in_order_is_stored(record):
    response = told(*record)
    assert is_read(response)
    assert is_kept(response)


@pytest.mark.slow
@examples(500)
@given(data(READ), spoils)
def test_dnspython_can_read_what_is_stored_and_nothing_else(record, changes):
    rdtype, octets = record[0], spoilt(record[1], changes)
    response = told(rdtype, octets)
    assume(not points_into_the_header(response))
    assume(rdtype not in SIGNATURES or octets[:12] == record[1][:12])
    assume(rdtype not in NEVER_COMPRESSED or max(octets, default=0) < 0xC0)
    assert is_kept(response) == is_read(response)


@THOROUGH
@given(data(STRICTER), spoils)
def test_what_is_stored_has_names_where_dnspython_reads_more_than_them(record, changes):
    response = told(record[0], spoilt(record[1], changes))
    assume(not points_into_the_header(response))
    assert is_kept(response) or not is_read(response)


@pytest.mark.parametrize(
    "spoil",
    ["a reserved label type", "past its record", "past the message", "too short", "too long", "forward", "to itself",
     "into the header", "too many octets"],
)  # fmt: skip
@pytest.mark.parametrize("rdtype", TYPES)
def test_each_name_of_each_type_is_looked_at(rdtype, spoil):
    number, before, names, behind = TYPES[rdtype]
    tail = bytes(behind or 0)
    for spoilt_one in range(names):
        at = START + before + 2 * spoilt_one
        bad = {
            "a reserved label type": b"\x4f" + b"x" * 79 + b"\0",
            "past its record": b"\x09localhost" + b"\x14" * (behind == 0),
            "past the message": b"\x3fx",
            "too short": b"",
            "too long": b"\xc0\x0c\0",
            "forward": pack("!H", 0xC000 | at + 2),
            "to itself": pack("!H", 0xC000 | at),
            "into the header": b"\xc0\x0b",
            "too many octets": (b"\x3f" + b"x" * 63) * 4 + b"\0",
        }[spoil]
        if spoil in ("too long", "past its record", "too short") and behind is None:
            continue  # what is behind the name is any octets
        octets = bytes([0, 1] * (before // 2)) + b"\xc0\x0c" * spoilt_one + bad
        octets += b"\xc0\x0c" * (names - spoilt_one - 1) + tail
        assert not is_kept(told(number, octets))


def naptr(*texts, name):
    return bytes(4) + b"".join(bytes([len(text)]) + text for text in texts) + name


@pytest.mark.parametrize("texts", [(b"", b"", b""), (b"u", b"E2U+sip", b"!^.*$!sip:info@example.com!")])
def test_the_name_of_naptr_stands_behind_three_texts(texts):
    for name in NAMES:
        assert is_kept(told(35, naptr(*texts, name=name)))
    for bad in (b"\x4f", b"\3ns1", b"\xc0\x0c\0", b"", b"\xc0\xff"):
        assert not is_kept(told(35, naptr(*texts, name=bad)))
        assert not is_read(told(35, naptr(*texts, name=bad)))
    for cut in range(len(naptr(*texts, name=b""))):
        assert not is_kept(told(35, naptr(*texts, name=b"")[:cut]))
    assert not is_kept(told(35, naptr(b"u" * 255, b"", b"", name=b"\0")[:-2]))


def test_the_name_of_a6_stands_behind_the_part_of_an_address_that_it_does_not_give():
    for prefix in (0, 1, 7, 8, 64, 127, 128):
        suffix = bytes((128 - prefix + 7) // 8)
        name = b"\xc0\x0c" if prefix else b""
        assert is_kept(told(38, bytes([prefix]) + suffix + name))
        assert not is_kept(told(38, bytes([prefix]) + suffix + name + b"\0"))
        assert not is_kept(told(38, bytes([prefix]) + suffix + b"\x4f"))
        if prefix < 128:
            assert not is_kept(told(38, bytes([prefix]) + suffix[:-1]))
    assert not is_kept(told(38, b"\x81\xc0\x0c"))
    assert not is_kept(told(38, b""))


def test_data_without_names_is_any_octets():
    for rdtype in (1, 16, 28, 43, 48, 99, 257, 65280):
        for octets in (b"", b"\xff", b"\xc0\xff\x4f" * 10):
            assert is_kept(told(rdtype, octets))


def test_a_name_that_runs_past_its_record_in_an_answer_that_was_seen():
    wire = bytes.fromhex(
        "abd2800000010001000000000131013001300331323707696e2d61646472046172706100000c0001"
        "c00c000c000100002710000b096c6f63616c686f73744f"
    )
    asked = wire[:2] + bytes.fromhex("01000001000000000000") + wire[12:40]
    assert is_response_to(asked, wire)
    assert not is_kept(wire, asked)
    assert is_kept(wire[:-1] + b"\0", asked)
