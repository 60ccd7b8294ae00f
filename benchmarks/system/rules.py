"""What rules and guard cost: CPU of the shield for each hit, beside the same shield without any.

    python benchmarks/system/rules.py [--rounds 5] [--seconds 2] [--json]

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
from pathlib import Path
from typing import Any

import dns.message

HOT = 1_000  # names
CLOCK = os.sysconf("SC_CLK_TCK")
COMMAND = [sys.executable, "-m", "funkenshield"]
SERVER_CORE, LOAD_CORE = (sorted(os.sched_getaffinity(0)) * 2)[:2]


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
    letting.write_text(head + "@shield.rule()\ndef each(query):\n    return None\n")
    python.write_text(head + "@shield.rule()\ndef each(query):\n    return query.respond('A 192.0.2.1')\n")
    cached.write_text(head + "@shield.rule(cache=True)\ndef kept(query):\n    return query.respond('A 192.0.2.1')\n")
    dice = random.Random(1)
    denied = [f'"{dice.randrange(1, 127)}.{dice.randrange(256)}.{number % 256}.0/24"' for number in range(1000)]
    access = f"[guard.access]\ndeny = [{', '.join(denied)}]\n"
    limits = "[[guard.limits]]\nqueries = 1e6\n[[guard.limits]]\nqueries = 1e6\nipv4 = 24\n"
    responses = "[guard.responses]\nanswers = 1e6\nnxdomains = 1e6\nerrors = 1e6\n"
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


@contextlib.contextmanager
def running(command: list[str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on one core."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def cpu(process: subprocess.Popen[bytes]) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until somebody answers there."""
    query = dns.message.make_query("h0.bench.test", "A").to_wire()
    for _ in range(300):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened, contextlib.suppress(OSError):
            opened.settimeout(0.1)
            opened.connect(("127.0.0.1", port))
            opened.send(query)
            opened.recv(4096)
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody answers on port {port}")


class Bench:
    """A small nameserver, and shields before it that are measured in turn."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.upstream = free_port()
        self.queries = folder / "queries"
        self.queries.write_text("".join(f"h{number}.bench.test A\n" for number in range(HOT)))
        (folder / "zone").write_text(
            "$ORIGIN bench.test.\n@ 86400 SOA ns host 1 3600 600 86400 300\n@ 86400 NS ns\nns 86400 A 192.0.2.53\n"
            "* 86400 A 192.0.2.1\n"
        )

    @contextlib.contextmanager
    def shield(self, text: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """Run a shield that has answered each of the names once."""
        port, file = free_port(), self.folder / "shield.toml"
        top, _, tables = text.partition("[") if not text.startswith("rules") else (text, "", "")
        file.write_text(
            f'listen = ["127.0.0.1:{port}"]\nupstreams = ["127.0.0.1:{self.upstream}"]\nworkers = 1\n{top}\n'
            f'[control]\nsocket = "{self.folder}/control"\n{"[" * bool(tables)}{tables}'
        )
        with running([*COMMAND, "run", "-c", str(file)], SERVER_CORE) as process:
            wait_for(port)
            self.perf(port, "-n", str(3 * HOT), "-q", "10")
            yield process, port

    def perf(self, port: int, *how: str) -> dict[str, Any]:
        """Load a shield, and return what came of it."""
        command = [*COMMAND, "perf", "-d", str(self.queries), "-s", "127.0.0.1", "-p", str(port), "--json", *how]
        done = subprocess.run(["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    def hit(self, text: str) -> float:
        """Return the microseconds of CPU that an answer costs."""
        with self.shield(text) as (process, port):
            before = cpu(process)
            report = self.perf(port, "-l", str(self.seconds))
            used = cpu(process) - before
            if set(report["rcodes"]) != {"NOERROR"}:
                raise SystemExit(f"not what was to be measured: {report['rcodes']}")
            return used * 1e6 / report["answered"]

    def flood(self, text: str) -> float:
        """Return the microseconds of CPU that a query costs in a flood for one name from sources that are forged."""
        wire = dns.message.make_query("h1.bench.test", "A").to_wire()
        with self.shield(text) as (process, port), contextlib.ExitStack() as stack:
            sources = []
            for number in range(4000):
                opened = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                opened.bind((f"127.{number % 250 + 1}.{number // 250}.1", 0))
                sources.append(opened)
            os.sched_setaffinity(0, {LOAD_CORE})
            before, end, sent = cpu(process), time.monotonic() + self.seconds, 0
            for opened in itertools.cycle(sources):
                opened.sendto(wire, ("127.0.0.1", port))
                sent += 1
                if not sent & 1023 and time.monotonic() > end:
                    break
            time.sleep(0.1)
            used = cpu(process) - before
            os.sched_setaffinity(0, {SERVER_CORE, LOAD_CORE})
            return used * 1e6 / sent


def main() -> None:
    """Measure all variants in turn, and print medians with their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="funkenshield-bench-") as name:
        bench = Bench(Path(name), given.seconds)
        upstream = [*COMMAND, "ns", "--listen", f"127.0.0.1:{bench.upstream}", "--zone", f"{name}/zone"]
        taken: dict[str, list[float]] = {}
        with running(upstream, LOAD_CORE):
            wait_for(bench.upstream)
            for turn in range(0, 5 * given.rounds, 5):  # nobody is always the first
                asked = list(variants(Path(name)).items())
                for variant, text in asked[turn % len(asked) :] + asked[: turn % len(asked)]:
                    taken.setdefault(variant, []).append(bench.hit(text))
                for variant, text in (
                    ("a forged flood, no limit", ""),
                    ("a forged flood, limited", "[guard.responses]\nanswers = 1.0"),
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
