"""What a query costs on an interface: of all CPU time, with the load made by kxdpgun at the other end of a wire.

    two networks, a veth between -> a contender on one core -> the same load for each -> its CPU time, by replies

The near end's frames are received by a kernel thread (threaded NAPI) on the contender's core, so that all that a query
costs there is counted by the scheduler, whatever else the machine does: that thread, and the contender's processes. The
program alone is measured by the kernel (`kernel.bpf_stats_enabled`) in runs of its own, for that costs, too. Figures
compare within one run.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.xdp import contenders
from benchmarks.xdp.contenders import Place, Running
from funkenshield.xdp import bpf

NEAR, FAR, NEAR_IF, FAR_IF = "bench-near", "bench-far", "bench0", "bench1"
ADDRESS, CLIENT, QUERY = "192.0.2.1", "192.0.2.9", "www.bench.example A"
SERVER_CORE, LOAD_CORE = (sorted(os.sched_getaffinity(0)) * 2)[:2]
ETHTOOL, SET_GRO = 0x8946, 0x2C  # <linux/sockios.h>, <linux/ethtool.h>
FIRST = -20  # the priority of all that takes part
ROUNDS, SECONDS, RATE = 3, 3, 100_000


def run(*command: str) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def inside(network: str, *command: str) -> str:
    """Run a command in a network."""
    return run("ip", "netns", "exec", network, *command)


@contextlib.contextmanager
def wire() -> Iterator[None]:
    """Lay a wire between two networks, whose ends know each other."""
    for name in (NEAR, FAR):
        run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", NEAR_IF, "netns", NEAR, "type", "veth", "peer", "name", FAR_IF, "netns", FAR)
        macs = {}
        for name, end, address in ((NEAR, NEAR_IF, ADDRESS), (FAR, FAR_IF, CLIENT)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", end)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", end, "up")
            with entered(name):
                receive_in_batches(end)
            inside(name, "sh", "-c", f"echo 1 > /sys/class/net/{end}/threaded")
            macs[name] = inside(name, "cat", f"/sys/class/net/{end}/address").strip()
        run("ip", "-n", NEAR, "neigh", "replace", CLIENT, "lladdr", macs[FAR], "dev", NEAR_IF)
        run("ip", "-n", FAR, "neigh", "replace", ADDRESS, "lladdr", macs[NEAR], "dev", FAR_IF)
        yield
    finally:
        for name in (NEAR, FAR):
            run("ip", "netns", "del", name)


def receive_in_batches(end: str) -> None:
    """Have an end take what the other one's program sends back (GRO, as `ethtool -K END gro on`)."""
    value = ctypes.create_string_buffer(struct.pack("=II", SET_GRO, 1), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, ETHTOOL, struct.pack("16sQ16x", end.encode(), ctypes.addressof(value)))


def receivers(end: str) -> list[int]:
    """Return the kernel threads that receive for an end of the wire, each on its core from now on."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().startswith(f"napi/{end}-"):
                found.append(int(process.name))
    for each in found:
        os.sched_setaffinity(each, {SERVER_CORE if end == NEAR_IF else LOAD_CORE})
        os.setpriority(os.PRIO_PROCESS, each, FIRST)
    return found


def cpu(processes: list[int]) -> int:
    """Return the nanoseconds of CPU that processes have had, all threads together."""
    return sum(
        int(each.read_text().split()[0])
        for process in processes
        for each in Path(f"/proc/{process}/task").glob("*/schedstat")
    )


def load(rate: int, seconds: int) -> int:
    """Ask so many questions a second; return the replies."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as queries:
        queries.write(f"{QUERY}\n")
        queries.flush()
        told = inside(
            FAR, "kxdpgun", "-t", str(seconds), "-Q", str(rate), "-F", str(LOAD_CORE), "-i", queries.name, ADDRESS
        )
    replies = re.search(r"total replies: +(\d+)", told)
    return int(replies[1]) if replies else 0


def measured(running: Running, rate: int, seconds: int) -> tuple[float, float]:
    """Return the nanoseconds of CPU for each reply, and the share of queries that had one."""
    counted = [*receivers(NEAR_IF), *running.processes]
    receivers(FAR_IF)
    before = cpu(counted)
    replies = load(rate, seconds)
    return (cpu(counted) - before) / max(replies, 1), replies / (rate * seconds)


def program_time(rate: int) -> float:
    """Return how many nanoseconds a program of ours takes for a frame, as the kernel measures it; 0: there is none."""
    measuring = bpf.measure()
    try:
        before = ran()
        load(rate, 1)
        after = ran()
    finally:
        os.close(measuring)
    return max(after[0] - before[0], 0) / max(after[1] - before[1], 1)  # less: one that had ended is gone


def ran() -> tuple[int, int]:
    """Return for how many nanoseconds programs of ours have run, and how often."""
    ours = [each for each in json.loads(run("bpftool", "--json", "prog", "show")) if each.get("name") in PROGRAMS]
    return sum(each.get("run_time_ns", 0) for each in ours), sum(each.get("run_cnt", 0) for each in ours)


PROGRAMS = ("bounce", "take_queries", "answer_queries")
Contender = Callable[[Place], contextlib.AbstractContextManager[Running]]


def one(contender: Contender, rate: int, seconds: int) -> dict[str, float]:
    """Return what a contender costs in one round."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(wire())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(entered(NEAR))
        running = stack.enter_context(contender(Place(NEAR_IF, ADDRESS, folder, SERVER_CORE)))
        load(1000, 1)
        each, answered = measured(running, rate, seconds)
        return {"ns": each, "answered": answered, "program_ns": program_time(rate)}


@contextlib.contextmanager
def entered(network: str) -> Iterator[None]:
    """Have this process, and those that it starts, in a network."""
    own, other = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{network}", os.O_RDONLY)
    setns(other)
    try:
        yield
    finally:
        setns(own)
        os.close(own)
        os.close(other)


def setns(fd: int) -> None:
    """Enter a network (setns(2), which Python has from 3.12 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0):
        raise OSError(ctypes.get_errno(), "setns")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and nothing is left behind
    taken: dict[str, list[dict[str, float]]] = {}
    for _ in range(asked.rounds):
        for name, contender in contenders.ALL.items():
            if asked.only in name:
                taken.setdefault(name, []).append(one(contender, asked.rate, asked.seconds))
    print(f"{'':32}{'ns a query':>12}{'program':>10}{'answered':>10}")
    for name, rounds in taken.items():
        ns, program, answered = (
            statistics.median(each[what] for each in rounds) for what in ("ns", "program_ns", "answered")
        )
        print(f"{name:32}{ns:12.0f}{program:10.0f}{answered:10.1%}")
    if asked.json:
        asked.json.write_text(json.dumps(taken, indent=1))


if __name__ == "__main__":
    main()
