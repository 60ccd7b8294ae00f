"""A reply of an upstream on its way through the cache: nothing wrong is kept, and a hit is what was stored."""

from contextlib import suppress

from funkenshield.cache._entry import is_response_to, soa_serials
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.policy._guard import Guard
from funkenshield.wire._affordable import is_affordable
from funkenshield.wire._message import inspect_query, inspect_records

from .messages import ADDRESS, framed, is_whole, query_of, read, reply_to, ttls_at, unframed

MEMORY = 1 << 22
RD, DO = 0x0100, 0x8000
OPT, HEADER, TTL_BEFORE_DATA = 41, 12, 6
OF_THE_ANSWER = {15, 18}  # extended errors, and where to report them: the options that stay
LENIENT = {"shortest": 30, "stale": "immediate", "shuffle": True}
GUARD = Guard(1 << 16)
GUARD.set_rrl(answers=1.0, nxdomains=1.0, errors=1.0, all=1.0, slip=2)


def made(dice):
    """Return a query and a reply to it."""
    query = query_of(dice)
    return framed(query.to_wire(), reply_to(dice, query).to_wire(max_size=65535))


def one(data):
    """Store a reply, if that may be, and look at it in all ways in which clients may."""
    query, reply, *_ = [*unframed(data), b"", b""]
    passed = GUARD.releases(ADDRESS, reply, 0)
    assert len(passed) <= len(reply)
    for section in (0, 1):
        soa_serials(reply, section)
    assert {type(is_affordable(each)) for each in (query, reply)} == {bool}
    if len(reply) >= HEADER:
        _check_walk(reply)
    if inspect_query(query)["verdict"] != "plain" or not is_response_to(query, reply):
        with suppress(ValueError):
            Cache(MEMORY, Clock()).store(query, reply)
            raise AssertionError("stored, but no response to this query")
        return
    store(query, reply)


def _check_walk(reply):
    """What the walk over records has read as a whole has its TTLs where dnspython has them."""
    records, whole = inspect_records(reply)
    assert all(data <= end <= len(reply) for *_, data, end in records)
    if whole:
        assert [data - TTL_BEFORE_DATA for _, rdtype, _, data, _ in records if rdtype != OPT] == ttls_at(reply)


def store(query, reply):
    """Store the response to a plain query, and look it up under either settings; return whether it was stored."""
    stored = _store(query, reply, {})
    lenient = _store(query, reply, LENIENT)
    assert lenient or not stored
    return stored


def _store(query, reply, settings):
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, **settings)
    stored = cache.store(query, reply)
    assert cache.counters()["entries"] == stored
    hit = cache.lookup(query)
    if not stored:
        assert hit is None
        return False
    error_alone = reply[4:6] == bytes(2)  # of which nothing but the RCODE is read
    assert is_whole(reply) or error_alone, "what cannot be read is never stored"
    _check_sizes(cache, query, hit)
    if not settings and not error_alone:
        _check_same(query, reply, hit)
    _check_snapshot(cache, query)
    clock.advance(1)
    later = cache.lookup(query)
    if later is not None and not settings:
        _check_aged(hit, later)
    clock.advance(90_000)
    assert settings or cache.lookup(query) is None
    return True


def _check_sizes(cache, query, hit):
    """No hit is longer than it may be, and one that lacks an answer says so."""
    assert is_whole(hit)
    assert len(cache.lookup(query, len(hit))) == len(hit)
    for limit in {512, (512 + len(hit)) // 2, len(hit) - 1} if len(hit) > 512 else ():
        short = cache.lookup(query, limit)
        assert len(short) <= limit
        assert is_whole(short)
        assert short[6:8] == (bytes(2) if short[2] & 2 and not hit[2] & 2 else hit[6:8])


def _check_snapshot(cache, query):
    """What was in a snapshot for no time is the same."""
    octets = b"".join(map(cache.export, range(cache.segments_total)))
    again = Cache(MEMORY, Clock())
    again.zones.configure(0, stale="immediate")
    assert again.restore(octets, 0.0) == (1 if octets else 0)
    assert not octets or len(again.lookup(query)) == len(cache.lookup(query))


def _check_aged(hit, later):
    """After a second, or two, nothing but TTLs is another."""
    places = ttls_at(hit)
    assert _without(places, later) == _without(places, hit)
    for at in places:
        before, after = (int.from_bytes(wire[at : at + 4]) for wire in (hit, later))
        counts = 0 < before < 1 << 31  # else it is 0, and stays so (RFC 2181 8)
        assert after == before if not counts else before - 2 <= after < before or after == 1


def _without(places, wire):
    """Return a message whose TTLs are all 0."""
    for at in places:
        wire = wire[:at] + bytes(4) + wire[at + 4 :]
    return wire


def _check_same(query, reply, hit):
    """A hit is the stored reply, but for what is this client's; a second may have passed."""
    stored, hit, asked = read(reply), read(hit), read(query)
    if stored is None:
        return
    assert hit is not None, "a hit that cannot be read"
    assert (hit.id, hit.question, hit.rcode()) == (asked.id, asked.question, stored.rcode())
    assert hit.flags == stored.flags & ~RD | asked.flags & RD
    assert _records(hit) == _records(stored)
    for before, after in zip(_ttls(stored), _ttls(hit), strict=True):
        assert before - 1 <= after <= before
    assert (hit.edns == 0) <= (asked.edns == 0)
    if hit.edns == 0:
        assert hit.ednsflags & 0xFFFF == max(stored.ednsflags, 0) & 0x7FFF | asked.ednsflags & DO
        assert _options(hit) == _options(stored)


def _records(message):
    return [[(each.name, each.rdclass, each.rdtype, each[0]) for each in section] for section in message.sections[1:]]


def _ttls(message):
    return [each.ttl for section in message.sections[1:] for each in section]


def _options(message):
    return [(each.otype, each.to_wire()) for each in message.options if each.otype in OF_THE_ANSWER]
