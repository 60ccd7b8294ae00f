"""Show what becomes of queries on connections that end: asked again or not, how often, and where."""

import asyncio
import threading

import pytest
from support import quick
from support.client import frame
from support.links import Peer, answer_all

from funkenshield.upstream import streams
from funkenshield.upstream.streams import UpstreamError
from unit.upstream.stream_helpers import (
    FIRST,
    HEADER,
    OPPORTUNISTIC,
    QUESTIONS,
    SECOND,
    ask,
    ended,
    listen,
    questions,
    seen,
    to,
)


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
        await asyncio.sleep(1.5 * streams.SPENT_TIMEOUT)  # the last one stays open all the same
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
    assert 1 <= questions(peer.queries).count(poison[2:]) <= streams.ATTEMPTS


@pytest.mark.parametrize(("ending", "answered_on"), [(1, {2}), (streams.ATTEMPTS - 1, {4, 5})], ids=["once", "often"])
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
        shared.close_other_sources("127.0.0.1")
        waiting = asyncio.ensure_future(ask(shared, SECOND))
        await seen(lambda: len(peer.queries) == 2)
        shared.close_other_sources("127.0.0.9")
        assert await waiting == 1

    with Peer(script) as peer, to(peer) as shared:
        run(story())


def test_an_idle_connection_is_closed(run, monkeypatch):
    monkeypatch.setattr(streams, "IDLE_TIMEOUT", 0.02)

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
        gone = "the upstream is no longer configured"
        for each, why in (
            (waiting, "connection closed by the shield"), (ask(shared), gone), (ask(shared, proxied=HEADER), gone)
        ):  # fmt: skip
            with pytest.raises(UpstreamError, match=why):
                await each

    with Peer(listen) as peer, to(peer) as shared:
        run(story())
    assert questions(peer.queries) == questions([FIRST])
