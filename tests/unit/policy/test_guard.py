"""What stands before the rules: who may ask, how often, what goes out of a response, and who raises an alarm."""

import random

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.policy._guard import Guard

SECOND = 10**9
ALICE, BOB, CAROL = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 9]), bytes.fromhex("20010db8000000010000000000000001")
COOKIE = dns.edns.CookieOption(b"12345678", b"x" * 16)


@pytest.fixture
def guard():
    return Guard(1 << 16)


def response(name="www.example.org", rcode=dns.rcode.NOERROR, *, rdtype="A", options=None):
    """Return a response with an answer, if it is no error, and an OPT record, if there are options."""
    made = dns.message.make_response(dns.message.make_query(name, rdtype))
    if options is not None:
        made.use_edns(0, payload=1232, options=options)
    made.set_rcode(rcode)
    if rcode == dns.rcode.NOERROR:
        made.answer = [
            dns.rrset.from_text(f"{name}.", 60, "IN", rdtype, "192.0.2.80" if rdtype == "A" else "2001:db8::80")
        ]
    return made.to_wire()


def queries(guard, address, count, *, start=SECOND, step=0, **how):
    return [guard.admits(address, start + k * step, **how) for k in range(count)]


def sent(guard, address, wire, count, *, start=SECOND, step=0, **how):
    return [guard.releases(address, wire, start + k * step, **how) for k in range(count)]


# ---------------------------------------------------------------- access and blocks


def test_a_guard_that_is_asked_nothing_lets_everything_by(guard):
    assert set(queries(guard, ALICE, 100)) == {"welcome"}
    assert set(sent(guard, ALICE, b"", 3)) == {b""}
    assert guard.take_alarms() == []


def test_of_allowed_and_denied_prefixes_the_longest_decides(guard):
    guard.set_access([(bytes([10, 1, 0, 0]), 16)], [(bytes([10, 0, 0, 0]), 8)], default_allow=True, refuse=True)
    asked = [bytes([10, 1, 2, 3]), bytes([10, 2, 2, 3]), ALICE, CAROL]
    assert [guard.admits(address, SECOND) for address in asked] == ["welcome", "refuse", "welcome", "welcome"]


def test_who_is_on_no_list_gets_what_is_said_for_all_others(guard):
    guard.set_access([(ALICE, 32), (CAROL[:8] + bytes(8), 64)], [], default_allow=False, refuse=False)
    assert [guard.admits(address, SECOND) for address in (ALICE, CAROL, BOB)] == ["welcome", "welcome", "drop"]


def test_who_is_shut_out_gets_what_his_block_says_and_comes_in_when_it_ends(guard):
    guard.set_blocks([(ALICE, 32, "drop"), (BOB, 24, "truncate"), (CAROL, 64, "refuse")])
    assert [guard.admits(address, SECOND) for address in (ALICE, BOB, CAROL)] == ["drop", "truncate", "refuse"]
    assert guard.admits(BOB, SECOND, datagram=False) == "welcome"
    guard.set_blocks([])
    assert [guard.admits(address, SECOND) for address in (ALICE, BOB, CAROL)] == ["welcome"] * 3


# ---------------------------------------------------------------- limits


def test_each_limit_has_its_own_prefix_and_action(guard):
    guard.set_limits([(10, 1, 32, 128, "truncate"), (15, 1, 24, 64, "refuse")])
    assert queries(guard, ALICE, 12) == ["welcome"] * 10 + ["truncate"] * 2
    assert queries(guard, bytes([192, 0, 2, 2]), 7) == ["welcome"] * 5 + ["refuse"] * 2
    assert guard.admits(BOB, SECOND) == "welcome"
    assert guard.admits(ALICE, 2 * SECOND) == "welcome"


def test_by_tcp_a_limit_that_truncates_lets_in(guard):
    guard.set_limits([(5, 1, 32, 128, "truncate")])
    assert set(queries(guard, ALICE, 20, datagram=False)) == {"welcome"}
    assert guard.admits(ALICE, SECOND) == "truncate"


def test_another_setting_does_not_forget_who_asked_how_much(guard):
    guard.set_limits([(5, 1, 32, 128, "drop")])
    queries(guard, ALICE, 5)
    guard.set_access([], [(BOB, 32)], default_allow=True, refuse=True)
    guard.set_blocks([(CAROL, 64, "drop")])
    guard.set_limits([(5, 1, 32, 128, "refuse")])
    for _ in range(40):
        guard.set_dynblocks([])
    assert [guard.admits(address, SECOND) for address in (ALICE, BOB, CAROL)] == ["refuse", "refuse", "drop"]


@pytest.mark.parametrize("others", [[], [("queries", 1.0, 10.0, 32, 64, [])], [("octets", 1.0, 1.0, 32, 64, [])]])
def test_forged_sources_push_nobody_out_of_a_fast_limit_whatever_slow_ones_stand_beside_it(guard, others):
    guard.set_limits([(10.0, 0.5, 32, 64, "refuse"), (1000.0, 1.0, 8, 16, "drop")])
    guard.set_rrl(all=0.1, window=10, ipv4=32)
    guard.set_dynblocks(others)
    drawn, released = random.Random(5).randbytes(300_000), response()
    passed = 0
    for turn in range(100_000):  # in a second, each from somewhere else; and one who asks 1,000 times
        now = SECOND + turn * SECOND // 100_000
        forged = bytes([turn % 200 + 1]) + drawn[3 * turn : 3 * turn + 3]
        guard.admits(forged, now)
        if turn % 10 == 0:
            guard.releases(forged, released, now)
        if turn % 100 == 0:
            passed += guard.admits(CAROL, now) == "welcome"
    assert passed in range(14, 17)  # ten, and a burst of five


def test_limits_that_change_their_order_keep_what_was_counted(guard):
    one, other = (5, 1, 32, 128, "drop"), (8, 1, 32, 128, "refuse")
    guard.set_limits([one, one, other])
    assert queries(guard, ALICE, 6) == ["welcome"] * 5 + ["drop"]
    guard.set_limits([other, one, one])
    assert queries(guard, ALICE, 4) == ["drop"] * 3 + ["refuse"]


def test_more_limits_than_there_is_room_for(guard):
    with pytest.raises(ValueError, match="at most 8 limits"):
        guard.set_limits([(1, 1, 32, 128, "drop")] * 9)


# ---------------------------------------------------------------- responses


def test_equal_answers_are_limited_by_name_and_type_whatever_the_case(guard):
    guard.set_rrl(answers=5, window=1, slip=0)
    wires = [response("www.example.org"), response("WWW.Example.ORG")]
    assert [len(guard.releases(ALICE, wires[k % 2], SECOND)) > 0 for k in range(8)] == [True] * 5 + [False] * 3
    assert guard.releases(bytes([192, 0, 2, 77]), wires[0], SECOND) == b""  # of the same /24
    for other in (response("ftp.example.org"), response(rdtype="AAAA"), response(rcode=dns.rcode.NXDOMAIN)):
        assert guard.releases(ALICE, other, SECOND) == other
    assert guard.releases(BOB, wires[0], SECOND) == wires[0]


@pytest.mark.parametrize(
    ("limit", "rcode"), [("nxdomains", dns.rcode.NXDOMAIN), ("errors", dns.rcode.REFUSED), ("all", dns.rcode.NOERROR)]
)
def test_what_has_many_names_is_limited_by_prefix(guard, limit, rcode):
    guard.set_rrl(**{limit: 5}, window=1, slip=0)
    passed = [bool(guard.releases(ALICE, response(f"a{k}.example.org", rcode), SECOND)) for k in range(8)]
    assert passed == [True] * 5 + [False] * 3


def test_an_error_that_only_edns_has_room_for_is_one(guard):
    guard.set_rrl(errors=5, answers=1, window=1, slip=0)
    wires = [response(f"a{k}.example.org", dns.rcode.BADVERS, options=[COOKIE]) for k in range(8)]
    assert [bool(guard.releases(ALICE, wire, SECOND)) for wire in wires] == [True] * 5 + [False] * 3
    assert guard.releases(ALICE, response(options=[]), SECOND)


def test_a_flood_gets_a_burst_and_nothing_until_it_stops(guard):
    guard.set_rrl(answers=10, window=1, slip=0)
    passed = sent(guard, ALICE, response(), 1000, step=SECOND // 100)
    assert sum(map(bool, passed)) in range(10, 13)
    assert guard.releases(ALICE, response(), 14 * SECOND)


def test_who_is_where_he_says_he_is_and_who_is_exempt_are_not_limited(guard):
    guard.set_rrl(answers=1, window=1, slip=0, exempt=[(BOB, 24)])
    assert all(sent(guard, ALICE, response(), 9, datagram=False))
    assert all(sent(guard, ALICE, response(), 9, proven=True))
    assert all(sent(guard, BOB, response(), 9))
    assert not all(sent(guard, ALICE, response(), 9))


@pytest.mark.parametrize("slip", [1, 2, 5])
def test_one_in_so_many_slips_for_two_clients_that_come_in_turn(guard, slip):
    guard.set_rrl(answers=1, window=1, slip=slip)
    wire = response()
    slipped = {ALICE: 0, BOB: 0}
    for address in slipped:
        guard.releases(address, wire, SECOND)
    for turn in range(2000):
        address = (ALICE, BOB)[turn % 2]
        slipped[address] += bool(guard.releases(address, wire, SECOND, before=turn))
    assert all(abs(count - 1000 / slip) <= 10 for count in slipped.values())


@pytest.mark.parametrize("options", [None, [], [COOKIE]])
def test_what_slips_has_its_question_its_cookie_and_nothing_else(guard, options):
    guard.set_rrl(answers=1, window=1, slip=1)
    whole = dns.message.from_wire(response(options=options))
    slipped = dns.message.from_wire(sent(guard, ALICE, whole.to_wire(), 2)[1])
    assert slipped.flags == whole.flags | dns.flags.TC
    assert (slipped.id, slipped.question) == (whole.id, whole.question)
    assert not slipped.answer + slipped.authority + slipped.additional
    assert (slipped.edns, slipped.payload, slipped.options) == (whole.edns, whole.payload, whole.options)


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: response(options=[COOKIE])[:45] + tail))
def test_whatever_comes_is_cut_to_something_that_is_no_longer(octets):
    guard = Guard(4096)
    guard.set_rrl(all=0.001, window=1, slip=1)
    first, truncated = sent(guard, ALICE, octets, 2)
    assert first == octets
    assert len(truncated) <= len(octets)
    if len(octets) >= 12:
        assert truncated[:2] == octets[:2]
        assert truncated[2] & 2
        assert truncated[6:10] == bytes(4)
        assert len(truncated) > 12 or truncated[4:12] == bytes(8)


# ---------------------------------------------------------------- alarms


def test_twice_the_rate_raises_an_alarm_after_so_many_seconds(guard):
    guard.set_dynblocks([("queries", 10, 5, 24, 64, [])])
    queries(guard, ALICE, 95, step=SECOND // 20)
    assert guard.take_alarms() == []
    assert set(queries(guard, ALICE, 20, start=SECOND * 575 // 100, step=SECOND // 20)) == {"welcome"}
    assert guard.take_alarms() == [(0, bytes([192, 0, 2, 0]), 24)]
    assert guard.take_alarms() == []


def test_what_is_refused_to_who_is_shut_out_does_not_prolong_that(guard):
    guard.set_dynblocks([("octets", 10.0, 1.0, 32, 64, [])])
    refused = bytes.fromhex("0001800500010000000000000161000001") + bytes(1)
    for _ in range(5):
        guard.releases(bytes([192, 0, 2, 1]), refused, 10**9)
    assert len(guard.take_alarms()) == 1
    guard.set_blocks([(bytes([192, 0, 2, 1]), 32, "refuse")])
    for _ in range(5):
        guard.releases(bytes([192, 0, 2, 1]), refused, 10**9)
    assert guard.take_alarms() == []


def test_an_alarm_that_was_taken_is_raised_again_by_who_goes_on(guard):
    guard.set_dynblocks([("queries", 1, 1, 32, 64, [])])
    for _ in range(3):
        queries(guard, CAROL, 5)
        assert guard.take_alarms() == [(0, CAROL[:8] + bytes(8), 64)]


@pytest.mark.parametrize(
    ("what", "rcode"), [("nxdomains", dns.rcode.NXDOMAIN), ("servfails", dns.rcode.SERVFAIL), ("octets", None)]
)
def test_what_is_answered_is_counted_over_every_transport(guard, what, rcode):
    counted = response(rcode=dns.rcode.NOERROR if rcode is None else rcode)
    rate = 5 * len(counted) if what == "octets" else 5
    guard.set_dynblocks([(what, rate, 1, 32, 64, [(BOB, 32)]), ("queries", 5, 1, 32, 64, [])])
    if what != "octets":
        sent(guard, ALICE, response(), 50)
    for address in (ALICE, BOB):
        assert sent(guard, address, counted, 5, datagram=False) == [counted] * 5
    assert guard.take_alarms() == []
    for address in (ALICE, BOB):
        sent(guard, address, counted, 1, datagram=False, proven=True)
    assert guard.take_alarms() == [(0, ALICE, 32)]


def test_an_alarm_is_told_for_its_watch_or_for_none(guard):
    fast, slow = ("queries", 100, 1, 32, 64, []), ("queries", 5, 1, 24, 64, [])
    guard.set_dynblocks([fast, slow])
    queries(guard, ALICE, 6)
    guard.set_dynblocks([slow, fast])
    assert guard.take_alarms() == [(0, bytes([192, 0, 2, 0]), 24)]
    queries(guard, ALICE, 1)
    guard.set_dynblocks([fast])
    assert guard.take_alarms() == []


def test_queries_over_a_limit_count_but_those_of_who_is_shut_out_do_not(guard):
    guard.set_limits([(1, 1, 32, 64, "drop")])
    guard.set_dynblocks([("queries", 5, 1, 32, 64, [])])
    guard.set_blocks([(BOB, 32, "drop")])
    for address in (ALICE, BOB):
        queries(guard, address, 10)
    assert guard.take_alarms() == [(0, ALICE, 32)]


def test_many_alarms_at_once_are_each_told_once_and_none_is_lost_for_good(guard):
    guard.set_dynblocks([("queries", 1, 1, 32, 64, [])])
    sources = [bytes([10, 0, k // 256, k % 256]) for k in range(400)]
    told = set()
    for _ in range(20):
        for source in sources:
            queries(guard, source, 3)
        taken = [address for _, address, _ in guard.take_alarms()]
        assert len(taken) == len(set(taken)) <= 256
        told |= set(taken)
        guard.set_blocks([(address, 32, "drop") for address in told])
    assert told == set(sources)
