"""Queries that a front relays: frames of many clients on one connection, each answered by its number."""

import contextlib
import ipaddress
import socket
import sys
from struct import pack, unpack_from

import pytest
from support.quick import query
from support.tcp_worker import Running

from funkenshield.server._relayed import QUERY_HEADER, RESPONSE_HEADER, RelayedListener

REFUSED, BAD_REQUEST = 5, 400
QUIC_LISTENER = 3


def frame(number, message, client="192.0.2.1", asked="192.0.2.53"):
    one, other = (ipaddress.ip_address(each).packed for each in (client, asked))
    return pack("!HI16sBH16sBH", len(message), number, one, len(one), 4000, other, len(other), 853) + message


class Front:
    """A front with its connection to a worker that refuses all."""

    def __init__(self, stack, **options):
        self.running = Running(stack, refuses=True, **options)
        self.sock = self.adopted(stack)

    def adopted(self, stack):
        ours, other = socket.socketpair()
        stack.enter_context(ours).settimeout(5.0)
        other.setblocking(False)
        self.running.worker.relays.offer(other.detach(), QUIC_LISTENER, RelayedListener("quic"))
        return ours

    def responses(self, count):
        """Return so many responses by their numbers, each with what was told beside it."""
        octets, found = b"", {}
        while len(found) < count:
            octets += self.sock.recv(65536)
            while len(octets) >= RESPONSE_HEADER:
                length, number, told = unpack_from("!HII", octets)
                if len(octets) < RESPONSE_HEADER + length:
                    break
                found[number] = (octets[RESPONSE_HEADER : RESPONSE_HEADER + length], told)
                octets = octets[RESPONSE_HEADER + length :]
        assert not octets
        return found


@pytest.fixture
def front():
    with contextlib.ExitStack() as stack:
        yield Front(stack)


def test_each_query_is_answered_by_its_number_whatever_pieces_it_comes_in(front):
    asked = {number: query(f"n{number}.test") for number in (1, 7, 0xFFFFFFFF)}
    octets = b"".join(frame(number, message, client="2001:db8::1") for number, message in asked.items())
    assert len(octets) == sum(QUERY_HEADER + len(message) for message in asked.values())
    for at in range(0, len(octets), 13):
        front.sock.sendall(octets[at : at + 13])
    responses = front.responses(len(asked))
    assert responses.keys() == asked.keys()
    for number, (response, lifetime) in responses.items():
        assert response[12:] == asked[number][12:]
        assert (response[3] & 15, lifetime) == (REFUSED, 0)
    counted = front.running.counters()
    assert counted["queries_over_quic"] == counted["acl_denied"] == 3
    assert front.running.worker.answering.messages_by_listener()[QUIC_LISTENER] == 3


def test_who_relays_is_bounded_by_none_of_the_limits_of_a_client(front):
    front.running.limits.configure(
        max_connections=1, max_per_client=1, memory=1 << 20, max_in_flight=1, write_buffer=1 << 16, idle_timeout=0.1
    )
    front.sock.sendall(b"".join(frame(number, query("a.test")) for number in range(1, 2001)))
    assert front.responses(2000).keys() == set(range(1, 2001))
    front.sock.settimeout(0.6)
    with pytest.raises(TimeoutError):  # it goes on, though it is idle
        front.sock.recv(1)


def test_what_is_no_query_is_refused_with_its_status(front):
    response = bytearray(query("a.test"))
    response[2] |= 0x80
    front.sock.sendall(frame(1, b"") + frame(2, bytes(11)) + frame(3, bytes(response)))
    assert front.responses(3) == dict.fromkeys((1, 2, 3), (b"", BAD_REQUEST))


@pytest.mark.parametrize(("place", "octets"), [(22, 0), (22, 17), (22, 255), (41, 5), (41, 255)])
def test_addresses_that_are_none_end_the_connection_of_a_front(front, place, octets):
    good, spoilt = frame(1, query("a.test")), bytearray(frame(2, query("b.test")))
    spoilt[place] = octets
    front.sock.sendall(good + spoilt)
    assert front.responses(1).keys() == {1}
    assert not front.sock.recv(1)
    assert front.running.counters()["queries_over_quic"] == 1


def test_a_front_that_ends_is_followed_by_another(front):
    front.sock.sendall(frame(1, query("a.test"))[:-1])
    front.sock.close()
    with contextlib.ExitStack() as stack:
        front.sock = front.adopted(stack)
        front.sock.sendall(frame(2, query("a.test")))
        assert front.responses(1).keys() == {2}


def test_what_is_kept_does_not_grow_with_each_front(front):
    listener, relays = RelayedListener("quic"), front.running.worker.relays

    def offer():
        ours, other = socket.socketpair()
        ours.close()
        other.setblocking(False)
        relays.offer(other.detach(), QUIC_LISTENER, listener)

    offer()
    kept = sys.getrefcount(listener)
    for _ in range(10):
        offer()
    assert sys.getrefcount(listener) == kept
