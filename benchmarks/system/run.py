"""Measure FunkenShield beside its peers and two floors: CPU for each query, throughput, latency, memory.

    python -m benchmarks.system.run [--servers NAME ...] [--workloads NAME ...] [--rounds 3] [--seconds 2] [--json FILE]

Servers take turns within a round, each in a process of its own on one core; the load and the nameserver behind have
the other. What is not installed is listed as absent. A figure is the median of its rounds.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from funkenshield.tools.perf import Report, run_perf

from . import processes
from .servers import ENCRYPTED, FLOORS, NAMES, servers
from .streams import CLIENTS, build_clients, run, write_certificate
from .workloads import HOT, MANY, MILLION, ZONE, Streams, Workload, workloads, write_zone

WINDOW = 200  # outstanding queries, at most
TAILS, TURNS, TURN = ("reflect", "funkenshield", "dnsdist"), 150, 0.1  # a turn takes so many seconds
PROBE = f"ready.{ZONE}"


class Bench:
    """One folder, one zone, one upstream; servers before it, one at a time."""

    def __init__(self, folder: Path, upstream: int, seconds: float) -> None:
        self.folder, self.upstream, self.seconds = folder, upstream, seconds
        self.loads = workloads(int(220_000 * seconds))
        self.wires = {name: load.wires(load.asked) for name, load in self.loads.items()}
        write_certificate(folder)
        self.clients = build_clients(folder)

    def take(self, name: str, server: ModuleType, which: str) -> dict[str, float]:
        """Return the figures of a server for a workload; none for a floor of something else, or without encryption."""
        load = self.loads[which]
        floor = name in FLOORS
        encrypted = load.streams and load.streams.over != "tcp"
        if (floor and load.floor != name) or (encrypted and name not in ENCRYPTED):
            return {}
        with processes.running(
            server, self.folder / name, self.upstream, processes.SERVER_CORE, "" if floor else PROBE
        ) as at:
            if not floor and load.warm:
                self._warm(at, load)
            return self._over_streams(at, load, load.streams) if load.streams else self._udp(at, which, load)

    def tails(self, present: dict[str, ModuleType]) -> dict[str, list[float]]:
        """Return the 99th percentiles of hits at half load, in microseconds, of servers that run beside each other.

        They take turns so short that a hiccup of the machine is in few of them: it is larger than what is between two.
        """
        load, wires = self.loads["hot"], self.wires["hot"]
        taken: dict[str, list[float]] = {}
        with contextlib.ExitStack() as stack:
            beside = {
                name: stack.enter_context(
                    processes.running(
                        server,
                        self.folder / name,
                        self.upstream,
                        processes.SERVER_CORE,
                        "" if name in FLOORS else PROBE,
                    )
                )
                for name, server in present.items()
                if name in TAILS
            }
            for name in set(beside) - set(FLOORS):
                self._warm(beside[name], load)
            for _ in range(TURNS):
                for name, at in beside.items():
                    full = self._run(at, load, wires, seconds=TURN / 2)
                    calm = self._run(at, load, wires, rate=full.qps / 2, seconds=TURN)
                    taken.setdefault(name, []).append(1000 * calm.latency["p99"])
        return taken

    def _warm(self, at: processes.Running, load: Workload) -> None:
        wires = load.wires(load.warm)
        passes = 2 if len(wires) <= HOT else 1
        run_perf(wires, "127.0.0.1", at.port, 120.0, window=100, limit=passes * len(wires))
        time.sleep(1.1)  # an entry that has aged is rendered at its usual cost

    def _udp(self, at: processes.Running, which: str, load: Workload) -> dict[str, float]:
        wires = self.wires[which]
        half = len(wires) * 2 // 3 if load.once else len(wires)
        before = at.cpu()
        full = self._run(at, load, wires[:half])
        used = at.cpu() - before
        calm = self._run(at, load, wires[-half:] if not load.once else wires[half:], rate=full.qps / 2)
        return {
            "us": used * 1e6 / max(full.answered, 1),
            "qps": full.qps,
            "lost": full.lost / max(full.sent, 1),
            "busy": used / max(full.seconds, 0.01),
            "octets": full.octets / max(full.answered, 1),
            "late": calm.lost / max(calm.sent, 1),
            **{key: 1000 * calm.latency[key] for key in ("p50", "p99", "p99.9")},
        }

    def _run(
        self, at: processes.Running, load: Workload, wires: list[bytes], *, rate: float = 0.0, seconds: float = 0.0
    ) -> Report:
        limit = len(wires) if load.once else 0
        span = seconds or self.seconds
        return run_perf(wires, "127.0.0.1", at.port, span, window=WINDOW, rate=rate, limit=limit, timeout=1.0)

    def _over_streams(self, at: processes.Running, load: Workload, streams: Streams) -> dict[str, float]:
        queries = self.folder / "frames"
        queries.write_bytes(b"".join(len(wire).to_bytes(2) + wire for wire in load.wires(load.asked)))
        before = at.cpu()
        said = run(self.clients, at.port_over(streams.over), streams, self.seconds, queries)
        used = at.cpu() - before
        return {
            "us": used * 1e6 / max(said.answered, 1),
            "qps": said.answered / said.seconds,
            "lost": (said.errors + said.failed) / max(said.answered, 1),
            "busy": used / said.seconds,
            "resumed": said.resumed / max(said.connections, 1),
        }

    def _dnsperf(self, port: int, load: Workload, *how: str) -> dict[str, float]:
        file = load.write(self.folder / "queries")
        command = ["dnsperf", "-s", "127.0.0.1", "-p", port, "-d", file, "-q", WINDOW, "-l", self.seconds, *how]
        text = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
        wanted = {
            "sent": r"sent: +(\d+)",
            "completed": r"completed: +(\d+)",
            "lost": r"lost: +(\d+)",
            "qps": r"per second: +([\d.]+)",
        }
        return {key: float(found[1]) if (found := re.search(each, text)) else 0.0 for key, each in wanted.items()}

    def dnsperf(self, name: str, server: ModuleType) -> float:
        """Return the CPU of a hit in microseconds, with the load of another program, as a check of ours."""
        with processes.running(
            server, self.folder / name, self.upstream, processes.SERVER_CORE, "" if name in FLOORS else PROBE
        ) as at:
            load = self.loads["hot"]
            self._dnsperf(at.port, load, "-n", "1")
            before = at.cpu()
            said = self._dnsperf(at.port, load)
            return (at.cpu() - before) * 1e6 / max(said["completed"], 1)

    def h2load(self, name: str, server: ModuleType) -> float:
        """Return the CPU of a hit over HTTPS, one query at a time, with the load of another program."""
        load = self.loads["https-one"]
        file = self.folder / "request"
        file.write_bytes(load.wires(load.asked)[0])
        with processes.running(server, self.folder / name, self.upstream, processes.SERVER_CORE, PROBE) as at:
            target = f"https://127.0.0.1:{at.port_over('https')}/dns-query"
            header = "content-type: application/dns-message"
            command = [
                "h2load",
                "-c",
                CLIENTS,
                "-m",
                1,
                "-D",
                f"{self.seconds * 1000:.0f}ms",
                "-d",
                file,
                "-H",
                header,
                target,
            ]
            before = at.cpu()
            text = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
            answered = re.search(r"status codes: (\d+) 2xx", text)
            return (at.cpu() - before) * 1e6 / max(int(answered[1]) if answered else 0, 1)

    def memory(self, name: str, server: ModuleType) -> dict[str, float]:
        """Return the octets of memory that an entry takes, with 100,000 of them and with a million."""
        load = self.loads["hot"]
        with processes.running(server, self.folder / name, self.upstream, processes.SERVER_CORE, PROBE) as at:
            self._fill(at, load, "w", 0, HOT)
            empty = at.memory()
            taken = {}
            first = 0
            for count in (MANY, MILLION):
                self._fill(at, load, "e", first, count)
                first = count
                taken[str(count)] = (at.memory() - empty) / count
        return taken

    def _fill(self, at: processes.Running, load: Workload, letter: str, first: int, last: int) -> None:
        wires = load.wires(f"{letter}{number:07}" for number in range(first, last))
        run_perf(wires, "127.0.0.1", at.port, 300.0, window=WINDOW, limit=len(wires), timeout=1.0)


def main() -> None:
    """Measure all that is asked for, in turn, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--workloads", nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=3, help="0: nothing but memory")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args()
    known = servers()
    absent = [name for name in given.servers if not processes.found(known[name].PROGRAM)]
    present = {name: known[name] for name in (*FLOORS, *given.servers) if name not in absent}
    os.sched_setaffinity(0, {processes.LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="funkenshield-bench-") as room:
        folder = Path(room)
        write_zone(folder / "zone")
        with processes.running(known["nsd"], folder / "upstream", 0, processes.LOAD_CORE, PROBE) as upstream:
            bench = Bench(folder, upstream.port, given.seconds)
            results = measure(bench, present, given)
    results |= {
        "date": time.strftime("%Y-%m-%d"),
        "machine": processes.machine(),
        "absent": absent,
        "versions": {name: processes.version(each) for name, each in present.items()},
    }
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    print_tables(results)


def measure(bench: Bench, present: dict[str, ModuleType], given: argparse.Namespace) -> dict[str, Any]:
    """Let all take turns, round by round; nobody is always the first."""
    wanted = given.workloads or list(bench.loads)
    taken: dict[str, dict[str, list[dict[str, float]]]] = {which: {} for which in wanted}
    check: dict[str, dict[str, list[float]]] = {"dnsperf": {}, "h2load": {}}
    others = {"hot": "dnsperf"} | ({"https-one": "h2load"} if processes.found("h2load") else {})
    memory: dict[str, dict[str, float]] = {}
    names = list(present)
    for turn in range(given.rounds):
        for which in wanted:
            say(f"round {turn + 1}: {which}")
            for name in names[turn:] + names[:turn]:  # so that what is compared was measured within a minute
                figures = bench.take(name, present[name], which)
                if figures:
                    taken[which].setdefault(name, []).append(figures)
                if figures and which in others:
                    other = others[which]
                    check[other].setdefault(name, []).append(getattr(bench, other)(name, present[name]))
    for name in names:
        if name not in (*FLOORS, "nsd") and not given.no_memory:
            say(f"memory: {name}")
            memory[name] = bench.memory(name, present[name])
    tails: dict[str, list[float]] = {}
    if given.rounds and "hot" in wanted:
        say("tails")
        tails = bench.tails(present)
    titles = {which: bench.loads[which].title for which in wanted}
    return {
        "rounds": given.rounds,
        "seconds": given.seconds,
        "titles": titles,
        "taken": taken,
        **check,
        "tails": tails,
        "memory": memory,
    }


def say(text: str) -> None:
    """Tell a person who waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def ratio(results: dict[str, Any], which: str, one: str, other: str) -> float | None:
    """Return how often the CPU of one server is that of another for a query, each the median of its rounds."""
    runs = results["taken"].get(which, {})
    if one not in runs or other not in runs:
        return None
    return middle(runs[one], "us") / middle(runs[other], "us")


def middle(runs: list[dict[str, float]], key: str) -> float:
    """Return the median of a figure."""
    return statistics.median(each[key] for each in runs)


HEAD = ("us/query", "least", "most", "x dnsdist", "queries/s", "lost", "p50", "p99", "p99.9")


def print_tables(results: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    for which, runs in results["taken"].items():
        print(f"\n{which}: {results['titles'][which]}\n{'':<14}" + "".join(f"{each:>10}" for each in HEAD))
        for name, each in runs.items():
            costs = [one["us"] for one in each]
            beside = ratio(results, which, name, "dnsdist")
            cells = [f"{cost:.2f}" for cost in (statistics.median(costs), min(costs), max(costs))]
            cells += [f"{beside:.2f}" if beside else "", f"{middle(each, 'qps'):,.0f}", f"{middle(each, 'lost'):.2%}"]
            cells += [f"{middle(each, key):.0f}" for key in HEAD[-3:] if key in each[0]]
            print(f"{name:<14}" + "".join(f"{cell:>10}" for cell in cells))
    for name, taken in results["memory"].items():
        sizes = ", ".join(f"{octets:.0f} with {int(count):,}" for count, octets in taken.items())
        print(f"octets for an entry: {name:<14}{sizes}")
    for other in "dnsperf", "h2load":
        for name, costs in results[other].items():
            print(f"us for a hit, with {other}: {name:<14}{statistics.median(costs):.2f}")
    for name, each in results["tails"].items():
        print(f"us, p99 of hits at half load, {len(each)} turns: {name:<14}{statistics.median(each):.0f}")
    if results["absent"]:
        print(f"absent: {', '.join(results['absent'])}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
