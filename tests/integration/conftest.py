"""What several files here need: the daemon in front of each real nameserver, a relay that records; certificates."""

import gc

import pytest
from support.certificates import Authority
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


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def collected():
    """Have found what a test's clients leave to the garbage collector, while that means nothing."""
    yield
    gc.collect()
