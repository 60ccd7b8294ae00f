"""Records as people write them in rules."""

from contextlib import suppress

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.wire.record_text import parse_record

OWNER = dns.name.from_text("www.example.")


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("A 192.0.2.1", "www.example. 60 IN A 192.0.2.1"),
        ("300 A 192.0.2.1", "www.example. 300 IN A 192.0.2.1"),
        ("  300\tA   192.0.2.1 ", "www.example. 300 IN A 192.0.2.1"),
        ("other.example. 300 A 192.0.2.1", "other.example. 300 IN A 192.0.2.1"),
        ("other.example A 192.0.2.1", "other.example. 60 IN A 192.0.2.1"),
        ("aaaa 2001:db8::1", "www.example. 60 IN AAAA 2001:db8::1"),
        ('TXT "two words" "1"', 'www.example. 60 IN TXT "two words" "1"'),
        ("MX 10 mail.example.", "www.example. 60 IN MX 10 mail.example."),
        ("mx.example. MX 10 mail.example.", "mx.example. 60 IN MX 10 mail.example."),
        ("0 TYPE65280 \\# 2 abcd", "www.example. 0 IN TYPE65280 \\# 2 abcd"),
        ("2147483647 A 192.0.2.1", "www.example. 2147483647 IN A 192.0.2.1"),
    ],
)
def test_a_text_is_a_record(text, record):
    assert parse_record(text, OWNER).to_text() == record


def test_an_owner_who_is_not_given_is_the_root():
    assert parse_record("A 192.0.2.1").to_text() == ". 60 IN A 192.0.2.1"


@pytest.mark.parametrize(
    "text",
    [
        "", "A", "300", "300 A", "A nonsense", "300 300 A 192.0.2.1", "ANY 192.0.2.1", "www.example.",
        "a..b A 192.0.2.1", "2147483648 A 192.0.2.1", "A 192.0.2.1 192.0.2.2", "IN A 192.0.2.1 more", "A 192.0.2.1\nA",
        f"{'x' * 64}. A 192.0.2.1", "MX mail.example.", "OPT x", "NOTHING 192.0.2.1",
    ],
)  # fmt: skip
def test_what_is_no_record_is_told_so(text):
    with pytest.raises(ValueError, match="is not a record"):
        parse_record(text, OWNER)


@given(st.text())
def test_any_text_is_a_record_or_a_mistake(text):
    with suppress(ValueError):
        assert len(parse_record(text, OWNER)) == 1
