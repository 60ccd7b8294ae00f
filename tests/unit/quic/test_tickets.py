"""Tickets of sessions: who can open them, and for how long; what a client's next handshake makes of one."""

from dataclasses import replace

import pytest

pytest.importorskip("qh3")
from support.quic import LIFETIME, SECRET, Client, Server

from funkenshield.quic.tickets import LIFETIME_MAX, Tickets

PERIOD = 100
EARLY_DATA = 0xFFFFFFFF


class Scene:
    def __init__(self):
        self.now = 5000.0
        self.tickets = self.of()

    def of(self, secret=SECRET, purpose="doq"):
        return Tickets(secret, PERIOD, purpose, lambda: self.now)


@pytest.fixture
def scene():
    return Scene()


@pytest.mark.parametrize(("seconds", "opens"), [(0, True), (199, True), (-100, True), (200, False), (-101, False)])
def test_a_ticket_is_good_for_two_periods_and_for_who_is_ahead(seconds, opens, scene):
    ticket = scene.tickets.seal(b"session")
    scene.now += seconds
    assert (scene.of().open(ticket) == b"session") == opens


def test_what_was_changed_or_sealed_otherwise_is_no_ticket(scene):
    ticket = scene.tickets.seal(b"session")
    assert scene.tickets.seal(b"session") != ticket
    for at in range(len(ticket)):
        assert scene.tickets.open(ticket[:at] + bytes((ticket[at] ^ 1,)) + ticket[at + 1 :]) is None
        assert scene.tickets.open(ticket[:at]) is None
    assert scene.of(bytes(32)).open(ticket) is None
    assert scene.of(purpose="h3").open(ticket) is None


def test_clients_are_told_to_keep_none_for_more_than_a_week():
    assert Tickets(SECRET, 60.0, "doq").lifetime == 120
    assert Tickets(SECRET, 604800.0, "doq").lifetime == LIFETIME_MAX


# ------------------------------------------------------------ handshakes


def full_and_resumed(server):
    return server.counters["handshakes_full"], server.counters["handshakes_resumed"]


@pytest.mark.parametrize("alpn", ["doq", "h3"])
def test_a_session_is_resumed_by_another_process_too(alpn, certificates):
    [ticket] = Client(server := Server(certificates, alpn)).tickets
    another = Server(certificates, alpn)
    client = Client(another, session_ticket=ticket)
    assert full_and_resumed(server) == (1, 0)
    assert full_and_resumed(another) == (0, 1)
    assert client.quic.tls.session_resumed
    [following] = client.tickets
    assert following.ticket != ticket.ticket
    assert Client(another, session_ticket=following).quic.tls.session_resumed


def test_a_client_may_not_send_early_data_and_who_does_has_a_full_handshake(certificates):
    server = Server(certificates)
    [ticket] = Client(server).tickets
    assert ticket.max_early_data_size is None
    client = Client(server, session_ticket=replace(ticket, max_early_data_size=EARLY_DATA))
    assert not client.quic.tls.early_data_accepted
    assert full_and_resumed(server) == (2, 0)
    assert client.terminated is None


def test_what_is_too_old_or_no_ticket_begins_a_session_anew(certificates):
    server = Server(certificates)
    [ticket] = Client(server).tickets
    server.wall += 2 * LIFETIME
    clients = [
        Client(server, session_ticket=ticket),
        Client(server, session_ticket=replace(ticket, ticket=b"none of ours")),
        Client(Server(certificates, "h3"), session_ticket=ticket),
    ]
    assert [client.quic.tls.session_resumed for client in clients] == [False] * 3
    assert [client.terminated for client in clients] == [None] * 3


def test_who_has_a_ticket_without_its_secret_is_refused(certificates):
    server = Server(certificates)
    [ticket] = Client(server).tickets
    client = Client(server, session_ticket=replace(ticket, resumption_secret=bytes(len(ticket.resumption_secret))))
    client.exchange()
    assert client.connection.is_over
    assert server.counters["handshakes_failed"] == 1
