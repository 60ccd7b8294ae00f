"""Know how to ask a scripted peer over connections that are kept, and what to hold against what it saw."""

import asyncio
import contextlib

import pytest
from support import quick

from funkenshield.config import UpstreamSection
from funkenshield.config.types import Endpoint
from funkenshield.upstream.streams import Connections, UpstreamError

OPPORTUNISTIC = {"profile": "opportunistic"}
HEADER = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20, 0, 0, 0])  # of a PROXY protocol: LOCAL, nothing more
QUESTIONS = [quick.query(f"name{number}.test.") for number in range(6)]
FIRST, SECOND, *_ = QUESTIONS


@contextlib.contextmanager
def to(peer, *clock, **section):
    """Yield the connections to a peer, and close them; certificates go by a clock."""
    address = Endpoint(*peer.address)
    made = Connections(address, UpstreamSection(address=(address,), **section), *clock)
    try:
        yield made
    finally:
        made.close()


def over_tls(peer, *clock, **tls):
    return to(peer, *clock, transport="tls", tls=tls)


def link_of(query, response):
    """Return the number of the connection that a response came over, after asserting that it answers the query."""
    assert response[2] & 0x80
    return int(quick.payload_of(query, response))


def listen(link):
    """Say nothing."""
    while link.query():
        pass


async def ask(to, query=FIRST, *, most=1, proxied=b""):
    return link_of(query, await to.exchange(query, most, proxied))


def assert_fails(run, story, why):
    with pytest.raises(UpstreamError, match=why):
        run(story)


def questions(queries):
    """Return queries without their IDs."""
    return sorted(query[2:] for query in queries)


async def ended(link):
    """Wait until the peer has seen the end of a connection."""
    assert await asyncio.to_thread(link.ended.wait, 5)


async def seen(condition):
    """Wait until the peer has seen something."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
