"""Know how to have a network of one's own: a thread in a new namespace, where addresses come and go as one likes."""

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.until import until

CLONE_NEWNET = 0x40000000


def ip(words):
    """Run ip(8) in the namespace of this thread, and return what it prints."""
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout


def add_address(address, bits, device="lo"):
    """Give a device an address, and wait for its route: the kernel adds an IPv6 address's a moment after the call."""
    version = "-6" if ":" in address else "-4"
    ip(f"{version} addr add {address}/{bits} dev {device}" + " nodad" * (version == "-6"))
    until(lambda: ip(f"{version} route show table local {address}"))


def in_namespace(story):
    """Return what a story returns that runs in a network namespace of its own, with a loopback interface alone."""

    def enter():
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            pytest.skip(f"no namespace: {os.strerror(ctypes.get_errno())}")
        ip("link set lo up")
        return story()

    with ThreadPoolExecutor(1) as pool:  # the thread ends with it, and so does the namespace
        return pool.submit(enter).result()
