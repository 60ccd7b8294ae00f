"""Show that no guess is right for many: few queries for one question are outstanding at once (RFC 5452 5)."""

import secrets
import time
from struct import pack

import pytest
from support.edns import subnet, with_opt
from support.path import headers_only, without_tcp
from support.quick import RD, TXT, A, name_wire, query


def alike(name):
    """Yield queries for one question whose keys differ: in subnets, flags, options."""
    plain = query(name, A)
    yield from (with_opt(plain, subnet(f"192.0.{n}.0", 24)) for n in range(4))
    yield from (with_opt(plain, subnet(f"2001:db8:{n}::", 48)) for n in range(4))
    yield from (query(name, A, flags=flags) for flags in (0, RD, RD | 0x10, RD | 0x20, RD | 0x30))
    yield with_opt(plain)


def test_few_queries_for_one_question_are_outstanding_over_udp_whatever_else_their_keys_say(path):
    shield = path(sockets=4)
    (name,) = shield.fresh()
    wires = list(alike(name))
    shield.hand_over(*wires, *(wire.replace(name_wire(name), name_wire(name).upper()) for wire in wires))
    over_tcp = shield.miss_path.take_stream_queries()
    asked = shield.arrived(4)
    assert shield.nothing_arrived()
    assert len(over_tcp) == len(wires) - 4
    other = shield.ask(query(name, TXT), *shield.fresh(8))
    assert len(other) == 9, "other types and names are not concerned"
    shield.say(asked[0].port, headers_only(asked[0], 1))
    (next_one,) = shield.ask(with_opt(query(name, A), subnet("203.0.113.0", 24)))
    assert next_one.wire[12:].startswith(name_wire(name))
    shield.hand_over(with_opt(query(name, A), subnet("203.0.112.0", 24)))
    assert (len(shield.miss_path.take_stream_queries()), shield.nothing_arrived()) == (1, True)


def test_where_tcp_cannot_be_had_who_is_over_that_waits_for_his_turn_over_udp(path):
    shield = path(timeout=1.0, deadline=20.0)
    shield.answer(*shield.ask(*shield.fresh()))
    (name,) = shield.fresh()
    wires = list(alike(name))
    shield.hand_over(*wires[:5])
    asked = shield.arrived(4)
    assert without_tcp(shield) == 1
    assert shield.nothing_arrived(), "four are outstanding"
    shield.answer(*asked)
    shield.clock.advance(1.0)
    shield.miss_path.tick()
    shield.miss_path.send()
    shield.answer(*shield.arrived(1))
    assert shield.miss_path.pending_queries == 0
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
        shield.miss_path.receive()
        shield.miss_path.collect()
        shield.miss_path.send()
        time.sleep(0.001)
    arrived = shield.arrived_in_all()
    assert [octets[2:] for octets in arrived] == ([] if wire[5] else [wire[2:]] * 6)


def test_tries_are_counted_too(path):
    shield = path(timeout=1.0, attempts=3)
    (name,) = shield.fresh()
    wires = [with_opt(query(name, A), subnet(f"192.0.{n}.0", 24)) for n in range(3)]
    shield.ask(*wires)
    shield.clock.advance(1.1)
    shield.miss_path.tick()
    shield.miss_path.send()
    shield.arrived(1)
    assert (shield.nothing_arrived(), len(shield.miss_path.take_stream_queries())) == (True, 2)


def test_what_leaves_makes_room_however_it_ends(path):
    shield = path(timeout=1.0, deadline=2.0, attempts=1)
    (name,) = shield.fresh()
    for turn in range(5):
        wires = [with_opt(query(name, A), subnet(f"192.{turn}.{n}.0", 24)) for n in range(4)]
        asked = shield.ask(*wires)
        if turn % 2:
            shield.say(asked[0].port, *(headers_only(each, 1) for each in asked))
        else:
            shield.clock.advance(2.1)
            shield.miss_path.tick()
        assert shield.miss_path.pending_queries == 0
