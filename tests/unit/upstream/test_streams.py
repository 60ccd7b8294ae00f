"""Show how queries travel to an upstream over streams, on both event loops: what it saw, and what came back."""

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
import threading
import time

import pytest
import uvloop
from support import quick
from support.certificates import Authority, self_signed
from support.client import Address, frame, free_port
from support.links import Peer, answer_all
from support.proc import connections as sockets_of

from funkenshield.config import Config, UpstreamSection
from funkenshield.config.types import Endpoint
from funkenshield.errors import ConfigError
from funkenshield.upstream import streams
from funkenshield.upstream.streams import Connections, UnsentError, UpstreamError

OPPORTUNISTIC = {"profile": "opportunistic"}
HEADER = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20, 0, 0, 0])  # of a PROXY protocol: LOCAL, nothing more
QUESTIONS = [quick.query(f"name{number}.test.") for number in range(6)]
FIRST, SECOND, *_ = QUESTIONS


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on one of the event loops, which has nothing to complain of."""
    complaints = []
    with asyncio.Runner(loop_factory=request.param) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        yield lambda story: runner.run(asyncio.wait_for(story, 20))
    assert complaints == []


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
    monkeypatch.setattr(streams, "PIPELINE", 2)

    async def story():
        asking = [asyncio.ensure_future(ask(shared, query)) for query in QUESTIONS[:2]]
        await seen(lambda: len(peer.queries) == 2)
        with pytest.raises(UpstreamError, match="too slow"):
            await ask(shared, QUESTIONS[2])
        shared.close()
        assert all(isinstance(each, UpstreamError) for each in await asyncio.gather(*asking, return_exceptions=True))

    with Peer(listen) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions(QUESTIONS[:2])
    assert len(peer.links) == 1


def test_only_so_many_octets_wait_to_be_sent(run, monkeypatch):
    monkeypatch.setattr(streams, "UNSENT", len(FIRST) - 1)

    async def story():
        first = asyncio.ensure_future(ask(shared))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="too slow"):
            await ask(shared, SECOND)
        assert await first == 0

    with Peer() as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST])


# ------------------------------------------------------------ ends


def test_a_connection_that_was_closed_while_idle_is_not_used_again(run):
    async def story():
        assert await ask(shared) == 0
        await ended(peer.links[0])
        assert await ask(shared, SECOND) == 1

    with Peer(lambda link: link.answer(link.query())) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST, SECOND])


def test_what_was_on_its_way_when_the_peer_closed_is_asked_once_more(run):
    def one_answer(link):
        if link.number == 0:
            link.answer(link.query())
        for _ in QUESTIONS:
            link.query()
        if link.number == 1:
            for query in link.queries:
                link.answer(query)
            link.query()

    async def story():
        assert await ask(shared) == 0
        assert await asyncio.gather(*(ask(shared, query) for query in QUESTIONS)) == [1] * 6

    with Peer(one_answer) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST, *QUESTIONS, *QUESTIONS])
    assert len(peer.links) == 2


def give_up_after(answers, end):
    """Return a script that ends each connection when it has given so many answers, whatever else was asked."""

    def script(link):
        for _ in range(answers):
            if (query := link.query()) is None:
                return
            link.answer(query)
        if end == "FIN":
            link.finish()
            listen(link)
        elif end == "RST":
            link.reset()

    return script


@pytest.mark.parametrize("answers", [1, 2])
@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_an_upstream_that_ends_connections_after_a_few_answers_costs_nobody_anything(run, host, tls, answers, end):
    many = [quick.query(f"many{number}.test.") for number in range(60)]

    async def story():
        for _ in "unknown", "known":
            before = len(peer.links)
            async with asyncio.timeout(10):
                links = await asyncio.gather(*(ask(shared, query, most=8) for query in many))
            assert max(map(links.count, links)) <= answers
        # what is known by now is not tried again: little is asked twice, but for answers that an RST takes away
        assert sum(len(link.queries) for link in peer.links[before:]) < (1.5 if end == "FIN" else 3) * len(many)

    context, section = (host.server(), {"transport": "tls", "tls": OPPORTUNISTIC}) if tls else (None, {})
    with Peer(give_up_after(answers, end), context=context) as peer, to(peer, **section) as shared:
        run(story())


def test_an_upstream_that_ended_a_connection_once_is_asked_much_on_the_next(run):
    def restarts(link):
        link.answer(link.query())
        if link.number == 0:
            link.query()
            return
        answer_all(link)

    async def story():
        await asyncio.gather(*(ask(shared, query) for query in QUESTIONS))
        before = len(peer.links)
        await asyncio.sleep(1.5 * streams.SPENT)  # the last one stays open all the same
        for _ in range(4):
            await asyncio.gather(*(ask(shared, query) for query in QUESTIONS))
        assert set(await asyncio.gather(*(ask(shared, query) for query in QUESTIONS))) == {before - 1}
        assert len(peer.links) == before

    with Peer(restarts) as peer, to(peer) as shared:
        run(story())


def test_one_query_that_connections_end_for_is_asked_a_few_times_only(run):
    poison = quick.query("poison.test.")

    def script(link):
        while (query := link.query()) and query[2:] != poison[2:]:
            link.answer(query)

    async def story():
        ill = asyncio.gather(ask(shared, poison, most=2), return_exceptions=True)
        while not ill.done():
            await asyncio.gather(*(ask(shared, query, most=2) for query in QUESTIONS))
        assert isinstance((await ill)[0], UpstreamError)
        assert len(set(await asyncio.gather(*(ask(shared, query, most=2) for query in QUESTIONS)))) <= 6

    with Peer(script) as peer, to(peer) as shared:
        run(story())
    assert 1 <= questions(peer.queries).count(poison[2:]) <= streams.LOSSES


@pytest.mark.parametrize(("ending", "answered_on"), [(1, {2}), (streams.LOSSES - 1, {4, 5})], ids=["once", "often"])
def test_who_shared_a_connection_that_ended_is_asked_again_and_at_last_alone(run, ending, answered_on):
    """Even where another connection, now busy, has shown that the upstream gives more than it did on this one."""

    def script(link):
        if link.number == 0:
            link.answer(link.query())
            link.answer(link.query())
            listen(link)
        elif link.number <= ending:
            link.query()
            link.query()
        else:
            answer_all(link)

    async def story():
        for query in QUESTIONS[:2]:
            assert await ask(shared, query, most=2) == 0
        asked = [asyncio.create_task(ask(shared, query, most=2)) for query in QUESTIONS[2:]]
        done, waiting = await asyncio.wait(asked, timeout=1)
        assert {task.result() for task in done} == answered_on
        assert len(done) == 2
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    with Peer(script) as peer, to(peer) as shared:
        run(story())


@pytest.mark.parametrize("opcode", [4, 5])
def test_what_may_have_been_done_on_a_connection_that_ended_is_not_asked_again(run, opcode):
    update = FIRST[:2] + bytes([opcode << 3]) + FIRST[3:]

    def script(link):
        link.answer(link.query())
        link.query()

    async def story():
        assert await ask(shared) == 0
        with pytest.raises(UpstreamError, match="closed"):
            await ask(shared, update)

    with Peer(script) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries).count(update[2:]) == 1


def test_what_a_new_connection_does_not_answer_is_not_asked_again(run):
    async def story():
        with pytest.raises(UpstreamError, match="the upstream closed the connection"):
            await ask(shared)

    with Peer(lambda link: link.query()) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST])


@pytest.mark.parametrize("answered", [True, False])
def test_what_a_peer_that_closes_within_a_message_left_is_asked_again_where_others_are_answered(run, answered):
    both = threading.Event()

    def half(link):
        query = link.query()
        assert both.wait(5)
        if link.number and answered:
            link.answer(query)
            answer_all(link)
        else:
            link.send(frame(quick.answer(query, b"0"))[:-1])
            first_ended.wait(5 * answered)

    first_ended = threading.Event()

    async def story():
        asking = [asyncio.ensure_future(ask(shared, each, most=2)) for each in (FIRST, SECOND)]
        await seen(lambda: len(peer.queries) == 2)
        both.set()
        if answered:
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        first_ended.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert all(each == 1 if answered else isinstance(each, UpstreamError) for each in results)

    with Peer(half) as peer, to(peer) as shared:
        run(story())
    assert len(peer.queries) == 2 + answered


def test_a_peer_that_only_listens_on_is_not_asked_again(run):
    def finishes(link):
        link.answer(link.query())
        link.finish()
        assert link.query() is None

    async def story():
        assert await ask(shared) == 0
        await ended(peer.links[0])
        assert await ask(shared, SECOND) == 1

    with Peer(finishes) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST, SECOND])


def test_a_connection_from_an_address_that_is_ours_no_more_is_left_and_what_waits_there_asked_again(run):
    def script(link):
        if link.number == 0:
            link.answer(link.query())
            link.query()
        answer_all(link)

    async def story():
        assert await ask(shared) == 0
        shared.leave_other_than("127.0.0.1")
        waiting = asyncio.ensure_future(ask(shared, SECOND))
        await seen(lambda: len(peer.queries) == 2)
        shared.leave_other_than("127.0.0.9")
        assert await waiting == 1

    with Peer(script) as peer, to(peer) as shared:
        run(story())


def test_an_idle_connection_is_closed(run, monkeypatch):
    monkeypatch.setattr(streams, "CONNECTION_IDLE", 0.02)

    async def story():
        assert await ask(shared) == 0
        await ended(peer.links[0])
        assert await ask(shared, SECOND) == 1

    with Peer() as peer, to(peer) as shared:
        run(story())


def test_a_connection_on_which_nothing_comes_is_given_up(run):
    def mute_at_first(link):
        if link.number == 0:
            assert (link.query(), link.query()) == (link.queries[0], None)
        else:
            answer_all(link)

    async def story():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(shared), 0.1)
        assert await ask(shared, SECOND) == 1
        await ended(peer.links[0])

    with Peer(mute_at_first) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST, SECOND])


def test_who_waits_when_all_is_closed_is_told_so_and_nobody_is_asked(run):
    async def story():
        waiting = asyncio.ensure_future(ask(shared))
        await seen(lambda: peer.queries)
        shared.close()
        for each in (waiting, ask(shared), ask(shared, proxied=HEADER)):
            with pytest.raises(UpstreamError, match="given up"):
                await each

    with Peer(listen) as peer, to(peer) as shared:
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
        with pytest.raises(UpstreamError, match="the upstream speaks no DNS"):
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

    section = {"transport": "tls", "tls": {"pins": (host.pin,)}} if tls else {}
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
    monkeypatch.setattr(streams, "CONNECTING", 0.1)
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

    with Peer(shake_hands_late) as peer, over_tls(peer, pins=(host.pin,)) as shared:
        run(story())
    assert questions(peer.queries) == questions([SECOND])


def test_what_is_being_made_ends_when_all_is_closed(run):
    async def story():
        asking = asyncio.ensure_future(ask(shared))
        await seen(lambda: peer.links)
        shared.close()
        with pytest.raises(UpstreamError, match="given up"):
            await asking
        await ended(peer.links[0])

    with Peer(lambda link: link.read(1 << 16)) as peer, over_tls(peer, profile="opportunistic") as shared:
        run(story())
    assert (shared.opened, shared.failed) == (0, 0)


# ------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def host(authority):
    return authority.issue("ns.test")


@pytest.mark.parametrize("name", ["ns.test", "NS.test."])
def test_an_upstream_whose_certificate_is_for_its_name_is_asked(run, authority, host, name):
    with Peer(context=host.server()) as peer, over_tls(peer, name=name, authorities=str(authority.file)) as shared:
        assert run(ask(shared)) == 0
    assert peer.links[0].tls == ("TLSv1.3", "dot", False)
    assert peer.names[0].lower() == "ns.test"
    assert questions(peer.queries) == questions([FIRST])


def test_a_name_may_be_an_address(run, authority):
    context = authority.issue("127.0.0.1").server()
    with Peer(context=context) as peer, over_tls(peer, name="127.0.0.1", authorities=str(authority.file)) as shared:
        assert run(ask(shared)) == 0
    assert peer.names == [None]


def test_an_upstream_that_is_another_gets_no_query(run, tmp_path, authority, host, caplog):
    trusted = str(authority.file)
    other = Authority(tmp_path, "other")
    pin = self_signed(tmp_path, "ns.test").pin
    for tls, why in (
        ({"name": "ns.example", "authorities": trusted}, "certificate is not for ns.example"),
        ({"name": "192.0.2.1", "authorities": trusted}, r"certificate is not for 192\.0\.2\.1"),
        ({"name": "ns.test", "authorities": str(other.file)}, "certificate is not trusted: unable to get local issuer"),
        ({"name": "ns.test"}, "certificate is not trusted: unable to get local issuer"),
        ({"pins": (pin,)}, "public key is not pinned"),
        ({"name": "ns.test", "authorities": trusted, "pins": (pin,)}, "public key is not pinned"),
        ({"name": "ns.example", "authorities": trusted, "pins": (host.pin,)}, "certificate is not for ns.example"),
    ):
        caplog.clear()
        with Peer(context=host.server()) as peer, over_tls(peer, **tls) as shared:
            assert_fails(run, ask(shared), why)
            assert_fails(run, anext(shared.transfer(FIRST, 5, first=5)), why)
        assert len(peer.links) == 2
        assert peer.queries == []
        assert (shared.opened, shared.failed, len(caplog.messages)) == (0, 2, 1)


def test_what_an_upstream_says_before_it_was_verified_is_heard_by_nobody(run, tmp_path, host, monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _count: 0)
    pin = self_signed(tmp_path, "ns.test").pin
    with Peer(lambda link: link.answer(FIRST), context=host.server()) as peer, over_tls(peer, pins=(pin,)) as shared:
        assert_fails(run, ask(shared), "not pinned")
    assert peer.queries == []


@pytest.mark.parametrize("also", [{}, {"name": "ns.test"}], ids=["pin", "name and pin"])
def test_one_of_the_pins_is_enough(run, tmp_path, authority, host, also):
    pins = (self_signed(tmp_path, "ns.test").pin, host.pin)
    with (
        Peer(context=host.server()) as peer,
        over_tls(peer, pins=pins, authorities=str(authority.file), **also) as shared,
    ):
        assert run(ask(shared)) == 0


def test_a_pin_alone_needs_neither_name_nor_authority(run, tmp_path):
    lonely = self_signed(tmp_path, "whatever.test")
    with Peer(context=lonely.server()) as peer, over_tls(peer, pins=(lonely.pin,)) as shared:
        assert run(ask(shared)) == 0
    assert peer.names == [None]


@pytest.mark.parametrize("name", ["", "ns.test"])
def test_the_opportunistic_profile_takes_any_certificate(run, tmp_path, host, name):
    other = self_signed(tmp_path, "other.test")
    tls = {"profile": "opportunistic", "name": name, "pins": (host.pin,)}
    with Peer(context=other.server()) as peer, over_tls(peer, **tls) as shared:
        assert run(ask(shared)) == 0
    assert peer.names == [name or None]


def test_an_upstream_without_tls_is_told(run):
    def plain(link):
        link.read(5)
        link.send(b"not TLS, this")
        link.read(1 << 16)

    with Peer(plain) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), "no TLS: wrong version number")
    with Peer(lambda link: link.read(5)) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), "no TLS: it closed the connection")


def test_each_query_has_a_record_of_its_own(run, host):
    """What NSD 4.6 needs: it answers only the first query of a record."""

    def first_of_a_record(link):
        while record := link.record():
            link.answer(record[2 : 2 + int.from_bytes(record[:2])])

    async def story():
        for _ in range(2):  # while the connection is being made, and when it is there
            assert await asyncio.gather(*(ask(shared, query) for query in QUESTIONS)) == [0] * 6

    with Peer(first_of_a_record, context=host.server()) as peer, over_tls(peer, pins=(host.pin,)) as shared:
        run(story())


def test_old_tls_is_not_spoken(run, host):
    context = host.server()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Peer(context=context) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), "no TLS: ")
    assert peer.links[0].refusal


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_goes_on_over_the_next_connections_and_with_nobody_else(run, authority, host, version):
    async def story():
        for number in range(3):
            assert await ask(shared) == number
            await ended(peer.links[number])
        assert await ask(other) == 3

    context = host.server(newest=version)
    tls = {"name": "ns.test", "pins": (host.pin,), "authorities": str(authority.file)}
    with (
        Peer(lambda link: link.answer(link.query()), context=context) as peer,
        over_tls(peer, **tls) as shared,
        over_tls(peer, **tls) as other,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, True, True, False]
    assert {link.tls.version.replace(".", "_") for link in peer.links} == {version.name}
    assert (shared.opened, shared.resumed, other.resumed) == (3, 2, 0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("tls", [("pins", "not pinned"), ("name", "not trusted")], ids=["pin", "name"])
def test_a_chain_of_sessions_is_verified_again_within_the_hour(run, tmp_path, authority, host, version, tls):
    """Its key is stolen and given up, say: whoever has the tickets goes on for so long, and no longer."""

    async def story():
        for number in range(3):  # each goes on with the session of the one before
            now[0] += 1500
            assert await ask(shared) == number
            await ended(peer.links[number])
            context.load_cert_chain(self_signed(tmp_path, "ns.test").file)
        now[0] += 1500
        with pytest.raises(UpstreamError, match=tls[1]):
            await ask(shared)

    now = [time.time()]
    context = host.server(newest=version)
    proof = {"pins": (host.pin,)} if tls[0] == "pins" else {"name": "ns.test", "authorities": str(authority.file)}
    with (
        Peer(lambda link: (query := link.query()) and link.answer(query), context=context) as peer,
        over_tls(peer, lambda: now[0], **proof) as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links if link.tls][:3] == [False, True, True]
    assert len(peer.queries) == 3


@pytest.mark.parametrize(("passed", "resumed"), [(0, True), (3599, True), (3600, False), (-60, False)])
def test_a_session_goes_on_for_an_hour_by_a_clock_that_does_not_go_back(run, host, passed, resumed):
    async def story():
        for number in range(2):
            assert await ask(shared) == number
            await ended(peer.links[number])
            now[0] += passed

    now = [time.time()]
    with (
        Peer(lambda link: link.answer(link.query()), context=host.server()) as peer,
        over_tls(peer, lambda: now[0], pins=(host.pin,)) as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, resumed]


def test_no_session_goes_on_when_its_certificate_is_over(run, host):
    """It has a day; the session was made ten minutes before its end."""

    async def story():
        for number in range(2):
            assert await ask(shared) == number
            await ended(peer.links[number])
            now[0] += 1200

    now = [time.time() + 86400 - 600]
    with (
        Peer(lambda link: link.answer(link.query()), context=host.server()) as peer,
        over_tls(peer, lambda: now[0], pins=(host.pin,)) as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, False]


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
        for query, why in ((FIRST, "ended the transfer"), (SECOND, "of another transfer")):
            messages = shared.transfer(query, 5, first=5)
            number = link_of(query, await anext(messages))
            assert link_of(query, await anext(messages)) == number
            with pytest.raises(UpstreamError, match=why):
                await anext(messages)
            assert number == len(peer.links) - 1

    section = (
        {"transport": "tls", "tls": {"pins": (host.pin,)}} if tls else {"source": ipaddress.ip_address("127.0.0.9")}
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


# ------------------------------------------------------------ configuration


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_authorities_that_cannot_be_read_are_told(tmp_path, text):
    file = tmp_path / "authorities.pem"
    if text is not None:
        file.write_text(text)
    why = "No such file" if text is None else "no certificates in PEM format"
    with pytest.raises(ConfigError, match=f"tls.authorities: {file}: {why}"):
        configured(name="ns.test", authorities=str(file))


@pytest.mark.parametrize("name", [".ns.test", "ns..test", "n" * 64 + ".test", "ns\0.test"])
def test_a_name_that_no_host_has_is_told(name):
    with pytest.raises(ConfigError, match=r"tls\.name: .* is not a name of a host"):
        configured(name=name)


def configured(**tls):
    section = Config.model_validate({"upstreams": [{"address": "127.0.0.1:853", "transport": "tls", "tls": tls}]})
    return Connections(section.upstreams[0].address[0], section.upstreams[0])
