"""Show which responses are not believed, and that a port which somebody may know gives way to another.

A worker, pending queries and sockets are the real ones; the upstream is a socket of the test's, and the test carries
what goes over TCP. Time is moved by hand.
"""

import socket
from struct import pack

import pytest
from support.edns import subnet, with_opt
from support.path import AT_ONCE, LIE, LOOPBACK, headers_only, told, two_ports
from support.quick import QR, RD, TXT, A, answer, name_wire, query

from funkenshield.upstream import ports as local_ports


def test_a_port_that_an_unsolicited_reply_comes_to_gets_no_new_queries_and_another_takes_its_place(path):
    shield = path(sockets=2, spoof_threshold=0)
    one, other = two_ports(shield)
    shield.flood(one, 1)
    assert {asked.port for asked in shield.ask_each(20)} == {other.port}
    shield.upstream.replace_known_ports()
    ports = {asked.port for asked in shield.ask_each(40)}
    assert (len(ports), one.port in ports, other.port in ports) == (2, False, True)
    shield.upstream.replace_known_ports()
    assert {asked.port for asked in shield.ask_each(40)} == ports, "once is enough"


def test_what_waits_on_a_port_that_gave_way_is_believed_over_tcp_alone_and_the_port_is_closed_then(path):
    shield = path(sockets=2)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 1)
    shield.upstream.replace_known_ports()
    (elsewhere,) = shield.ask(*shield.fresh())
    shield.answer(elsewhere)
    assert (shield.miss_path.take_stream_queries(), shield.miss_path.pending_queries) == ([], 1), (
        "another port is as it was"
    )
    while shield.heard_anything():
        pass
    shield.answer(asked, truth=LIE)
    assert not shield.heard_anything()
    assert (shield.carried(asked), shield.miss_path.pending_queries) == (1, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((LOOPBACK, asked.port))


def test_the_only_port_is_used_until_there_is_another(path):
    shield = path(spoof_threshold=8)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 1)
    (after,) = shield.ask(*shield.fresh())
    assert after.port == asked.port
    shield.answer(after)
    assert shield.carried(after) == 1
    shield.upstream.replace_known_ports()
    (fresh,) = shield.ask(*shield.fresh())
    assert fresh.port != asked.port
    shield.answer(fresh)
    assert shield.miss_path.take_stream_queries() == []


def test_where_no_other_port_can_be_had_the_one_that_is_known_stays(path, monkeypatch):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 1)
    with monkeypatch.context() as without:
        without.setattr(local_ports.socket, "socket", lambda *_: (_ for _ in ()).throw(OSError("no descriptors")))
        shield.upstream.replace_known_ports()
    (still,) = shield.ask(*shield.fresh())
    assert still.port == asked.port
    shield.upstream.replace_known_ports()
    (fresh,) = shield.ask(*shield.fresh())
    assert fresh.port != asked.port


def test_an_error_that_can_be_forged_makes_a_port_give_way_too_and_brings_nobody_under_suspicion(path):
    shield = path(sockets=2, attempts=1)
    two_ports(shield)
    shield.server.close()
    shield.hand_over(*shield.fresh(8))
    while shield.miss_path.receive():
        pass
    kept = [each.number for each in shield.upstream._sockets]
    assert any(map(shield.miss_path.sockets.is_port_known, kept))
    shield.upstream.replace_known_ports()
    assert not any(shield.miss_path.sockets.is_port_known(each.number) for each in shield.upstream._sockets)
    assert (shield.suspicions, shield.unsolicited) == (0, 0)


UNSOLICITED = {
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


@pytest.mark.parametrize("reply", UNSOLICITED.values(), ids=UNSOLICITED)
def test_whatever_answers_nothing_is_unsolicited(path, reply):
    shield = path(sockets=2)
    one, other = two_ports(shield)
    shield.say(one.port, reply(one))
    assert (shield.unsolicited, shield.unexpected, shield.miss_path.pending_queries) == (1, 1, 20)
    assert {asked.port for asked in shield.ask_each(10)} == {other.port}


@pytest.mark.parametrize("rcode", [1, 2, 4, 5])
def test_an_error_without_a_question_is_believed_and_none_of_its_octets_reaches_the_client(path, rcode):
    shield = path()
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    secret = b"\5tells\0" + pack("!2HIH", A, 1, 300, 4) + LIE
    shield.say(asked.port, asked.wire[:2] + pack("!5H", 0x87F0 | rcode, 0, 1, 0, 0) + secret)
    assert shield.client.recv(512) == query(name, A)[:2] + pack("!5H", QR | RD | rcode, 1, 0, 0, 0) + asked.wire[12:]
    assert (shield.unsolicited, shield.miss_path.pending_queries) == (0, 0)
    if rcode in (2, 5):  # held, as it is with a question
        shield.client.send(query(name, A))
        assert shield.client.recv(512)[3] & 15 == rcode
    else:
        shield.ask(name)
    assert shield.nothing_arrived()


def test_late_answers_and_those_that_come_twice_are_not_unsolicited(path):
    shield = path(timeout=1.0, deadline=3.0, attempts=2)
    twice, late = shield.ask(*shield.fresh(2))
    for _ in range(5):
        shield.answer(twice)
    shield.clock.advance(1.1)
    shield.miss_path.tick()
    shield.miss_path.send()
    (again,) = shield.arrived(1)
    shield.clock.advance(2.0)
    shield.miss_path.tick()
    assert shield.miss_path.pending_queries == 0
    shield.answer(late, again, late, again)
    assert (shield.unexpected, shield.unsolicited) == (8, 0)
    for wrong in (told(late, LIE, ident=late.ident ^ 1), told(late, LIE, question=twice.wire[12:])):
        shield.say(late.port, wrong)
    assert (shield.unexpected, shield.unsolicited) == (10, 2)


@pytest.mark.parametrize(("seconds", "unsolicited"), [(29, 0), (31, 1)])
def test_half_a_minute_after_it_was_asked_for_an_answer_is_unsolicited(path, seconds, unsolicited):
    shield = path()
    (asked,) = shield.ask(*shield.fresh())
    shield.answer(asked)
    shield.clock.advance(seconds)
    shield.answer(asked)
    assert (shield.unexpected, shield.unsolicited) == (1, unsolicited)


def test_a_slow_upstream_under_load_is_not_taken_for_a_forger(path):
    shield = path(deadline=1.0, timeout=1.0, attempts=1)
    asked = [each for _ in range(64) for each in shield.ask(*shield.fresh(AT_ONCE))]
    shield.clock.advance(1.1)
    shield.miss_path.tick()
    shield.answer(*asked)
    assert (shield.unexpected, shield.miss_path.pending_queries) == (64 * AT_ONCE, 0)
    assert shield.unsolicited <= 64, "of 4,096, a few are overwritten"


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
