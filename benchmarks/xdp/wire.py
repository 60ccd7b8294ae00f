"""Two networks with a wire between them (a veth), each end received by a thread of the kernel on a core of its own.

So all that a frame costs at the near end is counted by the scheduler. It knows networks and cores, and nothing of what
is asked there.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NEAR, FAR, NEAR_IF, FAR_IF = "bench-near", "bench-far", "bench0", "bench1"
ADDRESS, CLIENT = "192.0.2.1", "192.0.2.9"
SERVER_CORE, LOAD_CORE = (sorted(os.sched_getaffinity(0)) * 2)[:2]
ETHTOOL, SET_GRO = 0x8946, 0x2C  # <linux/sockios.h>, <linux/ethtool.h>
FIRST = -20  # the priority of all that takes part


class Drops(NamedTuple):
    """Frames that an end had no room for: queries there, and replies at the other end (a ring has 256)."""

    queries: int
    replies: int


def run(*command: str) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def inside(network: str, *command: str) -> str:
    """Run a command in a network."""
    return run("ip", "netns", "exec", network, *command)


@contextlib.contextmanager
def laid() -> Iterator[None]:
    """Lay a wire between two networks, whose ends know each other."""
    for name in (NEAR, FAR):
        run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", NEAR_IF, "netns", NEAR, "type", "veth", "peer", "name", FAR_IF, "netns", FAR)
        for name, end, address in ((NEAR, NEAR_IF, ADDRESS), (FAR, FAR_IF, CLIENT)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", end)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", end, "up")
            with entered(name):
                receive_in_batches(end)
            inside(name, "sh", "-c", f"echo 1 > /sys/class/net/{end}/threaded")
        near, far = macs()
        run("ip", "-n", NEAR, "neigh", "replace", CLIENT, "lladdr", far, "dev", NEAR_IF)
        run("ip", "-n", FAR, "neigh", "replace", ADDRESS, "lladdr", near, "dev", FAR_IF)
        yield
    finally:
        for name in (NEAR, FAR):
            run("ip", "netns", "del", name)


def receive_in_batches(end: str) -> None:
    """Have an end take what the other one's program sends back (GRO, as `ethtool -K END gro on`)."""
    value = ctypes.create_string_buffer(struct.pack("=II", SET_GRO, 1), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, ETHTOOL, struct.pack("16sQ16x", end.encode(), ctypes.addressof(value)))


def receivers(end: str, core: int) -> list[int]:
    """Return the kernel threads that receive for an end of the wire, on this core from now on."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().startswith(f"napi/{end}-"):
                found.append(int(process.name))
    for each in found:
        os.sched_setaffinity(each, {core})
        os.sched_setscheduler(each, os.SCHED_FIFO, os.sched_param(1))  # as an interrupt would
    return found


def macs() -> tuple[str, str]:
    """Return the MAC addresses of the near and the far end."""
    near, far = (
        inside(n, "cat", f"/sys/class/net/{end}/address").strip() for n, end in ((NEAR, NEAR_IF), (FAR, FAR_IF))
    )
    return near, far


def dropped() -> Drops:
    """Return what the wire has had no room for."""
    fields = next(line for line in inside(NEAR, "cat", "/proc/net/dev").splitlines() if NEAR_IF in line).split()
    return Drops(int(fields[4]), int(fields[12]))


@contextlib.contextmanager
def entered(network: str) -> Iterator[None]:
    """Have this process, and those that it starts, in a network."""
    own, other = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{network}", os.O_RDONLY)
    setns(other)
    try:
        yield
    finally:
        setns(own)
        os.close(own)
        os.close(other)


def setns(fd: int) -> None:
    """Enter a network (setns(2), which Python has from 3.12 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0):
        raise OSError(ctypes.get_errno(), "setns")
