"""Know how to have a network of one's own: namespaces with loopback, joined by wires, and firewalls in them.

What is started while one is entered (threads, processes, sockets) is in it for good. It takes root, and ends with the
last who is in it.
"""

import contextlib
import ctypes
import fcntl
import itertools
import os
import socket
import struct
import subprocess

import pytest

CLONE_NEWNET = 0x40000000  # <linux/sched.h>; the os module has it from Python 3.12 on
HERE = "/proc/thread-self/ns/net"
SIOCETHTOOL = 0x8946  # <linux/sockios.h>
GET_OFFLOADS, SET_OFFLOADS, TAKES_TAGS_OFF = 0x25, 0x26, 1 << 8  # <linux/ethtool.h>
GET_CHANNELS, SET_CHANNELS = 0x3C, 0x3D
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks")
_libc = ctypes.CDLL(None, use_errno=True)
_wires = itertools.count()


class Network:
    """A network namespace, empty but for loopback."""

    def __init__(self):
        with _back_again():
            _call("unshare", CLONE_NEWNET)
            self._fd = os.open(HERE, os.O_RDONLY)
            run("ip", "link", "set", "lo", "up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    @contextlib.contextmanager
    def entered(self):
        """Be in it, and come back."""
        with _back_again():
            _call("setns", self._fd, CLONE_NEWNET)
            yield self

    def run(self, *command):
        """Run a command in it, and return what it says."""
        with self.entered():
            return run(*command)

    def join(self, other, here, there, queues=1, name=""):
        """Put a wire between two networks, with an address such as 192.0.2.1/24 at each end; return its name."""
        name, lanes = name or f"wire{next(_wires)}", ("numrxqueues", str(queues), "numtxqueues", str(queues))
        ends = "type", "veth", "peer", "name", name, "netns", f"/proc/{os.getpid()}/fd/{other._fd}"
        self.run("ip", "link", "add", name, *lanes, *ends, *lanes)
        for network, address in (self, here), (other, there):
            network.run("ip", "address", "add", address, "dev", name)
            network.run("ip", "link", "set", name, "up")
        return name

    def set_queues(self, name, count):
        """Have an interface receive and send by so many queues."""
        with self.entered():
            _, *most, _, _, other, both = ethtool(name, GET_CHANNELS, *[0] * 8)
            ethtool(name, SET_CHANNELS, *most, count, count, other, both)

    def keep_tags(self, name):
        """Have an interface leave tags of VLANs where they are, in the frame."""
        with self.entered():
            _, offloads = ethtool(name, GET_OFFLOADS, 0)
            ethtool(name, SET_OFFLOADS, offloads & ~TAKES_TAGS_OFF)

    @contextlib.contextmanager
    def filtered(self, rule):
        """Hold what comes in against a rule of nftables, meanwhile."""
        self.run("nft", f"table inet t {{ chain c {{ type filter hook input priority 0; {rule};\n}}\n}}")
        yield
        self.run("nft", "delete table inet t")

    def without_ipv6(self):
        """Take away IPv6, as containers often have it."""
        with self.entered():
            for which in "all", "default":
                _write(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "1")


def believe_loopback():
    """Have the loopback take from anybody what is for its own addresses, as a wire is not used to: frames come so."""
    for name in "accept_local", "route_localnet":
        _write(f"/proc/sys/net/ipv4/conf/lo/{name}", "1")


def ethtool(name, *request):
    """Ask or tell an interface's driver something, in words as <linux/ethtool.h> has them; return what it made of them.

    It is for the network that this thread is in.
    """
    words = struct.pack(f"={len(request)}I", *request)
    buffer = ctypes.create_string_buffer(words, len(words))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, SIOCETHTOOL, struct.pack("16sQ16x", name.encode(), ctypes.addressof(buffer)))
    return struct.unpack(f"={len(request)}I", buffer.raw)


def run(*command):
    """Run a command, and return what it says."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
    return done.stdout


@contextlib.contextmanager
def _back_again():
    before = os.open(HERE, os.O_RDONLY)
    try:
        yield
    finally:
        _call("setns", before, CLONE_NEWNET)
        os.close(before)


def _call(name, *args):
    if getattr(_libc, name)(*args):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)
