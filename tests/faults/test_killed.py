"""Know that NSD and Knot DNS may be killed, stopped, and started again under load, and no client loses an answer.

Two stand side by side behind the shield. While one of the two is alive, every query of a steady load is answered,
and once, whatever happens to the other; while none is, what is held is served.
"""

import contextlib
import signal
import time

import pytest
from support import quick
from support.client import ask
from support.nameservers import knot, nsd
from support.pipeline import ask_all

from faults.load import Load
from faults.stage import NOERROR, SERVFAIL, behind, counters, placed, rcodes, until

FORWARD = {"timeout": 0.5, "patience": 0.1, "deadline": 2.5}
HEALTH = {"interval": 0.2, "backoff": 0.4, "timeout": 0.3, "slow_start": 0.5, "name": "shield.test"}
victims = pytest.mark.parametrize("victim", [0, 1], ids=["nsd", "knot"])


@contextlib.contextmanager
def side_by_side(transport="udp", **options):
    """Run both behind a shield; yield it, and them."""
    with (
        nsd() as first,
        knot() as second,
        behind(
            *(placed(server, transport=transport) for server in (first, second)),
            forward=FORWARD,
            health=HEALTH,
            **options,
        ) as stage,
    ):
        yield stage


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
    return counters(shield, server)["answered"]


def wait_for_share(shield, server, within=5.0):
    """Wait until a nameserver answers clients again."""
    before = answered(shield, server)
    until(lambda: answered(shield, server) > before + 20, within)


@victims
def test_one_is_killed_and_started_again_and_no_query_fails(victim):
    with side_by_side() as (shield, *servers), Load(shield) as load:
        load.go_on(0.5)
        assert min(answered(shield, server) for server in servers) > 20
        for _ in range(2):
            servers[victim].kill()
            load.go_on(1.5)
            assert not counters(shield, servers[victim])["state"].startswith("up")
            servers[victim].start()
            wait_for_share(shield, servers[victim])
    assert load.outcome == load.flawless
    assert load.sent > 700
    assert load.slowest < 2.0


@victims
def test_one_is_stopped_and_goes_on_and_no_query_fails(victim):
    with side_by_side() as (shield, *servers), Load(shield) as load:
        load.go_on(0.5)
        for _ in range(2):
            with stopped(servers[victim]):
                load.go_on(1.5)
                assert not counters(shield, servers[victim])["state"].startswith("up")
            wait_for_share(shield, servers[victim])
    assert load.outcome == load.flawless
    assert load.slowest < 2.0


@victims
def test_one_stops_for_moments_only_and_no_query_fails(victim):
    with side_by_side() as (shield, *servers), Load(shield) as load:
        for _ in range(8):
            with stopped(servers[victim]):
                load.go_on(0.15)
            load.go_on(0.25)
    assert load.outcome == load.flawless


def test_they_fall_in_turns_and_no_query_fails():
    with side_by_side() as (shield, first, second), Load(shield) as load:
        load.go_on(0.5)
        for one in first, second, first:
            one.kill()
            load.go_on(1.0)
            one.start()
            wait_for_share(shield, one)
    assert load.outcome == load.flawless


@victims
def test_over_tcp_one_is_killed_and_started_again_and_no_query_fails(victim):
    with side_by_side("tcp") as (shield, *servers), Load(shield, rate=150) as load:
        load.go_on(0.5)
        servers[victim].kill()
        load.go_on(1.5)
        servers[victim].start()
        wait_for_share(shield, servers[victim])
    assert load.outcome == load.flawless


HOSTS = [f"host{n}.shield.test." for n in range(40)]


def texts(shield, names=HOSTS):
    return ask_all(shield, [quick.query(name) for name in names])


def ttl(reply):
    """Return the TTL of the first record, whose owner is compressed, of a reply to a query without OPT."""
    at = reply.index(b"\0", 12) + 5 + 6
    return int.from_bytes(reply[at : at + 4])


def test_both_are_stopped_and_hits_are_served_and_afterwards_all_is_fresh():
    with side_by_side() as (shield, *servers):
        assert rcodes(texts(shield)) == {NOERROR: 40}
        with stopped(*servers):
            start = time.monotonic()
            assert rcodes(texts(shield)) == {NOERROR: 40}
            assert time.monotonic() - start < 0.3
            assert ask("new.wild.shield.test.", server=shield).rcode() == SERVFAIL
        fresh_names_within(shield, 4.0)


def test_both_are_killed_and_what_is_stale_is_served_and_afterwards_all_is_fresh():
    stale = {"client_timer": 0.3, "ttl": 7, "recheck": 1}
    with side_by_side(ttl={"max": 1}, stale=stale) as (shield, *servers):
        assert rcodes(texts(shield)) == {NOERROR: 40}
        time.sleep(1.2)  # so long they are held
        for server in servers:
            server.kill()
        for _ in range(2):
            replies = texts(shield)
            assert rcodes(replies) == {NOERROR: 40}
            assert {ttl(reply) for reply in replies} == {7}
        for server in servers:
            server.start()
        fresh_names_within(shield, 4.0)
        until(lambda: min(map(ttl, texts(shield))) > 7)


def test_both_are_stopped_under_load_and_every_client_is_told_so_in_time():
    """Whoever asks while none is alive gets SERVFAIL or, if one comes back in time, his answer; nobody gets nothing."""
    with side_by_side() as (shield, *servers):
        with Load(shield) as load:
            load.go_on(0.5)
            with stopped(*servers):
                load.go_on(2.0)
            for server in servers:
                wait_for_share(shield, server)
            load.go_on(1.0)
        assert (load.lost, load.unasked) == (0, 0)
        assert load.rcodes[NOERROR] + load.rcodes[SERVFAIL] == load.sent
        assert load.slowest < FORWARD["deadline"] + 0.7


def fresh_names_within(shield, seconds):
    """Assert that names which nobody has asked for are answered again, within so many seconds."""
    turn = iter(range(10000))
    until(lambda: ask(f"n{next(turn)}.wild.shield.test.", server=shield).rcode() == NOERROR, seconds)
    assert rcodes(texts(shield, [f"host{n}.shield.test." for n in range(100, 140)])) == {NOERROR: 40}
