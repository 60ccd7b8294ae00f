"""Show what is read in the fields of a request, and that what is none of it is nothing."""

import base64
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.server._http_fields import forwarded_for, is_query, query_of


@given(st.binary(max_size=2000))
def test_what_is_encoded_is_decoded(octets):
    text = base64.urlsafe_b64encode(octets).rstrip(b"=")
    assert query_of(b"/dns-query?dns=" + text) == octets
    assert query_of(b"/?a=1&dns=" + text + b"&ct=application/dns-message&dns=AAAA") == octets


@given(st.binary(max_size=200))
def test_no_target_is_too_odd(octets):
    query_of(octets)
    query_of(b"/dns-query?dns=" + octets)


@pytest.mark.parametrize(
    "target",
    [
        b"", b"/", b"/dns-query", b"/dns-query?", b"/dns-query?dns", b"/dns-query?DNS=AAAA", b"/dns-query?xdns=AAAA",
        b"/dns=AAAA", b"/dns-query?dns=A", b"/dns-query?dns=AAAAA", b"/dns-query?dns=AAA=", b"/dns-query?dns=AA%3D%3D",
        b"/dns-query?dns=AA+A", b"/dns-query?dns=AA/A", b"/dns-query?dns=AA A", b"/dns-query?dns=AA\0A",
    ],
)  # fmt: skip
def test_what_is_no_query_is_none(target):
    assert query_of(target) is None


def test_a_query_may_be_empty():
    assert query_of(b"/dns-query?dns=") == b""


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("192.0.2.1", "192.0.2.1"), ("203.0.113.9, 192.0.2.1", "192.0.2.1"), ("unknown,192.0.2.1", "192.0.2.1"),
        (" \t192.0.2.1 \t", "192.0.2.1"), ("192.0.2.1:4711", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"), ("[2001:db8::1]:4711", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 2001:db8:0:0:0:0:0:2", "2001:db8::2"),
    ],
)  # fmt: skip
def test_the_last_address_is_whom_it_was_forwarded_for(value, address):
    assert forwarded_for(value.encode()) == ip_address(address).packed


@pytest.mark.parametrize(
    "value",
    ["", ",", "192.0.2.1,", "192.0.2.1, unknown", "192.0.2", "192.0.2.256", "1:2", "x" * 300, "[]", ":", "]",
     "192.0.2.1 192.0.2.2", "fe80::1%eth0"],
)  # fmt: skip
def test_what_is_no_address_is_nobody(value):
    assert forwarded_for(value.encode()) is None


@given(st.binary(max_size=200))
def test_no_list_of_addresses_is_too_odd(value):
    assert forwarded_for(value) is None or len(forwarded_for(value)) in (4, 16)


def test_a_type_is_that_of_dns_messages_whatever_its_parameters_and_case():
    for value in b"application/dns-message", b"Application/DNS-Message", b"application/dns-message; charset=x":
        assert is_query(value)
    for value in b"", b"application/dns-message2", b"application/dns-messag", b"application/dns-json", b"text/plain":
        assert not is_query(value)
