"""Know how to be a client that asks one question after another in the background, and notes what failed."""

import contextlib
import threading
import time

from support import quick
from support.client import tcp_wire, udp_wire

A = 1
PATIENCE = 5  # seconds


class Asking(threading.Thread):
    """Ask while the context is entered: `ask(number)` raises OSError or EOFError where it got no good answer.

    `asked` is how often; `failed` holds when, in seconds of the monotonic clock, and why. The thread is `inside`.
    """

    def __init__(self, ask, *, pause=0.0, inside=contextlib.nullcontext):
        super().__init__(daemon=True)
        self._ask, self._pause, self._inside = ask, pause, inside
        self._end = threading.Event()
        self.asked, self.failed = 0, []

    def run(self):
        with self._inside():
            while not self._end.wait(self._pause):
                self.asked += 1
                try:
                    self._ask(self.asked)
                except (OSError, EOFError) as error:
                    self.failed.append((time.monotonic(), repr(error)))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join()


def over_udp_and_tcp(server, name):
    """Return a client that asks for the addresses of `name`, which has the question's number, in turn over each."""

    def ask(number):
        exchange = tcp_wire if number % 2 else udp_wire
        exchange(server, quick.query(name.format(number), A), timeout=PATIENCE)

    return Asking(ask)
