"""Show when unsolicited replies bring an upstream under suspicion, and what its responses are worth then."""

import logging
from struct import pack

import pytest
from support.path import LIE, TRUTH, headers_only, two_ports, without_tcp
from support.quick import QR, RD, TXT, A, answer, query


@pytest.mark.parametrize("bound", [1, 3, 8])
def test_so_many_unsolicited_replies_bring_the_upstream_under_suspicion_for_every_name_and_one_fewer_do_not(
    path, bound
):
    shield = path(sockets=2, spoof_threshold=bound)
    one, other = two_ports(shield)
    shield.flood(one, bound - 1)
    shield.answer(other)
    assert (shield.carried(other), shield.suspicions) == (0, 0)
    (name,) = shield.fresh()
    (innocent,) = shield.ask(name)
    assert innocent.port == other.port or bound == 1
    shield.flood(one, 1)
    while shield.heard_anything():
        pass
    shield.answer(innocent, truth=LIE)
    assert shield.heard(query(name, A)) is None
    assert shield.carried(innocent) == 1
    assert (shield.heard(query(name, A)), shield.suspicions) == (TRUTH, 1)
    assert shield.miss_path.counters()["spoof_suspected"] == 1


def test_nothing_that_a_client_sees_tells_which_name_was_guessed_at(path):
    """Unsolicited replies that name one question, and an innocent one: both take the same way."""
    shield = path(sockets=2)
    (guessed,), (innocent,) = shield.ask(*shield.fresh()), shield.ask(*shield.fresh())
    shield.flood(guessed, 3)
    for each in (guessed, innocent):
        shield.answer(each)
        assert shield.carried(each) == 1


def test_suspicion_lasts_for_four_to_six_minutes_and_nobody_knows_how_long(path):
    shield, lasted = path(), []
    for _ in range(40):
        (asked,) = shield.ask(*shield.fresh())
        shield.flood(asked, 3)
        lasted.append(shield.table.suspected_until(0) - shield.clock.seconds())
        shield.answer(asked)
        assert shield.carried(asked) == 1
        shield.upstream.replace_known_ports()
        for passed, over_tcp in ((239.0, 1), (121.1, 0)):
            shield.clock.advance(passed)
            (asked,) = shield.ask(*shield.fresh())
            shield.answer(asked)
            assert shield.carried(asked) == over_tcp
    assert all(239.9 < seconds < 360.1 for seconds in lasted)
    assert max(lasted) - min(lasted) > 60
    assert shield.suspicions == 40


def test_suspicion_goes_on_while_unsolicited_replies_do(path):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 3)
    shield.clock.advance(200)
    shield.flood(asked, 1)
    shield.clock.advance(239)
    shield.upstream.replace_known_ports()
    (later,) = shield.ask(*shield.fresh())
    shield.answer(later)
    assert (shield.carried(later), shield.suspicions) == (1, 1)


@pytest.mark.parametrize(("apart", "suspicions"), [(299, 1), (301, 0)])
def test_unsolicited_replies_within_five_minutes_are_counted_together(path, apart, suspicions):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 2)
    shield.clock.advance(apart)
    shield.flood(asked, 2 if apart > 300 else 1)
    assert (shield.unsolicited, shield.suspicions) == (2 + (2 if apart > 300 else 1), suspicions)


def test_suspicion_is_told_once_when_it_begins(path, caplog):
    shield = path()
    with caplog.at_level(logging.WARNING):
        (asked,) = shield.ask(*shield.fresh())
        shield.flood(asked, 2)
        shield.upstream.housekeeping()
        assert (caplog.messages, shield.upstream.counters()["tcp_verification_active"]) == ([], 0)
        shield.flood(asked, 100)
        for _ in range(3):
            shield.upstream.housekeeping()
    assert (len(caplog.messages), shield.upstream.counters()["tcp_verification_active"]) == (1, 1)
    assert "spoofing suspected, 102 unsolicited replies" in caplog.messages[0]
    shield.clock.advance(361)
    assert shield.upstream.counters()["tcp_verification_active"] == 0


def test_where_the_operator_says_never_no_flood_changes_the_transport(path):
    shield = path(spoof_threshold=0)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 40)
    shield.answer(asked)
    assert (shield.carried(asked), shield.unsolicited, shield.suspicions) == (0, 40, 0)


def test_while_it_is_asked_for_over_tcp_nothing_over_udp_is_believed(path):
    shield = path(timeout=1.0)
    (name,) = shield.fresh()
    (first,) = shield.ask(name)
    shield.clock.advance(1.1)
    shield.miss_path.tick()
    shield.miss_path.send()
    (second,) = shield.arrived(1)
    shield.flood(first, 3)
    shield.answer(second, first, truth=LIE)
    assert (shield.heard(query(name, A)), shield.carried(first)) == (None, 1)
    assert (shield.heard(query(name, A)), shield.miss_path.pending_queries) == (TRUTH, 0)


def test_a_right_guess_without_a_question_is_not_believed_either(path):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 3)
    shield.say(asked.port, headers_only(asked, 5))
    assert shield.carried(asked) == 1


def test_where_tcp_cannot_be_had_what_came_serves_those_who_wait_and_is_not_kept(path):
    shield = path(attempts=1)
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    shield.hand_over(name)
    shield.flood(asked, 3)
    for _ in range(2):
        shield.say(asked.port, answer(asked.wire, TRUTH, rdtype=A, ttl=300))
        assert without_tcp(shield) == 1
        assert shield.heard(query(name, A)) == TRUTH
        while shield.heard_anything():
            pass
        assert shield.miss_path.pending_queries == 0
        (asked,) = shield.ask(name)


def test_what_served_for_want_of_tcp_takes_no_memory_any_more(path):
    shield = path(attempts=1)
    (asked,) = shield.ask(*shield.fresh(), rdtype=TXT)
    shield.flood(asked, 3)
    for _ in range(300):  # of 60,000 octets each: more than may be kept at once
        shield.say(asked.port, answer(asked.wire, bytes(60000)))
        assert without_tcp(shield) == 1
        assert shield.client.recv(512)[3] & 15 == 0
        shield.upstream.replace_known_ports()
        (asked,) = shield.ask(*shield.fresh(), rdtype=TXT)


def test_suspicion_makes_nobody_ill_who_has_no_tcp(path):
    shield = path(attempts=1)
    for turn in range(20):
        (asked,) = shield.ask(*shield.fresh())
        shield.flood(asked, 0 if turn else 3)
        shield.answer(asked)
        assert without_tcp(shield) == 1
        shield.upstream.replace_known_ports()
    answered, unanswered, _, silent, _ = shield.table.signals(0)
    assert (answered, unanswered, silent) == (20, 0, 0)


def test_where_tcp_cannot_be_had_what_is_stale_is_better_than_what_may_be_forged(path):
    shield = path(attempts=1)
    shield.miss_path.cache.zones.configure(0, stale="on-failure")
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    shield.say(asked.port, answer(asked.wire, TRUTH, rdtype=A, ttl=5))
    assert shield.heard(query(name, A)) == TRUTH
    shield.clock.advance(6)
    (asked,) = shield.ask(name)
    shield.flood(asked, 3)
    shield.answer(asked, truth=LIE)
    assert (without_tcp(shield), shield.heard(query(name, A)), shield.miss_path.pending_queries) == (1, TRUTH, 0)


def test_a_truncated_answer_under_suspicion_goes_to_those_who_came_over_udp(path):
    shield = path(attempts=1)
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    shield.flood(asked, 3)
    shield.say(asked.port, asked.wire[:2] + pack("!5H", QR | RD | 0x200, 1, 0, 0, 0) + asked.wire[12:])
    assert without_tcp(shield) == 1
    assert shield.client.recv(512)[2] & 2
    assert shield.miss_path.pending_queries == 0
