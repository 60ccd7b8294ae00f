"""Know how to fill a cache, and what of that it still holds."""

from support.quick import answer, query

MEMORY = 1 << 22
SIZE = 1000  # octets of payload


def filled(cache, count, ttl=10, zone="example.com"):
    """Store so many answers; return their queries."""
    asked = [query(f"{stem}.{zone}") for stem in range(count)]
    for each in asked:
        assert cache.store(each, answer(each, bytes(SIZE), ttl=ttl))
    return asked


def held(cache, asked):
    return [each for each in asked if cache.lookup(each) is not None]
