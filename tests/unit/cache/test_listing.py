"""Entries are listed piece by piece, each once, and looking at them changes nothing."""

import pytest
from support.quick import TXT, A, answer, name_wire, query

from funkenshield.cache._listing import entries
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from unit.cache.filling import MEMORY, filled

EVERYTHING = b"\0"


def listed(cache, name=EVERYTHING, **options):
    """Return all entries, piece by piece, and how many pieces that were."""
    found, at, pieces = [], (0, 0), 0
    while at is not None:
        some, at = entries(cache, *at, name, **{"below": True, **options})
        found += some
        pieces += 1
    return found, pieces


@pytest.fixture
def cache():
    return Cache(MEMORY, Clock())


def names(found):
    return sorted(entry["name"] for entry in found)


@pytest.mark.parametrize("piece", [{"most": 7}, {"looked_at": 7}, {"most": 1, "looked_at": 1}, {}])
def test_each_entry_is_in_one_piece(cache, piece):
    filled(cache, 400)
    found, pieces = listed(cache, **piece)
    assert names(found) == sorted(name_wire(f"{stem}.example.com") for stem in range(400))
    least = min(piece.values(), default=10_000)
    assert all(len(some) <= least for some in [entries(cache, 0, 0, EVERYTHING, below=True, **piece)[0]])
    assert pieces >= 400 // least


@pytest.mark.parametrize(
    ("name", "below", "qtype", "found"),
    [
        ("example.com", True, -1, ["example.com", "example.com", "www.example.com"]),
        ("example.com", True, A, ["example.com", "www.example.com"]),
        ("example.com", False, -1, ["example.com", "example.com"]),
        ("www.example.com", False, TXT, []),
        ("ample.com", True, -1, []),
        ("com", True, -1, ["example.com", "example.com", "www.example.com"]),
        ("a.www.example.com", True, -1, []),
        (".", False, -1, ["."]),
    ],
)
def test_only_what_is_wanted_is_listed(cache, name, below, qtype, found):
    for stored, rdtype in [
        ("example.com", A),
        ("example.com", TXT),
        ("www.example.com", A),
        (".", A),
        ("xample.org", A),
    ]:
        asked = query(stored, rdtype)
        assert cache.store(asked, answer(asked, b"abcd", rdtype=rdtype))
    assert names(listed(cache, name_wire(name), below=below, qtype=qtype)[0]) == sorted(map(name_wire, found))


def test_what_is_purged_is_not_there_any_more(cache):
    filled(cache, 10)
    cache.purge(name_wire("3.example.com"), below=True)
    assert len(listed(cache)[0]) == 9


def test_an_entry_tells_how_old_it_is_and_what_it_is_for(cache):
    asked = query("example.com", A)
    assert cache.store(asked, answer(asked, b"abcd", rdtype=A, ttl=10))
    cache.lookup(asked)
    cache.clock.advance(4)
    before = listed(cache, messages=True)[0]
    assert listed(cache, messages=True)[0][0]["used"] == before[0]["used"]
    (entry,) = before
    assert (entry["kind"], entry["freshness"], entry["rcode"], entry["lifetime"]) == ("positive", "fresh", 0, 10)
    assert (entry["age"], entry["ttl"]) == (pytest.approx(4, abs=0.2), pytest.approx(6, abs=0.2))
    assert (entry["rd"], entry["cd"], entry["edns"], entry["do"]) == (True, False, False, False)
    assert (entry["subnet"], entry["scope"], entry["zone"], entry["route"]) == (None, None, 0, 0)
    assert entry["message"][12:] == answer(asked, b"abcd", rdtype=A, ttl=6)[12:]
    cache.clock.advance(10)
    (entry,) = listed(cache, messages=True)[0]
    assert (entry["freshness"], entry["ttl"]) == ("dead", pytest.approx(-4, abs=0.2))
