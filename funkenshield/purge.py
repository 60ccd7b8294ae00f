"""What an operator wants out of the cache now: everything, a zone, a name, or a name and type."""

import asyncio
import time

import dns.exception
import dns.name
import dns.rdatatype

from ._cache import Cache
from .errors import FunkenShieldError

BUDGET = 0.002  # seconds at a stretch, so that misses do not wait

_one_at_a_time = asyncio.Lock()


class PurgeError(FunkenShieldError):
    """What is to be purged cannot be understood."""


async def purge(cache: Cache, name: str = ".", qtype: str | None = None, *, below: bool = True) -> int:
    """Take out the answers for a name, with `below` for all names under it too; return how many.

    What is stored while this runs may be new, and stays. Raises PurgeError for a name or type that is none.
    """
    if not name:
        raise PurgeError("cannot purge an empty name; everything is .")
    try:
        wire = dns.name.from_text(name).canonicalize().to_wire() or b""  # None only if it writes to a file
        number = -1 if qtype is None else int(dns.rdatatype.from_text(qtype))
    except (dns.exception.DNSException, ValueError, UnicodeError) as error:
        raise PurgeError(f"cannot purge {name} {qtype or ''}: {error}") from None
    async with _one_at_a_time:
        cache.begin_purge(wire, below=below, qtype=number)
        before = cache.counters()["purged"]
        try:
            await _visit_all(cache)
        finally:
            cache.end_purge()
        return cache.counters()["purged"] - before


async def _visit_all(cache: Cache) -> None:
    """Purge each segment; what an eviction moves meanwhile is looked at by the eviction."""
    end = time.perf_counter() + BUDGET
    for segment in range(cache.segments_total):
        cache.purge(segment)
        if time.perf_counter() >= end:
            await asyncio.sleep(0)
            end = time.perf_counter() + BUDGET
    cache.collect()
