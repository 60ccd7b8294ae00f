"""A hundred nodes and one store, simulated: what the store's one core has to do, and how long all nodes take.

    python -m benchmarks.system.fleet [--nodes 100] [--purges 100] [--away 5]

The nodes are those of the daemon (`cluster.node`), with their three connections each, but without cache and clients, in
this one process; the store is real, and its CPU time is what counts. How long things take is the nodes' doing, too,
which share one core here.
"""

import argparse
import asyncio
import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from funkenshield.cluster import connection as connections
from funkenshield.cluster.connection import StoreError
from funkenshield.cluster.node import Credentials, Node
from funkenshield.config.cluster import ClusterSection, StoreAddress

from . import processes

BATCHES = (1, 8, 64)  # names in a request
REQUESTS = 2000
ENTRY = bytes(120)  # about as long as one with an address
IDLE = 10.0  # seconds
POLL = 0.002  # seconds between two looks


class Store:
    """A Redis server that can be killed and started again, empty."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator["Store"]:
        """Run it meanwhile."""
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def start(self) -> None:
        """Start it, on a core of its own."""
        command = ["taskset", "-c", str(processes.SERVER_CORE), "redis-server", "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), "--save", "", "--dir", str(self._folder)], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """End it as a failure does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def cpu(self) -> float:
        """Return the seconds of CPU that its main thread, and so its one core, has used."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9


class Fleet:
    """Nodes in this process."""

    def __init__(self, store: Store, count: int, folder: Path) -> None:
        secret = folder / "secret"
        secret.touch(0o600)
        secret.write_text("5e" * 32)
        self.heard: dict[str, int] = {}
        self.nodes = [self._node(f"node{number}", store, secret) for number in range(count)]

    def _node(self, name: str, store: Store, secret: Path) -> Node:
        place = f"redis://127.0.0.1:{store.port}"
        section = ClusterSection(store=place, secret_file=str(secret), node=name, timeout=0.1)  # one loop has them all
        shared = SimpleNamespace(use=lambda **_: None, take_lookups=list, take_stored=list, store_drops=0)
        cache = SimpleNamespace(zones=SimpleNamespace(name=lambda _: b"\0"), layout=b"")
        miss_path = cast(Any, SimpleNamespace(cache=cache, shared=shared, go_on=lambda _: None))
        self.heard[name] = 0

        def purge(_: object) -> None:
            self.heard[name] += 1

        blocks = cast(Any, SimpleNamespace(listed=list))
        return Node(section, Credentials(section), miss_path, purge, blocks, lambda _: frozenset(), lambda: None)

    def using(self) -> int:
        """Return how many nodes use the store."""
        return sum(each.shared_cache.is_used for each in self.nodes)

    async def until_all_use_it(self) -> list[float]:
        """Return after how many seconds each node, from the first to the last, used the store."""
        began, times = time.monotonic(), []
        while len(times) < len(self.nodes):
            times += [time.monotonic() - began] * (self.using() - len(times))
            await asyncio.sleep(POLL)
        return times

    async def purge(self) -> float:
        """Have the first node purge a name; return the seconds until all others have done so."""
        began, before = time.monotonic(), dict(self.heard)
        first, *others = self.nodes
        first.tell(name=b"\7example\3com\0".hex())
        names = [each.section.node_name for each in others]
        while not all(self.heard[name] > before[name] for name in names):
            await asyncio.sleep(POLL)
        return time.monotonic() - began


def say(what: str, figures: str) -> None:
    """Print a line."""
    print(f"{what:<58}{figures}", flush=True)


async def requests(store: Store) -> None:
    """Tell what look-ups and writes cost the store."""
    while True:
        with contextlib.suppress(OSError, StoreError):
            connection = await connections.connect(StoreAddress("127.0.0.1", store.port))
            break
    names = [b"funkenshield:e:%016d" % number for number in range(64 * REQUESTS)]
    before = store.cpu()
    for at in range(0, 64 * REQUESTS, 64):
        await asyncio.gather(*(connection.request("SET", name, ENTRY, "PX", 3_600_000) for name in names[at : at + 64]))
    say("an entry written", f"{(store.cpu() - before) * 1e6 / len(names):.1f} us")
    for batch in BATCHES:
        before = store.cpu()
        for turn in range(REQUESTS):
            await connection.request("MGET", *names[turn * batch : (turn + 1) * batch])
        say(f"a look-up, {batch} in a request", f"{(store.cpu() - before) * 1e6 / REQUESTS / batch:.1f} us")
    await connection.request("FLUSHALL")
    connection.fail("done")


async def purges(store: Store, fleet: Fleet, count: int) -> None:
    """Tell what purges cost, and how long they take, beside what goes on anyhow."""
    before = store.cpu()
    await asyncio.sleep(IDLE)
    idle = (store.cpu() - before) / IDLE
    say("nothing happens", f"{idle * 100:.2f} % of the store's core")
    began, before = time.monotonic(), store.cpu()
    times = sorted([await fleet.purge() for _ in range(count)])
    spent = store.cpu() - before - idle * (time.monotonic() - began)
    say("a purge", f"{spent * 1e3 / count:.2f} ms of the store's core")
    say("  until all nodes have done it (median, most)", f"{times[count // 2] * 1e3:.0f} ms, {times[-1] * 1e3:.0f} ms")
    began, first = time.monotonic(), fleet.nodes[0]
    said = await first.wait_for_all(first.tell(name="00"), 30.0)
    say("  until --everywhere says so", f"{(time.monotonic() - began) * 1e3:.0f} ms, at {len(said['nodes'])} nodes")


async def failure(store: Store, fleet: Fleet, away: float) -> None:
    """Tell what becomes of all where the store is killed, and comes back empty."""
    store.kill()
    await asyncio.sleep(away)
    purged = sum(fleet.heard.values())
    store.start()
    took = await fleet.until_all_use_it()
    await asyncio.sleep(IDLE)
    again = (sum(fleet.heard.values()) - purged) / len(fleet.nodes)
    say(f"the store is killed, and back {away:g} s later, empty", "")
    say("  it is used by half of the nodes, by all", f"{took[len(took) // 2]:.1f} s, {took[-1]:.1f} s later")
    say("  purges told again, caches emptied", f"{again:.0f}, {sum(each.purges.emptied for each in fleet.nodes)}")
    say(f"  until {IDLE:g} s after that", f"{store.cpu() * 1e3:.0f} ms of the store's core")


async def main() -> None:
    """Run the simulation, and print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--purges", type=int, default=100)
    parser.add_argument("--away", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="funkenshield-fleet-") as name, Store(Path(name)).running() as store:
        await requests(store)
        fleet = Fleet(store, given.nodes, Path(name))
        tasks = [asyncio.create_task(work) for node in fleet.nodes for work in node.works()]
        took = await fleet.until_all_use_it()
        say(f"{given.nodes} nodes start: until all use the store", f"{took[-1]:.1f} s")
        await purges(store, fleet, given.purges)
        await failure(store, fleet, given.away)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
