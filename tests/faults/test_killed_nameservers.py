"""Know that NSD and Knot DNS may be killed, stopped, and started again under load, and no client loses an answer.

Two stand side by side behind the shield. While one of the two is alive, every query of a steady load is answered,
and once, whatever happens to the other; while none is, what is held is served.
"""

import contextlib
import signal

import pytest
from support import quick
from support.client import ask
from support.control import advance
from support.nameservers import knot, nsd
from support.pipeline import ask_all
from support.rig import NOERROR, SERVFAIL, behind, counters, placed, rcodes
from support.stopwatch import Stopwatch
from support.until import until

from faults.load import Load

FORWARD = {"timeout": 0.5, "retry_after": 0.1, "deadline": 2.5}
HEALTH = {"interval": 0.2, "max_backoff": 0.4, "timeout": 0.3, "slow_start": 0.5, "name": "shield.test"}
victims = pytest.mark.parametrize("victim", [0, 1], ids=["nsd", "knot"])


@pytest.fixture(scope="module")
def servers():
    """Run both; whoever kills one starts it again."""
    with nsd() as first, knot() as second:
        yield first, second


def before(servers, transport="udp", **options):
    """Run a shield before both."""
    places = [placed(server, transport=transport) for server in servers]
    return behind(*places, forward=FORWARD, health=HEALTH, **options)


@pytest.fixture(scope="module")
def shield(servers):
    with before(servers) as (running, *_):
        yield running


@contextlib.contextmanager
def stopped(*servers):
    """Stop nameservers while the context is entered; they go on where they were."""
    for server in servers:
        server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)


def answered(shield, server):
    return counters(shield, server)["responses"]


def wait_for_share(shield, server, within=5.0):
    """Wait until a nameserver answers clients again."""
    before = answered(shield, server)
    until(lambda: answered(shield, server) > before + 20, within)


@contextlib.contextmanager
def killed(server):
    """Kill a nameserver; it is started again when the context is left."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@victims
@pytest.mark.parametrize("broken", [killed, stopped])
def test_one_is_killed_or_stopped_and_comes_back_and_no_query_fails(servers, shield, broken, victim):
    with Load(shield) as load:
        until(lambda: min(answered(shield, server) for server in servers) > 20)
        with broken(servers[victim]):
            load.go_on(1.8)
            assert counters(shield, servers[victim])["state"] == "down"
            lonely = answered(shield, servers[victim])
            load.go_on(0.3)
            assert answered(shield, servers[victim]) == lonely
        wait_for_share(shield, servers[victim])
    assert load.outcome == load.flawless
    assert load.sent > 500
    assert load.slowest < 2.0


def test_they_stop_in_turns_for_moments_only_and_no_query_fails(servers, shield):
    with Load(shield) as load:
        for _ in range(4):
            for server in servers:
                with stopped(server):
                    load.go_on(0.15)
                load.go_on(0.15)
    assert load.outcome == load.flawless


def test_over_tcp_one_is_killed_and_comes_back_and_no_query_fails(servers):
    with before(servers, "tcp") as (shield, *_), Load(shield, rate=150) as load:
        load.go_on(0.3)
        with killed(servers[0]):
            load.go_on(1.0)
        wait_for_share(shield, servers[0])
    assert load.outcome == load.flawless


HOSTS = [f"host{n}.shield.test." for n in range(40)]


def texts(shield, names=HOSTS):
    return ask_all(shield, [quick.query(name) for name in names])


def ttl(reply):
    """Return the TTL of the first record, whose owner is compressed, of a reply to a query without OPT."""
    at = reply.index(b"\0", 12) + 5 + 6
    return int.from_bytes(reply[at : at + 4])


def test_both_are_stopped_and_hits_are_served_and_afterwards_all_is_fresh(servers):
    with before(servers) as (shield, *_):
        assert rcodes(texts(shield)) == {NOERROR: 40}
        with stopped(*servers):
            stopwatch = Stopwatch()
            assert rcodes(texts(shield)) == {NOERROR: 40}
            assert stopwatch.seconds() < 0.3
            assert ask("new.wild.shield.test.", server=shield).rcode() == SERVFAIL
        fresh_names_within(shield, 4.0)


def test_both_are_killed_and_what_is_stale_is_served_and_afterwards_all_is_fresh(servers):
    stale = {"client_timeout": 0.3, "ttl": 7, "recheck": 1}
    with before(servers, ttl={"max": 1}, stale=stale) as (shield, *_):
        assert rcodes(texts(shield)) == {NOERROR: 40}
        advance(shield, 1.2)  # so long they are held
        with killed(servers[0]), killed(servers[1]):
            for _ in range(2):
                replies = texts(shield)
                assert rcodes(replies) == {NOERROR: 40}
                assert {ttl(reply) for reply in replies} == {7}
        fresh_names_within(shield, 4.0)
        until(lambda: min(map(ttl, texts(shield))) > 7)


def test_both_are_stopped_under_load_and_every_client_is_told_in_time(servers, shield):
    """Whoever asks while none is alive gets SERVFAIL or, if one comes back in time, his answer; nobody gets nothing.

    Those who wait get their answers all at once: no more of them than the kernel holds for our one socket.
    """
    with Load(shield, rate=60) as load:
        load.go_on(0.3)
        with stopped(*servers):
            load.go_on(3.0)
        for server in servers:
            wait_for_share(shield, server, within=8.0)
    assert (load.lost, load.unasked) == (0, 0)
    assert load.rcodes[NOERROR] + load.rcodes[SERVFAIL] == load.sent
    assert load.rcodes[SERVFAIL] > 10
    assert load.slowest < FORWARD["deadline"] + 0.7


def fresh_names_within(shield, seconds):
    """Assert that names which nobody has asked for are answered again, within so many seconds."""
    turn = iter(range(10000))
    until(lambda: ask(f"n{next(turn)}.wild.shield.test.", server=shield).rcode() == NOERROR, seconds)
    assert rcodes(texts(shield, [f"host{n}.shield.test." for n in range(100, 140)])) == {NOERROR: 40}
