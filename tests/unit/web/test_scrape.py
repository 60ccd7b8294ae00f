"""Show that pages are made one at a time, whoever goes away before the end of one, and none fails in silence."""

import asyncio
import logging
import socket
import struct
import threading

from support.web import exchange, serving, until

from funkenshield.core.logs import RateLimited
from funkenshield.web import http
from funkenshield.web.http import Response
from funkenshield.web.scrape import Scrapes

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


def responding(scrapes):
    async def respond(request):
        kind, page = await scrapes.page(request.headers.get("accept", ""))
        return Response(200, page, kind)

    return respond


def test_who_asks_and_resets_has_no_second_page_made_meanwhile():
    may_end = threading.Event()
    begun, made, at_once, counting = [], [0], [0], threading.Lock()

    def make():
        with counting:
            made[0] += 1
            at_once[0] = max(at_once[0], made[0])
        assert may_end.wait(10)
        with counting:
            made[0] -= 1
        return "text/plain", b"page"

    def render(accept):
        begun.append(accept)
        return make

    async def story():
        async with serving(responding(Scrapes(render))) as (server, address):
            for _ in range(5):
                with socket.create_connection(address) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.sendall(REQUEST)
                    await until(lambda: at_once[0] and server.count)
                    await asyncio.sleep(0.02)
                await until(lambda: not server.count)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(REQUEST)
            await asyncio.sleep(0.02)
            assert at_once == [1]
            may_end.set()
            assert (await reader.read()).endswith(b"page")
            writer.close()
            assert at_once == [1]
            assert len(begun) == 2, "who went away while others had their turn has no page made"

    asyncio.run(story())


def fail(*_):
    raise RuntimeError("can't start new thread")


def test_a_page_that_cannot_be_made_is_an_error_for_who_asks_and_told_once_and_the_next_is_made(caplog, monkeypatch):
    monkeypatch.setattr(http, "limited", RateLimited(logging.getLogger(http.__name__)))

    async def story():
        scrapes = Scrapes(fail)
        async with serving(responding(scrapes)) as (server, address):
            for render in fail, lambda _: fail:
                scrapes.render = render
                assert (await exchange(address, REQUEST))[0] == 500
            scrapes.render = lambda _: lambda: ("text/plain", b"page")
            status, fields, page = await exchange(address, REQUEST)
            assert (status, fields["content-type"], page) == (200, "text/plain", b"page")
            assert server.count == 0

    asyncio.run(story())
    assert caplog.messages == ['internal error, no page: RuntimeError("can\'t start new thread")']
