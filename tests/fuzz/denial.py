"""Denials of an upstream, by which names that nobody asked for are denied: what is said is whole, and it denies."""

from support.signed import Authority, Zone

from funkenshield.cache._entry import is_response_to
from funkenshield.cache._nsec_cache import NsecCache
from funkenshield.wire._message import inspect_query

from .messages import framed, is_whole, query_of, unframed

WALL = 1_700_000_000.0  # seconds since 1970; made-up signatures are valid then
HOUR = 3600
NODES = {"a": ("A",), "b.a": ("TXT",), "*.c": ("MX",), "d": ("NS", "DS"), "e": ("DNAME",), "f.f": ("CNAME",)}
ZONE = Zone("example.com.", {f"{name}.example.com.": types for name, types in NODES.items()})
LABELS = ["a", "b", "c", "d", "e", "f", "x.a", "x.c", "x.d", "f.f", "z", "*.c", "*"]


def made(dice):
    """Return queries with what a nameserver of a signed zone says, and a query that comes after them."""
    authority, messages = Authority(ZONE), []
    for _ in range(dice.choice([1, 2, 3])):
        query = _query(dice)
        messages += [query, authority.response_to(query)]
    return framed(*(message.to_wire(max_size=65535) for message in [*messages, _query(dice)]))


def _query(dice):
    query = query_of(dice, f"{dice.choice(LABELS)}.example.com.", dice.choice(["A", "TXT", "DS"]))
    query.use_edns(0, 0x8000 if dice.random() < 0.9 else 0, 1232)
    query.set_opcode(0)
    return query


def one(data):
    """Learn from replies, and deny the last query by that, and by what is left after one name is forgotten."""
    messages = unframed(data)
    cache = NsecCache(8192)
    for query, reply in zip(messages[:-1:2], messages[1:-1:2], strict=False):
        if is_response_to(query, reply):
            cache.learn(query, reply, b"\0", nxdomain_cut=True, nsec=True, now=0.0, wall=WALL, longest=HOUR)
    assert cache.octets <= cache.limit
    for asked in messages:
        for now in (1.0, 2.0 * HOUR):
            told = cache.response_to(asked, b"\0", nxdomain_cut=True, nsec=True, now=now)
            assert told is None or now < HOUR
            if told is not None:
                assert is_whole(told)
                assert is_response_to(asked, told)
                assert told[6:8] == b"\0\0"
    if messages and "qname" in (found := inspect_query(messages[-1])):
        cache.forget(found["qname"])
        assert cache.response_to(messages[-1], b"\0", nxdomain_cut=True, nsec=True, now=1.0) is None or len(cache)
