"""Show that a cache that another process goes on with is the one that it was, whatever had happened to it."""

import os
import random

import pytest
from support.quick import TXT, answer, name_wire, payload_of, query

from funkenshield.cache import hugepages
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

MEMORY = 1 << 22
TTL = 3590  # seconds; never over just when time passes
NAMES = [f"n{number}.z{number % 7}.test" for number in range(3000)]
QUERIES = {name: query(name) for name in NAMES}


def store(cache, rng, largest=4000):
    """Store a new answer to one of the queries; all of them together have no room."""
    name = rng.choice(NAMES)
    assert cache.store(QUERIES[name], answer(QUERIES[name], rng.randbytes(rng.randrange(largest)), ttl=TTL))


def opened(clock, file=-1, secret=bytes(16)):
    return Cache(MEMORY, clock, secret, False, file)


def happen(cache, clock, rng, steps, largest=4000):
    """Do what happens to a cache: the same with the same `rng`."""
    for _ in range(steps):
        match rng.choice(["store"] * 200 + ["purge", "expire", "sweep", "pass", "one"]):
            case "store":
                store(cache, rng, largest)
                cache.lookup(QUERIES[rng.choice(NAMES)])
            case "purge":
                cache.purge(name_wire(f"z{rng.randrange(7)}.test"), below=True)
            case "expire":
                cache.purge(name_wire(f"z{rng.randrange(7)}.test"), below=True, let_expire=True)
            case "one":
                cache.purge(name_wire(rng.choice(NAMES)), below=False, qtype=TXT)
            case "sweep":
                for segment in range(cache.segments_total):
                    cache.sweep(segment)
                cache.collect()
            case "pass":
                clock.advance(rng.choice([60, 600]))


def hits(cache):
    """Return what each query gets; how old that is, is told by other tests."""
    found = [(each, cache.lookup(each)) for each in QUERIES.values()]
    return [response and payload_of(asked, response) for asked, response in found]


def counted(cache):
    found = cache.counters()
    return found["entries"], found["bytes"], found["purge_rules"], cache.purges_total, cache.purges_settled


@pytest.mark.parametrize("seed", range(8))
def test_it_goes_on_as_if_nothing_had_been(seed):
    file, clock, other = hugepages.memory_file(MEMORY, huge_pages=False), Clock(), Clock()
    kept, first = opened(other), opened(clock, file)
    happen(kept, other, random.Random(seed), 6000)
    happen(first, clock, random.Random(seed), 6000)
    second_clock = Clock(*clock.origin)
    second = opened(second_clock, file)
    assert second.arena_layout == first.arena_layout
    ledger = first.ledger()
    first.let_go()
    second.take_over(ledger)
    assert counted(second) == counted(kept)
    assert hits(second) == hits(kept)
    assert set(hits(first)) == {None}  # it has a memory of its own now
    happen(first, clock, random.Random(seed), 500)
    assert hits(second) == hits(kept)
    happen(second, second_clock, random.Random(seed + 1000), 6000)
    happen(kept, other, random.Random(seed + 1000), 6000)
    assert counted(second) == counted(kept)
    assert hits(second) == hits(kept)
    assert second.counters()["evictions"] > 0
    os.close(file)


@pytest.mark.parametrize("seed", range(4))
def test_it_can_be_had_back(seed):
    file, clock = hugepages.memory_file(MEMORY, huge_pages=False), Clock()
    cache = opened(clock, file)
    happen(cache, clock, random.Random(seed), 4000)
    before, ledger = (counted(cache), hits(cache)), cache.ledger()
    cache.let_go()
    cache.purge(name_wire("z1.test"), below=True)  # what is purged meanwhile stays so
    cache.take_back(MEMORY, file, ledger)
    assert cache.purges_total == before[0][3] + 1
    of_zone = [".z1." in name for name in NAMES]
    assert hits(cache) == [None if purged else hit for hit, purged in zip(before[1], of_zone, strict=True)]
    os.close(file)


@pytest.mark.parametrize("seed", range(4))
def test_entries_that_are_copied_are_held_against_the_same_purges(seed):
    rng, clock = random.Random(seed), Clock()
    first = opened(clock)
    happen(first, clock, rng, 3000, 500)
    second = opened(Clock(*clock.origin))
    stamps = {}
    for _ in range(5):  # as it goes on meanwhile
        for segment in range(first.segments_total):
            if stamps.get(segment, (0, 0)) != first.stamp(segment):
                stamps[segment] = first.stamp(segment)
                second.restore(first.export(segment), 0.0, first.purges_total)
        for _ in range(300):
            store(first, rng, 500)
        first.purge(name_wire(f"z{rng.randrange(7)}.test"), below=True)
    for segment in range(first.segments_total):
        if stamps.get(segment, (0, 0)) != first.stamp(segment):
            second.restore(first.export(segment), 0.0, first.purges_total)
    second.take_purges(first.purge_notes())
    assert second.purges_total == first.purges_total
    assert hits(second) == hits(first)


def test_what_is_no_ledger_is_refused():
    cache = opened(Clock())
    ledger = cache.ledger()
    for octets in (b"", ledger[:-1], ledger + b"\0"):
        with pytest.raises(ValueError, match="truncated"):
            cache.take_over(octets)


def test_another_size_is_another_layout():
    assert Cache(MEMORY, Clock()).arena_layout != Cache(2 * MEMORY, Clock()).arena_layout
