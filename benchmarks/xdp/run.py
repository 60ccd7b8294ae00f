"""What a query costs on an interface: of all CPU time, with the load made at the other end of a wire.

    two networks, a veth between -> a contender on one core -> the same load for each -> its CPU time, by replies

The near end's frames are received by a kernel thread (threaded NAPI) on the contender's core, so that all that a query
costs there is counted by the scheduler, whatever else the machine does: that thread, and the contender's processes.

There are two loads. kxdpgun sends by sockets, at one rate: the kernel copies each frame for a program at the other end.
`load.bpf.c` sends frames as drivers have them, at several rates: a contender's figure is that of the highest one at
which it answers nearly all. The program alone is measured by the kernel (`kernel.bpf_stats_enabled`) in runs of its
own, for that costs, too. Last comes a flood of one name, beside a client by sockets. Figures compare within one run.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import dns.message

from benchmarks.xdp import contenders, load, wire
from benchmarks.xdp.contenders import Place, Running
from benchmarks.xdp.load import Asked, Load
from funkenshield.xdp import bpf

NAME = "www.bench.example"
ROUNDS, SECONDS, RATE = 3, 3, 100_000
RATES = [100_000, 300_000, 600_000, 900_000]
NEARLY_ALL = 0.95
FLOOD = 500_000  # a second, which is what kxdpgun can make with one core
PROGRAMS = ("bounce", "take_queries", "answer_queries")
FLOODED = ("FunkenShield, sockets", "FunkenShield, kernel_answers")
Contender = Callable[[Place], contextlib.AbstractContextManager[Running]]
Asking = Callable[[], Asked]


def cpu(processes: list[int]) -> int:
    """Return the nanoseconds of CPU that processes have had, all threads together."""
    return sum(
        int(each.read_text().split()[0])
        for process in processes
        for each in Path(f"/proc/{process}/task").glob("*/schedstat")
    )


def by_sockets(rate: int, seconds: int) -> Asked:
    """Ask so many questions a second with kxdpgun."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as queries:
        queries.write(f"{NAME} A\n")
        queries.flush()
        how = ("-t", str(seconds), "-Q", str(rate), "-F", str(wire.LOAD_CORE), "-i", queries.name)
        told = wire.inside(wire.FAR, "kxdpgun", *how, wire.ADDRESS)
    wire.run("ip", "-n", wire.FAR, "link", "set", wire.FAR_IF, "xdp", "off")  # its program, which it leaves
    asked, replies = (re.search(rf"total {what}: +(\d+)", told) for what in ("queries", "replies"))
    return Asked(int(asked[1]) if asked else 0, int(replies[1]) if replies else 0, seconds)


@contextlib.contextmanager
def frames(folder: Path) -> Iterator[Load]:
    """Have a load of frames at the far end of the wire."""
    question = dns.message.make_query(NAME, "A", id=0)
    made = contenders.compile_program("load.bpf.c", folder)
    with wire.entered(wire.FAR):
        asking = Load(
            wire.FAR_IF, bpf.Object.read(made), *load.frame_of(question, (wire.ADDRESS, wire.CLIENT), wire.macs())
        )
    try:
        yield asking
    finally:
        asking.close()


def measured(running: Running, asking: Asking, core: int = wire.SERVER_CORE) -> dict[str, float]:
    """Return the nanoseconds of CPU for each reply, queries a second, and the share of them that was answered.

    Queries are received on this core.
    """
    counted = [*wire.receivers(wire.NEAR_IF, core), *running.processes]
    wire.receivers(wire.FAR_IF, wire.LOAD_CORE)
    before = cpu(counted)
    queries, replies, seconds = asking()
    taken = cpu(counted) - before
    return {"ns": taken / max(replies, 1), "replies": replies, "answered": replies / queries, "rate": queries / seconds}


def program_time(rate: int) -> float:
    """Return how many nanoseconds a program of ours takes for a frame, as the kernel measures it; 0: there is none."""
    measuring = bpf.measure()
    try:
        before = ran()
        by_sockets(rate, 1)
        after = ran()
    finally:
        os.close(measuring)
    return max(after[0] - before[0], 0) / max(after[1] - before[1], 1)  # less: one that had ended is gone


def ran() -> tuple[int, int]:
    """Return for how many nanoseconds programs of ours have run, and how often."""
    shown = json.loads(wire.run("bpftool", "--json", "prog", "show"))
    ours = [each for each in shown if each.get("name") in PROGRAMS]
    return sum(each.get("run_time_ns", 0) for each in ours), sum(each.get("run_cnt", 0) for each in ours)


@contextlib.contextmanager
def started(contender: Contender) -> Iterator[tuple[Running, Load]]:
    """Start a contender at the near end of a wire, and have a load at the far one."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(wire.laid())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asking = stack.enter_context(frames(folder))
        stack.enter_context(wire.entered(wire.NEAR))
        running = stack.enter_context(contender(Place(wire.NEAR_IF, wire.ADDRESS, folder, wire.SERVER_CORE)))
        by_sockets(1000, 1)
        yield running, asking


def busiest(running: Running, asking: Load, seconds: float) -> dict[str, float]:
    """Return the figures at the highest rate of frames of which nearly all are answered."""
    best: dict[str, float] = {}
    for rate in RATES:
        found = measured(running, partial(asking.run, rate, int(rate * seconds)))
        if best and found["answered"] < NEARLY_ALL:
            break
        best = found
    return best


def one(contender: Contender, rate: int, seconds: int) -> dict[str, float]:
    """Return what a contender costs in one round."""
    with started(contender) as (running, asking):
        found = measured(running, partial(by_sockets, rate, seconds))
        found["program_ns"] = program_time(rate)
        return found | {f"frames_{name}": value for name, value in busiest(running, asking, seconds).items()}


def flood(contender: Contender, seconds: int) -> dict[str, float]:
    """Return what a flood of one name does that comes by a core of its own, also to a client by sockets beside it.

    `room` is for how many queries, or replies, the wire had no room; how many more had no reply is `lost`. Latencies
    are the client's 99th percentiles, in microseconds, before and during the flood.
    """
    with started(contender) as (running, asking), contextlib.ExitStack() as stack:
        client = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("fork")))
        before = client.submit(load.latency, wire.ADDRESS, seconds).result()
        beside, dropped = client.submit(load.latency, wire.ADDRESS, seconds), wire.dropped()
        found = measured(running, partial(asking.run, FLOOD, FLOOD * seconds), wire.LOAD_CORE)
        room = sum(new - old for new, old in zip(wire.dropped(), dropped, strict=True))
        lost = FLOOD * seconds - room - found["replies"]
        return found | {"room": room, "lost": lost, "before": before, "beside": beside.result()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--rate", type=int, default=RATE, help="queries a second by kxdpgun")
    parser.add_argument("--only", default="", help="contenders with this in their names")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.setpriority(os.PRIO_PROCESS, 0, wire.FIRST)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and nothing is left behind
    taken: dict[str, list[dict[str, float]]] = {}
    floods: dict[str, list[dict[str, float]]] = {}
    chosen = {name: each for name, each in contenders.ALL.items() if asked.only in name}
    for _ in range(asked.rounds):
        for name, contender in chosen.items():
            taken.setdefault(name, []).append(one(contender, asked.rate, asked.seconds))
        for name in filter(chosen.get, FLOODED):
            floods.setdefault(name, []).append(flood(chosen[name], asked.seconds))
        if asked.json:
            asked.json.write_text(json.dumps({"costs": taken, "floods": floods}, indent=1))
    sockets = {"ns a query": "ns", "program": "program_ns", "answered": "answered"}
    table(f"{asked.rate:,} a second by sockets", taken, sockets)
    frames = {"ns a query": "frames_ns", "a second": "frames_rate", "answered": "frames_answered"}
    table("at the most by frames", taken, frames)
    p99 = {"p99 before, us": "before", "beside": "beside"}
    table(
        "a flood of one name", floods, {"ns a query": "ns", "a second": "rate", "no room": "room", "lost": "lost"} | p99
    )


def table(title: str, found: dict[str, list[dict[str, float]]], columns: dict[str, str]) -> None:
    """Print the medians of rounds."""
    print(f"{title:32}" + "".join(f"{each:>16}" for each in columns))
    for name, rounds in found.items():
        cells = [(column, statistics.median(each[what] for each in rounds)) for column, what in columns.items()]
        print(
            f"{name:32}"
            + "".join(f"{cell:16.1%}" if column == "answered" else f"{cell:16,.0f}" for column, cell in cells)
        )
    print()


if __name__ == "__main__":
    main()
