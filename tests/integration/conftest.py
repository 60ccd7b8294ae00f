"""Put the real daemon in front of each real nameserver, and between them a relay that records."""

import pytest
from support.nameservers import bind, knot, nsd
from support.process import run_shield
from support.relay import RecordingRelay


@pytest.fixture(scope="session", params=[nsd, knot, bind], ids=["nsd", "knot", "bind"])
def nameserver(request):
    with request.param() as running:
        yield running


@pytest.fixture
def relay(nameserver):
    with RecordingRelay(nameserver) as running:
        yield running


@pytest.fixture
def shield(relay):
    with run_shield([relay], toml='forward.allow.transfers = ["127.0.0.0/8"]') as running:
        yield running
