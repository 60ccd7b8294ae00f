"""Know how to put a lossy link between the shield and an upstream: a veth pair into a network namespace.

Everything is made for the test and removed after it. It takes root, iproute2, and either netem or nftables.
"""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from support.client import Address, ask
from support.process import COMMAND

HERE, THERE = "10.231.77.1", "10.231.77.2"
ZONE = "$ORIGIN lossy.test.\n$TTL 300\n@ SOA ns root 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n* A 192.0.2.2\n"


@contextlib.contextmanager
def nameserver_behind_a_link(loss, folder):
    """Run the small nameserver behind a link that loses a share of all packets, each way; yield its address."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("a network namespace takes root and iproute2")
    name = f"fs{os.getpid()}"
    outer, inner = f"{name}a", f"{name}b"
    zone = folder / "lossy.zone"
    zone.write_text(ZONE)
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
        _run("ip", "addr", "add", f"{HERE}/30", "dev", outer)
        _run("ip", "-n", name, "addr", "add", f"{THERE}/30", "dev", inner)
        _run("ip", "link", "set", outer, "up")
        _run("ip", "-n", name, "link", "set", inner, "up")
        address = Address(THERE, 53)
        with _running("ip", "netns", "exec", name, *COMMAND, "nameserver", "--listen", str(address), "--zone", zone):
            _wait_for(address)
            _lose(name, outer, inner, loss)
            yield address
    finally:
        _run("ip", "netns", "del", name, check=False)


def _lose(name, outer, inner, loss):
    """Let a share of the packets be lost, each way."""
    share = f"{loss:.0%}"
    netem = ("root", "netem", "loss", share)
    if _run("tc", "-n", name, "qdisc", "add", "dev", inner, *netem, check=False):
        _run("tc", "qdisc", "add", "dev", outer, *netem)
        return
    if not shutil.which("nft"):  # the kernel has no netem
        pytest.skip("loss takes netem or nftables")
    both = (
        1 - (1 - loss) ** 2
    )  # all on the way there: who waits cannot tell, and a sender whose packet is dropped could
    rule = f"numgen random mod 1000 < {both * 1000:.0f} drop"
    _run(
        "ip",
        "netns",
        "exec",
        name,
        "nft",
        f"table inet lossy {{ chain way {{ type filter hook input priority 0; {rule}; }}\n}}",
    )


def _run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.returncode == 0


@contextlib.contextmanager
def _running(*command):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(address):
    for _ in range(50):
        with contextlib.suppress(OSError):
            if ask("ready.lossy.test.", server=address, timeout=0.2).answer:
                return
    raise AssertionError("the nameserver behind the link never answered")
