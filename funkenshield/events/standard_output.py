"""Standard output as a descriptor that never blocks, whoever has opened it, and whoever reads it.

It knows what it may lead to: a file, a pipe, a terminal, a socket, or nothing; and not what is written there.
"""

import contextlib
import os
import select
import stat
import sys
import threading

PATH = "/proc/self/fd/1"
CHUNK = 1 << 16  # octets
CLOSING = 1.0  # seconds in which the last octets are written


class StandardOutput:
    """A descriptor, `fd`, that leads to standard output; sockets take no flags from elsewhere, and are told apart.

    Memory ownership: the descriptor, and the thread that writes where nothing else does not block.
    """

    def __init__(self, fd: int = 1, path: str = PATH) -> None:
        """Lead to a descriptor, that has a path. Raises OSError where there are no more descriptors."""
        self._thread: threading.Thread | None = None
        if sys.__stdout__ is None:  # it was closed; its number may be any file's by now
            path = os.devnull
        try:  # a description of our own: that of others stays as it is
            self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # it is a socket, or another user's
            self.fd = os.dup(fd)
            if not stat.S_ISSOCK(mode := os.fstat(self.fd).st_mode) and not stat.S_ISREG(mode):
                self.fd = self._relay(self.fd)
        self.is_socket = stat.S_ISSOCK(os.fstat(self.fd).st_mode)

    def _relay(self, out: int) -> int:
        """Return a descriptor whose octets a thread writes to another, which may block, and stays so for others."""
        there, here = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(here, False)
        self._thread = threading.Thread(target=_write_all, args=(there, out), name="standard output", daemon=True)
        self._thread.start()
        return here

    def close(self) -> None:
        """Have written what is left, if that takes no time."""
        os.close(self.fd)
        if self._thread is not None:
            self._thread.join(CLOSING)


def _write_all(there: int, out: int) -> None:
    """Write what comes, however long that takes, until nobody will ever read it."""
    ready = select.poll()
    ready.register(out, select.POLLOUT)
    with open(there, "rb", buffering=0) as coming, open(out, "wb", buffering=0), contextlib.suppress(OSError):
        while octets := coming.read(CHUNK):
            while octets:
                try:
                    octets = octets[os.write(out, octets) :]
                except BlockingIOError:  # another process has made it non-blocking
                    ready.poll()
