"""What benchmarks of hits share: settings whose cache has so many entries, and clients of it that are compiled."""

import dns.message
import dns.rrset
import pytest
from compiled import hits as build_hits

from funkenshield._fastpath import SettingsWriter
from funkenshield.cache._store import Cache
from funkenshield.cache.hugepages import is_large
from funkenshield.core._clock import Clock

QUERY = dns.message.make_query("00000000.bench.example.", "A", id=7)
RESPONSE = dns.message.make_response(QUERY)
RESPONSE.answer.append(dns.rrset.from_text(QUERY.question[0].name, 86400, "IN", "A", "192.0.2.1"))
MODEL, ANSWERED = QUERY.to_wire(), RESPONSE.to_wire()
LABEL = slice(13, 21)  # the octets of the name that are its number


def numbered(wire: bytes, number: int) -> bytes:
    """Return a message about the name of this number."""
    return b"%b%08d%b" % (wire[: LABEL.start], number, wire[LABEL.stop :])


def fill(cache: Cache, entries: int) -> None:
    for number in range(entries):
        assert cache.store(numbered(MODEL, number), numbered(ANSWERED, number))


@pytest.fixture(scope="session")
def clients():
    """Return the compiled clients: `Hits`."""
    return build_hits().Hits


@pytest.fixture(scope="module")
def settings_writer_of():
    """Return what makes settings whose cache has so many entries; the last one is kept, as ten million are slow."""
    kept: dict[int, SettingsWriter] = {}

    def make(entries: int) -> SettingsWriter:
        if entries not in kept:
            kept.clear()
            memory = max(64 << 20, 320 * entries)
            cache = Cache(memory, Clock(), huge_pages=is_large(memory))
            fill(cache, entries)
            kept[entries] = SettingsWriter(cache)
        return kept[entries]

    return make
