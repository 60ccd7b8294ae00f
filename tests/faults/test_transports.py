"""Know that an upstream whose one transport is broken serves everybody by the other, and that nobody is blamed for it.

Whatever a client came by, its query goes over UDP first; over TCP goes what UDP cannot answer.
"""

from concurrent.futures import ThreadPoolExecutor

import dns.edns
import dns.flags
import dns.message
import pytest
from support import quick
from support.client import ask
from support.pipeline import ask_all
from support.rig import (
    HASTY,
    NOERROR,
    SERVFAIL,
    SOON,
    WithoutTcp,
    after,
    ask_each,
    at_once,
    behind,
    counters,
    good,
    names,
    numbered,
    placed,
    rcode,
    rcodes,
    silent,
)
from support.until import until
from support.upstream import ScriptedUpstream, answer, truncated

from faults.test_streams import LARGE, Streaming, close_at_the_first_query, hang_up, say_nothing, truncating

NSID = dns.edns.GenericOption(3, b"")
transports = pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])


def refusing(handle):
    return WithoutTcp(handle)


def closing(handle):
    return Streaming(hang_up, handle)


def closing_when_asked(handle):
    return Streaming(close_at_the_first_query, handle)


def mute(handle):
    return Streaming(say_nothing, handle)


BROKEN = [refusing, closing, closing_when_asked, mute]


def over_tcp_alone(query):
    return good(query) if query.transport == "tcp" else None


# ------------------------------------------------------------ TCP is broken


def by_name(query):
    """Answer late, or truncated over UDP, where the name says so."""
    text = query.name.to_text().lower()
    if text.startswith("large"):
        return truncating(query)
    return after(0.2, good)(query) if text.startswith("slow") else good(query)


RULES = [
    {"match": {"suffix": "old.test"}, "action": {"rename": {"old": "old.test", "new": "new.test"}}},
    {"match": {"suffix": "more.test"}, "action": {"add_option": {"code": 65001, "data": "00"}}},
    {"chain": "responses", "match": {"suffix": "elsewhere.test"}, "action": {"forward": "default"}},
]


@pytest.fixture(scope="module", params=BROKEN, ids=lambda make: make.__name__)
def stand(request):
    """Yield a shield, and its upstream whose TCP is broken; what ends in elsewhere.test is first asked of a well one.

    The least sign of illness is enough for an upstream to be left alone.
    """
    with request.param(by_name) as upstream:
        options = {
            "groups": [{"name": "well"}],
            "zones": [{"name": "elsewhere.test.", "group": "well"}],
            "rules": RULES,
            "health": {"fall": 1, "check": "off"},
            "forward": {"timeout": 2.0, "deadline": 2.5},
        }
        with behind(upstream, placed(truncating, groups=["well"]), **options) as (shield, _, other):
            yield shield, upstream, other


@pytest.fixture(autouse=True)
def _is_well(request):
    """Nothing is held against the upstream, whatever was asked."""
    yield
    if "stand" in request.fixturenames:
        shield, upstream, _ = request.getfixturevalue("stand")
        found = counters(shield, upstream)
        assert (found["state"], found["timeouts"], found["network_errors"]) == ("up", 0, 0)


def test_who_comes_over_tcp_is_answered_from_udp(stand):
    shield, upstream, _ = stand
    asked = names(20)
    assert rcodes(ask_each(shield, asked, tcp=True)) == {NOERROR: 20}
    assert [upstream.count(name, transport="udp") for name in asked] == [1] * 20
    assert not any(upstream.count(name, transport="tcp") for name in asked)


def test_who_asks_a_popular_name_over_tcp_takes_it_from_nobody(stand):
    shield, upstream, _ = stand
    name = f"slow.{names(1)[0]}"
    replies = at_once(49, lambda n: ask_each(shield, [name], tcp=not n)[0])
    replies += ask_each(shield, [name])
    assert rcodes(replies) == {NOERROR: 50}
    assert upstream.count(name) == upstream.count(name, transport="udp") == 1


def test_who_asks_for_what_is_not_cached_is_answered_too(stand):
    shield, upstream, _ = stand
    (name,) = names(1)
    assert ask(name, server=shield, tcp=True, options=[NSID]).answer
    assert upstream.count(name) == upstream.count(name, transport="udp") == 1


def test_what_is_too_large_for_udp_fails_for_whom_it_is_and_nothing_else_does(stand):
    """Over UDP it is told that it is large; over TCP nothing can be told. That it failed is not kept."""
    shield, upstream, _ = stand
    failed = counters(shield, upstream)["tcp_fallback_failures"]
    name = f"large.{names(1)[0]}"
    assert rcode(ask(name, "TXT", server=shield, tcp=True)) == "SERVFAIL"
    reply = ask(name, "TXT", server=shield)
    assert (rcode(reply), bool(reply.flags & dns.flags.TC)) == ("NOERROR", True)
    assert upstream.count(name, transport="udp") == 2
    assert counters(shield, upstream)["tcp_fallback_failures"] >= failed + 2


def test_a_rule_that_asks_on_is_answered_from_udp(stand):
    """And so is one that sends the query to others, though elsewhere it was to be had over TCP alone."""
    shield, upstream, other = stand
    (name,) = names(1)
    for ending in "old", "more", "elsewhere":
        assert ask(name.replace("test.", f"{ending}.test."), server=shield).answer, ending
    assert other.count(name.replace("test.", "elsewhere.test."), transport="tcp") == 1
    for ending in "new", "more", "elsewhere":
        each = name.replace("test.", f"{ending}.test.")
        assert upstream.count(each) == upstream.count(each, transport="udp") == 1


# ------------------------------------------------------------ what only TCP can carry


@pytest.mark.parametrize("options", [(), [NSID]], ids=["cached", "never cached"])
@pytest.mark.parametrize("retry", [True, False])
def test_who_comes_over_tcp_gets_all_that_did_not_fit(retry, options):
    with behind(truncating, forward={"retry_truncated": retry}) as (shield, upstream):
        asked = names(5)
        made = [dns.message.make_query(name, "TXT", options=list(options)).to_wire() for name in asked]
        replies = [dns.message.from_wire(wire) for wire in ask_all(shield, made, tcp=True)]
        assert [len(reply.answer[0]) for reply in replies] == [30] * 5
        assert not any(reply.flags & dns.flags.TC for reply in replies)
        for transport in "udp", "tcp":
            assert [upstream.count(name, "TXT", transport) for name in asked] == [1] * 5
        kept = dns.message.from_wire(ask_all(shield, made[:1])[0])
        assert kept.flags & dns.flags.TC
        assert upstream.count(asked[0], transport="udp") == 2 - (not options), "what may be kept is kept whole"


def test_who_comes_over_tcp_and_waits_behind_one_over_udp_gets_all():
    def slowly(query):
        return after(0.2, truncated)(query) if query.transport == "udp" else answer(query, *LARGE)

    (name,) = names(1)
    with behind(slowly, forward={"retry_truncated": False}) as (shield, upstream):
        with ThreadPoolExecutor(1) as pool:
            over_udp = pool.submit(ask, name, "TXT", server=shield)
            upstream.wait_for(1)
            assert len(ask(name, "TXT", server=shield, tcp=True).answer[0]) == 30
            assert over_udp.result().flags & dns.flags.TC
        assert (upstream.count(name, transport="udp"), upstream.count(name, transport="tcp")) == (1, 1)


def test_what_is_never_cached_and_the_upstream_cuts_shorter_than_we_do_is_fetched():
    """`forward.retry_truncated` is for what is passed on, too: over UDP we have room for what was left out."""

    def stingy(query):
        return truncated(query) if query.transport == "udp" else answer(query, *LARGE[:3])

    with behind(stingy) as (shield, upstream):
        (name,) = names(1)
        reply = ask(name, "TXT", server=shield, options=[NSID])
        assert (bool(reply.flags & dns.flags.TC), len(reply.answer[0])) == (False, 3)
        assert (upstream.count(name, transport="udp"), upstream.count(name, transport="tcp")) == (1, 1)


# ------------------------------------------------------------ UDP is broken


@pytest.mark.parametrize("options", [(), [NSID]], ids=["cached", "never cached"])
def test_who_comes_over_tcp_is_answered_over_tcp_where_udp_is_silent(options):
    with behind(over_tcp_alone, forward=SOON) as (shield, upstream):
        (name,) = names(1)
        assert ask(name, server=shield, tcp=True, options=options).answer
        assert (upstream.count(name, transport="udp"), upstream.count(name, transport="tcp")) == (2, 1)
        if not options:
            assert ask(name, server=shield).answer, "then it is there for all"


@transports
def test_of_two_the_one_that_is_well_over_udp_is_asked_over_udp(tcp):
    with behind(over_tcp_alone, numbered(2), forward=SOON) as (shield, first, second):
        asked = names(6)
        assert rcodes(ask_each(shield, asked, tcp=tcp)) == {NOERROR: 6}
        assert [second.count(name, transport="udp") for name in asked] == [1] * 6
        assert first.count(transport="tcp") == second.count(transport="tcp") == 0


def test_silence_over_udp_is_held_against_an_upstream_that_answers_over_tcp():
    with behind(over_tcp_alone, forward=SOON, health={"check": "off", "min_samples": 8}) as (shield, upstream):
        assert rcodes(ask_each(shield, names(4), tcp=True)) == {NOERROR: 4}
        until(lambda: counters(shield, upstream)["state"] == "down")


def test_when_neither_answers_the_client_is_told_and_it_is_remembered():
    with ScriptedUpstream(silent) as upstream, behind(upstream, forward=HASTY) as (shield, _):
        (name,) = names(1)
        for _ in range(2):
            assert rcodes(ask_all(shield, [quick.query(name, quick.A)], tcp=True)) == {SERVFAIL: 1}
        assert upstream.count(name) == 3
