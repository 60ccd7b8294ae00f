"""DNS over QUIC (RFC 9250), as a client of aioquic's sees it: streams, errors, what is bounded."""

from struct import pack

import pytest

pytest.importorskip("qh3")
from support.quic import LIMITS, Client, Server

NO_ERROR, PROTOCOL_ERROR, REQUEST_CANCELLED, EXCESSIVE_LOAD, UNSPECIFIED_ERROR = 0, 2, 3, 4, 5
QUERY = b"\0\0\1\0\0\1\0\0\0\0\0\0\4name\0\0\1\0\1"
ANSWER = b"\0\0\x81\0\0\1" + QUERY[6:]
OPT = b"\0\0\x29\4\xd0\0\0\0\0"


def framed(message):
    return pack("!H", len(message)) + message


def with_option(number, octets=b"\0\0"):
    """Return a query with an EDNS option."""
    option = pack("!HH", number, len(octets)) + octets
    return QUERY[:11] + b"\1" + QUERY[12:] + OPT + pack("!H", len(option)) + option


@pytest.fixture
def server(certificates):
    return Server(certificates)


@pytest.fixture
def client(server):
    return Client(server)


def test_each_query_is_answered_on_its_stream(server, client):
    streams = [client.send(framed(QUERY)) for _ in range(3)]
    assert server.answer(ANSWER) == [QUERY] * 3
    client.exchange()
    assert client.received == dict.fromkeys(streams, framed(ANSWER))
    assert client.ended == set(streams)
    assert client.connection.is_idle
    assert server.counters == {"accepted": 1, "handshakes_full": 1}


def test_a_query_may_come_octet_by_octet_and_its_end_later(server, client):
    stream = client.quic.get_next_available_stream_id()
    for octet in framed(QUERY):
        assert not server.asked
        client.send(bytes((octet,)), ended=False, stream=stream)
    assert server.answer(ANSWER) == [QUERY]
    client.exchange()
    assert client.received == {stream: framed(ANSWER)}
    assert client.stopped == {stream: NO_ERROR}
    client.exchange(seconds=1.0)
    assert client.terminated is None
    assert server.bounds.memory == 0


def test_who_ends_his_stream_after_the_response_does_no_harm(server, client):
    stream = client.send(framed(QUERY), ended=False)
    for _, _, reply, number in server.asked:
        reply(number, ANSWER, 0)
    client.quic.send_stream_data(stream, b"", True)
    client.exchange()
    client.exchange(seconds=0.1)
    assert client.received == {stream: framed(ANSWER)}
    assert client.terminated is None


@pytest.mark.parametrize(
    "octets",
    [
        framed(b"\0\1" + QUERY[2:]),  # a message ID
        framed(ANSWER),
        framed(QUERY[:11]),
        framed(QUERY) + b"\0",
        framed(QUERY)[:-1],
        framed(QUERY) * 2,
        b"\0",
        b"\0\0",
        b"",
        framed(with_option(11)),
    ],
    ids=["ID", "response", "short", "more", "less", "two", "one octet", "length 0", "nothing", "keepalive"],
)
def test_what_is_no_query_ends_the_connection(octets, server, client):
    client.send(octets)
    client.exchange()
    assert client.terminated == PROTOCOL_ERROR
    assert not server.asked
    assert client.connection.is_over
    assert server.bounds.memory == len(server.bounds) == len(server.routes) == 0


def test_an_option_whose_data_look_like_keepalive_is_none(server, client):
    client.send(framed(query := with_option(10, b"\0\x0b\0\0\0\0\0\0")))
    assert server.answer() == [query]


def test_a_second_query_on_a_stream_ends_the_connection(server, client):
    stream = client.send(framed(QUERY), ended=False)
    client.send(framed(QUERY), stream=stream)
    client.exchange()
    assert client.terminated == PROTOCOL_ERROR


def test_a_stream_for_one_direction_ends_the_connection(client):
    client.send(framed(QUERY), stream=client.quic.get_next_available_stream_id(is_unidirectional=True))
    client.exchange()
    assert client.terminated == PROTOCOL_ERROR


@pytest.mark.parametrize(("status", "code"), [(403, UNSPECIFIED_ERROR), (503, EXCESSIVE_LOAD)])
def test_who_gets_no_response_is_told_on_his_stream(status, code, server, client):
    stream = client.send(framed(QUERY))
    server.answer(b"", status)
    client.exchange()
    assert client.resets == {stream: code}
    assert client.terminated is None


@pytest.mark.parametrize("ended", [True, False])
def test_who_does_not_want_the_response_any_more_gets_none(ended, server, client):
    stream = client.send(framed(QUERY), ended=ended)
    client.quic.stop_stream(stream, REQUEST_CANCELLED)
    if not ended:
        client.quic.reset_stream(stream, REQUEST_CANCELLED)
    client.exchange()
    server.answer(ANSWER)
    client.exchange()
    assert client.received == {}
    another = client.send(framed(QUERY))
    server.answer(ANSWER)
    client.exchange()
    assert client.received == {another: framed(ANSWER)}
    assert client.connection.is_idle


def test_one_octet_and_silence_hold_little_and_not_for_long(server, client):
    streams = [client.send(octets, ended=False) for octets in (b"\xff", b"\xff\xff\0")]
    assert server.bounds.memory == 4
    client.exchange(seconds=9.0)
    client.connection.expire(server.now)
    client.exchange()
    assert client.resets == {}
    client.exchange(seconds=2.0)
    client.connection.expire(server.now)
    client.exchange()
    assert client.resets == client.stopped == dict.fromkeys(streams, EXCESSIVE_LOAD)
    assert server.bounds.memory == 0
    client.send(framed(QUERY))
    assert server.answer() == [QUERY]


def test_more_queries_at_once_than_a_connection_may_have_are_refused(certificates):
    server = Server(certificates, limits=LIMITS._replace(max_in_flight=2))
    client = Client(server)
    streams = [client.send(framed(QUERY)) for _ in range(3)]
    assert len(server.answer(ANSWER)) == 2
    client.exchange()
    assert client.ended == set(streams[:2])
    assert client.resets == {streams[2]: EXCESSIVE_LOAD}


def test_who_resets_what_he_asked_has_no_more_queries_for_that(certificates):
    server = Server(certificates, limits=LIMITS._replace(max_in_flight=2))
    client = Client(server)
    for _ in range(2):
        client.quic.stop_stream(client.send(framed(QUERY)), REQUEST_CANCELLED)
        client.exchange()
    stream = client.send(framed(QUERY))
    assert client.resets[stream] == EXCESSIVE_LOAD
    assert len(server.answer(ANSWER)) == 2
    client.send(framed(QUERY))
    assert len(server.asked) == 1


def test_what_a_client_does_not_let_come_waits_and_then_comes(certificates):
    server = Server(certificates, limits=LIMITS._replace(write_buffer=1000))
    client = Client(server, max_stream_data=100)
    first = client.send(framed(QUERY))
    answer = ANSWER + bytes(3000)
    for _, _, reply, stream in server.asked:
        reply(stream, answer, 0)
    server.asked.clear()
    timer = client.connection.flush(server.now)
    assert timer is not None
    client.connection.receive(b"\x40" * 30, client.address, server.now)  # what is nothing has it counted
    assert server.bounds.memory > 1000
    second = client.send(framed(QUERY))
    client.exchange(seconds=0.5, turns=100)
    assert client.received[first] == framed(answer)
    assert (second in client.resets) or server.asked


def test_a_window_of_zero_holds_little_and_for_as_long_as_the_client_is_there(certificates):
    server = Server(certificates, limits=LIMITS._replace(write_buffer=20_000))
    client = Client(server, max_stream_data=0, max_data=0)
    for _ in range(50):
        client.send(framed(QUERY))
        server.answer(ANSWER + bytes(3000))
        client.exchange()
    assert client.received == {}
    assert 20_000 < server.bounds.memory < 25_000
    assert set(client.resets.values()) == {EXCESSIVE_LOAD}
    assert len(client.resets) > 40
    client.connection.give_way(server.now)
    assert server.bounds.memory == 0


def test_octets_that_lead_to_nothing_end_the_connection(server, client):
    for _ in range(2000):
        client.quic.send_ping(1)
        client.exchange(turns=1)
        client.connection.receive(b"\x40" + bytes(1400), client.address, server.now)
        if client.connection.is_over:
            break
    client.exchange()
    assert client.connection.is_over
    assert client.terminated == EXCESSIVE_LOAD
    assert server.counters["excessive_load"] == 1


def test_a_client_that_moves_is_asked_for_where_it_has_shown_to_be(server, client):
    client.send(framed(QUERY))
    client.address = ("198.51.100.7", 5000)
    client.quic.send_stream_data(stream := client.quic.get_next_available_stream_id(), framed(QUERY), True)
    for datagram, _ in client.quic.datagrams_to_send(server.now):
        client.connection.receive(datagram, client.address, server.now)
    before, unproven = (ends[:4] for ends, *_ in server.asked)
    assert before == unproven == bytes((192, 0, 2, 1))
    client.exchange(seconds=0.1)
    client.exchange(seconds=0.1)
    client.send(framed(QUERY))
    assert server.asked[-1][0][:4] == bytes((198, 51, 100, 7))
    server.answer(ANSWER)
    client.exchange()
    assert stream in client.ended


def test_a_client_that_leaves_is_forgotten(server, client):
    client.send(framed(QUERY))
    client.quic.close(NO_ERROR)
    client.exchange()
    assert client.connection.is_over
    assert server.bounds.memory == len(server.bounds) == len(server.routes) == 0
    server.answer(ANSWER)  # comes too late


def test_silence_ends_a_connection(server, client):
    timer = client.connection.flush(server.now)
    server.now = timer + 31.0
    client.connection.handle_timer(server.now)
    client.connection.flush(server.now)
    server.now += 31.0
    client.connection.handle_timer(server.now)
    assert client.connection.is_over
    assert len(server.bounds) == 0


def test_who_speaks_something_else_is_refused(server):
    client = Client(server, alpn="h3")
    client.exchange()
    assert client.connection.is_over
    assert server.counters["handshakes_failed"] == 1


@pytest.mark.parametrize(("name", "shown"), [("a.test", 0), ("B.test", 1), ("c.test", 0), (None, 0)])
def test_each_client_is_shown_the_certificate_for_the_name_it_asks_for(name, shown, issue):
    certificates = issue("a.test", "b.test")
    client = Client(Server(certificates), name=name)
    certificate = client.quic.tls._peer_certificate
    assert certificate.public_bytes(client_encoding()) == certificates[shown].chain[0]


def client_encoding():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def test_who_stops_what_was_answered_leaves_nothing_behind(server, client):
    application = client.connection._application
    for _ in range(20):
        stream = client.send(framed(QUERY))
        server.answer(ANSWER)
        application.abandon(stream, ended=False)  # as it comes where the client has not acknowledged the response yet
        client.exchange()
    assert (application._over, application._asked, application._partial) == (set(), {}, {})


def test_a_stream_that_was_reset_is_over_on_both_sides(server, client):
    for _ in range(300):  # more than may be open at once
        stream = client.quic.get_next_available_stream_id()
        client.quic.send_stream_data(stream, framed(QUERY), False)
        client.exchange()
        client.quic.reset_stream(stream, REQUEST_CANCELLED)
        client.exchange()
        server.answer(ANSWER)
    stream = client.send(framed(QUERY))
    assert server.answer(ANSWER) == [QUERY]
    client.exchange()
    assert client.received[stream] == framed(ANSWER)
