"""Show that the cache agrees with a dictionary: while there is room it loses nothing, and it is never wrong.

When room gets scarce it keeps to its memory, to what is asked for, and to nothing that is dead.
"""

import random
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.examples import examples
from support.quick import QR, TXT, A, answer, failure, name_wire, payload_of, query, sealed, unseal

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

LEAST, SMALLEST, LARGE = 7 << 19, 1 << 22, 1 << 25


def sweep(cache):
    """Take out all that expired; return how many answers that were."""
    count = sum(cache.sweep(segment) for segment in range(cache.segments_total))
    cache.collect()
    return count


def purge(cache, name, **what):
    """Take out a name's answers; return how many that were."""
    before = cache.counters()["purged_entries"]
    cache.purge(name_wire(name.lower()), **what)
    sweep(cache)
    return cache.counters()["purged_entries"] - before


# ---------------------------------------------------------------- with room for all

NAMES = [
    ".", "com", "example.com", "www.example.com", "a.www.example.com", "xexample.com", "www.xexample.com",
    "example.com.net", "example", "b.example.com", "com.example.com",
]  # fmt: skip
names = st.sampled_from(NAMES)
rdtypes = st.sampled_from([A, TXT])
minutes = st.integers(1, 12).map((60).__mul__)
FAILURE_TTL = 5 * 60


def is_under(name, apex):
    """Tell whether a name is `apex` or under it."""
    return apex in {".", name} or name.endswith(f".{apex}")


class CacheAndDict(RuleBasedStateMachine):
    """Do the same to a cache and to a dictionary; time moves by whole minutes, and only by hand counts."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.cache = Cache(LARGE, self.clock)
        self.cache.zones.configure(0, failure=FAILURE_TTL)
        self.now = self.version = 0
        self.held = {}  # (name, type) -> (expires, version, or None for a failure)

    def servable(self, key):
        expires, version = self.held.get(key, (0, None))
        return (expires > self.now, version)

    @rule(name=names, rdtype=rdtypes, ttl=minutes, size=st.sampled_from([0, 100, 3000]), shout=st.booleans())
    def store(self, name, rdtype, ttl, size, shout):
        self.version += 1
        asked = query(name.upper() if shout else name, rdtype)
        assert self.cache.store(asked, answer(asked, sealed(name, self.version, size), rdtype=rdtype, ttl=ttl))
        self.held[name, rdtype] = self.now + ttl, self.version

    @rule(name=names, rdtype=rdtypes, rcode=st.sampled_from([2, 5]))
    def store_failure(self, name, rdtype, rcode):
        fresh, version = self.servable((name, rdtype))
        asked = query(name, rdtype)
        assert self.cache.store(asked, failure(asked, rcode)) == (not fresh or version is None)
        if not fresh or version is None:
            self.held[name, rdtype] = self.now + FAILURE_TTL, None

    @rule(seconds=minutes)
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.now += seconds

    @rule()
    def sweep(self):
        dead = [key for key, (expires, _) in self.held.items() if expires <= self.now]
        assert sweep(self.cache) == len(dead)
        for key in dead:
            del self.held[key]

    @rule(apex=names, below=st.booleans(), rdtype=st.one_of(st.just(-1), rdtypes))
    def purge(self, apex, below, rdtype):
        self.sweep()
        gone = [
            key for key in self.held if (is_under(key[0], apex) if below else key[0] == apex) and rdtype in {-1, key[1]}
        ]
        assert purge(self.cache, apex, below=below, qtype=rdtype) == len(gone)
        for key in gone:
            del self.held[key]

    @rule(name=names, rdtype=rdtypes)
    def look_up(self, name, rdtype):
        fresh, version = self.servable((name, rdtype))
        asked = query(name, rdtype)
        hit = self.cache.lookup(asked)
        assert (hit is not None) == fresh
        if fresh and version is None:
            assert payload_of(asked, hit) == b""
        elif fresh:
            assert unseal(name, payload_of(asked, hit)) == version

    @invariant()
    def all_is_counted(self):
        assert self.cache.counters()["entries"] == len(self.held)

    def teardown(self):
        for name, rdtype in product(NAMES, (A, TXT)):
            self.look_up(name, rdtype)


TestCacheAndDict = pytest.mark.slow(CacheAndDict.TestCase)
TestCacheAndDict.settings = examples(100, stateful_step_count=60)


def test_a_purge_of_a_zone_ends_at_the_borders_of_labels():
    cache = Cache(SMALLEST, Clock())
    inside = [".", "www.", "WWW.Other.", "a.b.c.d.", "example.com."]
    inside = [query(f"{name}Example.COM") for name in inside]
    outside = ["xexample.com", "x-example.com", "com", ".", "example.org", "example.com.org", "www.xexample.com"]
    outside = [query(name) for name in outside]
    outside.append(query(".")[:12] + b"\x0c\x07example\x03com" + query(".")[12:])  # all of it one label
    for asked in inside + outside:
        assert cache.store(asked, answer(asked, b"held"))
    assert purge(cache, "example.com", below=True) == len(inside)
    assert [cache.lookup(asked) for asked in inside] == [None] * len(inside)
    assert None not in [cache.lookup(asked) for asked in outside]
    assert cache.counters()["purged_entries"] == len(inside)


# ---------------------------------------------------------------- with too little room


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_small_cache_is_never_wrong(seed):
    rng, clock = random.Random(seed), Clock()
    cache = Cache(SMALLEST, clock)
    latest = {}  # number -> (expires, version), of what may be held
    now = served = 0
    for version in range(30_000):
        number = min(int(rng.expovariate(1 / 4000)), 60_000)
        name = f"n{number}.zone{number % 7}.test"
        asked = query(name)
        ttl = rng.randrange(1, 100)
        assert cache.store(asked, answer(asked, sealed(name, version, rng.choice([0, 40, 400, 2000])), ttl=ttl))
        latest[number] = now + ttl, version
        for _ in range(2):
            number = min(int(rng.expovariate(1 / 4000)), 60_000)
            name = f"n{number}.zone{number % 7}.test"
            hit = cache.lookup(query(name))
            if hit is not None:
                served += 1
                expires, expected = latest[number]
                assert unseal(name, payload_of(query(name), hit)) == expected
                assert expires > now
        if version % 500 == 0:
            assert cache.counters()["bytes"] <= cache.counters()["limit_bytes"] == SMALLEST
            clock.advance(2)
            now += 2
        if version % 3000 == 0:
            sweep(cache)
        if version % 5000 == 0:
            zone = rng.randrange(7)
            purge(cache, f"zone{zone}.test", below=True)
            latest = {number: held for number, held in latest.items() if number % 7 != zone}
    counters = cache.counters()
    assert served > 10_000
    assert counters["inserts"] == 30_000
    assert min(counters["evictions"], counters["expirations"], counters["purged_entries"]) > 0
    assert counters["insert_failures"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 1000])
def test_names_in_use_survive_a_flood_of_names_that_are_asked_once(size):
    cache = Cache(SMALLEST, Clock())
    in_use = {name: query(name) for name in (f"used{number}.example.com" for number in range(200))}
    between = SMALLEST // 20 // (size + 100)  # as many as fill a twentieth of the memory
    for name, asked in in_use.items():
        assert cache.store(asked, answer(asked, sealed(name, 1, size), ttl=86400))
    lost = set()
    for number in range(300_000):
        asked = query(f"flood{number}.example.net", A)
        assert cache.store(asked, answer(asked, bytes(4 + size), ttl=86400, rdtype=A))
        if number % between == 0:
            for name, used in in_use.items():
                hit = cache.lookup(used)
                if hit is None:
                    lost.add(name)
                else:
                    assert unseal(name, payload_of(used, hit)) == 1
    assert not lost
    assert cache.counters()["bytes"] <= SMALLEST


def fill(cache, stem, ttl, *, use):
    """Store as many answers as take twice the memory, each used as soon as stored; return the names."""
    found = [f"{stem}{number}.example.com" for number in range(2 * SMALLEST // 1100)]
    for name in found:
        assert cache.store(query(name), answer(query(name), sealed(name, 1, 1000), ttl=ttl))
        if use:
            assert cache.lookup(query(name)) is not None
    return found


def count_held(cache, found):
    return sum(cache.lookup(query(name)) is not None for name in found)


@pytest.mark.parametrize("swept", [True, False])
def test_the_dead_make_room_for_the_living(swept):
    clock = Clock()
    cache = Cache(SMALLEST, clock)
    dead = fill(cache, "dead", 10, use=True)
    assert count_held(cache, dead) > 2000
    clock.advance(10)
    assert count_held(cache, dead) == 0
    if swept:
        assert sweep(cache) > 2000
        assert cache.counters()["entries"] == 0
        assert cache.counters()["bytes"] < SMALLEST // 10, "what is empty is given back"
    living = fill(cache, "living", 86400, use=True)
    assert count_held(cache, living) > 2000
    assert count_held(cache, dead) == 0


def test_the_dead_do_not_stand_in_the_way_in_a_full_set():
    clock = Clock()
    cache = Cache(SMALLEST, clock)
    for number in range(60_000):  # more than there are slots, in small answers
        asked = query(f"{number}.dead", A)
        assert cache.store(asked, answer(asked, bytes(4), ttl=5, rdtype=A))
        cache.lookup(asked)
    clock.advance(5)
    for number in range(3000):
        asked = query(f"{number}.living", A)
        assert cache.store(asked, answer(asked, bytes(4), ttl=500, rdtype=A))
        assert cache.lookup(asked) is not None
    held = sum(cache.lookup(query(f"{number}.living", A)) is not None for number in range(3000))
    assert held == 3000


# ---------------------------------------------------------------- edges


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match=f"at least {LEAST} octets, not {LEAST - 1}"):
        Cache(LEAST - 1, Clock())
    with pytest.raises(ValueError, match="secret has 16 octets"):
        Cache(SMALLEST, Clock(), bytes(15))
    cache = Cache(SMALLEST, Clock(), bytes(16))
    for segment in (-1, cache.segments_total):
        with pytest.raises(IndexError, match=f"segment {segment} of {cache.segments_total}"):
            cache.sweep(segment)
    for name in (b"", bytes(2), b"\1", b"\1a", b"\300\0", b"\100" + bytes(65)):
        with pytest.raises(ValueError, match="no name on the wire"):
            cache.purge(name, below=True)
    for what in ({"below": False}, {"below": True, "qtype": A}):
        with pytest.raises(ValueError, match="only whole zones"):
            cache.purge(b"\0", let_expire=True, **what)


@pytest.mark.parametrize(
    "asked", [b"", query("a")[:-1], query("a", 252), query("a", flags=QR), query("a", flags=0x2000)]
)
def test_what_has_no_key_is_neither_stored_nor_found(asked):
    cache = Cache(SMALLEST, Clock())
    for use in (cache.lookup, lambda asked: cache.store(asked, answer(query("a"), b"text"))):
        with pytest.raises(ValueError, match="no query that a cache may answer"):
            use(asked)


def test_the_largest_message_is_held_too():
    cache, asked = Cache(SMALLEST, Clock()), query("a", A)
    largest = answer(asked, bytes(65535 - len(asked) - 12), rdtype=A)
    assert len(largest) == 65535
    for _ in range(200):
        assert cache.store(asked, largest)
        assert cache.lookup(asked)[2:] == largest[2:]
    assert cache.counters()["bytes"] <= SMALLEST
    with pytest.raises(ValueError, match="no response"):
        cache.store(asked, largest + b"\0")


FLAGS = [[bit for k, bit in enumerate((0x0100, 0x0020, 0x0010)) if n >> k & 1] for n in range(8)]  # RD, AD, CD


def test_entries_with_other_flags_are_other_entries():
    cache, asked = Cache(SMALLEST, Clock()), [query("a", flags=sum(some)) for some in FLAGS]
    for number, each in enumerate(asked):
        assert cache.store(each, answer(each, sealed("a", number, 0)))
    assert [unseal("a", payload_of(each, cache.lookup(each))) for each in asked] == list(range(8))
    for bit in (10, 9, 7, 6, 3, 2, 1, 0):  # of the header, that mean nothing in a query
        assert cache.lookup(query("a", flags=1 << bit))[4:] == cache.lookup(asked[0])[4:]
