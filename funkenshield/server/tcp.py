"""Clients over TCP: the workers that hold their connections, as one, and what is logged of connections that ended.

What a worker does is in `_tcp_worker`, and who may hold how many connections in `_connections`.
"""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import cycle
from typing import NamedTuple

from ..cache._store import Cache
from ..config import ClientTlsSection, TcpSection
from ..core._limits import CONNECTION_WORKERS_MAX
from ..core.logs import RateLimited
from ..forward._miss_path import MissPath
from . import _passing
from ._connection_limits import ConnectionLimits
from ._connections import Connections
from ._tcp_worker import TcpWorker

limited = RateLimited(logging.getLogger(__name__))

ENDED = (
    ("client", "TCP connection from %s refused: tcp.max_connections_per_client reached"),
    ("prefix", "TCP connection from %s refused: its prefix holds its share of tcp.max_connections"),
    ("memory", "TCP connection from %s closed: %d octets are buffered, and its prefix holds %d of tcp.memory"),
)  # in the order of `_connections`


class Passed(NamedTuple):
    """A connection on its way from one process to the next, as `_passing` lets it go and resumes it."""

    fd: int
    listener: int  # its number
    address: bytes
    to: bytes
    port: int
    to_port: int
    octets: bytes  # that were read, and not taken


class TcpServer:
    """The workers that hold connections, and what they share."""

    def __init__(self, cache: Cache, miss_path: MissPath, workers: int) -> None:
        self.limits = ConnectionLimits(cache)
        self.workers = [TcpWorker(cache, miss_path, self.limits) for _ in range(min(workers, CONNECTION_WORKERS_MAX))]
        self._threads: list[threading.Thread] = []
        self._reported = [0] * len(ENDED)
        self._none = Connections(self.limits).counters()  # of no worker

    def configure(self, settings: TcpSection, max_connections: int, tls: ClientTlsSection) -> None:
        """Apply these limits from now on."""
        self.limits.configure(
            max_connections=max_connections,
            max_per_client=settings.max_connections_per_client,
            memory=settings.memory,
            max_in_flight=settings.max_in_flight,
            write_buffer=settings.write_buffer,
            idle_timeout=settings.idle_timeout,
            handshakes_per_client=tls.handshakes_per_second_per_client,
            handshake_timeout=tls.handshake_timeout,
        )

    def start(self) -> None:
        """Take connections."""
        self._threads = [threading.Thread(target=each.run, name=f"tcp-{n}") for n, each in enumerate(self.workers)]
        for thread in self._threads:
            thread.start()

    def stop_accepting(self) -> None:
        """Take no more connections; those that there are go on."""
        for worker in self.workers:
            worker.stop_accepting()

    def stop(self) -> None:
        """Close all connections, once what can be written has been."""
        for worker in self.workers:
            worker.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    # ---------------------------------------------------------------- from one process to the next

    def pause(self) -> None:
        """Have the workers serve nobody until `start`; connections stay as they are."""
        for worker, thread in zip(self.workers, self._threads, strict=False):
            worker.pause()
            thread.join()
        self._threads = []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have the workers pause, if they serve by now."""
        serving = bool(self._threads)
        self.pause()
        yield
        if serving:
            self.start()

    def begin_hand_over(self) -> None:
        """Leave new connections to another process, and have ended, or `let_go`, those that there are; while paused."""
        for worker in self.workers:
            worker.connections.hand_over(True)

    def end_hand_over(self) -> None:
        """Take connections again: the other process could not do it; while paused."""
        for worker in self.workers:
            worker.connections.hand_over(False)

    def let_go(self) -> list[Passed]:
        """Return the connections that can be passed on, and forget them; while paused."""
        return [Passed(*each) for worker in self.workers for each in _passing.let_go(worker.connections)]

    def take_over(self, connections: Iterable[Passed]) -> None:
        """Go on with connections that another process has let go."""
        with self.paused():
            for worker, each in zip(cycle(self.workers), connections, strict=False):
                _passing.resume(worker.connections, (*each,))

    @property
    def connections(self) -> int:
        """Return how many connections there are."""
        return self.limits.held[0]

    # ---------------------------------------------------------------- what happened

    def is_alive(self) -> bool:
        """Tell whether all workers serve."""
        return len(self._threads) == len(self.workers) and all(thread.is_alive() for thread in self._threads)

    def housekeeping(self) -> None:
        """Log which connections were refused, or closed for what they held; called about once a second."""
        ended = [worker.connections.ended() for worker in self.workers]
        for k, (kind, text) in enumerate(ENDED):
            count, before = sum(each[k].times for each in ended), self._reported[k]
            if count != before:
                latest = max((each[k] for each in ended), key=lambda each: each.at)
                values = (latest.held, latest.share) if kind == "memory" else ()
                who = ip_address(latest.address) if latest.address else "a front proxy"
                limited.warning(kind, text, who, *values, times=count - before)
                self._reported[k] = count

    def counters(self) -> Counter[str]:
        """Return what happened to connections, as numbers by name."""
        counted = Counter(self._none)
        for worker in self.workers:
            counted.update(worker.connections.counters())
        connections, memory = self.limits.held
        counted.update(
            tcp_connections=connections,
            tcp_buffered_bytes=memory,
            tcp_refused=counted["tcp_refused_per_client"] + counted["tcp_refused_per_prefix"],
            tls_connections=self.limits.encrypted,
        )
        return counted
