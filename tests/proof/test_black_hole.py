"""Know that an upstream which swallows everything costs memory no more than was said, and hits nothing."""

import json
import socket
import subprocess

import pytest
from support.client import ask
from support.process import COMMAND, run_shield
from support.upstream import ScriptedUpstream, answer

pytestmark = [pytest.mark.proof, pytest.mark.timeout(300)]
SECONDS, MISSES, HITS = 20, 50_000, 1_000  # a second
HOT = [f"h{n}.hot.test" for n in range(100)]
GROWTH = 96 << 20  # octets: the cache's 64 MiB, which failures fill too, and room for the allocators


def perf(shield, file, rate, seconds, window):
    """Load the shield; return the process, which prints its report."""
    command = [*COMMAND, "perf", "-d", file, "-s", "127.0.0.1", "-p", str(shield.address.port), "-l", str(seconds)]
    limits = ["-q", str(window), "-Q", str(rate), "-t", "3", "--json"]
    return subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, text=True)


def report(process):
    return json.loads(process.communicate(timeout=SECONDS + 30)[0])


def resident(shield):
    """Return the octets of memory that the shield has."""
    with open(f"/proc/{shield.process.pid}/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def test_a_black_hole_under_a_flood_of_misses_disturbs_no_hit(tmp_path):
    hot, cold = tmp_path / "hot", tmp_path / "cold"
    hot.write_text("".join(f"{name} A\n" for name in HOT))
    cold.write_text("".join(f"m{n}.hole.test A\n" for n in range(2 * SECONDS * MISSES)))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole,
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1", ttl=3600)) as upstream,
    ):
        hole.bind(("127.0.0.1", 0))
        toml = f'[[zones]]\nname = "hot.test"\nupstreams = ["{upstream.address}"]\n'
        with run_shield([hole.getsockname()], workers=0, toml=toml) as shield:
            assert all(ask(name, server=shield).answer for name in HOT)
            alone = report(perf(shield, hot, HITS, SECONDS, 100))
            before = resident(shield)
            flood = perf(shield, cold, MISSES, SECONDS, 30_000)
            beside = report(perf(shield, hot, HITS, SECONDS - 1, 100))
            swallowed = report(flood)
            stats = shield.stats()
            print(f"p99 alone {alone['latency']['p99']} ms, beside the flood {beside['latency']['p99']} ms")
            print(f"{swallowed['qps']:.0f} misses/s answered {swallowed['rcodes']}; grew {resident(shield) - before}")
            assert (alone["lost"], beside["lost"], swallowed["lost"]) == (0, 0, 0)
            assert swallowed["sent"] > 0.7 * SECONDS * MISSES
            assert set(swallowed["rcodes"]) == {"SERVFAIL", "REFUSED"}
            assert beside["latency"]["p99"] <= max(2 * alone["latency"]["p99"], 1.0)
            assert resident(shield) - before < GROWTH
            assert stats["zone_limit_exceeded"] > stats["resolution_failures"] > 0
            assert stats["cache_hits"] >= (2 * SECONDS - 1) * HITS * 0.99
    assert len(upstream.received) == len(HOT)
