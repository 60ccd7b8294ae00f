"""Show how queries share connections to an upstream, on both event loops: what it saw, and what came back."""

import asyncio
import ipaddress
import os
import socket
import threading
import time

import pytest
from support import quick
from support.client import frame
from support.links import Peer, answer_all
from support.proc import connections as sockets_of

from funkenshield.upstream import streams
from funkenshield.upstream.streams import UnsentError, UpstreamError
from unit.upstream.stream_helpers import (
    FIRST,
    QUESTIONS,
    SECOND,
    ask,
    ended,
    link_of,
    listen,
    over_tls,
    questions,
    seen,
    to,
)

# ------------------------------------------------------------ sharing


def one_by_one(link):
    """Answer six queries at a time, each in a write of its own, as most nameservers do."""
    while queries := [query for _ in QUESTIONS if (query := link.query())]:
        for query in queries:
            link.answer(query)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_an_upstream_whose_answers_wait_for_acknowledgements_gets_them_at_once(run, host, secure):
    """By itself, the kernel acknowledges after 40 ms what nothing goes back for."""
    rounds = []

    async def story():
        for _ in range(16):
            start = time.monotonic()
            assert await asyncio.gather(*(ask(shared, query) for query in QUESTIONS)) == [0] * 6
            rounds.append(time.monotonic() - start)
        with sockets_of(os.getpid()) as held:
            (ours,) = (each for each in held if each.getpeername() == peer.address)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    with (
        Peer(one_by_one, context=host.server() if secure else None) as peer,
        over_tls(peer, profile="opportunistic") if secure else to(peer) as shared,
    ):
        run(story())
    assert min(rounds[8:]) < 0.03  # what comes first on a connection is acknowledged at once anyway


def test_queries_share_a_connection_and_answers_come_in_any_order(run):
    def backwards(link):
        for query in reversed([link.query() for _ in QUESTIONS]):
            link.answer(query)
        answer_all(link)

    async def story():
        assert await asyncio.gather(*(ask(shared, query) for query in QUESTIONS)) == [0] * 6
        assert await ask(shared) == 0

    with Peer(backwards) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([*QUESTIONS, FIRST])
    assert len({query[:2] for query in peer.queries[:6]}) == 6
    assert (shared.opened, shared.resumed, shared.failed) == (1, 0, 0)


def test_no_more_connections_are_made_than_may_be(run):
    everything = threading.Event()

    def together(link):
        queries = [link.query()]
        assert everything.wait(5)
        while queries:
            link.answer(queries.pop())
            queries += filter(None, [link.query()])

    async def story():
        asking = asyncio.gather(*(ask(shared, query, most=2) for query in QUESTIONS))
        await seen(lambda: len(peer.queries) == 2)
        everything.set()
        assert sorted(await asking) == [0, 0, 0, 1, 1, 1]

    with Peer(together) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions(QUESTIONS)
    assert (len(peer.links), shared.opened) == (2, 2)


def test_a_connection_takes_so_many_queries_and_no_more(run, monkeypatch):
    monkeypatch.setattr(streams, "MAX_PIPELINED", 2)

    async def story():
        asking = [asyncio.ensure_future(ask(shared, query)) for query in QUESTIONS[:2]]
        await seen(lambda: len(peer.queries) == 2)
        with pytest.raises(UpstreamError, match="too many outstanding queries"):
            await ask(shared, QUESTIONS[2])
        shared.close()
        assert all(isinstance(each, UpstreamError) for each in await asyncio.gather(*asking, return_exceptions=True))

    with Peer(listen) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions(QUESTIONS[:2])
    assert len(peer.links) == 1


def test_only_so_many_octets_wait_to_be_sent(run, monkeypatch):
    monkeypatch.setattr(streams, "MAX_UNSENT", len(FIRST) - 1)

    async def story():
        first = asyncio.ensure_future(ask(shared))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="too many outstanding queries"):
            await ask(shared, SECOND)
        assert await first == 0

    with Peer() as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST])


# ------------------------------------------------------------ garbage


@pytest.mark.parametrize("octets", [b"\0\0", frame(b"\0" * 11), frame(FIRST), b"HTTP/1.1 400 Bad Request\r\n" * 999])
def test_a_peer_that_speaks_no_dns_is_left(run, octets):
    def garbage(link):
        link.query()
        link.send(octets)
        link.query()

    async def story():
        with pytest.raises(UpstreamError, match="the upstream sent a malformed message"):
            await ask(shared)
        await ended(peer.links[0])

    with Peer(garbage) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST])


def test_what_answers_nobody_is_ignored(run):
    def strange(link):
        query = link.query()
        other_id = bytes([query[0] ^ 1]) + query[1:]
        for wire in (other_id, query[:2] + SECOND[2:]):
            link.answer(wire)
        link.send(frame(query))
        for octet in frame(quick.answer(query, b"0")):
            link.send(bytes([octet]))
        answer_all(link)

    async def story():
        assert await ask(shared) == 0
        assert await ask(shared, SECOND) == 0

    with Peer(strange) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST, SECOND])


def test_a_peer_that_answers_without_having_been_asked_is_left(run, monkeypatch):
    taken = []
    monkeypatch.setattr(streams.ConnectionPool, "note_answer", lambda *_: taken.append(None))

    def answers_to_nothing(link):
        query = link.query()
        other_id = bytes([query[0] ^ 1, query[1], 0x80])
        link.send(frame(other_id + b"\0" * 9) * 100 + frame(quick.answer(query, b"0")))
        link.query()

    async def story():
        with pytest.raises(UpstreamError, match="the upstream sent more answers than there were queries"):
            await ask(shared)
        await ended(peer.links[0])

    with Peer(answers_to_nothing) as peer, to(peer) as shared:
        run(story())
    assert len(taken) == streams.COPIES + streams.UNSOLICITED_MAX, "what came at once is not read to its end"
    assert questions(peer.queries) == questions([FIRST])


def test_a_peer_that_sends_each_answer_twice_keeps_its_connection(run):
    def twice(link):
        while query := link.query():
            link.answer(query)
            link.answer(query)

    async def story():
        for _ in range(10):
            assert await asyncio.gather(*(ask(shared, query) for query in QUESTIONS)) == [0] * 6

    with Peer(twice) as peer, to(peer) as shared:
        run(story())
    assert len(peer.links) == 1


# ------------------------------------------------------------ transfers


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_a_transfer_has_a_connection_of_its_own(run, host, tls):
    def two_messages(link):
        query = link.query()
        link.answer(query)
        link.answer(query)
        if query[2:] == SECOND[2:]:
            link.answer(FIRST)

    async def story():
        assert await ask(shared) == 0
        for query, why in ((FIRST, "closed during the transfer"), (SECOND, "does not belong to the transfer")):
            messages = shared.transfer(query, 5, first=5)
            number = link_of(query, await anext(messages))
            assert link_of(query, await anext(messages)) == number
            with pytest.raises(UpstreamError, match=why):
                await anext(messages)
            assert number == len(peer.links) - 1

    section = (
        {"transport": "tls", "tls": {"pin_sha256": (host.pin,)}}
        if tls
        else {"source": ipaddress.ip_address("127.0.0.9")}
    )
    with Peer(two_messages, context=host.server() if tls else None) as peer, to(peer, **section) as shared:
        run(story())
    assert len(peer.links) == 3
    assert tls or {link.source.host for link in peer.links} == {"127.0.0.9"}


def test_a_transfer_that_does_not_begin_is_given_up(run):
    async def story():
        with pytest.raises(TimeoutError):
            await anext(shared.transfer(FIRST, 5, first=0.05))
        await ended(peer.links[0])

    with Peer(listen) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST])


# ------------------------------------------------------------ once


def test_what_is_sent_once_has_a_connection_of_its_own_and_is_never_sent_again(run):
    def answer_the_first(link):
        query = link.query()
        if link.number != 1:
            link.answer(query)
            link.query()

    async def story():
        assert await ask(shared) == 0
        with pytest.raises(UpstreamError, match="closed the connection") as caught:
            await shared.exchange(SECOND, 8, once=True)
        assert not isinstance(caught.value, UnsentError), "it may have arrived"
        assert link_of(SECOND, await shared.exchange(SECOND, 8, once=True)) == 2

    with Peer(answer_the_first) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST, SECOND, SECOND])


def test_where_there_was_no_connection_nothing_was_sent(run):
    with Peer() as peer:
        pass

    async def story():
        with pytest.raises(UnsentError):
            await shared.exchange(FIRST, 8, once=True)

    with to(peer) as shared:
        run(story())
