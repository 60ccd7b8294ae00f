"""Show that each connection gets one answer, whatever it sends, and that nobody takes more than his share."""

import asyncio
import logging
import socket
import struct

import pytest
from support.shown import Clock
from support.web import HOST, exchange, serving, until

from funkenshield.core.logs import RateLimited
from funkenshield.web import http
from funkenshield.web.http import AT_ONCE, BODY_MAX, HEAD_MAX, MAX_CONNECTIONS, PARTS_MAX, UNREAD_MAX, Response


def served(octets):
    """Return what came for octets, and the requests that were answered."""
    seen = []

    async def respond(request):
        seen.append(request)
        return Response(200, b"page")

    async def story():
        async with serving(respond) as (server, address):
            answer = await exchange(address, octets)
            await until(lambda: not server.count)
            return answer

    return *asyncio.run(story()), seen


def test_a_request_gets_an_answer_and_then_the_end():
    status, fields, body, (request,) = served(f"GET /path?a=1&b HTTP/1.1\r\n{HOST}X-Y: Z\r\n\r\n".encode())
    assert (status, body) == (200, b"page")
    assert (fields["content-length"], fields["connection"]) == ("4", "close")
    assert fields["date"].endswith("GMT")
    assert (request.method, request.path, request.query) == ("GET", "/path", "a=1&b")
    assert request.headers["x-y"] == "Z"


def test_head_has_no_body_and_tells_its_length():
    status, fields, body, _ = served(f"HEAD / HTTP/1.1\r\n{HOST}\r\n".encode())
    assert (status, fields["content-length"], body) == (200, "4", b"")


@pytest.mark.parametrize(
    "framed", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"]
)
def test_a_body_is_read_as_it_is_framed(framed):
    status, _, _, (request,) = served(f"POST / HTTP/1.1\r\n{HOST}".encode() + framed)
    assert (status, request.body) == (200, b"hello")


def test_a_second_request_on_a_connection_is_not_read():
    one = f"GET / HTTP/1.1\r\n{HOST}\r\n".encode()
    status, _, body, seen = served(one + one)
    assert (status, body, len(seen)) == (200, b"page", 1)


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"\xff\0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad field\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffffff\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * HEAD_MAX, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (BODY_MAX + 1), 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (PARTS_MAX + 1), 413),
    ],
)
def test_what_is_no_request_is_told_so_and_nobody_answers_it(octets, status):
    came, _, body, seen = served(octets)
    assert (came, body, seen) == (status, b"", [])


def test_an_answer_that_cannot_be_made_is_an_error_for_who_asks_and_told_once(caplog, monkeypatch):
    monkeypatch.setattr(http, "limited", RateLimited(logging.getLogger(http.__name__)))

    async def respond(request):
        raise RuntimeError("can't start new thread")

    async def story():
        async with serving(respond) as (_, address):
            for _ in range(3):
                assert (await exchange(address, f"GET / HTTP/1.1\r\n{HOST}\r\n".encode()))[0] == 500

    asyncio.run(story())
    assert caplog.messages == ['internal error, no page: RuntimeError("can\'t start new thread")']


def test_who_says_nothing_is_gone_after_a_while(monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.05)

    async def story():
        async with serving(None) as (server, address):
            for said in (
                b"",
                b"GET / HTTP/1.1\r\nHost: a\r\nX",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1",
            ):
                assert (await exchange(address, said))[0] == 0
            assert server.count == 0

    asyncio.run(story())


def test_connections_are_bounded_and_the_silent_ones_give_way():
    async def respond(request):
        return Response(200, b"page")

    async def story():
        async with serving(respond) as (server, address):
            held = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS + 20)]
            await until(lambda: server.count >= MAX_CONNECTIONS * 4 // 5)
            assert server.count < MAX_CONNECTIONS
            assert (await exchange(address, f"GET / HTTP/1.1\r\n{HOST}\r\n".encode()))[2] == b"page"
            for _, writer in held:
                writer.close()
            await until(lambda: not server.count)

    asyncio.run(story())


def test_a_flood_of_connections_is_let_in_by_and_by(monkeypatch):
    monkeypatch.setattr(http, "PAUSE", 0.2)

    async def story():
        async with serving(None) as (server, address):
            held = [await asyncio.open_connection(*address) for _ in range(AT_ONCE + 4)]
            await until(lambda: server.count == AT_ONCE)
            await asyncio.sleep(0.02)
            assert server.count == AT_ONCE
            await until(lambda: server.count == AT_ONCE + 4)
            for _, writer in held:
                writer.close()
            await until(lambda: not server.count)

    asyncio.run(story())


def test_who_asks_too_much_waits_and_his_neighbours_do_not(monkeypatch):
    monkeypatch.setattr(http, "COST", 0.04)
    clock, seen = Clock(), []

    async def respond(request):
        seen.append((request.source, request.path))
        return Response(200, b"page")

    async def story():
        async with serving(respond, clock) as (server, address):
            asked = [
                asyncio.create_task(exchange(address, f"GET /{k} HTTP/1.1\r\n{HOST}\r\n".encode())) for k in range(5)
            ]
            await until(lambda: server.count == 2)
            assert len(seen) == 3
            neighbour = await exchange(address, f"GET /n HTTP/1.1\r\n{HOST}\r\n".encode(), source="127.0.1.1")
            assert (neighbour[2], seen[-1], len(seen)) == (b"page", ("127.0.1.1", "/n"), 4)
            clock.at += 60
            assert [(await each)[2] for each in asked] == [b"page"] * 5

    asyncio.run(story())


def test_what_comes_behind_a_request_is_not_read(monkeypatch):
    read, data_received = [], http.Connection.data_received
    monkeypatch.setattr(
        http.Connection, "data_received", lambda self, data: read.append(data) or data_received(self, data)
    )

    async def respond(request):
        await asyncio.sleep(60)

    async def story():
        async with serving(respond) as (server, address):
            _, writer = await asyncio.open_connection(*address)
            writer.write(f"GET / HTTP/1.1\r\n{HOST}\r\n".encode())
            await until(lambda: read)
            writer.write(b"x" * (1 << 24))
            await asyncio.sleep(0.2)
            assert len(read) == 2
            writer.transport.abort()
            for each in list(server.connections.of(b"\x7f\0\0").values()):
                each.abort()
            await asyncio.sleep(0)

    asyncio.run(story())


class Endless:
    """A stream, and who reads it."""

    def __init__(self):
        self.viewers = []

    def add(self, viewer):
        self.viewers.append(viewer)

    def remove(self, viewer):
        self.viewers.remove(viewer)


def test_a_stream_goes_on_until_its_end_and_who_leaves_is_forgotten():
    stream = Endless()

    async def respond(request):
        return Response(200, b"first\n", "text/event-stream", stream=stream)

    async def story():
        async with serving(respond) as (server, address):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(f"GET / HTTP/1.0\r\n{HOST}\r\n".encode())
            assert b"first" in await reader.readuntil(b"first\n")
            stream.viewers[0].write(b"second\n")
            assert await reader.readline() == b"second\n"
            stream.viewers[0].end()
            assert await reader.read() == b""
            writer.close()
            await until(lambda: not stream.viewers and not server.count)
            with socket.create_connection(address) as leaving:
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaving.sendall(f"GET / HTTP/1.1\r\n{HOST}\r\n".encode())
                await until(lambda: stream.viewers)
            await until(lambda: not stream.viewers and not server.count)

    asyncio.run(story())


def test_a_stream_that_cannot_begin_ends_and_takes_no_place(caplog, monkeypatch):
    monkeypatch.setattr(http, "limited", RateLimited(logging.getLogger(http.__name__)))
    stream = Endless()
    monkeypatch.setattr(stream, "add", lambda viewer: 1 / 0)
    monkeypatch.setattr(stream, "remove", lambda viewer: None)

    async def respond(request):
        return Response(kind="text/event-stream", stream=stream)

    async def story():
        async with serving(respond) as (server, address):
            for _ in range(MAX_CONNECTIONS + 1):
                assert (await exchange(address, f"GET / HTTP/1.1\r\n{HOST}\r\n".encode()))[2] == b""
            assert server.count == 0

    asyncio.run(story())
    assert caplog.messages == ["internal error, no page: ZeroDivisionError('division by zero')"]


def test_who_asks_for_the_head_of_a_stream_gets_no_stream():
    stream = Endless()

    async def respond(request):
        return Response(kind="text/event-stream", stream=stream)

    async def story():
        async with serving(respond) as (_, address):
            status, fields, body = await exchange(address, f"HEAD / HTTP/1.1\r\n{HOST}\r\n".encode())
            assert (status, fields["content-type"], body) == (200, "text/event-stream", b"")

    asyncio.run(story())
    assert stream.viewers == []


def test_who_does_not_read_a_stream_is_dropped():
    stream, sent = Endless(), 0

    async def respond(request):
        return Response(kind="text/event-stream", stream=stream)

    async def story():
        nonlocal sent
        async with serving(respond) as (server, address):
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(address)
                sock.sendall(f"GET / HTTP/1.1\r\n{HOST}\r\n".encode())
                await until(lambda: stream.viewers)
                piece = b"x" * 65536
                while stream.viewers and sent < 1 << 26:
                    stream.viewers[0].write(piece)
                    sent += len(piece)
                    await asyncio.sleep(0)
                assert not stream.viewers
                await until(lambda: not server.count)

    asyncio.run(story())
    assert sent > UNREAD_MAX
