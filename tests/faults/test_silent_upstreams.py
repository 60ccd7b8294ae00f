"""Know that an upstream which says nothing, too late, or "no", costs no client its answer while another is well.

Where none is well, every client is told so in time, and once.
"""

import itertools
import socket
import time

import dns.message
import pytest
from support.control import stats
from support.relay import RecordingRelay
from support.rig import (
    DEADLINE,
    HASTY,
    NOERROR,
    PATIENT,
    REFUSED,
    SERVFAIL,
    SOON,
    TIMEOUT,
    after,
    answerers,
    ask_each,
    at_once,
    behind,
    counters,
    failing,
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
from support.upstream import Delayed, ScriptedUpstream, answer, truncated
from support.wires import ask_wire

from faults.test_policies import NEVER_ILL, reconfigure

transports = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


# ------------------------------------------------------------ silence


@transports
def test_when_all_are_silent_every_client_is_told_so_within_the_deadline(tcp):
    with behind(silent, silent, forward={**HASTY, "attempts": 2}, health={"check": "off"}) as (shield, *upstreams):
        asked = names(20)
        start = time.monotonic()
        stopwatch = Stopwatch()
        assert rcodes(ask_each(shield, asked, tcp)) == {SERVFAIL: 20}
        assert time.monotonic() - start > TIMEOUT
        assert stopwatch.seconds() < DEADLINE + 1.0
        assert sum(map(len, (upstream.received for upstream in upstreams))) == 40
        for upstream in upstreams:
            assert received(upstream) == dict.fromkeys(asked, 1)


@transports
def test_one_of_two_is_silent_and_nobody_fails(tcp):
    with behind(silent, good, forward=SOON) as (shield, mute, well):
        asked = names(200)
        assert rcodes(ask_each(shield, asked, tcp)) == {NOERROR: 200}
        assert received(well) == dict.fromkeys(asked, 1)
        assert max(received(mute).values()) == 1
        until(lambda: counters(shield, mute)["state"] != counters(shield, well)["state"])
        before = len(mute.received)
        assert rcodes(ask_each(shield, names(100), tcp)) == {NOERROR: 100}
        assert len(mute.received) - before < 20  # checks, and no more


def test_silent_for_a_while_and_back():
    with behind(good, good, forward=SOON, health={"interval": 0.1, "slow_start": 0}) as (shield, first, second):
        assert rcodes(ask_each(shield, names(20))) == {NOERROR: 20}
        first.handle = silent
        assert rcodes(ask_each(shield, names(100))) == {NOERROR: 100}
        until(lambda: counters(shield, first)["state"] != counters(shield, second)["state"])
        first.handle = good
        until(lambda: counters(shield, first)["state"] == counters(shield, second)["state"])
        back = names(100)
        assert rcodes(ask_each(shield, back)) == {NOERROR: 100}
        assert sum(received(first)[name] for name in back) == pytest.approx(50, abs=15)
        assert sum(received(first)[name] + received(second)[name] for name in back) == 100


# ------------------------------------------------------------ delay


def test_who_is_slow_but_within_patience_is_not_doubted():
    with behind(after(0.1, numbered(1)), after(0.1, numbered(2))) as (shield, *slow):
        asked = names(60)
        assert rcodes(ask_each(shield, asked)) == {NOERROR: 60}
        assert received(slow[0]) + received(slow[1]) == dict.fromkeys(asked, 1)
        assert [counters(shield, each)["timeouts"] for each in slow] == [0, 0]


def test_who_is_slower_than_patience_is_overtaken_and_his_late_answer_is_nobodys():
    forward = {"timeout": 0.2, "retry_after": 0.1, "deadline": 3.0, "policy": "order", "attempts": 2}
    with behind(after(1.0, numbered(66)), numbered(1), forward=forward, health={"fall": 100}) as (shield, slow, quick):
        asked = names(5)
        stopwatch = Stopwatch()
        replies = ask_each(shield, asked)
        assert stopwatch.seconds() < 0.9
        assert answerers(replies) == answerers(ask_each(shield, asked)) == {1: 5}
        until(lambda: counters(shield, slow)["unexpected_replies"] == 5)
        assert received(slow) == received(quick) == dict.fromkeys(asked, 1)
        assert answerers(ask_each(shield, asked)) == {1: 5}


def test_the_second_try_at_another_waits_as_long_as_is_usual_there():
    """An upstream that always takes 0.2 s is not asked twice although patience is 0.05 s; silence is noticed soon."""
    forward = {"timeout": 1.0, "retry_after": 0.05, "deadline": 3.0, "policy": "order"}
    with behind(after(0.2, numbered(1)), numbered(2), forward=forward) as (shield, usual, other):
        assert rcodes(ask_each(shield, names(40))) == {NOERROR: 40}
        before = len(other.received)
        assert answerers(ask_each(shield, names(40)))[1] > 35
        assert len(other.received) - before < 5
        usual.handle = silent
        stopwatch = Stopwatch()
        assert answerers(ask_each(shield, names(1))) == {2: 1}
        assert stopwatch.seconds() < 0.9


def test_an_answer_after_the_deadline_reaches_nobody_and_is_counted():
    forward = {"timeout": 0.2, "deadline": 0.4, "attempts": 1}
    with behind(after(0.7, numbered(66)), forward=forward) as (shield, late):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(shield.address)
            sock.settimeout(1.0)
            (name,) = names(1)
            stopwatch = Stopwatch()
            sock.send(ask_wire(name, id=7))
            reply = dns.message.from_wire(sock.recv(512))
            assert (reply.id, reply.rcode()) == (7, SERVFAIL)
            assert stopwatch.seconds() < 0.65
            until(lambda: counters(shield, late)["unexpected_replies"] == 1)
            late.handle = numbered(1)
            reconfigure(shield, [(late, {})], forward=PATIENT)
            assert answerers(ask_each(shield, names(10))) == {1: 10}
            with pytest.raises(TimeoutError):
                sock.recv(512)
        assert len(late.received) == 11


# ------------------------------------------------------------ loss


class Lossy(RecordingRelay):
    """A path that loses every n-th datagram, whichever way it goes."""

    def __init__(self, target, every):
        super().__init__(target)
        self._every = every
        self._turn = itertools.count(1)

    def serve(self, query, send):
        if self._arrives():
            super().serve(query, lambda reply: self._arrives() and send(reply))

    def _arrives(self):
        return next(self._turn) % self._every > 0


@pytest.mark.parametrize("every", [4, 7])
def test_on_lossy_paths_what_is_lost_is_asked_again(every):
    """Of a query's tries, one after another, no two meet a loss on one path: so three are enough."""
    forward = {"timeout": 0.2, "retry_after": 0.05, "attempts": 4}
    with (
        ScriptedUpstream(good) as first,
        ScriptedUpstream(good) as second,
        Lossy(first, every) as path,
        Lossy(second, every + 1) as other,
        behind(path, other, forward=forward, health={"check": "off"}) as (shield, *_),
    ):
        assert [rcodes(ask_each(shield, [name])) for name in names(30)] == [{NOERROR: 1}] * 30
        assert 30 * 3 > len(path.received) + len(other.received) > 30
        assert stats(shield)["retries"] == len(path.received) + len(other.received) - 30


def test_one_lossy_path_alone_needs_another_try():
    forward = {"timeout": 0.1, "attempts": 4}
    with (
        ScriptedUpstream(good) as upstream,
        Lossy(upstream, 5) as path,
        behind(path, forward=forward, health={"check": "off"}) as (shield, _),
    ):
        assert [rcodes(ask_each(shield, names(1))) for _ in range(30)] == [{NOERROR: 1}] * 30
        assert counters(shield, path)["timeouts"] == len(path.received) - 30 > 0


# ------------------------------------------------------------ refusals

RCODES = {SERVFAIL: "SERVFAIL", REFUSED: "REFUSED"}
failures = pytest.mark.parametrize("rcode", RCODES, ids=RCODES.values())


@pytest.fixture(scope="module")
def plain():
    """Run a shield before two upstreams of which none is ever left alone."""
    with behind(good, good, health=NEVER_ILL) as stage:
        yield stage


@transports
@failures
def test_what_one_refuses_the_next_is_asked(plain, rcode, tcp):
    shield, bad, well = plain
    bad.handle, well.handle = failing(rcode), good
    before = counters(shield, bad)["rcodes"].get(RCODES[rcode], 0)
    asked = names(60)
    assert rcodes(ask_each(shield, asked, tcp)) == {NOERROR: 60}
    assert [received(well)[name] for name in asked] == [1] * 60
    refused = [received(bad)[name] for name in asked]
    assert max(refused) == 1
    assert sum(refused) == pytest.approx(30, abs=5)
    assert counters(shield, bad)["rcodes"][RCODES[rcode]] == before + sum(refused)


@failures
def test_when_all_refuse_the_client_gets_it_at_once(plain, rcode):
    shield, *bad = plain
    for one in bad:
        one.handle = failing(rcode)
    (name,) = names(1)
    stopwatch = Stopwatch()
    assert rcodes(ask_each(shield, [name])) == {rcode: 1}
    assert stopwatch.seconds() < TIMEOUT
    assert [received(each)[name] for each in bad] == [1, 1]


def test_when_one_refuses_and_the_other_is_silent_the_client_is_told_in_time():
    with behind(failing(REFUSED), silent, forward=HASTY, health=NEVER_ILL) as (shield, bad, mute):
        asked = names(4)
        stopwatch = Stopwatch()
        assert set(rcodes(ask_each(shield, asked))) <= {REFUSED, SERVFAIL}
        assert stopwatch.seconds() < DEADLINE + 0.5
        assert min(received(bad)[name] for name in asked) >= 1
        assert min(received(mute)[name] for name in asked) >= 1


@failures
def test_what_one_refuses_is_refused_where_nobody_else_is_to_be_asked(rcode):
    with behind(failing(rcode), good, forward={"retry_on": []}, health={"min_samples": 1000}) as (shield, bad, well):
        asked = names(60)
        assert rcodes(ask_each(shield, asked)) == {NOERROR: 30, rcode: 30}
        assert received(bad) + received(well) == dict.fromkeys(asked, 1)


def test_who_has_nothing_but_server_failures_is_left_alone():
    with behind(failing(SERVFAIL), good, health={"min_samples": 10, "check": "off"}) as (shield, bad, well):
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        until(lambda: counters(shield, bad)["state"] != counters(shield, well)["state"])
        before = len(bad.received)
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        assert len(bad.received) - before <= 3


def test_all_who_wait_for_one_name_get_one_answer_each_when_its_first_upstream_is_silent():
    with behind(silent, good, forward={**SOON, "policy": "order"}) as (shield, mute, well):
        (name,) = names(1)
        replies = at_once(20, lambda n: ask_each(shield, [name])[0])
        assert answerers(replies) == {1: 20}
        assert (received(mute)[name], received(well)[name]) == (1, 1)


def test_a_delayed_upstream_that_is_alone_is_waited_for():
    with behind(lambda query: Delayed(0.25, good(query))) as (shield, slow):
        asked = names(30)
        assert rcodes(ask_each(shield, asked)) == {NOERROR: 30}
        assert received(slow) == dict.fromkeys(asked, 1)


# ------------------------------------------------------------ what is learnt from silence


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_who_is_fast_as_a_rule_is_not_waited_for_long(transport):
    forward = {"timeout": 1.0, "retry_after": 0.1, "deadline": 4.0, "policy": "order"}
    servers = [placed(numbered(number), transport=transport) for number in (1, 2)]
    with behind(*servers, forward=forward) as (shield, first, _):
        ask_each(shield, names(100))
        first.handle = silent
        stopwatch = Stopwatch()
        assert answerers(ask_each(shield, names(1))) == {2: 1}
        assert stopwatch.seconds() < 0.6


def test_who_becomes_slow_is_learnt_and_not_left_alone():
    forward = {"timeout": 1.0, "retry_after": 0.05, "deadline": 4.0, "policy": "order"}
    with behind(numbered(1), numbered(2), forward=forward) as (shield, first, _):
        ask_each(shield, names(100))
        first.handle = after(0.15, numbered(1))
        for _ in range(20):
            ask_each(shield, names(4))
            time.sleep(0.05)
        assert "marked down" not in shield.log
        assert answerers(ask_each(shield, names(20)))[1] >= 15


def test_one_silence_is_counted_once():
    with behind(placed(silent, max_outstanding=1), forward={"timeout": 0.2, "deadline": 0.8, "attempts": 3}) as (
        shield,
        upstream,
    ):
        assert rcodes(ask_each(shield, names(1))) == {SERVFAIL: 1}
        counted = counters(shield, upstream)
        assert (counted["queries"], counted["timeouts"], counted["outstanding_queries"]) == (1, 1, 0)


def test_names_that_nobody_answers_make_nobody_ill():
    def some(query):
        return silent(query) if b"bad" in query.wire.lower() else good(query)

    forward = {"timeout": 0.2, "deadline": 0.8, "attempts": 3}
    with behind(some, some, forward=forward) as (shield, *both):
        ask_each(shield, names(50))
        for number in range(4):
            assert rcodes(ask_each(shield, [f"bad{number}.test."])) == {SERVFAIL: 1}
        time.sleep(1.1)
        assert [counters(shield, each)["state"] for each in both] == ["up", "up"]


def seen_by_python(folder):
    """Return the options of rules that have every response looked at by a function, which leaves it as it is."""
    path = folder / "rules.py"
    path.write_text("from funkenshield.rules import *\n@shield.rule(chain='responses')\ndef look(query): return None\n")
    return {"rules": str(path)}


@pytest.mark.parametrize("looked_at", [lambda _: {}, seen_by_python], ids=["no rules", "a rule of responses"])
def test_who_limits_its_rate_is_asked_over_tcp_when_it_is_silent(looked_at, tmp_path):
    """It truncates some of what is small, and drops the rest; others who are silent are not asked over TCP."""

    def dropping(query):
        return good(query) if query.transport == "tcp" else None

    def cutting(whole):
        return lambda query: whole(query) if query.transport == "tcp" else truncated(query)

    def large(query):
        return answer(query, *(f'TXT "{n} {"x" * 200}"' for n in range(30)))

    options = {"forward": SOON | {"deadline": 2.0}, "health": {"check": "off"}, **looked_at(tmp_path)}
    with behind(cutting(large), **options) as (shield, upstream):
        for script, told, times in (large, SERVFAIL, (3, 0)), (good, NOERROR, (1, 1)):
            upstream.handle = cutting(script)
            assert rcodes(ask_each(shield, names(1))) == {NOERROR: 1}
            upstream.handle = dropping
            (name,) = names(1)
            assert rcodes(ask_each(shield, [name])) == {told: 1}
            assert (upstream.count(name, transport="udp"), upstream.count(name, transport="tcp")) == times
