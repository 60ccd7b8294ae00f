"""Clients over TCP: the workers that hold their connections, as one, and what is logged of connections that ended.

What a worker does is in `_tcp_worker`, and who may hold how many connections in `_connections`.
"""

import logging
import threading
from collections import Counter
from ipaddress import ip_address

from ..cache._store import Cache
from ..config import ClientTlsSection, TcpSection
from ..core._limits import CONNECTION_WORKERS_MAX
from ..core.logs import RateLimited
from ..forward._miss_path import MissPath
from ._connection_limits import ConnectionLimits
from ._connections import Connections
from ._tcp_worker import TcpWorker

limited = RateLimited(logging.getLogger(__name__))

ENDED = (
    ("client", "TCP connection from %s refused: tcp.max_connections_per_client reached"),
    ("prefix", "TCP connection from %s refused: its prefix holds its share of tcp.max_connections"),
    ("memory", "TCP connection from %s closed: %d octets are buffered, and its prefix holds %d of tcp.memory"),
)  # in the order of `_connections`


class TcpServer:
    """The workers that hold connections, and what they share."""

    def __init__(self, cache: Cache, miss_path: MissPath, workers: int) -> None:
        self.limits = ConnectionLimits(cache)
        self.workers = [TcpWorker(cache, miss_path, self.limits) for _ in range(min(workers, CONNECTION_WORKERS_MAX))]
        self._threads = [threading.Thread(target=each.run, name=f"tcp-{n}") for n, each in enumerate(self.workers)]
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

    def is_alive(self) -> bool:
        """Tell whether all workers serve."""
        return all(thread.is_alive() for thread in self._threads)

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
