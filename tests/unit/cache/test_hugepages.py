"""Show that a large cache has its memory before it writes to it, a little at a time, and a small one when it does."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from support.quick import answer, query

from funkenshield.cache import hugepages
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

MIB = 1 << 20
MEMORY = 64 * MIB
AHEAD = 8 * MIB
PAYLOAD = bytes(4000)
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def fill(cache, start, octets):
    """Store answers of so many octets; return how much memory the process took for it."""
    before = resident()
    for n in range(start, start + octets // len(PAYLOAD)):
        asked = query(f"n{n}.test")
        assert cache.store(asked, answer(asked, PAYLOAD))
    return resident() - before


def test_what_was_prepared_is_there_when_it_is_written_to_and_nothing_else():
    before = resident()
    cache = Cache(MEMORY, Clock(), huge_pages=True)
    assert cache.needs_memory
    assert resident() - before < 4 * MIB
    cache.prepare()
    assert AHEAD <= resident() - before < AHEAD + MEMORY // 8, "the index, and what comes first"
    assert not cache.needs_memory
    assert fill(cache, 0, 3 * MIB) < MIB
    assert not cache.needs_memory
    assert fill(cache, 10_000, 3 * MIB) < MIB
    assert cache.needs_memory
    cache.prepare()
    assert not cache.needs_memory


def test_a_small_cache_takes_memory_as_it_needs_it():
    cache = Cache(MEMORY, Clock())
    before = resident()
    assert not cache.needs_memory
    cache.prepare()
    assert resident() - before < MIB
    assert MIB <= fill(cache, 0, MIB) < 4 * MIB
    assert [hugepages.is_large(memory) for memory in (MEMORY, (1 << 30) - 1, 1 << 30)] == [False, False, True]


def test_memory_is_prepared_to_its_end_and_no_further():
    cache = Cache(MEMORY, Clock(), huge_pages=True)
    before = resident()
    for n in range(20):
        fill(cache, n * 10_000, 4 * MIB)
        cache.prepare()
        assert not cache.needs_memory
    assert cache.counters()["evictions"] > 0
    assert resident() - before < MEMORY + 4 * MIB


def test_it_is_prepared_again_and_again_by_a_thread_that_stands_back(monkeypatch):
    monkeypatch.setattr(hugepages, "INTERVAL", 0)
    cache = Cache(MEMORY, Clock(), huge_pages=True)
    seen = []

    class Watched:
        @property
        def needs_memory(self):
            return cache.needs_memory

        def prepare(self):
            seen.append((threading.current_thread() is threading.main_thread(), os.nice(0)))
            cache.prepare()

    async def run():
        preparing = asyncio.create_task(hugepages.prepare(Watched()))
        for n in range(3):
            while cache.needs_memory:
                await asyncio.sleep(0)
            fill(cache, n * 10_000, 6 * MIB)
        assert not preparing.done()
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing

    nice = os.nice(0)
    asyncio.run(asyncio.wait_for(run(), 20))
    assert seen[:3] == [(False, min(nice + hugepages.NICE, 19))] * 3
    assert os.nice(0) == nice


def test_where_no_thread_can_start_it_is_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(hugepages, "INTERVAL", 0)
    cache = Cache(MEMORY, Clock(), huge_pages=True)
    failures, start = [RuntimeError("can't start new thread"), MemoryError()], threading.Thread.start

    def start_or_fail(thread):
        if failures:
            raise failures.pop(0)
        start(thread)

    async def run():
        preparing = asyncio.create_task(hugepages.prepare(cache))
        while cache.needs_memory and not preparing.done():
            await asyncio.sleep(0)
        assert not preparing.done()
        preparing.cancel()

    monkeypatch.setattr("threading.Thread.start", start_or_fail)
    asyncio.run(asyncio.wait_for(run(), 20))
    assert not cache.needs_memory
    assert caplog.messages == ["memory of the cache not prepared: can't start new thread"]
