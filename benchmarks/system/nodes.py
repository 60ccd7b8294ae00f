"""Three cold nodes that share a store, beside three that do not: what the origin is asked, and how long misses take.

    python -m benchmarks.system.nodes [--rounds 3] [--names 2000] [--delay 0.02] [--rate 500] [--timeout 0.005]
        [--seconds 3] [--json]

An origin answers after some milliseconds, as one that is far away does. Clients ask each of three nodes that have just
started for the same names, in an order of each node's own, at a fixed rate in all; every query is a miss. Then one node
is asked for what it has by now, as fast as it answers, for some seconds: what a hit costs. Shields have one core; load,
origin and store share the other. Variants take turns, and medians count.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import statistics
import struct
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
from .rules import COMMAND

NODES = 3
SECRET = "5e" * 32
SETTLED = 6.0  # seconds after a stream begins, until all that is written later is believed
PROBE = "probe.test"
VARIANTS = {  # whether there is a store, whether it is warm, and how misses use it
    "alone": (False, False, "off"),
    "store asked before, cold": (True, False, "before"),
    "store asked before, warm": (True, True, "before"),
    "store asked beside, warm": (True, True, "beside"),
    "store of other names asked before": (True, False, "apart"),
}


class Origin(asyncio.DatagramProtocol):
    """Answers every query with an address, after some time, and counts them."""

    def __init__(self, delay: float) -> None:
        self.asked, self.delay = 0, delay

    def connection_made(self, transport: Any) -> None:
        """Be ready."""
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        """Answer."""
        self.asked += 1
        at = 12
        while data[at]:
            at += 1 + data[at]
        header = data[:2] + b"\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00"
        record = b"\xc0\x0c" + data[at + 1 : at + 5] + struct.pack("!IH", 3600, 4) + b"\xc0\x00\x02\x01"
        reply = header + data[12 : at + 5] + record
        asyncio.get_running_loop().call_later(self.delay, self._send, reply, source)

    def _send(self, reply: bytes, source: Any) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(reply, source)


class Client(asyncio.DatagramProtocol):
    """Asks, and notes how long answers take."""

    def __init__(self) -> None:
        self.sent: dict[int, float] = {}
        self.took: list[float] = []

    def connection_made(self, transport: Any) -> None:
        """Be ready."""
        self.transport = transport

    def ask(self, number: int, name: str) -> None:
        """Ask for an address."""
        query = dns.message.make_query(name, "A", id=number)
        self.sent[number] = time.perf_counter()
        self.transport.sendto(query.to_wire())

    def datagram_received(self, data: bytes, _: Any) -> None:
        """Note an answer."""
        self.took.append(time.perf_counter() - self.sent.pop(int.from_bytes(data[:2])))


@dataclass(frozen=True)
class Node:
    """A shield of one worker, and of a cluster, where there is a store."""

    name: str
    store: int
    sharing: str
    timeout: float

    def command(self, folder: Path, port: int, upstream: int) -> list[str]:
        """Write the configuration; return the command."""
        (folder / "secret").write_text(SECRET if self.sharing != "apart" else SECRET[::-1][:60] + self.name[:1] * 4)
        cluster = (
            f'[cluster]\nstore = "redis://127.0.0.1:{self.store}"\nsecret_file = "secret"\nnode = "{self.name}"\n'
            f'shared_cache = "{"before" if self.sharing == "apart" else self.sharing}"\n'
            f"timeout = {self.timeout}\n"
        )
        (folder / "shield.toml").write_text(
            f'listen = ["127.0.0.1:{port}"]\nupstreams = ["127.0.0.1:{upstream}"]\nworkers = 1\n'
            f'[control]\nsocket = "{folder}/control"\n{cluster * (self.store > 0)}'
        )
        return [*COMMAND, "run", "-c", str(folder / "shield.toml")]


@contextlib.contextmanager
def store() -> Iterator[int]:
    """Run a store on the load's core; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["taskset", "-c", str(processes.LOAD_CORE), "redis-server", "--port", str(port), "--save", ""]
    with subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.5)
            yield port
        finally:
            process.terminate()


def in_use(control: Path) -> bool:
    """Tell whether a node looks misses up."""
    with socket.socket(socket.AF_UNIX) as asked, asked.makefile("rwb") as stream:
        asked.connect(str(control))
        stream.write(b'{"command": "stats"}\n')
        stream.flush()
        return bool(json.loads(stream.readline())["stats"]["cluster_in_use"])


async def ask_all(ports: list[int], names: list[str], rate: float, rounds: random.Random) -> list[float]:
    """Ask each node for all names, in an order of its own; return the seconds that answers took."""
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", port)))[1] for port in ports]
    orders = [rounds.sample(names, len(names)) for _ in clients]
    began = loop.time()
    for number in range(len(names)):
        for client, order in zip(clients, orders, strict=True):
            client.ask(number, order[number])
        await asyncio.sleep(max(0.0, began + (number + 1) * len(ports) / rate - loop.time()))
    await asyncio.sleep(1.0)
    for each in clients:
        each.transport.close()
    return [took for each in clients for took in each.took]


def cost_of_a_hit(shield: processes.Running, names: list[str], queries: Path, seconds: float) -> float:
    """Return the microseconds of CPU that a node takes for each answer, asked for what is in its own cache."""
    queries.write_text("".join(f"{name} A\n" for name in names))
    where = ["-d", str(queries), "-s", "127.0.0.1", "-p", str(shield.port), "-l", str(seconds), "--json"]
    before = shield.cpu()
    done = subprocess.run(
        ["taskset", "-c", str(processes.LOAD_CORE), *COMMAND, "perf", *where], capture_output=True, check=True
    )
    return (shield.cpu() - before) * 1e6 / float(json.loads(done.stdout)["answered"])


async def measure(variant: str, given: argparse.Namespace, turn: int) -> dict[str, float]:
    """Measure one variant once."""
    has_store, warm, sharing = VARIANTS[variant]
    loop = asyncio.get_running_loop()
    transport, origin = await loop.create_datagram_endpoint(lambda: Origin(given.delay), ("127.0.0.1", 0))
    upstream = transport.get_extra_info("sockname")[1]
    names = [f"n{number}.bench{turn}.test" for number in range(given.names)]
    dice = random.Random(turn)

    async def start(name: str, at: int) -> processes.Running:
        node = Node(name, at, sharing, given.timeout)
        run = processes.running(node, folder / name, upstream, processes.SERVER_CORE, PROBE)
        running = await asyncio.to_thread(stack.enter_context, run)
        while at and not in_use(folder / name / "control"):
            await asyncio.sleep(0.1)
        return running

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="funkenshield-bench-")))
        at = stack.enter_context(store()) if has_store else 0
        if has_store and sharing != "apart":
            first = await start("warm", at)
            await asyncio.sleep(SETTLED)
            if warm:
                await ask_all([first.port], names, given.rate, dice)
        shields = [await start(f"{number}node", at) for number in range(NODES)]
        await asyncio.sleep(SETTLED if sharing == "apart" else 0)
        origin.asked, used = 0, sum(each.cpu() for each in shields)
        took = await ask_all([each.port for each in shields], names, given.rate, dice)
        used = sum(each.cpu() for each in shields) - used
        hit = await asyncio.to_thread(cost_of_a_hit, shields[0], names, folder / "queries", given.seconds)
    transport.close()
    cuts = statistics.quantiles(took, n=100)
    return {
        "origin": origin.asked / given.names, "answered": len(took) / NODES / given.names, "p50": cuts[49] * 1e3,
        "p99": cuts[98] * 1e3, "cpu": used * 1e6 / len(took), "hit": hit,
    }  # fmt: skip


def main() -> None:
    """Measure all variants in turn, and print medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--timeout", type=float, default=0.005)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and nothing is left behind
    taken: dict[str, list[dict[str, float]]] = {}
    for turn in range(given.rounds):
        for variant in VARIANTS:
            taken.setdefault(variant, []).append(asyncio.run(measure(variant, given, turn)))
    rows = {
        variant: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for variant, runs in taken.items()
    }
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'':<36}{'origin':>8}{'answered':>10}{'p50 ms':>9}{'p99 ms':>9}{'us CPU':>9}{'of a hit':>9}")
    for variant, row in rows.items():
        print(f"{variant:<36}{row['origin']:>8.2f}{row['answered']:>10.3f}{row['p50']:>9.2f}{row['p99']:>9.2f}"
              f"{row['cpu']:>9.0f}{row['hit']:>9.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
