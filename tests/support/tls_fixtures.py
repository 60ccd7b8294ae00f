"""Know the fixtures of tests whose clients come over TLS: `running` is the module's own, as `encrypted` yields it."""

import contextlib

import pytest

from support.certificates import Authority
from support.control import stats
from support.rig import names
from support.until import until


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def shield(running):
    """Return the shield, once it has noticed that the clients of the test before are gone."""
    until(lambda: stats(running[0])["tcp_connections"] == 0, within=10.0)
    return running[0]


@pytest.fixture
def door(shield, running):
    return running[1]


@pytest.fixture
def upstream(running):
    running[2].received.clear()
    return running[2]


@pytest.fixture
def name():
    return names(1)[0]


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:
        yield stack


FIXTURES = authority, door, name, opened, shield, upstream
