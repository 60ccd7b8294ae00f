"""Show that a cache comes back from a snapshot as it was, only older, and that damaged octets lead no reader astray.

Two caches are held against each other: one that got older, and one that was in a snapshot for as long.
"""

import asyncio
import random
import re
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edns import EDE, option, subnet, with_opt
from support.examples import examples
from support.quick import QR, RD, TXT, A, answer, failure, name_wire, query, sealed
from support.wires import record_wire

from funkenshield.cache import snapshot
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

MEMORY = 1 << 22
NS, SOA, AAAA = 2, 6, 28
CD, NXDOMAIN = 0x0010, 3
MODES = ["off", "on-failure", "immediate"]


def respond(asked, *records, counts=(1, 0, 0), flags=0):
    """Return the response with these records, `counts` of them in each section."""
    return asked[:2] + pack("!5H", QR | RD | flags, 1, *counts) + asked[12:] + b"".join(records)


def soa(ttl):
    return record_wire(SOA, name_wire("ns.test") + name_wire("root.test") + pack("!5I", 1, 2, 3, 4, ttl), ttl)


def several(ttl):
    """Return queries with their responses, of every kind that is stored; the largest TTL is `ttl`."""
    www, gone, opt, cd = (query("www.test", A), query("gone.test", A), query("OPT.Test", AAAA), RD | CD)
    here, v6 = subnet("192.0.2.1", 24), subnet("2001:db8::1", 56)
    addresses = [record_wire(A, bytes([192, 0, 2, last]), ttl) for last in range(3)]
    nobody = respond(gone, soa(ttl), counts=(0, 1, 0), flags=NXDOMAIN)
    told = with_opt(answer(opt, bytes(16), rdtype=AAAA, ttl=ttl), option(EDE, b"\0\3old"))
    text = answer(opt, b"here", ttl=ttl)
    return [
        (www, respond(www, *addresses, counts=(3, 0, 0))),
        (gone, nobody),
        (query("gone.test", TXT, flags=cd), answer(query("gone.test", TXT, flags=cd), sealed("gone", 1, 3000))),
        (query("del.test"), respond(query("del.test"), record_wire(NS, name_wire("ns.test"), ttl), counts=(0, 1, 0))),
        (query("."), answer(query("."), b"", ttl=max(1, ttl // 2))),
        (query("x" * 63 + ".test"), answer(query("x" * 63 + ".test"), b"long", ttl=ttl)),
        (with_opt(opt), told),
        (with_opt(opt, here), with_opt(text, subnet("192.0.2.1", 24, 24))),
        (with_opt(gone, here), with_opt(nobody, subnet("192.0.2.1", 24, 20))),
        (with_opt(gone, v6), with_opt(nobody, subnet("2001:db8::1", 56, 0))),
        (with_opt(gone, subnet("::", 0)), with_opt(nobody)),
    ]


def filled(exchanges, **settings):
    """Return a cache that holds the responses, and its clock."""
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, **settings)
    for asked, response in exchanges:
        assert cache.store(asked, response)
    return cache, clock


def export(cache):
    return b"".join(map(cache.export, range(cache.segments_total)))


def restored(octets, age=0.0, **settings):
    """Return a new cache, what it took from a snapshot, and its clock."""
    clock = Clock()
    cache = Cache(MEMORY, clock, bytes(16))
    cache.zones.configure(0, **settings)
    return cache, cache.restore(octets, age), clock


def sweep(cache):
    """Take out what is dead; return how many are left."""
    for segment in range(cache.segments_total):
        cache.sweep(segment)
    return cache.counters()["entries"]


def hits(cache, exchanges, limit=65535):
    return [cache.lookup(asked, limit) for asked, _ in exchanges]


# ---------------------------------------------------------------- there and back

seconds = st.sampled_from([0, 1, 4, 9, 10, 11, 150, 3000, 90_000])


@examples(200)
@given(seconds, seconds, seconds, st.sampled_from([1, 10, 300, 90_000]), st.sampled_from(MODES), st.booleans())
def test_what_was_in_a_snapshot_is_as_old_as_what_was_not(held, age, later, ttl, mode, keep):
    exchanges, settings = several(ttl), {"stale": mode, "stale_longest": 3000, "keep_ttl": keep, "longest": 604_800}
    kept, clock = filled(exchanges, **settings)
    clock.advance(held)
    taken, count, other_clock = restored(export(kept), age, **settings)
    clock.advance(age)
    assert count == sweep(kept) == sweep(taken)
    assert hits(taken, exchanges) == hits(kept, exchanges)
    clock.advance(later)
    other_clock.advance(later)
    assert hits(taken, exchanges) == hits(kept, exchanges)
    assert sweep(taken) == sweep(kept)


def test_all_that_is_alive_comes_back_at_once_and_again():
    exchanges = several(300)
    octets = export(filled(exchanges)[0])
    cache, count, _ = restored(octets)
    assert count == len(exchanges)
    assert None not in hits(cache, exchanges)
    assert cache.restore(octets, 0.0) == count
    assert cache.counters()["entries"] == count
    assert len(export(cache)) == len(octets)


def test_what_is_only_kept_for_bad_times_comes_back_as_that():
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, stale="on-failure", stale_longest=100)
    asked = query("www.test")
    cache.store(asked, answer(asked, b"text", ttl=10))
    clock.advance(50)
    octets = export(cache)
    for age, mode, count, served in (
        (0, "immediate", 1, True),
        (59, "immediate", 1, True),
        (60, "immediate", 0, False),
        (0, "on-failure", 1, False),
        (0, "off", 0, False),
    ):
        taken, number, _ = restored(octets, age, stale=mode, stale_longest=100)
        assert (number, taken.lookup(asked) is not None) == (count, served)
    clock.advance(60)
    assert export(cache) == b""


def test_what_is_older_than_the_clock_is_left():
    exchanges = several(604_800)
    cache, clock = filled(exchanges, longest=604_800, stale="on-failure", stale_longest=604_800 * 5)
    clock.advance(604_800 * 4)
    assert restored(export(cache), 604_800, stale="on-failure", stale_longest=604_800 * 5)[1] == 0


def test_failures_and_what_was_purged_stay_behind():
    exchanges = several(300)
    cache, _ = filled(exchanges)
    cache.store(query("broken.test"), failure(query("broken.test")))
    cache.purge(name_wire("gone.test"), below=True)
    gone = sum(b"gone" in asked for asked, _ in exchanges)
    taken, count, _ = restored(export(cache))
    assert count == len(exchanges) - gone
    assert [hit is None for hit in hits(taken, exchanges)] == [b"gone" in asked for asked, _ in exchanges]
    assert taken.lookup(query("broken.test")) is None


def test_a_purge_after_the_return_takes_what_came_back():
    exchanges = several(300)
    octets = export(filled(exchanges)[0])
    cache = Cache(MEMORY, Clock())
    cache.purge(b"\0", below=True)
    assert cache.restore(octets, 0.0) == len(exchanges)
    assert None not in hits(cache, exchanges), "it was before"
    cache.purge(name_wire("test"), below=True)
    assert [hit is None for hit in hits(cache, exchanges)] == [b"\4test" in asked.lower() for asked, _ in exchanges]


def test_an_answer_is_of_the_zone_that_it_is_in_now():
    names = ["a.test", "b.test", "c.test"]
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.assign([name_wire(name) for name in names])
    for name in names:
        cache.zones.configure(cache.zones.number(name_wire(name)), stale="on-failure")
        cache.store(query(name), answer(query(name), b"text", ttl=10))
    clock.advance(10)
    octets = export(cache)
    taken = Cache(MEMORY, Clock())
    taken.zones.assign([name_wire("b.test")])
    taken.zones.configure(1, stale="immediate", stale_ttl=7)  # which was the number of a.test
    assert taken.restore(octets, 0.0) == 1
    assert [taken.lookup(query(name)) for name in names] == [None, answer(query("b.test"), b"text", ttl=7), None]


def test_a_large_cache_comes_back_into_a_small_one():
    large, small = Cache(4 * MEMORY, Clock()), Cache(MEMORY, Clock())
    for cache in large, small:
        cache.zones.configure(0, keep_ttl=True)  # to look up so many takes more than no time
    asked = [query(f"n{number}.test") for number in range(10_000)]
    for each in asked:
        assert large.store(each, answer(each, bytes(900)))
    assert sum(small.restore(large.export(k), 0.0) for k in range(large.segments_total)) == len(asked)
    held = [each for each in asked if small.lookup(each)]
    assert len(held) == small.counters()["entries"] > 2000
    assert small.counters()["bytes"] <= MEMORY
    assert [small.lookup(each) for each in held] == [large.lookup(each) for each in held]


def test_it_goes_through_a_file(tmp_path):
    exchanges, path = several(300), tmp_path / "cache"
    origins = snapshot.Origins(["test."], {"test. 192.0.2.1:53": 7})
    kept, clock = filled(exchanges)
    clock.advance(10)
    asyncio.run(snapshot.write(kept, path, origins, lambda: 1e9))
    taken = Cache(MEMORY, Clock())
    assert snapshot.read(taken, path, lambda: 1e9 + 100) == (len(exchanges), origins)
    clock.advance(100)
    assert hits(taken, exchanges) == hits(kept, exchanges)


# ---------------------------------------------------------------- damaged

EXCHANGES = several(300)
OCTETS = export(filled(EXCHANGES)[0])


def use(octets):
    """Restore what may be damaged and do with it all that is done with answers; return whether it was taken."""
    clock = Clock()
    cache = Cache(MEMORY, clock, bytes(16))
    cache.zones.configure(0, shuffle=True, stale="immediate", stale_longest=1000)
    try:
        cache.restore(octets, 1.0)
    except ValueError as error:
        assert re.fullmatch(r"an entry is (malformed|truncated)", str(error))  # noqa: PT017
        taken = False
    else:
        taken = True
    for passed in (0, 300):
        clock.advance(passed)
        for limit in (65535, 512):
            assert all(hit is None or len(hit) <= limit for hit in hits(cache, EXCHANGES, limit))
    again = export(cache)
    assert Cache(MEMORY, Clock()).restore(again, 0.0) <= cache.counters()["entries"]
    cache.purge(name_wire("test"), below=True)
    hits(cache, EXCHANGES)
    sweep(cache)
    return taken


def test_an_undamaged_one_is_used():
    assert use(OCTETS)
    assert use(b"")


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_octet_that_changed_does_harm(flip):
    refused = sum(not use(OCTETS[:at] + bytes([OCTETS[at] ^ flip]) + OCTETS[at + 1 :]) for at in range(len(OCTETS)))
    assert refused > 100


def test_a_part_is_taken_up_to_its_last_whole_answer():
    whole = 0
    for end in range(len(OCTETS) + 1):
        cache = Cache(MEMORY, Clock())
        try:
            whole = cache.restore(OCTETS[:end], 0.0)
        except ValueError as error:
            assert str(error) == "an entry is truncated"  # noqa: PT017
        assert cache.counters()["entries"] == whole
    assert whole == len(EXCHANGES)


@pytest.mark.parametrize(
    ("at", "octets"), [(28, b"\3"), (28, b"\4"), (29, b"\1"), (29, b"\2"), (18, pack("=H", 4)), (18, b"\xff\xff")],
    ids=["a failure", "what is not stored", "verbatim", "without a question", "more answers", "most answers"],
)  # fmt: skip
def test_what_no_export_says_is_refused(at, octets):
    assert not use(OCTETS[:at] + octets + OCTETS[at + len(octets) :])


@pytest.mark.slow
def test_no_garbage_does_harm():
    rng = random.Random(5)
    for _ in range(3000):
        damaged = bytearray(OCTETS)
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.choice([1, 2, 4])] = rng.choice([b"", b"\0", b"\xff\xff", rng.randbytes(4)])
        use(bytes(damaged))
        use(rng.randbytes(rng.randrange(300)))


# ---------------------------------------------------------------- edges


def test_what_is_asked_for_wrongly_is_told():
    cache = Cache(MEMORY, Clock())
    assert re.fullmatch(rb"entries 4, \d+ octets, (little|big) endian", cache.layout)
    for segment in (-1, cache.segments_total):
        with pytest.raises(IndexError, match=f"segment {segment} of"):
            cache.export(segment)
    with pytest.raises(TypeError):
        cache.restore(None, 0.0)
    with pytest.raises(TypeError):
        cache.export(None)
