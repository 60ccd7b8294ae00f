"""DNS over HTTPS by HTTP/3, as a client of aioquic's sees it: requests, statuses, what is bounded."""

import base64

import pytest

pytest.importorskip("qh3")
from support.quic import Client, Server

QUERY = b"\0\0\1\0\0\1\0\0\0\0\0\0\4name\0\0\1\0\1"
ANSWER = b"\0\0\x81\0\0\1" + QUERY[6:]
TYPE = "application/dns-message"
EXCESSIVE_LOAD, REQUEST_INCOMPLETE, NO_ERROR = 0x107, 0x10D, 0x100


def encoded(query):
    return base64.urlsafe_b64encode(query).rstrip(b"=").decode()


@pytest.fixture
def server(certificates):
    return Server(certificates, alpn="h3")


@pytest.fixture
def client(server):
    return Client(server)


def test_a_query_comes_by_get_head_or_post(server, client):
    streams = [
        client.request(path=f"/dns-query?dns={encoded(QUERY)}"),
        client.request("POST", content=QUERY, content_type=TYPE),
        client.request("HEAD", path=f"/dns-query?a=b&dns={encoded(QUERY)}"),
    ]
    assert server.answer(ANSWER, 77) == [QUERY] * 3
    client.exchange()
    wanted = {":status": "200", "content-type": TYPE, "cache-control": "max-age=77"}
    length = {"content-length": str(len(ANSWER))}
    responses = [client.received[stream] for stream in streams]
    assert [response.fields for response in responses] == [wanted | length, wanted | length, wanted]
    assert [response.content for response in responses] == [ANSWER, ANSWER, b""]
    assert all(response.ended for response in responses)
    assert server.statuses == {200: 3}


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, {"path": "/dns-query"}),
        (400, {"path": "/dns-query?dns=A"}),
        (400, {"path": f"/dns-query?dns={encoded(QUERY[:11])}"}),
        (400, {"path": f"/dns-query?dns={encoded(ANSWER)}"}),
        (400, {"method": "POST", "content": QUERY[:11], "content_type": TYPE}),
        (404, {"path": f"/?dns={encoded(QUERY)}"}),
        (404, {"path": f"/dns-query/?dns={encoded(QUERY)}"}),
        (405, {"method": "PUT", "content": QUERY, "content_type": TYPE}),
        (413, {"method": "POST", "content": bytes(65536), "content_type": TYPE}),
        (413, {"method": "POST", "content": QUERY, "content_type": TYPE, "content_length": "70000"}),
        (414, {"path": f"/dns-query?dns={'A' * 8192}"}),
        (415, {"method": "POST", "content": QUERY, "content_type": "text/plain"}),
        (415, {"method": "POST", "content": QUERY}),
        (431, {"path": f"/dns-query?dns={encoded(QUERY)}", "long": "a" * 20000}),
    ],
)
def test_what_is_no_query_gets_its_status(status, request_, server, client):
    stream = client.request(**request_)
    client.exchange(seconds=0.1)
    assert client.received[stream].fields[":status"] == str(status)
    assert client.received[stream].fields["content-length"] == "0"
    assert ("allow" in client.received[stream].fields) == (status == 405)
    assert not server.asked
    another = client.request("POST", content=QUERY, content_type=TYPE)
    assert server.answer(ANSWER) == [QUERY]
    client.exchange()
    assert client.received[another].content == ANSWER
    assert server.bounds.memory == 0


@pytest.mark.parametrize("status", [403, 503])
def test_who_gets_no_response_gets_a_status(status, server, client):
    stream = client.request("POST", content=QUERY, content_type=TYPE)
    server.answer(b"", status)
    client.exchange()
    assert client.received[stream].fields == {":status": str(status), "content-length": "0"}


def test_who_does_not_want_the_response_any_more_gets_none(server, client):
    for _ in range(3):
        stream = client.request("POST", content=QUERY, content_type=TYPE)
        client.quic.stop_stream(stream, 0x10C)
        client.exchange()
    server.answer(ANSWER)
    client.exchange()
    assert client.received == {}
    assert client.connection._application._h3._stream.keys().isdisjoint(range(0, 12, 4))


def test_half_a_request_and_silence_hold_little_and_not_for_long(server, client):
    stream = client.request("POST", content=QUERY[:20], content_type=TYPE, ended=False)
    assert 0 < server.bounds.memory < 1000
    client.exchange(seconds=11.0)
    client.connection.expire(server.now)
    client.exchange()
    assert client.resets == client.stopped == {stream: REQUEST_INCOMPLETE}
    assert server.bounds.memory == 0


def test_fields_that_never_end_are_bounded(server, client):
    stream = client.quic.get_next_available_stream_id()
    client.quic.send_stream_data(stream, b"\1\x80\x0f\xff\xff", False)  # fields of a mebibyte
    for _ in range(300):
        client.quic.send_stream_data(stream, bytes(5000), False)
        client.exchange(turns=5)
    client.exchange(seconds=0.1)
    assert client.connection.is_over
    assert client.terminated is not None


def test_what_is_no_http_ends_the_connection(client):
    client.quic.send_stream_data(client.quic.get_next_available_stream_id(), b"\4\0", True)  # settings of a request
    client.exchange()
    assert client.terminated == 0x105


LONG = b"\x21" + (1 << 40 | 3 << 62).to_bytes(8)  # how a frame of an unknown type begins


def test_a_long_frame_that_is_no_requests_ends_the_connection(server, client):
    client.send(LONG, ended=False, stream=client.h3._local_control_stream_id)
    for _ in range(20):
        if client.terminated is None:
            client.send(bytes(1000), ended=False, stream=client.h3._local_control_stream_id)
    assert client.terminated == EXCESSIVE_LOAD
    assert server.counters["excessive_load"] == 0  # of the connection as a whole


def test_what_follows_an_answer_is_not_collected(server, client):
    application = client.connection._application
    stream = client.quic.get_next_available_stream_id()
    pseudo = {b":method": b"POST", b":scheme": b"https", b":authority": b"dns.test", b":path": b"/nowhere"}
    client.h3.send_headers(stream, list(pseudo.items()))
    for datagram, _ in client.quic.datagrams_to_send(server.now):
        client.connection.receive(datagram, client.address, server.now)
    assert server.statuses == {404: 1}
    for octets in LONG, *(bytes(1000) for _ in range(20)):  # of a client that does not stop when it is told
        application.receive(stream, octets, False, server.now)
    assert not application._h3._stream[stream].buffer
    application.receive(stream, b"", True, server.now)
    assert (application._over, stream in application._h3._stream) == (set(), False)
    assert client.connection._quic.is_open


def test_of_fields_only_the_method_is_kept(server, client):
    stream = client.request("POST", content=QUERY[:5], ended=False, content_type=TYPE, more="x" * 5000)
    assert client.connection._application._requests[stream].fields == {b":method": b"POST"}
