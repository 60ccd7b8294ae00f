"""Show what a forger would have to guess: ports, IDs and spelling; and what he meets who guesses often.

A worker, open queries and sockets are the real ones; the upstream is a socket of the test's, and the test carries what
goes over TCP. Time is moved by hand.
"""

import contextlib
import itertools
import logging
import secrets
import socket
import time
from collections import Counter
from struct import pack

import pytest
from support.edns import subnet, with_opt
from support.path import LIE, LOOPBACK, TRUTH, Path, told, udp
from support.quick import QR, RD, A, answer, name_wire, query

from funkenshield.config.types import Endpoint
from funkenshield.errors import ConfigError
from funkenshield.upstream import pool
from funkenshield.upstream import ports as local_ports
from funkenshield.upstream.pool import RESPELLED_MAX, open_udp

AT_ONCE = 64  # queries that no buffer is too small for
DRAWN, IDS = local_ports.usable(), 65536  # that are drawn from
PORTS = len(DRAWN)
TXT = 16
LONG = "a-rather-long-label-of-letters-only.and-yet-another-one.test"


def headers_only(asked, rcode=0):
    """Return a response without a question, with the right ID."""
    return asked.wire[:2] + pack("!5H", QR | RD | rcode, 0, 0, 0, 0)


@pytest.fixture
def path():
    """Return what makes a Path; all of them end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: Path(stack, **options)


def chi_square(values, cells):
    """Return how far numbers in [0, 1) are from an even spread over so many cells."""
    counts = Counter(int(value * cells) for value in values)
    expected = len(values) / cells
    return sum((counts[cell] - expected) ** 2 / expected for cell in range(cells))


def pairs(values, cells):
    """Return each two neighbours as one number in [0, 1): even, where none tells of the next."""
    coarse = [int(value * cells) for value in values]
    return [(one * cells + two) / cells**2 for one, two in zip(coarse[::2], coarse[1::2], strict=False)]


# ---------------------------------------------------------------- ports


def test_ports_are_spread_evenly_and_none_tells_of_the_next():
    ports = []
    for _ in range(4096):
        with open_udp(Endpoint(LOOPBACK, 53)) as opened:
            ports.append(opened.getsockname()[1])
    places = {port: place for place, port in enumerate(DRAWN)}
    drawn = [places[port] / PORTS for port in ports]
    assert (min(drawn) < 0.01, max(drawn) > 0.99) == (True, True)
    assert 20 < chi_square(drawn, 64) < 130, "63, and six deviations"
    assert 20 < chi_square(pairs(drawn, 8), 64) < 130
    assert len(set(ports)) > 0.9 * 4096 * (1 - 4096 / PORTS / 2)  # as birthdays have it


def test_ports_and_ids_are_more_than_a_forger_can_try(monkeypatch):
    bounds = []
    monkeypatch.setattr(secrets, "randbelow", lambda bound: bounds.append(bound) or bound - 1 - len(bounds))
    open_udp(Endpoint(LOOPBACK, 53)).close()
    assert set(bounds) == {PORTS}
    assert PORTS * IDS > 2**30


def test_a_port_that_is_taken_is_drawn_again_and_if_all_are_the_kernel_gives_one(monkeypatch):
    with udp() as taken, udp() as freed:
        (_, busy), (_, free) = taken.getsockname(), freed.getsockname()
        freed.close()
        draws = iter([busy] * 3 + [free])
        monkeypatch.setattr(local_ports.Ports, "draw", lambda _: next(draws))
        with open_udp(Endpoint(LOOPBACK, 53), LOOPBACK) as opened:
            assert opened.getsockname()[1] == free
        monkeypatch.setattr(local_ports.Ports, "draw", lambda _: busy)
        with open_udp(Endpoint(LOOPBACK, 53), LOOPBACK) as opened:
            assert opened.getsockname()[1] not in (0, busy)
            assert opened.getpeername() == (LOOPBACK, 53)


def test_ports_that_others_need_are_never_drawn(tmp_path, monkeypatch):
    (tmp_path / "ip_local_port_range").write_text("1000\t2000\n")
    (tmp_path / "ip_local_reserved_ports").write_text("1024,1100-1199\n")
    monkeypatch.setattr(local_ports, "SETTINGS", tmp_path)
    left = local_ports.usable([(1900, 65535), (1500, 1500)])
    assert set(left) == {*range(1025, 1100), *range(1200, 1500), *range(1501, 1900)}
    with pytest.raises(ConfigError, match=r"forward\.ports_avoided: no port is left"):
        local_ports.usable([(1, 65535)])


def test_where_the_kernel_says_nothing_its_usual_range_is_drawn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(local_ports, "SETTINGS", tmp_path)
    assert local_ports.usable() == tuple(range(32768, 61000))


def test_sockets_to_upstreams_keep_to_the_ports_that_may_be_drawn(path):
    assert {asked.port for asked in path(sockets=16).ask_each(AT_ONCE)} <= set(DRAWN)


def test_what_cannot_be_opened_leaves_nothing_open(monkeypatch):
    closed = []
    monkeypatch.setattr(pool.socket, "socket", lambda *_: Unconnectable(closed))
    with pytest.raises(OSError, match="in use"):
        open_udp(Endpoint(LOOPBACK, 53))
    assert closed == [True]


class Unconnectable:
    def __init__(self, closed):
        self._closed = closed

    def setsockopt(self, *option):
        pass

    def bind(self, address):
        raise OSError("in use")

    def connect(self, address):
        raise OSError("no route")

    def close(self):
        self._closed.append(True)


def test_a_port_is_given_up_after_its_life_and_what_was_asked_through_it_is_still_answered(path):
    shield = path(sockets=4, port_life=60.0)

    def ports():
        asked = shield.ask_each(AT_ONCE)
        shield.answer(*asked)
        assert len({each.port for each in asked}) == 4
        return {each.port for each in asked}

    first = ports()
    shield.clock.advance(59)
    shield.upstream.turn_over(4, 60.0)
    assert ports() == first
    (late,) = shield.ask(*shield.fresh())
    shield.clock.advance(2)
    shield.upstream.turn_over(4, 60.0)
    second = ports()
    assert second & first == set()
    shield.answer(late)
    assert shield.inflight.open_queries == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((LOOPBACK, late.port))  # it is free: closed with the last query


def test_ports_change_one_by_one(path):
    shield, seen = path(sockets=4), []
    for _ in range(8):
        asked = shield.ask_each(AT_ONCE * 2)
        shield.answer(*asked)
        seen.append({each.port for each in asked})
        shield.upstream.renew_one(4, 3600.0)
    assert all(len(before - after) == 1 for before, after in itertools.pairwise(seen))
    assert all(seen[n] & seen[n + 4] == set() for n in range(4))


def test_queries_take_a_random_one_of_the_ports(path):
    shield = path(sockets=8)
    used = [asked.port for asked in shield.ask_each(800)]
    places = {port: place / 8 for place, port in enumerate(sorted(set(used)))}
    assert len(places) == 8
    assert chi_square([places[port] for port in used], 8) < 40, "7, and nine deviations"
    assert chi_square(pairs([places[port] for port in used], 8), 64) < 150


# ---------------------------------------------------------------- IDs


def test_ids_are_spread_evenly_none_tells_of_the_next_and_none_is_that_of_two_open_queries(path):
    """Of 16,000 queries that wait on one socket, about 2,000 would share an ID if nobody took care."""
    shield, idents = path(), []
    for _ in range(16_000 // AT_ONCE):
        idents += [asked.ident for asked in shield.ask(*shield.fresh(AT_ONCE))]
    assert len(set(idents)) == len(idents)
    high, low = [ident / IDS for ident in idents], [ident % 256 / 256 for ident in idents]
    assert 90 < chi_square(high, 256) < 320, "193, since none comes twice"
    assert 90 < chi_square(low, 256) < 320
    assert 120 < chi_square(pairs(high, 16), 256) < 420, "255, and seven deviations"
    assert 120 < chi_square(pairs(low, 16), 256) < 420


def test_each_attempt_has_an_id_of_its_own(path):
    shield = path(timeout=1.0, tries=2)
    first = {asked.name: asked for asked in shield.ask(*shield.fresh(AT_ONCE))}
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.inflight.send()
    second = {asked.name: asked for asked in shield.arrived(AT_ONCE)}
    assert first.keys() == second.keys()
    assert sum(first[name].ident == second[name].ident for name in first) == 0, "both are open: no ID is of two"
    for number, name in enumerate(first):
        shield.answer(first[name] if number % 2 else second[name])
    assert (shield.inflight.open_queries, shield.mismatched) == (0, 0)


def test_an_id_counts_on_the_socket_only_that_its_query_went_through(path):
    shield = path(sockets=2, mismatches=0)
    asked = shield.ask_each(AT_ONCE)
    one = asked[0]
    other = next(each for each in asked if each.port != one.port)
    idents = {port: {each.ident for each in asked if each.port == port} for port in (one.port, other.port)}
    assert other.ident not in idents[one.port]  # but for one case in a thousand, which is another test's
    shield.say(one.port, told(other, LIE))
    assert (shield.mismatched, shield.inflight.open_queries) == (1, len(asked))
    shield.say(one.port, told(one, LIE, ident=other.ident))
    assert (shield.mismatched, shield.inflight.open_queries) == (2, len(asked))
    shield.answer(*asked)
    assert (shield.mismatched, shield.inflight.open_queries) == (2, 0)


# ---------------------------------------------------------------- strays: a port that somebody may know gives way


def two_ports(shield):
    """Return a query that waits on each of two sockets, asked one after the other."""
    asked = {each.port: each for each in shield.ask_each(20)}
    assert len(asked) == 2
    return asked.values()


def test_a_port_that_a_stray_comes_to_gets_no_new_queries_and_another_takes_its_place(path):
    shield = path(sockets=2, mismatches=0)
    one, other = two_ports(shield)
    shield.flood(one, 1)
    assert {asked.port for asked in shield.ask_each(20)} == {other.port}
    shield.upstream.replace_exposed()
    ports = {asked.port for asked in shield.ask_each(40)}
    assert (len(ports), one.port in ports, other.port in ports) == (2, False, True)
    shield.upstream.replace_exposed()
    assert {asked.port for asked in shield.ask_each(40)} == ports, "once is enough"


def test_what_waits_on_a_port_that_gave_way_is_believed_over_tcp_alone_and_the_port_is_closed_then(path):
    shield = path(sockets=2)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 1)
    shield.upstream.replace_exposed()
    (elsewhere,) = shield.ask(*shield.fresh())
    shield.answer(elsewhere)
    assert (shield.inflight.take_carried(), shield.inflight.open_queries) == ([], 1), "another port is as it was"
    while shield.heard_anything():
        pass
    shield.answer(asked, truth=LIE)
    assert not shield.heard_anything()
    assert (shield.carried(asked), shield.inflight.open_queries) == (1, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((LOOPBACK, asked.port))


def test_the_only_port_is_used_until_there_is_another(path):
    shield = path(mismatches=8)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 1)
    (after,) = shield.ask(*shield.fresh())
    assert after.port == asked.port
    shield.answer(after)
    assert shield.carried(after) == 1
    shield.upstream.replace_exposed()
    (fresh,) = shield.ask(*shield.fresh())
    assert fresh.port != asked.port
    shield.answer(fresh)
    assert shield.inflight.take_carried() == []


def test_where_no_other_port_can_be_had_the_one_that_is_known_stays(path, monkeypatch):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 1)
    with monkeypatch.context() as without:
        without.setattr(pool.socket, "socket", lambda *_: (_ for _ in ()).throw(OSError("no descriptors")))
        shield.upstream.replace_exposed()
    (still,) = shield.ask(*shield.fresh())
    assert still.port == asked.port
    shield.upstream.replace_exposed()
    (fresh,) = shield.ask(*shield.fresh())
    assert fresh.port != asked.port


def test_an_error_that_can_be_forged_makes_a_port_give_way_too_and_brings_nobody_under_suspicion(path):
    shield = path(sockets=2, tries=1)
    two_ports(shield)
    shield.server.close()
    shield.hand_over(*shield.fresh(8))
    while shield.inflight.receive():
        pass
    kept = [number for _, number in shield.upstream._sockets]
    assert any(map(shield.inflight.sockets.is_exposed, kept))
    shield.upstream.replace_exposed()
    assert not any(shield.inflight.sockets.is_exposed(number) for _, number in shield.upstream._sockets)
    assert (shield.suspicions, shield.strays) == (0, 0)


STRAYS = {
    "another ID": lambda asked: told(asked, LIE, ident=asked.ident ^ 1),
    "another name": lambda asked: told(asked, LIE, question=query("else.test", A)[12:]),
    "another type": lambda asked: told(asked, LIE, question=asked.name + pack("!2H", TXT, 1)),
    "another class": lambda asked: told(asked, LIE, question=asked.name + pack("!2H", A, 3)),
    "no question": headers_only,
    "no question, NXDOMAIN": lambda asked: headers_only(asked, 3),
    "no question, YXDOMAIN": lambda asked: headers_only(asked, 6),
    "two questions": lambda asked: asked.wire[:2] + pack("!5H", QR | RD, 2, 0, 0, 0) + asked.wire[12:] * 2,
    "a query": lambda asked: asked.wire,
    "an ID": lambda asked: asked.wire[:2],
    "nothing": lambda asked: b"",
}


@pytest.mark.parametrize("stray", STRAYS.values(), ids=STRAYS)
def test_whatever_answers_nothing_is_a_stray(path, stray):
    shield = path(sockets=2)
    one, other = two_ports(shield)
    shield.say(one.port, stray(one))
    assert (shield.strays, shield.mismatched, shield.inflight.open_queries) == (1, 1, 20)
    assert {asked.port for asked in shield.ask_each(10)} == {other.port}


@pytest.mark.parametrize("rcode", [1, 2, 4, 5])
def test_an_error_without_a_question_is_believed_and_none_of_its_octets_reaches_the_client(path, rcode):
    shield = path()
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    secret = b"\5tells\0" + pack("!2HIH", A, 1, 300, 4) + LIE
    shield.say(asked.port, asked.wire[:2] + pack("!5H", 0x87F0 | rcode, 0, 1, 0, 0) + secret)
    assert shield.client.recv(512) == query(name, A)[:2] + pack("!5H", QR | RD | rcode, 1, 0, 0, 0) + asked.wire[12:]
    assert (shield.strays, shield.inflight.open_queries) == (0, 0)
    if rcode in (2, 5):  # held, as it is with a question
        shield.client.send(query(name, A))
        assert shield.client.recv(512)[3] & 15 == rcode
    else:
        shield.ask(name)
    assert shield.nothing_arrived()


def test_late_answers_and_those_that_come_twice_are_no_strays(path):
    shield = path(timeout=1.0, deadline=3.0, tries=2)
    twice, late = shield.ask(*shield.fresh(2))
    for _ in range(5):
        shield.answer(twice)
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.inflight.send()
    (again,) = shield.arrived(1)
    shield.clock.advance(2.0)
    shield.inflight.tick()
    assert shield.inflight.open_queries == 0
    shield.answer(late, again, late, again)
    assert (shield.mismatched, shield.strays) == (8, 0)
    for wrong in (told(late, LIE, ident=late.ident ^ 1), told(late, LIE, question=twice.wire[12:])):
        shield.say(late.port, wrong)
    assert (shield.mismatched, shield.strays) == (10, 2)


@pytest.mark.parametrize(("seconds", "strays"), [(29, 0), (31, 1)])
def test_half_a_minute_after_it_was_asked_for_an_answer_is_a_stray(path, seconds, strays):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.answer(asked)
    shield.clock.advance(seconds)
    shield.answer(asked)
    assert (shield.mismatched, shield.strays) == (1, strays)


def test_a_slow_upstream_under_load_is_not_taken_for_a_forger(path):
    shield = path(deadline=1.0, timeout=1.0, tries=1)
    asked = [each for _ in range(64) for each in shield.ask(*shield.fresh(AT_ONCE))]
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.answer(*asked)
    assert (shield.mismatched, shield.inflight.open_queries) == (64 * AT_ONCE, 0)
    assert shield.strays <= 64, "of 4,096, a few are overwritten"


# ---------------------------------------------------------------- suspicion is of the upstream, never of a name


@pytest.mark.parametrize("bound", [1, 3, 8])
def test_so_many_strays_bring_the_upstream_under_suspicion_for_every_name_and_one_fewer_do_not(path, bound):
    shield = path(sockets=2, mismatches=bound)
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
    assert shield.inflight.counters()["suspected"] == 1


def test_nothing_that_a_client_sees_tells_which_name_was_guessed_at(path):
    """Strays that name one question, and an innocent one: both take the same way."""
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
        shield.upstream.replace_exposed()
        for passed, over_tcp in ((239.0, 1), (121.1, 0)):
            shield.clock.advance(passed)
            (asked,) = shield.ask(*shield.fresh())
            shield.answer(asked)
            assert shield.carried(asked) == over_tcp
    assert all(239.9 < seconds < 360.1 for seconds in lasted)
    assert max(lasted) - min(lasted) > 60
    assert shield.suspicions == 40


def test_suspicion_goes_on_while_strays_do(path):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 3)
    shield.clock.advance(200)
    shield.flood(asked, 1)
    shield.clock.advance(239)
    shield.upstream.replace_exposed()
    (later,) = shield.ask(*shield.fresh())
    shield.answer(later)
    assert (shield.carried(later), shield.suspicions) == (1, 1)


@pytest.mark.parametrize(("apart", "suspicions"), [(299, 1), (301, 0)])
def test_strays_within_five_minutes_are_counted_together(path, apart, suspicions):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 2)
    shield.clock.advance(apart)
    shield.flood(asked, 2 if apart > 300 else 1)
    assert (shield.strays, shield.suspicions) == (2 + (2 if apart > 300 else 1), suspicions)


def test_suspicion_is_told_once_when_it_begins(path, caplog):
    shield = path()
    with caplog.at_level(logging.WARNING):
        (asked,) = shield.ask(*shield.fresh())
        shield.flood(asked, 2)
        shield.upstream.keep_house()
        assert (caplog.messages, shield.upstream.counters()["suspicious"]) == ([], 0)
        shield.flood(asked, 100)
        for _ in range(3):
            shield.upstream.keep_house()
    assert (len(caplog.messages), shield.upstream.counters()["suspicious"]) == (1, 1)
    assert "somebody may be forging its answers (102 datagrams" in caplog.messages[0]
    shield.clock.advance(361)
    assert shield.upstream.counters()["suspicious"] == 0


def test_where_the_operator_says_never_no_flood_changes_the_transport(path):
    shield = path(mismatches=0)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 40)
    shield.answer(asked)
    assert (shield.carried(asked), shield.strays, shield.suspicions) == (0, 40, 0)


def test_while_it_is_asked_for_over_tcp_nothing_over_udp_is_believed(path):
    shield = path(timeout=1.0)
    (name,) = shield.fresh()
    (first,) = shield.ask(name)
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.inflight.send()
    (second,) = shield.arrived(1)
    shield.flood(first, 3)
    shield.answer(second, first, truth=LIE)
    assert (shield.heard(query(name, A)), shield.carried(first)) == (None, 1)
    assert (shield.heard(query(name, A)), shield.inflight.open_queries) == (TRUTH, 0)


def test_a_right_guess_without_a_question_is_not_believed_either(path):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 3)
    shield.say(asked.port, headers_only(asked, 5))
    assert shield.carried(asked) == 1


def without_tcp(shield):
    """Say that there is no TCP to be had, whatever is asked; return how often it was."""
    failed = 0
    shield.inflight.send()
    while taken := shield.inflight.take_carried():
        for handle, *_ in taken:
            shield.inflight.fail(handle)
            failed += 1
        shield.inflight.send()
    return failed


def test_where_tcp_cannot_be_had_what_came_serves_those_who_wait_and_is_not_kept(path):
    shield = path(tries=1)
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
        assert shield.inflight.open_queries == 0
        (asked,) = shield.ask(name)


def test_suspicion_makes_nobody_ill_who_has_no_tcp(path):
    shield = path(tries=1)
    for turn in range(20):
        (asked,) = shield.ask(*shield.fresh())
        shield.flood(asked, 0 if turn else 3)
        shield.answer(asked)
        assert without_tcp(shield) == 1
        shield.upstream.replace_exposed()
    answered, unanswered, _, silent, _ = shield.table.signals(0)
    assert (answered, unanswered, silent) == (20, 0, 0)


def test_where_tcp_cannot_be_had_what_is_stale_is_better_than_what_may_be_forged(path):
    shield = path(tries=1)
    shield.inflight.cache.zones.set_policy(0, stale="on-failure")
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    shield.say(asked.port, answer(asked.wire, TRUTH, rdtype=A, ttl=5))
    assert shield.heard(query(name, A)) == TRUTH
    shield.clock.advance(6)
    (asked,) = shield.ask(name)
    shield.flood(asked, 3)
    shield.answer(asked, truth=LIE)
    assert (without_tcp(shield), shield.heard(query(name, A)), shield.inflight.open_queries) == (1, TRUTH, 0)


def test_a_truncated_answer_under_suspicion_goes_to_those_who_came_over_udp(path):
    shield = path(tries=1)
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    shield.flood(asked, 3)
    shield.say(asked.port, asked.wire[:2] + pack("!5H", QR | RD | 0x200, 1, 0, 0, 0) + asked.wire[12:])
    assert without_tcp(shield) == 1
    assert shield.client.recv(512)[2] & 2
    assert shield.inflight.open_queries == 0


# ---------------------------------------------------------------- birthdays: no guess is right for many


def alike(name):
    """Yield queries for one question whose keys differ: in subnets, flags, options."""
    plain = query(name, A)
    yield from (with_opt(plain, subnet(f"192.0.{n}.0", 24)) for n in range(4))
    yield from (with_opt(plain, subnet(f"2001:db8:{n}::", 48)) for n in range(4))
    yield from (query(name, A, flags=flags) for flags in (0, RD, RD | 0x10, RD | 0x20, RD | 0x30))
    yield with_opt(plain)


def test_few_queries_for_one_question_are_open_over_udp_whatever_else_their_keys_say(path):
    shield = path(sockets=4)
    (name,) = shield.fresh()
    wires = list(alike(name))
    shield.hand_over(*wires, *(wire.replace(name_wire(name), name_wire(name).upper()) for wire in wires))
    over_tcp = shield.inflight.take_carried()
    asked = shield.arrived(4)
    assert shield.nothing_arrived()
    assert len(over_tcp) == len(wires) - 4
    other = shield.ask(query(name, TXT), *shield.fresh(8))
    assert len(other) == 9, "other types and names are not concerned"
    shield.say(asked[0].port, headers_only(asked[0], 1))
    (next_one,) = shield.ask(with_opt(query(name, A), subnet("203.0.113.0", 24)))
    assert next_one.wire[12:].startswith(name_wire(name))
    shield.hand_over(with_opt(query(name, A), subnet("203.0.112.0", 24)))
    assert (len(shield.inflight.take_carried()), shield.nothing_arrived()) == (1, True)


def test_where_tcp_cannot_be_had_who_is_over_that_waits_for_his_turn_over_udp(path):
    shield = path(timeout=1.0, deadline=20.0)
    shield.answer(*shield.ask(*shield.fresh()))
    (name,) = shield.fresh()
    wires = list(alike(name))
    shield.hand_over(*wires[:5])
    asked = shield.arrived(4)
    assert without_tcp(shield) == 1
    assert shield.nothing_arrived(), "four are open"
    shield.answer(*asked)
    shield.clock.advance(1.0)
    shield.inflight.tick()
    shield.inflight.send()
    shield.answer(*shield.arrived(1))
    assert shield.inflight.open_queries == 0
    answered, unanswered, _, silent, _ = shield.table.signals(0)
    assert (answered, unanswered, silent) == (6, 0, 0)


UNREADABLE = {
    "a name that never ends": pack("!6H", 7, 0x0800, 1, 0, 0, 0) + b"\x3fabc",
    "thirteen questions, and noise": pack("!6H", 7, 0x0D0A, 13, 0x0A51, 0x5549, 0x540A) + b"\x21\x11\0\x0c" + bytes(12),
    "no question": pack("!6H", 7, 0x1000, 0, 0, 0, 0),
}


@pytest.mark.parametrize("wire", UNREADABLE.values(), ids=UNREADABLE)
def test_what_has_a_question_that_cannot_be_read_ends_here_and_what_has_none_goes_as_it_came(path, wire):
    shield = path()
    for _ in range(6):
        shield.client.send(secrets.token_bytes(2) + wire[2:])
    for _ in range(100):
        shield.inflight.receive()
        shield.inflight.collect()
        shield.inflight.send()
        time.sleep(0.001)
    arrived = shield.arrived_in_all()
    assert [octets[2:] for octets in arrived] == ([] if wire[5] else [wire[2:]] * 6)


def test_tries_are_counted_too(path):
    shield = path(timeout=1.0, tries=3)
    (name,) = shield.fresh()
    wires = [with_opt(query(name, A), subnet(f"192.0.{n}.0", 24)) for n in range(3)]
    shield.ask(*wires)
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.inflight.send()
    shield.arrived(1)
    assert (shield.nothing_arrived(), len(shield.inflight.take_carried())) == (True, 2)


def test_what_leaves_makes_room_however_it_ends(path):
    shield = path(timeout=1.0, deadline=2.0, tries=1)
    (name,) = shield.fresh()
    for turn in range(5):
        wires = [with_opt(query(name, A), subnet(f"192.{turn}.{n}.0", 24)) for n in range(4)]
        asked = shield.ask(*wires)
        if turn % 2:
            shield.say(asked[0].port, *(headers_only(each, 1) for each in asked))
        else:
            shield.clock.advance(2.1)
            shield.inflight.tick()
        assert shield.inflight.open_queries == 0


# ---------------------------------------------------------------- client subnets


def test_a_response_over_udp_that_says_nothing_of_subnets_is_for_the_one_that_asked(path):
    """Nobody has to guess a subnet to forge such a one."""
    shield = path()
    (name,) = shield.fresh()
    plain = query(name, A)
    here, there = (with_opt(plain, subnet(address, 24)) for address in ("192.0.2.0", "198.51.100.0"))
    (asked,) = shield.ask(here)
    shield.say(asked.port, asked.wire[:2] + answer(plain, LIE, rdtype=A)[2:])
    assert LIE in shield.client.recv(512)
    shield.client.send(here)
    assert LIE in shield.client.recv(512)
    nobody, narrower = (with_opt(plain, subnet(address, bits)) for address, bits in (("0.0.0.0", 0), ("192.0.2.0", 32)))
    for other in (there, with_opt(plain), nobody, narrower):
        (again,) = shield.ask(other)
        assert again.wire[12:].startswith(name_wire(name))


# ---------------------------------------------------------------- spelling (0x20)


def test_letters_are_spelled_at_random_and_nothing_else_is_changed(path):
    shield = path(random_case=True)
    octets = bytes(range(256)) + name_wire(LONG)[1:48].upper()
    labels = [octets[at : at + 48] for at in range(0, 192, 48)] + [octets[192:240]]
    wires = [b"".join(bytes([len(label)]) + label for label in labels) + b"\0", name_wire(LONG)]
    wires += [b"\x0f" + bytes(range(240, 255)) + b"\x01\xff" + bytes([26]) + bytes(range(65, 91)) + b"\0", b"\0"]
    for wire in wires:
        whole = query(".", A)[:12] + wire + query(".", A)[13:]
        (asked,) = shield.ask(whole)
        assert asked.name.lower() == wire.lower()
        assert asked.wire[2:12] == whole[2:12]
        assert asked.wire[-4:] == whole[-4:]
        shield.answer(asked)
        assert shield.heard(whole) == TRUTH, "and the client's own spelling comes back"
    assert shield.inflight.take_carried() == []


def test_each_letter_is_upper_case_half_of_the_time(path):
    shield = path(random_case=True)
    wire = name_wire(LONG)
    spellings = []
    for _ in range(200):
        (asked,) = shield.ask(LONG)
        shield.answer(asked)
        spellings.append(asked.name)
    letters = [at for at, octet in enumerate(wire) if 97 <= octet < 123]
    upper = [sum(spelled[at] < 97 for spelled in spellings) for at in letters]
    assert all(50 < count < 150 for count in upper), "100, and seven deviations"
    together = [
        sum((spelled[a] < 97) == (spelled[b] < 97) for spelled in spellings) for a, b in itertools.pairwise(letters)
    ]
    assert all(50 < count < 150 for count in together)
    assert len(set(spellings)) == 200


MISSPELLED = {
    "lower case": lambda asked: told(asked, LIE, question=asked.name.lower() + asked.wire[-4:]),
    "swapped case": lambda asked: told(asked, LIE, question=asked.name.swapcase() + asked.wire[-4:]),
    "one letter": lambda asked: told(
        asked, LIE, question=asked.wire[12:13] + asked.wire[13:14].swapcase() + asked.wire[14:]
    ),
    "the last letter": lambda asked: told(
        asked, LIE, question=asked.name[:-2] + asked.name[-2:].swapcase() + asked.wire[-4:]
    ),
    "no question, REFUSED": lambda asked: headers_only(asked, 5),
}


@pytest.mark.parametrize("misspelled", MISSPELLED.values(), ids=MISSPELLED)
def test_what_comes_in_another_spelling_is_asked_for_over_tcp(path, misspelled):
    shield = path(random_case=True)
    (asked,) = shield.ask(LONG)
    shield.say(asked.port, misspelled(asked))
    assert shield.heard(query(LONG, A)) is None
    assert shield.carried(asked) == 1
    assert shield.heard(query(LONG, A)) == TRUTH
    assert (shield.nothing_arrived(), shield.inflight.open_queries, shield.table.respelled(0)) == (True, 0, 0)


def lowered(shield, count, over_tcp=bytes.lower):
    """Have so many queries answered in lower case, and over TCP in that or another; keep house after each."""
    for _ in range(count):
        (asked,) = shield.ask(LONG)
        shield.say(asked.port, MISSPELLED["lower case"](asked))
        assert shield.carried(asked, over_tcp) == 1
        assert shield.heard(query(LONG, A)) == TRUTH
        shield.upstream.keep_house()


def test_who_never_spells_names_as_he_was_asked_is_asked_plainly_and_the_log_says_so(path, caplog):
    shield = path(random_case=True)
    with caplog.at_level(logging.WARNING):
        lowered(shield, RESPELLED_MAX - 1)
        assert caplog.messages == []
        lowered(shield, 1)
    assert [message.partition(": ")[2] for message in caplog.messages] == ["random_case is off"]
    for _ in range(3):
        (asked,) = shield.ask(LONG)
        assert asked.name == name_wire(LONG)
        shield.say(asked.port, told(asked, TRUTH, question=asked.name.upper() + asked.wire[-4:]))
        assert shield.carried(asked) == 0, "what was asked plainly may be spelled in any way"
        assert shield.heard(query(LONG, A)) == TRUTH


def test_over_tcp_names_are_spelled_at_random_too_where_they_are_over_udp(path):
    shield = path(random_case=True)
    spelled = set()
    for _ in range(20):
        (asked,) = shield.ask(LONG)
        shield.say(asked.port, MISSPELLED["lower case"](asked))
        shield.inflight.send()
        ((handle, _, wire, *_),) = shield.inflight.take_carried()
        spelled.add(wire[12:])
        assert shield.inflight.resolve(handle, answer(wire, TRUTH, rdtype=A, ttl=0))
    assert (len(spelled), len({name.lower() for name in spelled})) == (20, 1)


@pytest.mark.parametrize("proof", ["over UDP", "over TCP"])
def test_who_has_spelled_right_is_asked_at_random_for_ever_whatever_comes(path, caplog, proof):
    shield = path(random_case=True)
    lowered(shield, RESPELLED_MAX - 1)
    if proof == "over UDP":
        shield.answer(*shield.ask(LONG))
        assert shield.heard(query(LONG, A)) == TRUTH
    else:
        lowered(shield, 1, bytes)
    with caplog.at_level(logging.WARNING):
        lowered(shield, 4 * RESPELLED_MAX)
    (asked,) = shield.ask(LONG)
    assert (caplog.messages, asked.name != asked.name.lower()) == ([], True)


def test_forged_spellings_over_udp_switch_nothing_off(path, caplog):
    shield = path(random_case=True)
    with caplog.at_level(logging.WARNING):
        lowered(shield, 4 * RESPELLED_MAX, bytes)
    (asked,) = shield.ask(LONG)
    assert (caplog.messages, asked.name != asked.name.lower()) == ([], True)


def test_another_spelling_of_who_can_spell_serves_nobody_even_without_tcp(path):
    shield = path(random_case=True, tries=1)
    shield.answer(*shield.ask(LONG))
    assert shield.heard(query(LONG, A)) == TRUTH
    (asked,) = shield.ask(LONG)
    shield.say(asked.port, MISSPELLED["lower case"](asked))
    assert without_tcp(shield) == 1
    assert shield.client.recv(512)[3] & 15 == 2


def test_what_was_spelled_before_says_nothing_of_what_is_asked_plainly(path):
    """Attempts are kept in places that are used again, first those that ended last."""
    shield = path(random_case=True)
    shield.answer(*shield.ask(*shield.fresh(AT_ONCE)))
    shield.table.set_upstream(0)
    for asked in shield.ask(*shield.fresh(AT_ONCE)):
        shield.say(asked.port, told(asked, TRUTH, question=asked.name.upper() + asked.wire[-4:]))
    assert (shield.inflight.take_carried(), shield.inflight.open_queries) == ([], 0)
