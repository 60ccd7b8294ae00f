"""Know what the kernel tells about a process: its open descriptors and sockets, its memory, whom its threads run as."""

import contextlib
import ctypes
import errno
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

PIDFD_GETFD = 438  # of system calls, on every architecture
libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def connections(pid):
    """Yield the TCP connections that a process has, as sockets of our own; PermissionError where none may be had."""
    with contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        found = []
        for fd in _sockets(pid):
            ours = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
            if ours < 0 and ctypes.get_errno() == errno.EBADF:  # it is closed meanwhile
                continue
            if ours < 0:
                raise OSError(ctypes.get_errno(), "no descriptor of another process")
            opened = stack.enter_context(socket.socket(fileno=ours))
            if opened.type == socket.SOCK_STREAM and opened.family in (socket.AF_INET, socket.AF_INET6):
                with contextlib.suppress(OSError):
                    opened.getpeername()
                    found.append(opened)
        yield found


def _sockets(pid):
    """Return which descriptors of a process are sockets: as it was before there are copies, which may be its own."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is closed meanwhile
            if os.readlink(fd).startswith("socket:"):
                found.append(int(fd.name))
    return found


@contextlib.contextmanager
def nothing_opened():
    """Assert that no descriptor of this process that was opened inside stays open; earlier ones may be closed."""
    before = _open_here()
    yield
    opened = _open_here() - before
    assert not opened, f"still open: {sorted(opened)}"


def _open_here():
    """Return (descriptor, what it is) of all that this process has open, but for the look itself."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
    return found


def descriptors(process):
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))


@contextlib.contextmanager
def stopped(process):
    """Have a process do nothing meanwhile."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def resident(process):
    """Return the resident memory of a process, in octets."""
    return int(_status(f"/proc/{process.pid}")["VmRSS"].split()[0]) * 1024


def busy(process):
    """Return for how many seconds the first thread of a process has run: of a shield, the control thread."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/schedstat").read_text().split()[0]) / 1e9


def children(process):
    """Return the processes that one has started, each as what has a `pid`."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [SimpleNamespace(pid=int(pid)) for task in tasks for pid in (task / "children").read_text().split()]


def credentials(process):
    """Return (uids, gids, supplementary groups, effective capabilities) of each thread, as /proc shows them."""
    threads = [_status(thread) for thread in Path(f"/proc/{process.pid}/task").iterdir()]
    return [
        (thread["Uid"].split(), thread["Gid"].split(), thread["Groups"].split(), int(thread["CapEff"], 16))
        for thread in threads
    ]


def _status(folder):
    lines = (Path(folder) / "status").read_text().splitlines()
    return dict(line.replace("\t", " ").split(":", 1) for line in lines)
