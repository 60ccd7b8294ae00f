"""Know that nothing piles up: over a bound the newest are turned away at once, and those who wait are answered."""

import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dns.edns
import dns.message
import pytest
from support import quick
from support.client import ask, udp_wire
from support.control import advance, stats
from support.pipeline import ask_all
from support.rig import (
    NOERROR,
    REFUSED,
    SERVFAIL,
    Holding,
    after,
    answerers,
    ask_each,
    behind,
    counters,
    good,
    names,
    numbered,
    placed,
    rcodes,
    received,
    silent,
)
from support.stopwatch import Stopwatch
from support.until import until
from support.wires import record_wire, reply_wire

AT_ONCE = 0.2  # seconds
LETS_ALL_GO_ON = """
from funkenshield.rules import *

@shield.rule(suffix("ruled.test"), cache=True)
async def let_go_on(query):
    return None
"""
overloads = pytest.mark.parametrize("overload", ["refuse", "drop"])


def turned_away(shield, name, overload):
    """Assert that a query is refused at once, or dropped; over TCP it is refused in any case."""
    if overload == "refuse":
        refused_at_once(shield, name)
    else:
        with pytest.raises(TimeoutError):
            ask(name, server=shield, timeout=AT_ONCE)
    refused_at_once(shield, name, tcp=True)


def refused_at_once(shield, name, **how):
    stopwatch = Stopwatch()
    assert ask(name, server=shield, **how).rcode() == REFUSED
    assert stopwatch.seconds() < AT_ONCE


@pytest.fixture
def slow():
    """Yield a nameserver that answers when the test is done with what waits for it."""
    with Holding(good) as upstream:
        upstream.hold()
        yield upstream


# ------------------------------------------------------------ one upstream's


@overloads
def test_over_an_upstreams_bound_clients_are_turned_away_at_once_and_who_waits_is_answered(slow, overload):
    with (
        behind(placed(slow, max_outstanding=4), forward={"overload": overload}) as (shield, upstream),
        ThreadPoolExecutor(1) as pool,
    ):
        first = names(4)
        waiting = pool.submit(ask_each, shield, first)
        upstream.wait_for(4)
        (late,) = names(1)
        turned_away(shield, late, overload)
        assert counters(shield, upstream)["outstanding_queries"] == 4
        upstream.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 4}
        assert received(upstream) == dict.fromkeys(first, 1)
        assert counters(shield, upstream)["outstanding_queries"] == 0
        assert ask(late, server=shield).rcode() == NOERROR  # a refusal of ours is not kept
        found = stats(shield)
        assert (found["upstreams_saturated"], found["outstanding_limit_exceeded"]) in ((2, 2), (2, 0))


def test_over_an_upstreams_bound_another_is_asked():
    with behind(placed(after(0.5, numbered(1)), max_outstanding=4), numbered(2), forward={"policy": "order"}) as (
        shield,
        full,
        other,
    ):
        found = answerers(ask_each(shield, names(32)))
        assert found == {1: 4, 2: 28}
        assert (len(full.received), len(other.received)) == (4, 28)
        assert stats(shield)["upstreams_saturated"] == 0


def test_over_all_upstreams_bounds_the_newest_are_refused():
    """One client, and one zone, gets four fifths of ten; see tests/attacks/test_fairness.py for the others."""
    slow = [placed(after(0.7, numbered(n)), max_outstanding=5) for n in (1, 2)]
    with behind(*slow) as (shield, *both):
        asked = names(20)
        replies = ask_each(shield, asked)
        assert answerers(replies) == {1: 4, 2: 4}
        assert [reply[3] & 15 for reply in replies] == [NOERROR] * 8 + [REFUSED] * 12
        assert [len(one.received) for one in both] == [4, 4]
        assert (stats(shield)["upstreams_saturated"], stats(shield)["fair_share_exceeded"]) == (0, 12)


@overloads
def test_whom_a_function_lets_go_on_is_turned_away_where_no_upstream_has_time(overload, tmp_path):
    """What is stale is better than nothing; and no refusal is kept, as if it was the function's answer."""
    (rules := tmp_path / "rules.py").write_text(LETS_ALL_GO_ON)
    options = {"forward": {"overload": overload}, "rules_file": str(rules)}
    with (
        Holding(good) as holding,
        behind(placed(holding, max_outstanding=1), **options) as (shield, _),
        ThreadPoolExecutor(1) as pool,
    ):
        assert ask("kept.ruled.test.", server=shield).rcode() == NOERROR
        advance(shield, 3600)
        holding.hold()
        waiting = pool.submit(ask_each, shield, names(1))
        until(lambda: len(holding.received) == 2)
        assert ask("kept.ruled.test.", server=shield).rcode() == NOERROR
        before = stats(shield)
        turned_away(shield, "new.ruled.test.", overload)
        after = stats(shield)
        assert after["upstreams_saturated"] == before["upstreams_saturated"] + 4  # they, and what was asked for them
        assert after["cache_inserts"] == before["cache_inserts"]
        holding.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 1}
        assert ask("new.ruled.test.", server=shield).rcode() == NOERROR
        assert holding.count("new.ruled.test.") == 1
        assert "rule " not in shield.log


def test_who_asks_the_same_counts_once_for_an_upstream(slow):
    with (
        behind(placed(slow, max_outstanding=1)) as (shield, upstream),
        ThreadPoolExecutor(1) as pool,
    ):
        (name,) = names(1)
        waiting = pool.submit(ask_each, shield, [name] * 20)
        upstream.wait_for(1)
        turned_away(shield, names(1)[0], "refuse")
        until(lambda: stats(shield)["coalesced_queries"] == 19)
        upstream.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 20}
        assert len(upstream.received) == 1


def test_a_silent_upstreams_outstanding_queries_end_and_make_room():
    forward = {"timeout": 0.2, "deadline": 0.4, "attempts": 1}
    with behind(placed(silent, max_outstanding=4), forward=forward) as (shield, upstream):
        assert rcodes(ask_each(shield, names(4))) == {SERVFAIL: 4}
        until(lambda: counters(shield, upstream)["outstanding_queries"] == 0)
        upstream.handle = good
        assert rcodes(ask_each(shield, names(4))) == {NOERROR: 4}


def test_over_tcp_the_bound_is_the_same():
    slow = placed(after(0.7, good), max_outstanding=4, transport="tcp")
    with behind(slow) as (shield, upstream):
        found = rcodes(ask_each(shield, names(10)))
        assert found == {NOERROR: 4, REFUSED: 6}
        assert upstream.count(transport="tcp") == len(upstream.received) == 4


@pytest.mark.parametrize("reloaded", [False, True], ids=["from the start", "reloaded"])
def test_what_its_connections_do_not_take_is_no_failure_of_an_upstream(slow, reloaded):
    """A connection takes 1024 queries, of which one client gets four fifths."""
    upstreams = placed(slow, transport="tcp")
    with (
        behind(upstreams, forward={"max_connections": 1 + reloaded}, tcp={"max_in_flight": 2000}) as (shield, upstream),
        ThreadPoolExecutor(1) as pool,
    ):
        if reloaded:
            file = shield.folder / "funkenshield.toml"
            file.write_text(file.read_text().replace("max_connections = 2", "max_connections = 1"))
            shield.process.send_signal(signal.SIGHUP)
            until(lambda: stats(shield)["reloads"] == 1)
        queries = [quick.query(name, quick.A) for name in names(1200)]
        waiting = pool.submit(ask_all, shield, queries, tcp=True, at_once=1200)
        upstream.wait_for(820)
        until(lambda: counters(shield, upstream)["network_errors"] or stats(shield)["fair_share_exceeded"] == 380)
        assert (counters(shield, upstream)["network_errors"], counters(shield, upstream)["up"]) == (0, 1)
        upstream.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 820, REFUSED: 380}


def test_who_is_turned_away_gets_what_is_stale_if_there_is_any(slow):
    slow.let_go()
    with (
        behind(placed(slow, max_outstanding=1), ttl={"max": 1}) as (shield, upstream),
        ThreadPoolExecutor(1) as pool,
    ):
        (held,) = names(1)
        ask_each(shield, [held])
        advance(shield, 1.1)  # so long it is fresh
        upstream.hold()
        waiting = pool.submit(ask_each, shield, names(1))
        upstream.wait_for(2)
        stopwatch = Stopwatch()
        assert ask(held, server=shield).answer[0].ttl == 30
        assert stopwatch.seconds() < AT_ONCE
        refused_at_once(shield, names(1)[0])
        upstream.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 1}


# ------------------------------------------------------------ a zone's


@pytest.mark.parametrize(
    ("own", "overload"), [(False, "refuse"), (True, "drop")], ids=["max_outstanding_per_zone", "zones.max_outstanding"]
)
def test_over_a_zones_bound_its_newest_are_turned_away_and_no_other_zone_feels_it(slow, overload, own):
    zones = [{"name": "busy.test", "max_outstanding": 4}] if own else []
    forward = {"overload": overload, "max_outstanding_per_zone": 1000 if own else 4}
    with (
        behind(slow, forward=forward, zones=zones) as (shield, upstream),
        ThreadPoolExecutor(2) as pool,
    ):
        first = [f"name{n}.busy.test." for n in range(4)]
        waiting = pool.submit(ask_each, shield, first)
        upstream.wait_for(4)
        turned_away(shield, "late.busy.test.", overload)
        other = pool.submit(ask, "www.other.test2.", server=shield)
        upstream.wait_for(5)
        upstream.let_go()
        assert other.result().rcode() == NOERROR
        assert rcodes(waiting.result()) == {NOERROR: 4}
        assert received(upstream) == dict.fromkeys([*first, "www.other.test2."], 1)
        assert stats(shield)["zone_limit_exceeded"] == 2
        assert ask("late.busy.test.", server=shield).rcode() == NOERROR


def test_a_flood_for_one_zone_leaves_the_others_alone():
    """Several times a zone's bound, and nobody answers it; every query of another zone is answered, and soon."""

    def script(query):
        return silent(query) if b"flooded" in query.wire else good(query)

    forward = {"timeout": 0.5, "deadline": 1.0, "max_outstanding_per_zone": 40}
    zones = [{"name": "calm.test"}]  # names without a zone are counted by a hash, and may share a bound
    with behind(script, forward=forward, zones=zones) as (shield, _), ThreadPoolExecutor(8) as pool:
        flood = [pool.submit(ask_each, shield, [f"n{k}-{n}.flooded.test." for n in range(32)]) for k in range(8)]
        asked = [f"www{n}.calm.test." for n in range(100)]
        stopwatch = Stopwatch()
        assert rcodes(ask_each(shield, asked)) == {NOERROR: 100}
        assert stopwatch.seconds() < 0.9
        found = sum((rcodes(each.result()) for each in flood), start=rcodes([]))
        assert found == {SERVFAIL: found[SERVFAIL], REFUSED: 256 - found[SERVFAIL]}
        assert 32 <= found[SERVFAIL] <= 160
        assert stats(shield)["zone_limit_exceeded"] + stats(shield)["fair_share_exceeded"] == found[REFUSED]


# ------------------------------------------------------------ everybody's


def test_over_the_whole_bound_the_newest_are_turned_away(slow):
    with (
        behind(slow, forward={"max_outstanding": 16}) as (shield, upstream),
        ThreadPoolExecutor(1) as pool,
    ):
        first = names(13)  # of one client, or zone: four fifths of sixteen
        waiting = pool.submit(ask_each, shield, first)
        upstream.wait_for(13)
        (late,) = names(1)
        turned_away(shield, late, "refuse")
        upstream.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 13}
        assert received(upstream) == dict.fromkeys(first, 1)
        assert stats(shield)["fair_share_exceeded"] == 2
        assert ask(late, server=shield).rcode() == NOERROR


def test_hits_are_served_whatever_waits(slow):
    slow.let_go()
    with behind(slow, forward={"max_outstanding": 16}) as (shield, upstream), ThreadPoolExecutor(1) as pool:
        held = names(20)
        ask_each(shield, held[:10])
        ask_each(shield, held[10:])
        upstream.hold()
        waiting = pool.submit(ask_each, shield, names(13))
        upstream.wait_for(33)
        stopwatch = Stopwatch()
        assert rcodes(ask_each(shield, held)) == {NOERROR: 20}
        assert stopwatch.seconds() < AT_ONCE
        upstream.let_go()
        assert rcodes(waiting.result()) == {NOERROR: 13}
        assert len(upstream.received) == 33


def test_who_is_turned_away_with_what_is_stale_gets_no_more_than_he_takes():
    texts = b"".join(bytes([200]) + b"x" * 200 for _ in range(5))
    big = partial(reply_of, texts)
    with behind(placed(big, max_outstanding=1), forward={"timeout": 1.0, "deadline": 1.5, "attempts": 1}) as (
        shield,
        upstream,
    ):
        shield.udp(dns.message.make_query("big.test.", "TXT", use_edns=0, payload=1232))
        advance(shield, 1.2)  # so long it is held
        upstream.handle = silent
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask_each, shield, names(1))
            until(lambda: counters(shield, upstream)["outstanding_queries"] == 1)
            small = dns.message.make_query("big.test.", "TXT", use_edns=0, payload=512)
            assert len(udp_wire(shield, small.to_wire())) <= 512
            assert stats(shield)["outstanding_limit_exceeded"] == 0, "it was served"
            waiting.result()


def test_who_is_turned_away_keeps_his_cookie():
    forward = {"timeout": 1.0, "deadline": 1.5, "attempts": 1}
    with (
        behind(placed(silent, max_outstanding=1), forward=forward, cookies={"mode": "serve"}) as (shield, upstream),
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(ask_each, shield, names(1))
        until(lambda: counters(shield, upstream)["outstanding_queries"] == 1)
        cookie = dns.edns.GenericOption(10, b"12345678")
        reply = shield.udp(dns.message.make_query("q.test.", "A", use_edns=0, options=[cookie]))
        assert (reply.rcode(), [option.otype for option in reply.options]) == (REFUSED, [10])
        assert stats(shield)["upstreams_saturated"] == 1
        waiting.result()


def reply_of(rdata, query):
    return reply_wire(query, record_wire(16, rdata, 1))
