"""Put one daemon in front of each real nameserver, which has zones of every kind, for all rounds."""

import os
import shutil
from types import SimpleNamespace

import pytest
from support.certificates import HOST, self_signed
from support.client import Address, free_port
from support.encrypted import Door, shown
from support.nameservers import bind, knot, nsd
from support.network import believe_loopback
from support.process import run_shield
from support.rig import toml
from support.zones import make_zones

PATIENT = """
[ttl]
failure = 300  # so that refusals are still there when they are asked for again
[forward]
timeout = 5
deadline = 20  # a busy machine is no reason to fail
allow = { transfers = ["127.0.0.0/8"], updates = ["127.0.0.0/8"], notifies = ["127.0.0.0/8"] }
"""


@pytest.fixture(scope="session")
def zones():
    return make_zones()


@pytest.fixture(scope="module", params=[nsd, knot, bind], ids=["nsd", "knot", "bind"])
def nameserver(request, zones):
    with request.param(zones) as running:
        yield running


@pytest.fixture(scope="session")
def credentials(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificates"), HOST)


def frames():
    """Return the doors whose queries come by frames, and are answered in the kernel, too: one, where there can be any.

    That takes root, a network of our own, and clang, which the programs are made by.
    """
    if os.geteuid() or os.environ.get("FUNKENSHIELD_NETWORK") or not shutil.which("clang"):
        return {}
    believe_loopback()
    return {"xdp": SimpleNamespace(address=Address("127.0.0.1", free_port()))}


@pytest.fixture(scope="module")
def stage(nameserver, credentials):
    doors = {transport: Door(Address("127.0.0.1", free_port()), credentials) for transport in ("tls", "quic", "h3")}
    tables = [
        {"address": str(door.address), "transport": transport, "certificates": [shown(credentials)]}
        for transport, door in doors.items()
    ]
    on_loopback = {"transport": "xdp", "interface": "lo", "generic_xdp": True, "kernel_answers": True}
    by_frames = frames()
    tables += [{"address": str(door.address), **on_loopback} for door in by_frames.values()]
    listeners = "".join(f"\n[[listeners]]\n{toml(**table)}" for table in tables)
    with run_shield([nameserver], toml=f"{PATIENT}{listeners}") as running:
        yield running, doors | by_frames


@pytest.fixture(scope="module")
def shield(stage):
    return stage[0]


@pytest.fixture(scope="module")
def doors(stage):
    """Return the same shield's listeners for TLS, QUIC, HTTP/3 and frames, by transport."""
    return stage[1]
