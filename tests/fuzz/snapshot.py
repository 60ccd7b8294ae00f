"""A file that was a snapshot: it is restored, or refused, and what is restored leads nobody astray."""

import hashlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from dns.message import Message

from funkenshield.cache import snapshot
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.wire._message import inspect_query
from funkenshield.wire.names import name_to_wire

from .messages import framed, query_of, reply_to, unframed

FOLDER = TemporaryDirectory(prefix="funkenshield-fuzz-")
FILE = Path(FOLDER.name) / "snapshot"
MEMORY = 1 << 22
FULL = {"shuffle": True, "stale": "immediate", "stale_longest": 1000}
LAYOUT = Cache(MEMORY, Clock()).layout.hex().encode()


ORIGINS = [
    b'{"zones": ["example.com."], "serials": {"example.com. 192.0.2.1:53": 7}}',
    b'{"zones": [".", "xn--a.\\\\000.test."], "serials": {}}',
    b'{"serials": {"\\u0000": 4294967295}, "zones": ["' + b"a" * 63 + b'.", "b"]}',
]


def made(dice):
    """Return some queries whose responses are in a snapshot, and the rest of it, behind its first line."""
    cache = Cache(MEMORY, Clock(), bytes(16))
    queries: list[Message] = []
    while len(queries) < 3:
        query = query_of(dice)
        response = reply_to(dice, query).to_wire(max_size=65535)
        with suppress(ValueError):  # where the query is none that has a key
            if len(response) < 400 and cache.store(query.to_wire(), response):
                queries.append(query)
    answers = b"".join(map(cache.export, range(cache.segments_total)))
    origins = dice.choice(ORIGINS) + b"\n"
    body = origins + (1000).to_bytes(8) + len(answers).to_bytes(3) + answers + bytes(11)
    return framed(*(query.to_wire() for query in queries), body)


def one(data):
    """Restore from the answers alone, and from a file with the right digest; ask for all; and keep it again."""
    *queries, body = unframed(data) or [b""]
    queries = [query for query in queries if inspect_query(query)["verdict"] == "plain"]
    chunk = body[body.find(b"\n") + 12 : -11]
    cache, clock = _cache()
    with suppress(ValueError):
        cache.restore(chunk, 1.0)
    _use(cache, clock, queries)
    cache, clock = _cache()
    whole = b"FunkenShield snapshot 1 " + LAYOUT + b" now\n" + body
    FILE.write_bytes(whole + hashlib.blake2b(whole, digest_size=32).digest())
    restored, origins = snapshot.read(cache, FILE, lambda: 2.0)
    assert restored <= cache.counters()["inserts"]
    assert all(name_to_wire(name) for name in origins.zones)
    assert all(0 <= serial < 2**32 for serial in origins.serials.values())
    _use(cache, clock, queries)


def _cache():
    clock = Clock()
    cache = Cache(MEMORY, clock, bytes(16))
    cache.zones.configure(0, **FULL)
    return cache, clock


def _use(cache, clock, queries):
    """Do with a cache all that is done with answers."""
    for passed in (0, 300):
        clock.advance(passed)
        for query in queries:
            for limit in (65535, 512):
                hit = cache.lookup(query, limit)
                assert hit is None or (len(hit) <= limit and hit[:2] == query[:2])
    again = b"".join(map(cache.export, range(cache.segments_total)))
    assert _cache()[0].restore(again, 0.0) <= cache.counters()["entries"]
    cache.purge(b"\3com\0", below=True)
    for segment in range(cache.segments_total):
        cache.sweep(segment)
