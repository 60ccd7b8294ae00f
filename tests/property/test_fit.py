"""Show that whatever fits is what should, for any answer and any size, and that it is the same at each look-up.

`support.fitting` says what should, from the octets of the whole answer.
"""

from itertools import chain

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.fitting import needed, read, size_of, what_fits

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from property.test_entry import to_wire

THOROUGH = examples(300)
MEMORY = 1 << 22
SIGNED = " 8 3 300 20380101000000 20200101000000 1 z. AAAA"
NAMES = ["www.z.", "ns.z.", "z.", "child.z.", "ns.child.z.", "a.ns.child.z.", "sibling.z.", "NS.z."]
DATA = {
    "A": [f"192.0.2.{n}" for n in range(9)],
    "AAAA": [f"2001:db8::{n}" for n in range(4)],
    "NS": ["ns.z.", "ns.child.z.", "ns.elsewhere."],
    "CNAME": ["www.child.z."],
    "MX": ["1 www.z.", "2 ns.child.z."],
    "SOA": ["ns.z. root.z. 1 2 3 4 5"],
    "TXT": ["text", "x" * 100],
    "NSEC": ["ns.child.z. A NS"],
    "DS": ["4711 13 2 " + "47" * 32],
}
SECTIONS = (
    ["A", "CNAME", "MX", "NS", "TXT"],
    ["NS", "NS", "NS", "SOA", "NSEC", "DS"],
    ["A", "A", "AAAA", "AAAA", "TXT", "MX"],
)


@st.composite
def rrsets(draw, types):
    """Draw an RRset, or its signature, or both."""
    name, rdtype = draw(st.sampled_from(NAMES)), draw(st.sampled_from(types))
    data = DATA[rdtype][: draw(st.integers(1, len(DATA[rdtype])))]
    plain = dns.rrset.from_text(name, 300, "IN", rdtype, *data)
    signature = dns.rrset.from_text(name, 300, "IN", "RRSIG", rdtype + SIGNED)
    return draw(st.sampled_from([[plain], [plain], [plain], [plain, signature], [signature]]))


@st.composite
def responses(draw):
    """Draw a query, and a response to it of any form."""
    query = dns.message.make_query("www.z.", draw(st.sampled_from(["A", "MX", "CNAME", "ANY"])))
    most = draw(st.sampled_from([1, 3, 20]))
    sections = {
        number: [*chain.from_iterable(draw(st.lists(rrsets(types), max_size=most)))]
        for number, types in zip((1, 2, 3), SECTIONS, strict=True)
    }
    return query, to_wire(query, sections, rcode=draw(st.sampled_from([0, 0, 0, 3])))


def shown(records):
    return [(each.section, each.name, each.rdtype, len(each.data)) for each in records]


@pytest.mark.slow
@THOROUGH
@given(responses(), st.data())
def test_what_is_needed_is_there_or_tc_is_set_and_the_rest_fills_what_is_left(drawn, data):
    query, whole = drawn
    cache = Cache(MEMORY, Clock())
    if not cache.store(query.to_wire(), whole):
        return
    start = len(query.to_wire())
    edges = {start + size_of(needed(whole)) + step for step in (-1, 0, 1)}
    limit = data.draw(st.sampled_from(sorted(edges)) | st.integers(start, len(whole) + 1))
    reply = cache.lookup(query.to_wire(), max(limit, start))
    assert reply == cache.lookup(query.to_wire(), max(limit, start))
    assert dns.message.from_wire(reply, one_rr_per_rrset=True).question == query.question
    assert len(reply) <= max(limit, start)
    fits = read(whole) if len(whole) <= limit else what_fits(whole, limit - start)
    truncated = bool(reply[2] & 2)
    assert truncated == (fits is None)
    assert truncated or shown(read(reply)) == shown(fits)
    if not truncated:
        direct = dns.message.from_wire(whole, one_rr_per_rrset=True)
        told = dns.message.from_wire(reply, one_rr_per_rrset=True)
        for section, all_of_it in zip(told.sections[1:], direct.sections[1:], strict=True):
            left = list(all_of_it)
            for each in section:
                assert each in left, "no name leads elsewhere"
                left = left[left.index(each) + 1 :]
