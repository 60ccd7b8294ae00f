"""Hits as a worker has them, without sockets and without a call from Python for each: how they grow with the cache,
with threads, with rules and limits; and what the writer does meanwhile.

A call is for 64,000 queries. Making them is part of it, a tenth of a hit among few names. With millions of entries,
each hit needs memory in four or five places, which are fetched for a batch at once.
"""

import threading

import pytest
from conftest import ANSWERED, MODEL, fill, numbered

from funkenshield._fastpath import SettingsWriter
from funkenshield.cache._store import Cache
from funkenshield.config.action import Action
from funkenshield.config.match import Match
from funkenshield.core._clock import Clock
from funkenshield.policy._guard import Guard
from funkenshield.rules.compiler import IdAllocator, Rule, compile_chain

ASKED = 64_000
THOUSAND = 1_000


@pytest.mark.benchmark(group="64,000 hits, by entries")
@pytest.mark.parametrize("entries", [THOUSAND, 100_000, 10_000_000])
def test_look_up(benchmark, clients, settings_writer_of, entries):
    client = clients(settings_writer_of(entries), MODEL)
    client.run(4 * ASKED, entries, 1)
    seeds = iter(range(2, 1_000_000))
    answered = benchmark.pedantic(lambda: client.run(ASKED, entries, next(seeds)), rounds=30)
    assert answered > 0.999 * ASKED  # among millions, some share a set with more than have room in it


@pytest.mark.benchmark(group="64,000 hits, by entries")
@pytest.mark.parametrize("entries", [100_000, 10_000_000])
def test_memory_alone(benchmark, clients, settings_writer_of, entries):
    """What the machine's memory takes for those hits, whatever is done with it: no cache can take less."""
    settings_writer = settings_writer_of(entries)
    client = clients(settings_writer, MODEL)
    seeds = iter(range(2, 1_000_000))
    octets = settings_writer.cache.counters()["bytes"]
    benchmark.pedantic(lambda: client.walk(ASKED, octets, next(seeds)), rounds=30)


@pytest.mark.benchmark(group="hits of one thread, and of two that each ask as many")
@pytest.mark.parametrize("names", [1, THOUSAND])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark, clients, settings_writer_of, threads, names):
    several = [clients(settings_writer_of(THOUSAND), MODEL) for _ in range(threads)]

    def run() -> None:
        running = [threading.Thread(target=client.run, args=(20 * ASKED, names)) for client in several]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    benchmark.pedantic(run, rounds=10, warmup_rounds=1)


def rules(count: int) -> list[Rule]:
    """Return rules about other names."""
    return [
        Rule(
            f"rule {number}", "queries", Match.model_validate({"suffix": f"zone{number}.example"}),
            Action.model_validate("refused"),
        )
        for number in range(count)
    ]  # fmt: skip


@pytest.mark.benchmark(group="64,000 hits, with rules and limits")
@pytest.mark.parametrize("what", ["nothing", "10 rules", "1,000 rules", "two limits", "response rate limiting"])
def test_rules_and_limits(benchmark, clients, settings_writer_of, what):
    settings_writer = settings_writer_of(THOUSAND)
    guard = settings_writer.guard
    if what.endswith("rules"):
        made = rules(int(what.split()[0].replace(",", "")))
        settings_writer.set_chains(compile_chain(made, IdAllocator(), 1, Guard(1 << 16), ()).chain)
    elif what == "two limits":
        guard.set_limits([(1e9, 1.0, 32, 64, "drop"), (1e9, 1.0, 24, 56, "drop")])
    elif what != "nothing":
        guard.set_rrl(answers=1e9, nxdomains=1e9, errors=1e9)
    client = clients(settings_writer, MODEL)
    assert benchmark.pedantic(client.run, args=(ASKED, THOUSAND), rounds=30, warmup_rounds=1) == ASKED
    settings_writer.set_chains()
    guard.set_limits([])
    guard.set_rrl()


@pytest.mark.benchmark(group="the writer, 100,000 entries; a call for each from Python")
def test_put(benchmark):
    benchmark.pedantic(lambda cache: fill(cache, 100_000), setup=lambda: ((Cache(64 << 20, Clock()),), {}), rounds=5)


@pytest.mark.benchmark(group="the writer, 100,000 entries; a call for each from Python")
def test_put_where_another_must_be_evicted(benchmark):
    cache = Cache(4 << 20, Clock())
    fill(cache, 100_000)
    benchmark.pedantic(fill, args=(cache, 100_000), rounds=5)
    assert cache.counters()["evictions"] > 400_000


@pytest.mark.benchmark(group="the writer, expiring a million entries")
def test_expire(benchmark):
    def full() -> tuple[tuple[Cache], dict[str, object]]:
        clock = Clock()
        cache = Cache(256 << 20, clock)
        fill(cache, 1_000_000)
        clock.advance(90_000 + 4 * 86400)  # past what is kept to be served stale
        return (cache,), {}

    def sweep(cache: Cache) -> int:
        return sum(cache.sweep(segment) for segment in range(cache.segments_total))

    benchmark.pedantic(sweep, setup=full, rounds=3)


def test_every_name_is_answered(clients):
    cache = Cache(64 << 20, Clock())
    fill(cache, THOUSAND)
    client = clients(SettingsWriter(cache), MODEL)
    assert client.run(ASKED, THOUSAND) == ASKED
    assert cache.lookup(numbered(MODEL, 999)) == numbered(ANSWERED, 999)
    assert client.run(ASKED, 2 * THOUSAND) < ASKED
