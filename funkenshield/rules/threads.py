"""Threads that functions of rules are called in, so that they may block."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple


class CallResult(NamedTuple):
    """What a function returned, and the seconds that it took."""

    result: object
    seconds: float


class Threads:
    """So many threads, started at the first call; unlike an executor's, they keep no process from ending."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[Thread] = []
        self._calls: SimpleQueue[tuple[Future[CallResult], Callable[[], object]] | None] = SimpleQueue()

    def call(self, function: Callable[[], object]) -> Awaitable[CallResult]:
        """Have a function called; what it returned, and how long it took, can be awaited."""
        while len(self._threads) < self._count:
            thread = Thread(target=self._run, name="rule", daemon=True)
            thread.start()
            self._threads.append(thread)
        future: Future[CallResult] = Future()
        self._calls.put((future, function))
        return asyncio.wrap_future(future)

    @property
    def waiting(self) -> int:
        """How many calls no thread has begun, those among them that were given up."""
        return self._calls.qsize()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            begun = time.perf_counter()
            try:
                future.set_result(CallResult(function(), time.perf_counter() - begun))
            except StopIteration as error:  # no future takes that one
                future.set_exception(RuntimeError(f"StopIteration: {error}"))
            except BaseException as error:  # for whoever awaits it
                future.set_exception(error)

    def close(self) -> None:
        """End the threads, each when its function has ended."""
        for _ in self._threads:
            self._calls.put(None)
