"""System calls that Python has no function for where it was built for an older C library, as those of uv are."""

import ctypes
import fcntl
import os
import signal

MFD_CLOEXEC, MFD_ALLOW_SEALING = 1, 2  # <linux/memfd.h>
F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 1, 2, 4  # <linux/fcntl.h>
PIDFD_SEND_SIGNAL, PIDFD_OPEN = 424, 434  # numbers, the same for all machines that came with them or later

_libc = ctypes.CDLL(None, use_errno=True)


def memory_file(name: str) -> int:
    """Return the descriptor of a new file in memory (memfd_create(2)); OSError where there can be none."""
    return _checked(_libc.memfd_create(name.encode(), MFD_CLOEXEC | MFD_ALLOW_SEALING))


def seal(file: int) -> None:
    """Keep a file in memory at its length, for all who have it (fcntl(2), F_ADD_SEALS)."""
    fcntl.fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)


def open_process(pid: int) -> int:
    """Return a descriptor of a process (pidfd_open(2)); OSError where there is none."""
    return _checked(_libc.syscall(PIDFD_OPEN, pid, 0))


def kill(process: int) -> None:
    """End the process of a descriptor at once (pidfd_send_signal(2)); OSError where it has ended."""
    _checked(_libc.syscall(PIDFD_SEND_SIGNAL, process, signal.SIGKILL, None, 0))


def _checked(result: int) -> int:
    """Return what a system call has returned; OSError where that is an error."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
