"""Know that a client who means well loses nothing while others flood, stall, spoof and hang on: seconds of each.

How fast he is answered meanwhile is for `proof`, where the machine has nothing else to do; here the margin is wide.
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.client import ask
from support.control import stats
from support.nameservers import nsd
from support.proc import descriptors, resident
from support.process import run_shield
from support.until import until

from hostile.attacks import ATTACKS, half_open
from hostile.behaved import Behaved

SECONDS = 1.0
SLOW = 1500.0  # milliseconds
GROWTH = 64 << 20  # octets: the whole of the cache, what 200 clients do not read, and then some
TOML = """
cache.memory = "16MiB"
tcp.idle_timeout = {idle}
tcp.write_buffer = "64KiB"
[[guard.rate_limits]]
queries_per_second = 1000000.0
[guard.rrl]
responses_per_second = 1000000.0
"""


@contextlib.contextmanager
def protected(idle):
    """Run a shield that closes connections which are idle for so many seconds, and counts who asks how much."""
    with nsd() as upstream, run_shield([upstream], workers=2, toml=TOML.format(idle=idle)) as running:
        yield running


@pytest.fixture(scope="module")
def shield():
    with protected(idle=1) as running:
        yield running


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_client_who_means_well_loses_nothing(shield, attack, tmp_path):
    before = descriptors(shield.process), resident(shield.process)
    with Behaved(shield, tmp_path, SECONDS) as behaved:
        done = attack(shield, behaved.going)
    print(f"{attack.__name__}: {done}", behaved.reports)
    assert behaved.outcome == behaved.flawless
    assert max(behaved.p99.values()) < SLOW + behaved.waited
    until(lambda: stats(shield)["tcp_connections"] == 0)
    until(lambda: descriptors(shield.process) <= before[0] + 4)
    assert resident(shield.process) < before[1] + GROWTH


def test_who_comes_while_others_hold_all_connections_in_silence_is_served():
    with protected(idle=60) as shield, ThreadPoolExecutor(1) as others:
        until_then = time.monotonic() + SECONDS
        crowd = others.submit(half_open, shield, lambda: time.monotonic() < until_then)
        until(lambda: stats(shield)["tcp_connections"] == 1000)
        served = 0
        while not crowd.done():
            served += bool(ask("warm1.wild.shield.test.", server=shield, tcp=True).answer)
        assert served > 10
        assert crowd.result() > 1000, "there were more than it takes"
