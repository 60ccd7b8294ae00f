"""Show for how long a cache of HTTP's may keep a response: never longer than what is in it (RFC 8484 5.1)."""

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.wire._max_age import max_age

SOA = "ns.test. host.test. 1 3600 600 86400 {}"


def response(*, rcode="NOERROR", answer=(), authority=(), additional=(), edns=None):
    """Return a response with records as (TTL, type, data)."""
    made = dns.message.make_response(dns.message.make_query("a.test.", "A", use_edns=edns))
    made.set_rcode(dns.rcode.from_text(rcode))
    for section, records in (made.answer, answer), (made.authority, authority), (made.additional, additional):
        for number, (ttl, rdtype, data) in enumerate(records):
            section.append(dns.rrset.from_text(f"n{number}.test.", ttl, "IN", rdtype, data))
    return made.to_wire()


@pytest.mark.parametrize(
    ("told", "age"),
    [
        ({"answer": [(300, "A", "192.0.2.1")]}, 300),
        ({"answer": [(300, "CNAME", "n1.test."), (60, "A", "192.0.2.1")]}, 60),
        ({"answer": [(300, "A", "192.0.2.1"), (0, "A", "192.0.2.2")]}, 0),
        ({"answer": [(300, "A", "192.0.2.1")], "authority": [(5, "NS", "ns.test.")]}, 300),
        ({"answer": [(300, "A", "192.0.2.1")], "additional": [(5, "A", "192.0.2.3")], "edns": 0}, 300),
        ({"answer": [(2**31 - 1, "A", "192.0.2.1")]}, 2**31 - 1),
        ({"authority": [(900, "SOA", SOA.format(120))]}, 120),
        ({"authority": [(90, "SOA", SOA.format(120))], "rcode": "NXDOMAIN"}, 90),
        ({"authority": [(10, "NSEC", "b.test. A"), (90, "SOA", SOA.format(120))], "rcode": "NXDOMAIN"}, 90),
        ({"answer": [(300, "CNAME", "x.test.")], "authority": [(90, "SOA", SOA.format(60))]}, 60),
        ({"authority": [(900, "NS", "ns.test.")]}, 0),
        ({}, 0),
        ({"rcode": "SERVFAIL", "answer": [(300, "A", "192.0.2.1")]}, 0),
        ({"rcode": "REFUSED"}, 0),
    ],
)
def test_a_response_is_kept_no_longer_than_its_smallest_ttl(told, age):
    assert max_age(response(**told)) == age


def test_a_ttl_beyond_31_bits_is_none():
    wire = bytearray(response(answer=[(300, "A", "192.0.2.1")]))
    wire[-10] = 0x80  # the first octet of the TTL
    assert max_age(bytes(wire)) == 0


def test_what_is_truncated_is_not_kept():
    wire = bytearray(response(answer=[(300, "A", "192.0.2.1")]))
    wire[2] |= dns.flags.TC >> 8
    assert max_age(bytes(wire)) == 0


@given(st.binary(max_size=600), st.integers(0, 60))
def test_no_response_is_too_odd(octets, cut):
    max_age(octets)
    max_age(response(answer=[(300, "A", "192.0.2.1")])[:-cut] + octets)
