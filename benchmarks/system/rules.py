"""What rules and guard cost: CPU of the shield for each hit, beside the same shield without any.

    python -m benchmarks.system.rules [--rounds 5] [--seconds 2] [--json]

The shield has one core, the load another; variants take turns, and medians count. On a machine of two cores, load and
kernel disturb what is measured by some percent, so a ratio below 1.05 says "nothing to be seen". All queries are hits,
but where Python answers each; absolute figures say nothing about another machine.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message

from . import processes

HOT = 1_000  # names
PROBE = "h0.bench.test"
COMMAND = [sys.executable, "-m", "funkenshield"]


def suffixes(count: int) -> list[str]:
    """Return rules that no query here matches: for its name, or its type though the name is right, or its source."""
    kinds = (
        'suffix = "zone{0}.example"',
        'suffix = "bench.test", qtype = ["TXT", "TYPE{1}"]',
        'qtype = ["A", "AAAA"], source = "10.{2}.0.0/16"',
    )
    return [
        f"[[rules]]\nmatch = {{ {kinds[number % 3].format(number, 1000 + number, number % 256)} }}\naction = 'refused'"
        for number in range(count)
    ]


def variants(folder: Path) -> dict[str, str]:
    """Return what is measured: a name, and what the configuration says beside the same for all."""
    blocked, python, cached = folder / "blocked.txt", folder / "each.py", folder / "kept.py"
    blocked.write_text("\n".join(f"bad{number}.example{number % 97}.net" for number in range(100_000)))
    letting = folder / "letting.py"
    head = "from funkenshield.rules import *\n"
    letting.write_text(head + "@shield.rule(inline=True)\ndef each(query):\n    return None\n")
    python.write_text(head + "@shield.rule(inline=True)\ndef each(query):\n    return query.respond('A 192.0.2.1')\n")
    cached.write_text(
        head + "@shield.rule(cache=True, inline=True)\ndef kept(query):\n    return query.respond('A 192.0.2.1')\n"
    )
    dice = random.Random(1)
    denied = [f'"{dice.randrange(1, 127)}.{dice.randrange(256)}.{number % 256}.0/24"' for number in range(1000)]
    access = f"[guard.access]\ndeny = [{', '.join(denied)}]\n"
    limit = "[[guard.rate_limits]]\nqueries_per_second = 1e6\n"
    limits = f"{limit}{limit}ipv4_prefix_length = 24\n"
    responses = "[guard.rrl]\nresponses_per_second = 1e6\nnxdomains_per_second = 1e6\nerrors_per_second = 1e6\n"
    return {
        "no rules": "",
        "10 rules": "\n".join(suffixes(10)),
        "1,000 rules": "\n".join(suffixes(1000)),
        "100,000 suffixes": f'[[rules]]\nmatch = {{ suffix_file = "{blocked}" }}\naction = "nxdomain"',
        "100 rules, asked one by one": "\n".join(["[[rules]]\nmatch = { flags = 'CD' }\naction = 'refused'"] * 100),
        "access list of 1,000 prefixes": access,
        "two limits of queries": limits,
        "response rate limiting": responses,
        "all of these three": access + limits + responses,
        "a cached function for each query": f'rules = "{cached}"',
        "a function that lets each query go": f'rules = "{letting}"',
        "a function that answers each query": f'rules = "{python}"',
    }


@dataclass(frozen=True)
class Nameserver:
    """A wildcard, served by Python."""

    def command(self, folder: Path, port: int, _upstream: int) -> list[str]:
        """Write the zone; return the command."""
        (folder / "zone").write_text(
            "$ORIGIN bench.test.\n@ 86400 SOA ns host 1 3600 600 86400 300\n@ 86400 NS ns\nns 86400 A 192.0.2.53\n"
            "* 86400 A 192.0.2.1\n"
        )
        return [*COMMAND, "nameserver", "--listen", f"127.0.0.1:{port}", "--zone", f"{folder}/zone"]


@dataclass(frozen=True)
class Shield:
    """A shield of one worker, with more in its configuration."""

    text: str

    def command(self, folder: Path, port: int, upstream: int) -> list[str]:
        """Write the configuration; return the command."""
        file = folder / "shield.toml"
        top, _, tables = self.text.partition("[") if not self.text.startswith("rules") else (self.text, "", "")
        file.write_text(
            f'listen = ["127.0.0.1:{port}"]\nupstreams = ["127.0.0.1:{upstream}"]\nworkers = 1\n{top}\n'
            f'[control]\nsocket = "{folder}/control"\n{"[" * bool(tables)}{tables}'
        )
        return [*COMMAND, "run", "-c", str(file)]


class Bench:
    """Shields before a small nameserver, measured in turn."""

    def __init__(self, folder: Path, upstream: int, seconds: float) -> None:
        self.folder, self.upstream, self.seconds = folder, upstream, seconds
        self.queries = folder / "queries"
        self.queries.write_text("".join(f"h{number}.bench.test A\n" for number in range(HOT)))

    @contextlib.contextmanager
    def shield(self, text: str) -> Iterator[processes.Running]:
        """Run a shield that has answered each of the names once."""
        with processes.running(Shield(text), self.folder / "shield", self.upstream, processes.SERVER_CORE, PROBE) as at:
            self.perf(at.port, "-n", str(3 * HOT), "-q", "10")
            yield at

    def perf(self, port: int, *how: str) -> dict[str, Any]:
        """Load a shield, and return what came of it."""
        command = [*COMMAND, "perf", "-d", str(self.queries), "-s", "127.0.0.1", "-p", str(port), "--json", *how]
        done = subprocess.run(["taskset", "-c", str(processes.LOAD_CORE), *command], capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    def hit(self, text: str) -> float:
        """Return the microseconds of CPU that an answer costs."""
        with self.shield(text) as at:
            before = at.cpu()
            report = self.perf(at.port, "-l", str(self.seconds))
            used = at.cpu() - before
            if set(report["rcodes"]) != {"NOERROR"}:
                raise SystemExit(f"not what was to be measured: {report['rcodes']}")
            return used * 1e6 / report["answered"]

    def flood(self, text: str) -> float:
        """Return the microseconds of CPU that a query costs in a flood for one name from sources that are forged."""
        wire = dns.message.make_query("h1.bench.test", "A").to_wire()
        with self.shield(text) as at, contextlib.ExitStack() as stack:
            sources = []
            for number in range(4000):
                opened = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                opened.bind((f"127.{number % 250 + 1}.{number // 250}.1", 0))
                sources.append(opened)
            os.sched_setaffinity(0, {processes.LOAD_CORE})
            before, end, sent = at.cpu(), time.monotonic() + self.seconds, 0
            for opened in itertools.cycle(sources):
                opened.sendto(wire, ("127.0.0.1", at.port))
                sent += 1
                if not sent & 1023 and time.monotonic() > end:
                    break
            time.sleep(0.1)
            used = at.cpu() - before
            os.sched_setaffinity(0, {processes.SERVER_CORE, processes.LOAD_CORE})
            return used * 1e6 / sent


def main() -> None:
    """Measure all variants in turn, and print medians with their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="funkenshield-bench-") as name:
        taken: dict[str, list[float]] = {}
        with processes.running(Nameserver(), Path(name) / "upstream", 0, processes.LOAD_CORE, PROBE) as upstream:
            bench = Bench(Path(name), upstream.port, given.seconds)
            for turn in range(0, 5 * given.rounds, 5):  # nobody is always the first
                asked = list(variants(Path(name)).items())
                for variant, text in asked[turn % len(asked) :] + asked[: turn % len(asked)]:
                    taken.setdefault(variant, []).append(bench.hit(text))
                for variant, text in (
                    ("a forged flood, no limit", ""),
                    ("a forged flood, limited", "[guard.rrl]\nresponses_per_second = 1.0"),
                ):
                    taken.setdefault(variant, []).append(bench.flood(text))
    report(taken, as_json=given.json)


def report(taken: dict[str, list[float]], *, as_json: bool) -> None:
    """Print what was measured: microseconds, and ratios to the first of its kind in the same round."""
    rows = {}
    for variant, costs in taken.items():
        base = taken["a forged flood, no limit" if "flood" in variant else "no rules"]
        ratios = [cost / other for cost, other in zip(costs, base, strict=True)]
        rows[variant] = {
            "us": statistics.median(costs),
            "ratio": statistics.median(costs) / statistics.median(base),
            "least": min(ratios),
            "most": max(ratios),
        }
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'CPU for each query':<36}{'us':>8}{'ratio':>8}{'(each round)':>16}")
    for variant, row in rows.items():
        print(f"{variant:<36}{row['us']:>8.2f}{row['ratio']:>8.2f}{row['least']:>9.2f} - {row['most']:.2f}")


if __name__ == "__main__":
    main()
