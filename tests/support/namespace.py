"""Know how to have a network of one's own: a thread in a new namespace, where addresses come and go as one likes."""

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

CLONE_NEWNET = 0x40000000


def ip(words):
    """Run ip(8) in the namespace of this thread."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def in_namespace(story):
    """Return what a story returns that runs in a network namespace of its own, with a loopback interface alone."""

    def enter():
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            pytest.skip(f"no namespace: {os.strerror(ctypes.get_errno())}")
        ip("link set lo up")
        return story()

    with ThreadPoolExecutor(1) as pool:  # the thread ends with it, and so does the namespace
        return pool.submit(enter).result()
