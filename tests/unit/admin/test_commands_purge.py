"""Show that a purge takes what was named and no more."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.quick import TXT, A, answer, name_wire, query

from funkenshield.admin.commands import PurgeError, purge
from funkenshield.cache._store import Cache
from funkenshield.cache.expiry import Expiry
from funkenshield.core._clock import Clock
from unit.cache.filling import MEMORY, SIZE, filled, held

NAMES = ["example.com", "www.example.com", "a.www.example.com", "xexample.com", "example.org", "."]
PURGES = {
    "everything": ({}, NAMES, [A, TXT]),
    "a zone": ({"name": "example.com"}, NAMES[:3], [A, TXT]),
    "a zone, in capitals, with a dot": ({"name": "EXAMPLE.Com."}, NAMES[:3], [A, TXT]),
    "a type in a zone": ({"name": "example.com", "qtype": "TXT"}, NAMES[:3], [TXT]),
    "a type by number": ({"qtype": "type1"}, NAMES, [A]),
    "a name": ({"name": "example.com", "below": False}, NAMES[:1], [A, TXT]),
    "a name and type": ({"name": "www.example.com", "qtype": "a", "below": False}, NAMES[1:2], [A]),
    "the root alone": ({"name": ".", "below": False}, NAMES[-1:], [A, TXT]),
    "what is not there": ({"name": "example.net"}, [], []),
    "a type that is not there": ({"qtype": "MX"}, [], []),
}


@pytest.mark.parametrize(("what", "names", "rdtypes"), PURGES.values(), ids=PURGES)
def test_a_purge_takes_what_was_named(what, names, rdtypes):
    cache = Cache(MEMORY, Clock())
    asked = {(name, rdtype): query(name, rdtype) for name, rdtype in itertools.product(NAMES, (A, TXT))}
    for (_, rdtype), each in asked.items():
        assert cache.store(each, answer(each, b"abcd", rdtype=rdtype))
    gone = set(itertools.product(names, rdtypes))
    purge(cache, **what)
    assert {key for key, each in asked.items() if cache.lookup(each) is None} == gone
    Expiry(cache).step(budget=1)
    assert cache.counters()["purged_entries"] == len(gone)
    assert cache.counters()["entries"] == len(asked) - len(gone)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"name": "a..b"}, r"cannot purge: a\.\.b is not a name: "),
        ({"name": "x" * 64}, "cannot purge: x+ is not a name: "),
        ({"name": ""}, "cannot purge: the name is empty"),
        ({"name": "\udc80.example"}, "cannot purge: "),
        ({"name": "example.com", "qtype": "NONSENSE"}, "cannot purge: NONSENSE is not a type"),
        ({"qtype": "TYPE65536"}, r"cannot purge: TYPE65536 is not a type"),
    ],
)
def test_what_cannot_be_understood_is_told(what, message):
    with pytest.raises(PurgeError, match=message):
        purge(Cache(MEMORY, Clock()), **what)


@pytest.mark.parametrize("before", [3000, 5500, 8500])
def test_what_an_eviction_moves_is_purged_all_the_same(before):
    cache = Cache(MEMORY, Clock(), bytes(16))
    numbers = itertools.count()
    in_use = filled(cache, 200, ttl=86400, zone="example.org")

    def flood(count):
        """Store names that are asked once, while others are in use."""
        for number in itertools.islice(numbers, count):
            asked = query(f"{number}.example.net")
            assert cache.store(asked, answer(asked, bytes(SIZE), ttl=86400))
            if number % 500 == 0:
                assert held(cache, in_use) == in_use

    flood(before)
    old = filled(cache, 20, ttl=86400)
    assert held(cache, old) == old, "they are in use as well, so that an eviction does not drop but move them"
    flood(2600)
    purge(cache, "example.com")
    assert held(cache, old) == []
    flood(2600)
    assert held(cache, old) == []
    assert held(cache, in_use) == in_use


def test_a_purge_lets_live_what_is_stored_after_it():
    cache = Cache(MEMORY, Clock())
    for _ in range(3):
        asked = filled(cache, 10, ttl=86400)
        assert held(cache, asked) == asked
        purge(cache, "example.com")
        assert held(cache, asked) == []
    asked = filled(cache, 10, ttl=86400)
    assert held(cache, asked) == asked


def cache_with(*zones):
    """Return a cache with zones of their own."""
    cache = Cache(MEMORY, Clock())
    cache.zones.assign([name_wire(zone) for zone in zones])
    for zone in zones:
        cache.zones.configure(cache.zones.number(name_wire(zone)))
    return cache


ROOM = 49150  # purges of single names that are noted as such


def test_ever_so_many_purges_are_one_of_their_parent():
    cache = Cache(MEMORY, Clock())
    asked, others = filled(cache, 10, ttl=86400, zone="example.org"), filled(cache, 10, ttl=86400)
    for number in range(ROOM + 10_000):
        noted = purge(cache, f"n{number}.example.org", below=False)
        assert noted == (name_wire(f"n{number}.example.org" if number < ROOM else "example.org"))
    assert held(cache, asked) == [], "there was no more room for single ones"
    assert held(cache, others) == others, "whose are of no concern to that"
    asked = filled(cache, 10, ttl=86400, zone="example.org")
    assert held(cache, asked) == asked
    purge(cache, "1.example.com", below=False)
    assert held(cache, others) == [], "there is still none"


def test_ever_so_many_purges_are_one_of_their_zone_even_where_there_is_no_room_for_strangers():
    zones = [f"zone{number}.example" for number in range(4095)]
    cache = cache_with(*zones)
    asked = [*filled(cache, 10, ttl=86400, zone="a.zone1.example"), *filled(cache, 10, ttl=86400, zone="zone2.example")]
    for number in range(ROOM):
        purge(cache, f"n{number}.other", below=False)
    with pytest.raises(PurgeError, match="too many purges at once"):
        purge(cache, "one-more.other", below=False)
    for number in range(13 * 4096 - ROOM):
        purge(cache, f"www.{number}.net", below=False)
    with pytest.raises(PurgeError, match="too many purges at once"):
        purge(cache, "www.5000.net", below=False)
    assert held(cache, asked) == asked
    assert purge(cache, "b.c.zone1.example", "TXT", below=False) == name_wire("zone1.example")
    assert held(cache, asked) == asked[10:]
    for zone in zones:
        cache.purge(name_wire(zone), below=True)
        cache.purge(name_wire(zone), below=True, let_expire=True)
    assert held(cache, asked) == []
    assert purge(cache, ".") == b"\0"


NOTED = st.tuples(
    st.sampled_from(
        ["a.x.test", "b.x.test", "x.test", "a.y.test", "y.test", "a.b.x.test", "z.other.net", "a.z.other.net"]
    ),
    st.booleans(),
)


@examples(20)
@given(st.lists(NOTED, min_size=1, max_size=6))
def test_where_purges_are_folded_nothing_survives_that_should_be_gone_and_other_zones_do(purges):
    cache = cache_with("x.test", "y.test")
    for number in range(ROOM):
        cache.purge(b"\6%06d\4full\0" % number, below=False)
    names = [
        f"{stem}{zone}"
        for zone in ("x.test", "y.test", "z.other.net", "w.other.net")
        for stem in ("", "a.", "a.b.", "q.")
    ]
    for name in names:
        assert cache.store(query(name), answer(query(name), b"text"))
    gone, stay = set(), set(names)
    for name, below in purges:
        cache.purge(name_wire(name), below=below)
        gone |= {each for each in names if each == name or (below and f".{each}".endswith(f".{name}"))}
        home = next((zone for zone in ("x.test", "y.test") if f".{name}".endswith(f".{zone}")), name.partition(".")[2])
        stay -= {each for each in names if f".{each}".endswith(f".{home}")}
    found = set(held(cache, [query(name) for name in names]))
    assert not {query(name) for name in gone} & found
    assert {query(name) for name in stay} <= found
