"""Know what others lose while names that nobody asked for come at a rate that no core carries: nothing.

The shield has one core; the flood, the clients and the nameserver have the other, where who measures goes first.
"""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from hostile.behaved import NAMES, QUERIES
from support.client import free_port
from support.control import stats
from support.pipeline import ask_all
from support.process import COMMAND, run_shield

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.cpu_count() < 2, reason="takes two cores"),
]
SECONDS, HITS, MISSES = 10, 1000, 500  # a second
P99 = 5.0  # milliseconds, of a hit
SHIELD, OTHERS = 0, 1  # cores
ATTACKS = Path(__file__).parents[1] / "attacks"
COUNTED = "queries", "fair_share_exceeded", "dropped_queue_full", "zone_limit_exceeded", "outstanding_limit_exceeded"


@contextlib.contextmanager
def built(folder, source, *arguments, nice=0):
    """Run a program of `tests/attacks`, as long as the context or as it likes."""
    program = folder / source
    subprocess.run(["gcc", "-O2", "-o", program, ATTACKS / f"{source}.c"], check=True)
    command = ["nice", "-n", str(nice), program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def pin(process, core):
    """Let all threads of a process run on one core."""
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def perf(shield, names, rate, seconds):
    """Ask for names; return the process, which prints its report."""
    limits = ["-l", str(seconds), "-q", "4000", "-Q", str(rate), "-t", "2", "--json"]
    command = [*COMMAND, "perf", "-d", names, "-s", "127.0.0.1", "-p", str(shield.address.port), *limits]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def report(process):
    with process:
        return json.load(process.stdout)


@pytest.fixture
def others_core():
    """Leave this process, and those that it starts, on the others' core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {OTHERS})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("sources", [1, 1000])
def test_a_flood_above_what_a_core_carries_costs_others_nothing(others_core, tmp_path, sources):
    hot, cold = tmp_path / "hot", tmp_path / "cold"
    hot.write_text("".join(f"{name} A\n" for name in NAMES))
    cold.write_text("".join(f"cold{n}.other{n % 10}.test A\n" for n in range(2 * SECONDS * MISSES)))
    fresh = tmp_path / "fresh"
    fresh.write_text("".join(f"fresh{n}.fresh{n % 100}.test A\n" for n in range(500_000)))
    port = free_port()
    with (
        built(tmp_path, "answers", port),
        run_shield([("127.0.0.1", port)], workers=1, toml='cache.memory = "256MiB"') as shield,
    ):
        pin(shield.process, SHIELD)
        assert not any(reply[3] & 15 for reply in ask_all(shield, QUERIES))
        carried = report(perf(shield, fresh, 0, 1))["qps"]
        quiet = report(perf(shield, hot, HITS, 2))
        flood = shield.address.port, 2 * carried, SECONDS, sources, "one.flood.test"
        with built(tmp_path, "flood", *flood, nice=19) as flooding:
            time.sleep(0.5)
            hits, misses = perf(shield, hot, HITS, SECONDS - 1), perf(shield, cold, MISSES, SECONDS - 1)
            hit, miss = report(hits), report(misses)
            came = int(flooding.communicate()[0]) / SECONDS
        counted = stats(shield)
        print(f"{carried:.0f} misses a second carried; {came:.0f} flooded from {sources} networks")
        print({name: counted[name] for name in COUNTED})
        print(f"p99 of hits {quiet['latency']['p99']} ms when quiet, {hit['latency']['p99']} ms; {hit['lost']} lost")
        print(f"p99 of others' misses {miss['latency']['p99']} ms; {miss['rcodes']}, {miss['lost']} lost")
        assert came > 1.8 * carried
        assert hit["lost"] <= 0.001 * hit["sent"]
        assert hit["rcodes"] == {"NOERROR": hit["sent"] - hit["lost"]}
        assert hit["latency"]["p99"] <= P99
        assert miss["rcodes"]["NOERROR"] >= 0.99 * miss["sent"]
