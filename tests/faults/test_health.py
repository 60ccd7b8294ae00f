"""Know when an upstream is marked down and up, how it is checked, and what is logged."""

import re
import time

import pytest
from support.control import stats
from support.rig import (
    NOERROR,
    PATIENT,
    REFUSED,
    SERVFAIL,
    SOON,
    after,
    answerers,
    ask_each,
    behind,
    counters,
    failing,
    good,
    names,
    numbered,
    placed,
    rcodes,
    silent,
)
from support.stopwatch import Stopwatch
from support.until import until

from faults.test_policies import reconfigure

CHECK = "check.test."
OFTEN = {"name": CHECK, "interval": 0.1, "max_backoff": 0.4, "timeout": 0.2, "slow_start": 0}
ALWAYS = {"check": "always", **OFTEN}
PATIENTLY = {"timeout": 5.0}  # checks of who is never silent


def checks(upstream):
    """Return how often an upstream was checked."""
    return upstream.count(CHECK)


def asked(upstream):
    """Return how often an upstream was asked by clients."""
    return len(upstream.received) - checks(upstream)


def is_up(shield, upstream):
    return counters(shield, upstream)["state"].startswith("up")


def is_down(shield, upstream):
    return counters(shield, upstream)["state"].startswith("down")


def told(shield, upstream):
    """Return how often the log says that an upstream is marked down, and that it is marked up."""
    lines = [line for line in shield.log.splitlines() if str(upstream.address) in line]
    return [sum(bool(re.search(words, line)) for line in lines) for words in ("marked down", "marked up")]


def but_for_checks(script, check):
    """Return a script that does one thing with clients' queries, and another with checks."""
    return lambda query: check(query) if query.name.to_text().lower() == CHECK else script(query)


# ------------------------------------------------------------ always


def test_a_check_finds_out_before_any_client_does():
    with behind(good, placed(good, health=PATIENTLY), health=ALWAYS) as (shield, first, second):
        until(lambda: min(checks(first), checks(second)) >= 3)
        assert is_up(shield, first)
        first.handle = silent
        until(lambda: is_down(shield, first))
        assert is_up(shield, second)
        before = asked(first)
        assert rcodes(ask_each(shield, names(100))) == {NOERROR: 100}
        assert asked(first) == before == 0
        first.handle = good
        until(lambda: is_up(shield, first))
        assert rcodes(ask_each(shield, names(100))) == {NOERROR: 100}
        assert 40 <= asked(first) <= 60
        assert told(shield, first) == [1, 1]
        assert told(shield, second) == [0, 0]


def test_it_falls_after_so_many_checks_and_rises_after_so_many():
    health = {**ALWAYS, "max_backoff": 0.1, "timeout": 0.1, "fall": 4, "rise": 3}
    with behind(good, good, health=health) as (shield, first, _):
        until(lambda: checks(first) >= 2)
        first.handle = silent
        before = checks(first)
        until(lambda: is_down(shield, first))
        assert 4 <= checks(first) - before <= 6
        first.handle = good
        before = checks(first)
        until(lambda: is_up(shield, first))
        assert 3 <= checks(first) - before <= 5


def test_one_check_that_fails_is_no_news():
    lost = []

    def lossy(query):
        lost.append(query)
        return silent(query) if len(lost) % 3 == 0 else good(query)

    with behind(but_for_checks(good, lossy), good, health=ALWAYS | {"timeout": 0.1}) as (shield, first, _):
        until(lambda: checks(first) >= 9)
        assert is_up(shield, first)
        assert told(shield, first) == [0, 0]


def test_which_responses_prove_it_well():
    cases = [
        (NOERROR, {}, True),
        (REFUSED, {}, True),
        (SERVFAIL, {}, False),
        (REFUSED, {"rcodes": ["NOERROR"]}, False),
        (SERVFAIL, {"rcodes": ["NOERROR", "SERVFAIL"]}, True),
    ]
    upstreams = [placed(but_for_checks(good, failing(rcode)), health=health) for rcode, health, _ in cases]
    with behind(*upstreams, health=ALWAYS | PATIENTLY) as (shield, *running):
        until(lambda: min(map(checks, running)) >= 5)
        assert [is_up(shield, one) for one in running] == [well for _, _, well in cases]


def test_checks_ask_for_what_is_configured_and_each_upstream_may_differ():
    own = placed(good, health={"name": "other.test", "type": "NS"})
    off = placed(good, health={"check": "off"})
    with behind(good, own, off, health=ALWAYS | {"type": "TXT"}) as (_, first, second, third):
        until(lambda: min(first.count(CHECK, "TXT"), second.count("other.test.", "NS")) >= 3)
        assert first.count() == first.count(CHECK, "TXT")
        assert second.count() == second.count("other.test.", "NS")
        assert third.count() == 0


def test_a_check_goes_the_way_that_queries_go():
    with behind(placed(good), placed(good, transport="tcp"), health=ALWAYS | PATIENTLY) as (shield, datagrams, stream):
        until(lambda: min(checks(datagrams), checks(stream)) >= 3)
        assert (datagrams.count(transport="tcp"), stream.count(transport="udp")) == (0, 0)
        assert is_up(shield, datagrams)
        assert is_up(shield, stream)


def test_checks_that_get_wrong_answers_fail():
    def forged(query):
        wire = good(query)
        return bytes([wire[0] ^ 1]) + wire[1:]

    with behind(forged, placed(good, health=PATIENTLY), health=ALWAYS) as (shield, first, second):
        until(lambda: is_down(shield, first))
        assert is_up(shield, second)


def test_checks_are_not_counted_as_clients():
    with behind(good, health=ALWAYS) as (shield, upstream):
        until(lambda: checks(upstream) >= 5)
        found = stats(shield)
        assert (found["queries"], found["cache_misses"], found["resolution_failures"]) == (0, 0, 0)


# ------------------------------------------------------------ lazy


def test_while_all_is_well_nobody_is_checked():
    with behind(good, good, health=OFTEN) as (shield, *both):
        for _ in range(3):
            assert rcodes(ask_each(shield, names(40))) == {NOERROR: 40}
            time.sleep(0.2)
        assert [checks(one) for one in both] == [0, 0]


def test_who_fails_is_checked_and_asked_again_when_checks_succeed():
    with behind(good, good, forward=SOON, health=OFTEN) as (shield, first, second):
        first.handle = silent
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        until(lambda: is_down(shield, first))
        until(lambda: checks(first) >= 3)
        before = asked(first)
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        assert asked(first) == before
        first.handle = good
        until(lambda: is_up(shield, first))
        checked = checks(first)
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        assert asked(first) > before
        time.sleep(0.5)
        assert checks(first) == checked
        assert checks(second) == 0
        assert told(shield, first) == [1, 1]


def test_while_checks_fail_they_become_rarer():
    health = OFTEN | {"timeout": 0.05}
    with behind(silent, good, forward=SOON, health=health) as (shield, mute, _):
        ask_each(shield, names(60))
        until(lambda: is_down(shield, mute))
        before = checks(mute)
        time.sleep(1.5)  # 0.2 + 0.4 + 0.4 + 0.4, and a timeout each; without a backoff there were ten
        assert 2 <= checks(mute) - before <= 5


def test_its_share_comes_back_little_by_little():
    health = OFTEN | {"slow_start": 2.0}
    with behind(numbered(1), numbered(2), forward=SOON, health=health) as (shield, first, _):
        first.handle = silent
        ask_each(shield, names(60))
        until(lambda: is_down(shield, first))
        first.handle = numbered(1)
        until(lambda: not is_down(shield, first))
        start = time.monotonic()
        stopwatch = Stopwatch()
        early = answerers(ask_each(shield, names(100)))
        assert stopwatch.seconds() < 0.6
        assert early[1] < 35
        until(lambda: time.monotonic() > start + 1.0)
        later = answerers(ask_each(shield, names(100)))
        until(lambda: time.monotonic() > start + 2.3)
        whole = answerers(ask_each(shield, names(100)))
        assert whole[1] == pytest.approx(50, abs=5)
        assert early[1] < later[1] <= whole[1]


# ------------------------------------------------------------ what queries say


def test_who_answers_less_than_half_is_left_alone_although_never_silent_for_long():
    """Two of three go unanswered, never as many in a row as would be silence; checks are answered."""
    turn = []

    def lossy(query):
        turn.append(query)
        return good(query) if len(turn) % 3 == 0 else silent(query)

    health = OFTEN | {"fall": 50, "min_samples": 20, "window": 5.0, "rise": 100, "interval": 1.0}
    with behind(but_for_checks(lossy, good), good, forward=SOON, health=health) as (shield, first, second):
        assert rcodes(ask_each(shield, names(150))) == {NOERROR: 150}
        until(lambda: is_down(shield, first))
        before = asked(first)
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        assert asked(first) == before
        assert is_up(shield, second)


def test_a_few_queries_are_no_share():
    health = OFTEN | {"fall": 50, "min_samples": 1000}
    with behind(failing(SERVFAIL), good, health=health) as (shield, bad, _):
        assert rcodes(ask_each(shield, names(100))) == {NOERROR: 100}
        time.sleep(0.3)
        assert is_up(shield, bad)
        assert asked(bad) == 50


def test_a_storm_of_server_failures_is_left_alone_and_comes_back_with_good_checks():
    health = OFTEN | {"min_samples": 10, "window": 2.0}
    with behind(failing(SERVFAIL), good, health=health) as (shield, bad, _):
        assert rcodes(ask_each(shield, names(100))) == {NOERROR: 100}
        until(lambda: is_down(shield, bad))
        until(lambda: checks(bad) >= 2)
        before = asked(bad)
        assert rcodes(ask_each(shield, names(50))) == {NOERROR: 50}
        assert asked(bad) == before
        bad.handle = good
        until(lambda: is_up(shield, bad))
        assert rcodes(ask_each(shield, names(50))) == {NOERROR: 50}
        assert asked(bad) > before


def test_refusals_are_no_illness():
    with behind(failing(REFUSED), good, health=OFTEN | {"min_samples": 10}) as (shield, refusing, _):
        assert rcodes(ask_each(shield, names(100))) == {NOERROR: 100}
        time.sleep(0.3)
        assert is_up(shield, refusing)
        assert (asked(refusing), checks(refusing)) == (50, 0)


def test_when_all_are_ill_they_are_asked_all_the_same():
    """All that is known may be wrong: a client's query may be the first that is answered again."""
    health = OFTEN | {"check": "off", "interval": 60}
    with behind(silent, silent, forward={"timeout": 0.1, "deadline": 0.3}, health=health) as (shield, *both):
        for _ in range(3):
            assert rcodes(ask_each(shield, names(20))) == {SERVFAIL: 20}
        until(lambda: not any(is_up(shield, one) for one in both))
        for one in both:
            one.handle = good
        reconfigure(shield, [(one, {}) for one in both], forward=PATIENT, health=health)
        assert rcodes(ask_each(shield, names(20))) == {NOERROR: 20}


def test_a_client_that_asks_for_what_is_slow_to_answer_makes_nobody_ill():
    """One name takes long, whoever is asked; a hundred others are answered at once: no upstream is marked down."""

    def slow_for_some(query):
        return silent(query) if b"slow" in query.wire.lower() else good(query)

    health = OFTEN | {"check": "off"}
    with behind(slow_for_some, slow_for_some, forward=SOON | {"deadline": 1.0}, health=health) as (shield, *both):
        for n in range(3):
            assert rcodes(ask_each(shield, [f"slow{n}.test.", *names(30)]))[NOERROR] == 30
        assert all(is_up(shield, one) for one in both)


def test_what_is_told_of_an_upstream():
    """Of each: what was sent and came, how long that took, and how it is."""
    slow, quick = after(0.06, good), placed(failing(REFUSED), name="front desk")
    with behind(slow, quick) as (shield, first, _):
        assert rcodes(ask_each(shield, names(60))) == {NOERROR: 60}
        found = stats(shield)["upstreams"]
        (of_slow,) = (told for key, told in found.items() if str(first.address) in key)
        (of_quick,) = (told for key, told in found.items() if "front desk" in key)
        assert (of_slow["queries"], of_slow["responses"], of_slow["rcodes"]) == (60, 60, {"NOERROR": 60})
        assert of_quick["queries"] == of_quick["responses"] == of_quick["rcodes"]["REFUSED"] == pytest.approx(30, abs=5)
        for told_of in of_slow, of_quick:
            errors = {
                key: told_of[key]
                for key in ("timeouts", "network_errors", "unexpected_replies", "outstanding_queries", "hedged_queries")
            }
            assert errors == dict.fromkeys(errors, 0)
            assert told_of["state"] == "up"
            assert told_of["latency"]["p50"] <= told_of["latency"]["p95"] <= told_of["latency"]["p99"] < 0.5
        assert of_slow["latency"]["p50"] > 0.05 > of_quick["latency"]["p50"] > 0
