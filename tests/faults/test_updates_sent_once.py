"""Know that what takes long is waited for, and that what may change something at an upstream reaches one, once.

An UPDATE that nobody answers may have been carried out all the same (RFC 2136): it is not sent again, not to another.
"""

import contextlib
import time

import dns.edns
import dns.message
import dns.rcode
import dns.update
import pytest
from attacks.test_confused_deputy import notify, transfer, update
from support.rig import WithoutTcp, after, ask, asked, at_once, behind, counters, good, names, placed, rcode, silent
from support.upstream import Delayed, ScriptedUpstream, answer, respond

from faults.test_streams import Streaming, close_after_each_answer, close_at_the_first_query

NSID = dns.edns.GenericOption(3, b"")
HASTY = {"timeout": 0.2, "retry_after": 0.1, "deadline": 1.0, "policy": "order"}
LONG = 1.2  # seconds: longer than anybody's deadline
ALLOW = {"allow": {"updates": ["127.0.0.0/8"], "transfers": ["127.0.0.0/8"], "notifies": ["127.0.0.0/8"]}}


def status():
    return asked("example.test.", "A", flags="", opcode="STATUS")


def tkey():
    return dns.message.make_query("key.test.", "TKEY", "ANY")


ONCE = [update, notify, status, tkey]


def yes(query):
    """Say that it was done."""
    return respond(query)


def late(handle):
    return lambda query: Delayed(LONG, handle(query))


def forward(**options):
    return {**HASTY, **ALLOW, **options}


@pytest.fixture(scope="module", params=["udp", "tcp"])
def stand(request):
    """Yield a shield, and two upstreams that are asked one after the other, over one transport; one more is of a rule.

    What they do is said in the name, or as a test has it. By all means is another asked where it may be.
    """
    with contextlib.ExitStack() as stack:
        three = [stack.enter_context(ScriptedUpstream(silent)) for _ in range(3)]
        placing = [placed(each, transport=request.param) for each in three[:2]]
        placing.append(placed(three[2], transport=request.param, groups=["others"]))
        options = {
            "groups": [{"name": "others"}],
            "rules": [{"chain": "responses", "match": {"suffix": "moved.test"}, "action": {"forward": "others"}}],
            "health": {"check": "off", "fall": 100},
            "forward": forward(hedge=True, update_timeout=2.5),
        }
        yield stack.enter_context(behind(*placing, **options))


@pytest.fixture
def two(stand):
    """Return the two, which have heard nothing yet."""
    for each in stand[1:]:
        each.received.clear()
    return stand[1:3]


def heard(two):
    return sum(len(each.received) for each in two)


# ------------------------------------------------------------ what may be asked again


@pytest.mark.parametrize("options", [(), [NSID]], ids=["cached", "never cached"])
def test_the_answer_to_an_earlier_try_is_the_answer(stand, two, options):
    two[0].handle, two[1].handle = after(0.35, good), silent
    for tcp in False, True:
        (name,) = names(1)
        reply = ask(stand[0], dns.message.make_query(name, "A", options=list(options)), tcp=tcp)
        assert (rcode(reply), len(reply.answer)) == ("NOERROR", 1)
        assert (two[0].count(name) > 0, two[1].count(name) > 0) == (True, True)


# ------------------------------------------------------------ what is sent once


def asked_both_ways(shield, made):
    """Return what comes when each of these is asked over UDP and over TCP, all at once."""
    ways = [(each(), tcp) for each in made for tcp in (False, True)]
    return [rcode(each) for each in at_once(len(ways), lambda n: ask(shield, ways[n][0], tcp=ways[n][1], timeout=9))]


def test_it_is_waited_for_and_done_once(stand, two):
    two[0].handle = two[1].handle = late(yes)
    assert asked_both_ways(stand[0], ONCE) == ["NOERROR"] * 8
    assert heard(two) == 8


def test_where_nobody_answers_the_client_is_told_so_in_its_own_time(stand, two):
    two[0].handle = two[1].handle = silent
    start = time.monotonic()
    assert asked_both_ways(stand[0], ONCE) == ["SERVFAIL"] * 8
    assert time.monotonic() - start > 2.4
    assert heard(two) == 8


@pytest.mark.parametrize("code", ["SERVFAIL", "REFUSED", "YXDOMAIN"])
def test_the_outcome_is_what_the_one_says_who_was_asked(stand, two, code):
    two[0].handle = two[1].handle = lambda query: respond(query, dns.rcode.from_text(code))
    assert asked_both_ways(stand[0], [update]) == [code] * 2
    assert heard(two) == 2


def test_a_rule_for_responses_has_it_sent_to_nobody_else(stand, two):
    two[0].handle = two[1].handle = stand[3].handle = yes
    assert asked_both_ways(stand[0], [lambda: dns.update.UpdateMessage("moved.test.")]) == ["NOERROR"] * 2
    assert (heard(two), len(stand[3].received)) == (2, 0)
    assert rcode(ask(stand[0], "www.moved.test.")) == "NOERROR"
    assert len(stand[3].received) == 1, "a query is"


def test_a_connection_that_ends_before_the_answer_may_have_brought_it():
    with contextlib.ExitStack() as stack:
        two = [stack.enter_context(Streaming(close_at_the_first_query, yes)) for _ in range(2)]
        placing = [placed(one, transport="tcp") for one in two]
        shield, first, second = stack.enter_context(behind(*placing, forward=forward()))
        assert asked_both_ways(shield, ONCE) == ["SERVFAIL"] * 8
        assert heard([first, second]) == 8


def test_a_notify_that_is_heeded_is_sent_to_each_once_and_waited_for():
    """Over a connection that ends before the answer comes, it may have arrived."""
    with contextlib.ExitStack() as stack:
        closing = stack.enter_context(Streaming(close_at_the_first_query, yes))
        others = placed(late(yes), transport="tcp"), late(yes)
        options = {"allow_notify_from": ["127.0.0.1"], "zones": [{"name": "example.test."}], "forward": forward()}
        shield, *three = stack.enter_context(behind(placed(closing, transport="tcp"), *others, **options))
        assert rcode(ask(shield, notify())) == "NOERROR"
        assert [sum(query.message.opcode() == 4 for query in each.received) for each in three] == [1, 1, 1]


def test_where_it_cannot_have_arrived_another_is_asked():
    """It refuses connections: nothing can have been sent."""
    with WithoutTcp(yes) as gone, behind(placed(gone, transport="tcp"), yes, forward=forward()) as (shield, _, other):
        assert rcode(ask(shield, update())) == "NOERROR"
        assert (len(gone.received), len(other.received)) == (0, 1)


def test_a_connection_that_was_kept_and_is_closed_costs_no_update_its_answer():
    closing = placed(Streaming(close_after_each_answer, yes), transport="tcp")
    with closing.server as upstream, behind(closing, forward=forward()) as (shield, _):
        for _ in range(10):
            assert rcode(ask(shield, update())) == "NOERROR"
        assert len(upstream.received) == 10


@pytest.mark.parametrize("reachable", [False, True])
def test_who_comes_over_tcp_has_it_sent_over_tcp_where_that_is_to_be_had(reachable):
    """There nothing is lost on the way; what is lost could not be sent again."""
    make = ScriptedUpstream if reachable else WithoutTcp
    with make(yes) as upstream, behind(upstream, forward=forward()) as (shield, _):
        assert rcode(ask(shield, update(), tcp=True)) == "NOERROR"
        assert [query.transport for query in upstream.received] == ["tcp" if reachable else "udp"]


def test_that_it_takes_long_says_nothing_of_how_long_others_take():
    with behind(lambda query: (late(yes) if query.message.opcode() else good)(query), good, forward=forward()) as (
        shield, first, second,
    ):  # fmt: skip
        for _ in range(3):
            assert rcode(ask(shield, update())) == "NOERROR"
        assert counters(shield, first)["latency"]["p99"] == 0
        assert counters(shield, first)["state"] == "up"
        assert not second.received


# ------------------------------------------------------------ transfers


def zone_after(seconds):
    def handle(query):
        soa = "SOA . . 3 0 0 0 0"
        whole = answer(query, soa)
        whole.answer += answer(query, "A 192.0.2.1").answer + answer(query, soa).answer
        return Delayed(seconds, whole) if query.rdtype == 252 else respond(query)

    return handle


def test_a_transfer_may_take_its_time_to_begin():
    with behind(zone_after(LONG), silent, forward=forward()) as (shield, first, second):
        assert len(ask(shield, transfer("AXFR"), tcp=True).answer) == 2
        assert (first.count(transport="tcp"), len(second.received)) == (1, 0)


def test_a_transfer_that_does_not_begin_in_its_time_is_asked_of_another():
    with behind(silent, zone_after(0), forward=forward(transfer_timeout=1.0)) as (shield, first, second):
        assert len(ask(shield, transfer("AXFR"), tcp=True).answer) == 2
        assert (first.count(transport="tcp"), second.count(transport="tcp")) == (1, 1)
