"""Show how connections to an upstream are made: from which address, with which header, and what if they cannot be."""

import asyncio
import ipaddress
import threading

import pytest
from support.certificates import self_signed
from support.client import Address, free_port
from support.links import Peer, answer_all

from funkenshield.upstream import streams
from funkenshield.upstream.streams import UpstreamError
from unit.upstream.stream_helpers import (
    HEADER,
    QUESTIONS,
    SECOND,
    ask,
    assert_fails,
    ended,
    over_tls,
    questions,
    seen,
    to,
)

# ------------------------------------------------------------ whence


def test_an_upstream_is_asked_from_the_source_address(run):
    with Peer() as peer, to(peer, source=ipaddress.ip_address("127.0.0.9")) as shared:
        assert run(ask(shared)) == 0
    assert peer.links[0].source.host == "127.0.0.9"


def test_a_source_address_that_is_not_ours_is_told(run, caplog):
    with Peer() as peer, to(peer, source=ipaddress.ip_address("192.0.2.1")) as shared:
        assert_fails(run, ask(shared), "cannot be reached: Cannot assign requested address")
    assert peer.links == []
    assert caplog.messages == [f"upstream {peer.address}: cannot be reached: Cannot assign requested address"]


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_a_proxied_query_has_a_connection_of_its_own_that_begins_with_the_header(run, tmp_path, tls):
    host = self_signed(tmp_path, "ns.test")

    def one_query(link):
        link.answer(link.query())
        assert link.query() is None

    async def story():
        numbers = await asyncio.gather(*(ask(shared, query, most=1, proxied=HEADER) for query in QUESTIONS))
        assert sorted(numbers) == [0, 1, 2, 3, 4, 5]
        for link in peer.links:
            await ended(link)

    section = {"transport": "tls", "tls": {"pin_sha256": (host.pin,)}} if tls else {}
    with (
        Peer(one_query, context=host.server() if tls else None, preface=len(HEADER)) as peer,
        to(peer, **section) as shared,
    ):
        run(story())
    assert [link.preface for link in peer.links] == [HEADER] * 6
    assert [len(link.queries) for link in peer.links] == [1] * 6
    assert (shared.opened, shared.resumed) == (6, 5 if tls else 0)


def test_proxied_queries_wait_for_their_turn(run):
    go = threading.Event()

    def slow(link):
        query = link.query()
        assert go.wait(5)
        link.answer(query)

    async def story():
        asking = asyncio.gather(*(ask(shared, query, most=2, proxied=HEADER) for query in QUESTIONS))
        await seen(lambda: len(peer.queries) == 2)
        assert len(peer.links) == 2
        go.set()
        assert sorted(await asking) == [0, 1, 2, 3, 4, 5]

    with Peer(slow, preface=len(HEADER)) as peer, to(peer) as shared:
        run(story())
    assert len(peer.links) == 6


# ------------------------------------------------------------ no connection


def test_an_upstream_that_is_not_there_is_told_once(run, caplog):
    gone = Address("127.0.0.1", free_port())

    class Gone:
        address = gone

    async def story():
        for _ in range(2):
            with pytest.raises(UpstreamError, match="cannot be reached: Connection refused"):
                await ask(shared)

    with to(Gone) as shared:
        run(story())
    assert (shared.opened, shared.failed) == (0, 2)
    assert caplog.messages == [f"upstream {gone}: cannot be reached: Connection refused"]


def test_a_handshake_that_does_not_end_is_given_up(run, monkeypatch):
    monkeypatch.setattr(streams, "CONNECT_TIMEOUT", 0.1)
    with Peer(lambda link: link.read(1 << 16)) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), r"cannot be reached: no connection within 0\.1 s")
        assert (shared.opened, shared.failed) == (0, 1)
    assert len(peer.links) == 1


def test_a_handshake_that_takes_longer_than_a_client_waits_serves_the_next(run, tmp_path):
    go = threading.Event()
    host = self_signed(tmp_path, "ns.test")

    def shake_hands_late(link):
        assert go.wait(5)
        link.shake_hands(host.server())
        answer_all(link)

    async def story():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(shared), 0.1)
        go.set()
        assert await ask(shared, SECOND) == 0

    with Peer(shake_hands_late) as peer, over_tls(peer, pin_sha256=(host.pin,)) as shared:
        run(story())
    assert questions(peer.queries) == questions([SECOND])


def test_what_is_being_made_ends_when_all_is_closed(run):
    async def story():
        asking = asyncio.ensure_future(ask(shared))
        await seen(lambda: peer.links)
        shared.close()
        with pytest.raises(UpstreamError, match="connection closed by the shield"):
            await asking
        await ended(peer.links[0])

    with Peer(lambda link: link.read(1 << 16)) as peer, over_tls(peer, profile="opportunistic") as shared:
        run(story())
    assert (shared.opened, shared.failed) == (0, 0)
