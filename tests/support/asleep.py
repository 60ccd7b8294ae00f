"""Know how to let this process pass time as in a machine that sleeps: since boot it is later, and nothing has run.

The kernel lets a process with one thread enter a time namespace (time_namespaces(7)) in which the clock since boot is
ahead; the one that counts how long the machine was awake is not.
"""

import ctypes
import os

CLONE_NEWTIME, CLONE_NEWUSER = 0x80, 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def _call(function, *args):
    if function(*args):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def sleep(seconds):
    """Sleep so many whole seconds, once; OSError where the kernel does not let us."""
    _call(libc.unshare, CLONE_NEWTIME | (CLONE_NEWUSER if os.getuid() else 0))
    with open("/proc/self/timens_offsets", "w") as offsets:
        offsets.write(f"boottime {seconds} 0")
    namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    _call(libc.setns, namespace, CLONE_NEWTIME)
