"""What becomes of a connection, whatever comes: nothing is left of one that is over, and no fault is another's."""

import random
from types import SimpleNamespace

import pytest

pytest.importorskip("qh3")
from support.quic import CLIENT, SERVER, Client, Server

from funkenshield.quic.connection import BLOCKED, Connection
from funkenshield.quic.handshake import ServerConnection

QUERY = b"\0\x11\0\0\1\0\0\1" + bytes(6) + b"\0\0\1\0\1"
WHOLE = 12  # octets of a response


class Distorting(Client):
    """A client on a way that changes, or cuts short, some of what it sends."""

    def __init__(self, server, dice, ratio, **settings):
        self.dice, self.ratio = dice, ratio
        super().__init__(server, **settings)

    def distorted(self, datagram):
        if self.dice.random() >= self.ratio:
            return datagram
        octets = bytearray(datagram)
        for _ in range(self.dice.choice([1, 3, 20])):
            octets[self.dice.randrange(len(octets))] = self.dice.randrange(256)
        return bytes(octets[: self.dice.choice([len(octets), self.dice.randrange(1, len(octets) + 1)])])

    def do_anything(self):
        """Do what clients do, and what they should not."""
        dice, quic = self.dice, self.quic
        stream = quic.get_next_available_stream_id(is_unidirectional=dice.random() < 0.2)
        match dice.randrange(7):
            case 0:
                quic.send_stream_data(stream, dice.randbytes(dice.randrange(60)), dice.random() < 0.5)
            case 1 | 2:
                quic.send_stream_data(stream, QUERY, dice.random() < 0.7)
            case 3:
                quic.send_stream_data(stream, QUERY[:9], False)
                quic.reset_stream(stream, dice.randrange(1 << 30))
            case 4:
                quic.send_ping(1)
            case 5:
                quic.change_connection_id()
                self.address = (f"192.0.2.{dice.randrange(1, 200)}", dice.randrange(1024, 65536))
            case 6:
                self.server.answer(bytes(dice.randrange(WHOLE, 3000)))


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("alpn", ["doq", "h3"])
def test_nothing_is_left_of_a_connection_whatever_came(alpn, ratio, certificates):
    for seed in range(10):
        dice, server = random.Random(seed), Server(certificates, alpn)
        client = Distorting(server, dice, ratio)
        for _ in range(10):
            if client.quic._close_event is None:
                client.do_anything()
            client.exchange(dice.choice([0.0, 0.01, 1.0]))
            client.connection.expire(server.now)
        client.connection.give_way(server.now)
        assert client.connection.is_over
        assert server.bounds.memory == len(server.bounds) == len(server.routes) == 0
        assert server.counters["internal_errors"] == 0, seed


def panic(*_, **__):
    raise BaseException("a panic")  # as those of Rust are


@pytest.mark.parametrize(
    "does",
    [
        lambda server, connection: server.answer(),
        lambda server, connection: connection.expire(server.now),
        lambda server, connection: connection.flush(server.now),
        lambda server, connection: connection.give_way(server.now),
    ],
    ids=["a response", "too late", "a timer", "giving way"],
)
def test_a_fault_is_one_connections_wherever_it_comes(does, certificates, monkeypatch):
    server = Server(certificates)
    client, other = Client(server), Client(server)
    client.send(QUERY)
    connection = client.connection
    monkeypatch.setattr(connection._application, "respond", panic)
    monkeypatch.setattr(connection._application, "expire", panic)
    monkeypatch.setattr(connection._quic, "get_timer", panic)
    monkeypatch.setattr(connection._quic, "close", panic)
    does(server, connection)
    assert connection.is_over
    assert server.counters["internal_errors"] >= 1
    assert server.bounds.memory == 0
    stream = other.send(QUERY)
    server.answer()
    other.exchange()
    assert stream in other.ended


def test_a_handshake_that_does_not_end_may_take_so_many_octets(certificates):
    server = Server(certificates)
    connection = Connection(
        server.services, ServerConnection(server.shown, bytes(8), bytes(range(8))), 1, CLIENT, SERVER, b"", 1.0
    )
    assert server.bounds.admit(connection, 1.0)
    for _ in range((32 << 10) // 1200):
        connection.receive(bytes(1200), CLIENT, 1.0)
    assert not connection.is_over
    connection.receive(bytes(1200), CLIENT, 1.0)
    assert connection.is_over
    assert (len(server.bounds), server.counters["excessive_load"]) == (0, 1)


def test_queries_are_counted_while_the_worker_has_them(certificates):
    server = Server(certificates)
    client = Client(server)
    long = QUERY[2:] + bytes(3000)
    for _ in range(5):
        client.send(len(long).to_bytes(2) + long)
    assert server.bounds.memory == 5 * len(long)
    server.answer()
    client.exchange()
    assert server.bounds.memory == 0


MOVED = ("198.51.100.7", 5000)


def moved(server):
    """Return a client that has eight answers to come, and how many octets it has sent from another address."""
    client = Client(server)
    for _ in range(3):
        client.send(QUERY)
        server.answer(bytes(3000))
        client.exchange()
    for _ in range(8):
        client.send(QUERY)
    client.quic.send_ping(7)
    came = [datagram for datagram, _ in client.quic.datagrams_to_send(server.now)]
    for datagram in came:
        client.connection.receive(datagram, MOVED, server.now)
    server.answer(bytes(3000))
    return client, sum(map(len, came))


def test_an_address_that_has_shown_nothing_gets_three_times_as_much_at_most_and_little_is_done_for_it(certificates):
    server = Server(certificates)
    client, came = moved(server)
    began, turns = server.now, 0
    while not client.connection.is_over:
        due = client.connection.flush(server.now)
        server.now = due if due is not None and due > server.now else server.now + 0.001
        client.connection.handle_timer(server.now)
        turns += 1
    assert 0 < sum(len(octets) for octets, address, _ in server.sent if address == MOVED) <= 3 * came
    assert 30.0 <= server.now - began < 32.0  # until it is idle for too long
    assert turns < 100
    assert server.counters["internal_errors"] == 0


@pytest.mark.parametrize("timer", ["pacing", "ack_application"])
def test_what_cannot_be_sent_yet_is_not_tried_all_the_time(timer, certificates, monkeypatch):
    server = Server(certificates)
    connection = Client(server).connection

    class Blocked:
        """A core that could send at once, if it could."""

        def poll_transmit(self, now):
            raise RuntimeError("anti-amplification limit")

        def get_timer(self):
            return timer, 0.5

        def get_send_buffer_size(self, stream):
            return 0

        def handle_timer(self, now):
            pass

        def next_event(self):
            pass

    monkeypatch.setattr(connection._quic, "_core", Blocked())
    assert connection.flush(server.now) == server.now + BLOCKED
    assert not connection.is_over


def test_what_cannot_be_sent_for_another_reason_ends_the_connection(certificates, monkeypatch):
    server = Server(certificates)
    connection = Client(server).connection
    monkeypatch.setattr(connection._quic, "_core", SimpleNamespace(poll_transmit=cannot, close=lambda *_: None))
    assert connection.flush(server.now) is None
    assert connection.is_over
    assert server.counters["internal_errors"] == 1


def cannot(*_):
    raise RuntimeError("unknown transmit path")
