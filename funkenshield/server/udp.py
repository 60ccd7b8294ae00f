"""Clients over UDP: the workers that receive from them, as one. What a worker does is in `_udp_worker`."""

import threading
from collections.abc import Callable

from ..cache._store import Cache
from ..forward._miss_path import MissPath
from ._kernel_answers import KernelAnswers
from ._udp_worker import Worker


class UdpServer:
    """So many workers, which receive from the sockets that they are told to follow.

    While they do, `take` has interfaces give them queries, too: nobody else can have those.
    """

    def __init__(
        self, cache: Cache, miss_path: MissPath, count: int, take: Callable[[bool], None] = lambda _taking: None
    ) -> None:
        self._take = take
        self.kernel_answers = KernelAnswers(cache)
        self.workers = [Worker(cache, miss_path, self.kernel_answers) for _ in range(count)]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Receive; after `stop`, too: what came meanwhile waits in the sockets."""
        self._threads = [threading.Thread(target=each.run, name=f"worker-{n}") for n, each in enumerate(self.workers)]
        for thread in self._threads:
            thread.start()
        self._take(True)

    def stop(self) -> None:
        """Receive no more; what was received has been answered or handed over when this returns."""
        self._take(False)
        for worker, thread in zip(self.workers, self._threads, strict=False):
            worker.stop()
            thread.join()
        self._threads = []

    def is_alive(self) -> bool:
        """Tell whether all workers serve."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def dropped(self) -> int:
        """Return how many misses were dropped because their client prefix, or zone, had its share of the ring."""
        return sum(worker.dropped for worker in self.workers)
