"""Know what a nameserver that limits its rate, as NSD does unless it is told not to, means for who comes by the shield.

All clients are one there, the shield; of what is over 200 a second, half comes back truncated, and half is dropped.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import nameservers, quick
from support.control import stats
from support.pipeline import ask_all
from support.process import run_shield
from support.until import until

ZONE = """
$ORIGIN limited.test.
$TTL 300
@       SOA  ns root 1 3600 600 86400 60
@       NS   ns
ns      A    192.0.2.53
*.wild  A    192.0.2.7
"""
CLIENTS, EACH = 8, 100
BURST = CLIENTS * EACH
NOERROR, NXDOMAIN = 0, 3


@pytest.fixture
def limited():
    with nameservers.nsd({"limited.test": ZONE}, more="rrl-ratelimit: 200") as server:
        yield server


def burst(shield, below):
    """Return how often which RCODE and TC came, when all ask at once for a name each."""

    def ask(client):
        return ask_all(shield, [quick.query(f"n{client}.{n}.{below}", quick.A) for n in range(EACH)], at_once=EACH)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return Counter((reply[3] & 15, reply[2] & 2) for replies in pool.map(ask, range(CLIENTS)) for reply in replies)


@pytest.mark.parametrize(
    ("below", "rcode"),
    [("wild.limited.test", NOERROR), pytest.param("limited.test", NXDOMAIN, marks=pytest.mark.proof)],
)
def test_a_burst_of_misses_is_served_by_a_nameserver_that_limits_its_rate(limited, below, rcode):
    with run_shield([limited]) as shield:
        told = burst(shield, below)
        (upstream,) = stats(shield)["upstreams"].values()
        assert upstream["timeouts"] > 0, "nothing was dropped: this shows nothing"
        assert told == {(rcode, 0): BURST}
        assert burst(shield, below) == {(rcode, 0): BURST}


def test_what_such_a_nameserver_drops_is_told(limited):
    with run_shield([limited], toml="forward = { attempts = 1, retry_truncated = false }") as shield:
        burst(shield, "wild.limited.test")
        failures = stats(shield)["resolution_failures"]
        assert failures > BURST / 10, "nothing was dropped: this shows nothing"
        until(lambda: str(limited.address) in shield.log.split("ready", 1)[1].split("\n", 1)[1])
