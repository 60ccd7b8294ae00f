"""Know how long something takes, but for waiting for a processor: so a busy machine does not count.

The kernel adds up how long each thread waited for a processor (`schedstat`). For the test and all that it started, that
is taken off, so that a bound that is meant for a quiet machine holds on a busy one.
It is taken off whoever had the processor, the shield itself among them, and for all threads together: the busier the
machine, the less such a bound says. On a quiet one it says what it did.
"""

import os
import time
from pathlib import Path


class Stopwatch:
    """Seconds since it was made, but for those in which the test, or what it started, waited for a processor."""

    def __init__(self):
        self._begun = time.monotonic()
        self._waited_before = _waits()
        self._waited = {}

    def seconds(self):
        """Return how many they are now."""
        return time.monotonic() - self._begun - self.waited()

    def waited(self):
        """Return for how many seconds threads have waited, all together; those that ended count if they were seen."""
        self._waited |= _waits()
        return sum(now - self._waited_before.get(thread, 0) for thread, now in self._waited.items()) / 1e9


def _waits():
    """Return the nanoseconds that each thread of this process, and of all below it, has waited."""
    waits, processes = {}, [os.getpid()]
    for process in processes:
        for thread in Path(f"/proc/{process}/task").glob("*"):
            try:
                waits[thread.name] = int((thread / "schedstat").read_text().split()[1])
                processes += map(int, (thread / "children").read_text().split())
            except OSError:  # it has ended
                continue
    return waits
