"""Show that padding makes whole blocks of responses with EDNS, and leaves all others alone (RFC 7830, 8467)."""

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import dns.tsigkeyring
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.wire._padding import padded

BLOCK = 468


def response(octets, edns=0, options=()):
    """Return a response with a TXT record of so many octets."""
    query = dns.message.make_query("a.test.", "TXT", use_edns=edns, options=options)
    made = dns.message.make_response(query)
    if edns >= 0:
        made.use_edns(edns, options=list(options))
    strings = " ".join("x" * min(200, octets - at) for at in range(0, octets, 200)) or '""'
    made.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "TXT", strings))
    return made.to_wire(max_size=65535)


@given(st.integers(0, 5000))
def test_a_response_is_whole_blocks_and_says_the_same(octets):
    before = response(octets)
    after = padded(before)
    assert len(after) % BLOCK == 0
    assert len(before) + 4 <= len(after) < len(before) + 4 + BLOCK
    read, was = dns.message.from_wire(after), dns.message.from_wire(before)
    assert (read.answer, read.flags, read.edns, read.payload) == (was.answer, was.flags, was.edns, was.payload)
    (option,) = read.options
    assert option.otype == dns.edns.OptionType.PADDING
    assert not any(option.to_wire())


def test_other_options_stay_before_it():
    error = dns.edns.EDEOption(3, "stale")
    read = dns.message.from_wire(padded(response(10, options=[error])))
    assert read.options[0] == error
    assert [each.otype for each in read.options[1:]] == [dns.edns.OptionType.PADDING]


def test_without_edns_there_is_no_padding():
    before = response(100, edns=-1)
    assert padded(before) == before


def test_what_is_signed_is_not_touched():
    key = dns.tsigkeyring.from_text({"key.": "aaaaaaaaaaaaaaaaaaaaaa=="})
    made = dns.message.from_wire(response(100))
    made.use_tsig(key)
    before = made.to_wire()
    assert padded(before) == before


@pytest.mark.parametrize("octets", [65535, 65534, 65532, 65531, 65530, 65200])
def test_no_message_becomes_longer_than_messages_are(octets):
    before = response(1)
    rest = octets - len(before)
    cut = before[:-11] + b"\0\0\x29\x04\xd0\0\0\0\0" + rest.to_bytes(2) + b"\0\x15" + (rest - 4).to_bytes(2)
    before = cut + bytes(rest - 4)
    assert len(before) == octets
    after = padded(before)
    assert len(after) == (octets if octets > 65531 else 65520 if octets == 65200 else 65535)


@pytest.mark.parametrize("octets", [0, 5, 11, 12, 20])
def test_what_is_no_whole_message_stays(octets):
    before = response(50)[:octets]
    assert padded(before) == before
