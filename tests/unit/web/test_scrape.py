"""Show that all who scrape within a second share a snapshot, and that pages are made one at a time.

Nobody who goes away has another one made, and none fails in silence.
"""

import asyncio
import logging
import socket
import struct
import threading

import pytest
from support.shown import Clock
from support.web import exchange, serving, until

from funkenshield.core.logs import RateLimited
from funkenshield.web import http
from funkenshield.web.budget import SHARE
from funkenshield.web.http import Response
from funkenshield.web.scrape import Scrapes

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def responding(scrapes):
    async def respond(request):
        kind, page = await scrapes.page(request.headers.get("accept", ""))
        return Response(200, page, kind)

    return respond


@pytest.fixture
def scraped():
    """Return scrapes, the time, what work takes, and how often a snapshot was taken and a page of it made."""
    clock, worked, cost, done = Clock(), Clock(), {"snapshot": 0.0, "page": 0.0}, {"snapshot": 0, "page": 0}

    def work(what):
        done[what] += 1
        worked.at += cost[what]

    def snapshot():
        work("snapshot")
        return {"number": done["snapshot"]}

    def render(taken, *, openmetrics):
        work("page")
        return OPENMETRICS if openmetrics else "text/plain", b"%d" % taken["number"]

    return Scrapes(snapshot, render, elapsed=clock, worked=worked), clock, cost, done


def scrape(scrapes, *accepted):
    """Return what comes for these Accept fields, all at once."""

    async def story():
        return await asyncio.gather(*(scrapes.page(accept) for accept in accepted))

    return asyncio.run(story())


def test_all_who_scrape_within_a_second_share_one_snapshot_and_one_page_of_a_form(scraped):
    scrapes, clock, _, done = scraped
    versions = [f"application/openmetrics-text; version={k}" for k in range(50)]
    found = scrape(scrapes, *[""] * 50, *versions, *(f"text/plain; version=1.0.0; escaping={k}" for k in range(50)))
    assert found == [("text/plain", b"1")] * 50 + [(OPENMETRICS, b"1")] * 50 + [("text/plain", b"1")] * 50
    assert done == {"snapshot": 1, "page": 2}
    clock.at += 0.9
    assert scrape(scrapes, "") == [("text/plain", b"1")]
    clock.at += 0.2
    assert scrape(scrapes, "", "") == [("text/plain", b"2")] * 2
    assert done == {"snapshot": 2, "page": 3}


def test_what_takes_long_is_done_more_seldom_so_that_it_has_its_share_of_the_time(scraped):
    scrapes, clock, cost, done = scraped
    cost |= {"snapshot": 0.04, "page": 0.16}
    for _ in range(240):
        scrape(scrapes, "")
        clock.at += 0.25
    assert done["snapshot"] == done["page"] == pytest.approx(60 * SHARE / 0.2)


def test_who_asks_and_resets_has_no_second_page_made_meanwhile():
    may_end = threading.Event()
    made = []

    def render(taken, *, openmetrics):
        made.append(openmetrics)
        assert may_end.wait(10)
        return "text/plain", b"page"

    async def story():
        async with serving(responding(Scrapes(dict, render))) as (server, address):
            for _ in range(5):
                with socket.create_connection(address) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.sendall(REQUEST)
                    await until(lambda: made and server.count)
                    await asyncio.sleep(0.02)
                await until(lambda: not server.count)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(REQUEST)
            await asyncio.sleep(0.02)
            may_end.set()
            assert (await reader.read()).endswith(b"page")
            writer.close()
            assert made == [False]

    asyncio.run(story())


def fail(*_, **__):
    raise RuntimeError("can't start new thread")


def test_a_page_that_cannot_be_made_is_an_error_for_who_asks_and_told_once_and_the_next_is_made(caplog, monkeypatch):
    monkeypatch.setattr(http, "limited", RateLimited(logging.getLogger(http.__name__)))

    async def story():
        for broken in (Scrapes(fail), Scrapes(dict, fail)):
            async with serving(responding(broken)) as (server, address):
                assert (await exchange(address, REQUEST))[0] == 500
                broken._snapshot, broken._render = dict, lambda *_, **__: ("text/plain", b"page")
                status, fields, page = await exchange(address, REQUEST)
                assert (status, fields["content-type"], page) == (200, "text/plain", b"page")
                assert server.count == 0

    asyncio.run(story())
    assert caplog.messages == ['internal error, no page: RuntimeError("can\'t start new thread")']
