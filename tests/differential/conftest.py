"""Put one daemon in front of each real nameserver, which has zones of every kind, for all rounds."""

import pytest
from support.nameservers import bind, knot, nsd
from support.process import run_shield
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


@pytest.fixture(scope="module")
def shield(nameserver):
    with run_shield([nameserver], toml=PATIENT) as running:
        yield running
