"""Show how the addresses of an answer take turns, and what stays as it came."""

from itertools import pairwise
from struct import pack

import pytest
from support.quick import (
    TXT,
    A,
    query,
)
from support.wires import record_wire

from unit.cache.test_freshness import AAAA, ASKED, CNAME, made, respond


def turns(records, count, rdtype=A, asked=ASKED):
    """Store records; return those of so many answers, with IDs from 0."""
    cache, _ = made(shuffle=True)
    asked = asked[:-4] + pack("!2H", rdtype, 1)
    cache.store(asked, respond(asked, *records, counts=(len(records), 0, 0)))
    return [cache.lookup(pack("!H", ident) + asked[2:])[len(asked) :] for ident in range(count)]


@pytest.mark.parametrize(("rdtype", "octets"), [(A, 4), (AAAA, 16)])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_addresses_take_turns(rdtype, octets, count):
    records = [record_wire(rdtype, bytes([number]) * octets) for number in range(count)]
    seen = turns(records, 2 * count, rdtype)
    assert seen[0] == b"".join(records)
    for before, after in pairwise(seen):
        assert after == before[12 + octets :] + before[: 12 + octets]


def address(number, owner=b"\xc0\x0c", ttl=300):
    return record_wire(A, bytes([number]) * 4, ttl, owner)


LEFT_ALONE = {
    "other types": [record_wire(TXT, bytes([1, number])) for number in range(3)],
    "owners that differ": [address(1), address(2, b"\xc0\x10"), address(3)],
    "an owner that ends in another": [address(1, b"\3sub\xc0\x0c"), address(2), address(3, b"\3sub\xc0\x0c")],
    "an owner that another ends in": [address(1), address(2, b"\3sub\xc0\x0c")],
    "owners spelt out": [address(number, b"\1a\0") for number in range(3)],
    "types that differ": [address(1), record_wire(AAAA, bytes(16)), address(2)],
    "sizes that differ": [address(1), record_wire(A, bytes(5))],
    "a record of another class": [address(1), b"\xc0\x0c" + pack("!2HIH", A, 3, 300, 4) + bytes(4)],
}


@pytest.mark.parametrize("records", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_no_set_of_addresses_stays_as_it_came(records):
    assert turns(records, 7) == [b"".join(records)] * 7


def test_each_set_takes_turns_by_itself_and_what_stands_between_stays():
    alias, text = record_wire(CNAME, b"\xc0\x10"), record_wire(TXT, b"\4text")
    one, two = [address(n, b"\xc0\x10", ttl=60) for n in (1, 2)], [address(n, b"\xc0\x18") for n in (3, 4)]
    seen = turns([alias, *one, text, *two], 2)
    assert seen[1] == b"".join([alias, *one[::-1], text, *two[::-1]])


def test_other_sections_stay_as_they_came():
    cache, _ = made(shuffle=True)
    asked = query("www.example.com", A, ident=1)
    records = [address(number) for number in range(6)]
    cache.store(asked, respond(asked, *records, counts=(2, 2, 2)))
    assert cache.lookup(asked)[len(asked) :] == b"".join([records[1], records[0], *records[2:]])


def test_addresses_keep_their_places_unless_asked_for():
    cache, _ = made()
    asked = query("www.example.com", A, ident=1)
    response = respond(asked, address(1), address(2), counts=(2, 0, 0))
    cache.store(asked, response)
    assert cache.lookup(asked) == response
