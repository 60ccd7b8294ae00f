"""Know that connections to an upstream which break, stall, or bring things out of order cost no client its answer."""

import asyncio
import contextlib
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import dns.flags
import dns.message
import dns.rdatatype
import pytest
from support.client import Address, ask, frame
from support.control import stats
from support.rig import (
    DEADLINE,
    HASTY,
    NOERROR,
    SERVFAIL,
    SOON,
    WithoutTcp,
    answerers,
    ask_each,
    at_once,
    behind,
    counters,
    good,
    names,
    numbered,
    placed,
    rcodes,
    received,
    silent,
)
from support.server import Received, frames
from support.stopwatch import Stopwatch
from support.upstream import ScriptedUpstream, answer, truncated

LARGE = [f'TXT "{n:02} {"x" * 200}"' for n in range(30)]


class Streaming(ScriptedUpstream):
    """A nameserver whose connections are served by a coroutine that a test brings; `connections` counts them."""

    def __init__(self, behave, handle=good):
        super().__init__(handle)
        self._behave = behave
        self.connections = 0

    async def stream(self, reader, writer):
        self.connections += 1
        await self._behave(self, self._queries(reader, writer), writer)

    async def _queries(self, reader, writer):
        source = Address(*writer.get_extra_info("peername")[:2])
        async for wire in frames(reader):
            query = Received(wire, "tcp", source)
            self._record(query)
            yield query

    def framed(self, query):
        """Return the script's answer with its length."""
        reply = self.handle(query)
        return frame(reply if isinstance(reply, bytes) else reply.to_wire())


# ------------------------------------------------------------ what connections do


async def well(upstream, queries, writer):
    async for query in queries:
        writer.write(upstream.framed(query))


async def hang_up(upstream, queries, writer):
    writer.transport.abort()


async def close_at_the_first_query(upstream, queries, writer):
    await anext(queries)


async def say_nothing(upstream, queries, writer):
    async for _ in queries:
        pass


async def close_after_each_answer(upstream, queries, writer):
    writer.write(upstream.framed(await anext(queries)))


async def reset_after_two_answers(upstream, queries, writer):
    for _ in range(2):
        writer.write(upstream.framed(await anext(queries)))
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def half_close_after_an_answer(upstream, queries, writer):
    writer.write(upstream.framed(await anext(queries)))
    writer.write_eof()
    async for _ in queries:  # but it goes on to read
        pass


async def send_a_length_and_no_message(upstream, queries, writer):
    async for _ in queries:
        writer.write(b"\0\x50")


async def send_half_a_message_and_close(upstream, queries, writer):
    whole = upstream.framed(await anext(queries))
    writer.write(whole[: len(whole) // 2])


async def send_garbage(upstream, queries, writer):
    async for _ in queries:
        writer.write(bytes(range(3, 200)))


async def send_empty_messages_only(upstream, queries, writer):
    async for _ in queries:
        writer.write(b"\0\0" * 5)


BROKEN = [
    hang_up,
    close_at_the_first_query,
    say_nothing,
    send_a_length_and_no_message,
    send_half_a_message_and_close,
    send_garbage,
    send_empty_messages_only,
]


async def answer_octet_by_octet(upstream, queries, writer):
    async for query in queries:
        for octet in upstream.framed(query):
            writer.write(bytes([octet]))
            await writer.drain()
            await asyncio.sleep(0)


async def the_answers_of_others_first(upstream, queries, writer):
    async for query in queries:
        right = upstream.framed(query)
        writer.write(right[:2] + bytes([right[2] ^ 1]) + right[3:] + right)


ODD = [
    well,
    close_after_each_answer,
    half_close_after_an_answer,
    answer_octet_by_octet,
    the_answers_of_others_first,
]


def over_tcp(upstream, **options):
    return placed(upstream, transport="tcp", **options)


def truncating(query):
    return truncated(query) if query.transport == "udp" else answer(query, *LARGE)


def zone(behave, kind):
    """Return the zone that asks who behaves so, and whoever else is of this kind."""
    return f"{behave.__name__.replace('_', '-')}.{kind}.test"


@contextlib.contextmanager
def breaking(forward):
    """Run a shield with zones for all that is broken: asked over TCP, or over UDP and then truncated; alone, or not.

    Yield the shield, and by zone the broken one and the one that is well.
    """
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(ScriptedUpstream(good))
        whole = stack.enter_context(ScriptedUpstream(truncating))
        pairs, places = {}, []
        for behave in BROKEN:
            stream = stack.enter_context(Streaming(behave))
            places.append(over_tcp(stream, groups=[zone(behave, "pair"), zone(behave, "alone")]))
            datagrams = stack.enter_context(Streaming(behave, truncated))
            places.append(placed(datagrams, groups=[zone(behave, "cut"), zone(behave, "cut-alone")]))
            pairs |= {zone(behave, kind): (stream, other) for kind in ("pair", "alone")}
            pairs |= {zone(behave, kind): (datagrams, whole) for kind in ("cut", "cut-alone")}
        places.append(over_tcp(other, groups=["default", *(zone(behave, "pair") for behave in BROKEN)]))
        places.append(placed(whole, groups=[zone(behave, "cut") for behave in BROKEN]))
        groups = [{"name": name, "policy": "order" if ".cut" in name else "round-robin"} for name in pairs]
        zones = [{"name": name, "group": name} for name in pairs]
        health = {"check": "off", "fall": 100, "min_samples": 100000}
        settings = {"groups": groups, "zones": zones, "health": health, "forward": forward}
        yield stack.enter_context(behind(*places, **settings))[0], pairs


@pytest.fixture(scope="module")
def broken():
    with breaking(HASTY) as running:
        yield running


@pytest.fixture(scope="module")
def broken_beside_another():
    with breaking(SOON) as running:
        yield running


def in_zone(name, count):
    return [each.replace("test.", f"{name}.") for each in names(count)]


# ------------------------------------------------------------ truncation


def test_what_is_truncated_is_fetched_whole_and_kept():
    with behind(truncating) as (shield, upstream):
        (name,) = names(1)
        for _ in "cold", "warm":
            assert ask(name, "TXT", server=shield).flags & dns.flags.TC
            assert len(ask(name, "TXT", server=shield, tcp=True).answer[0]) == 30
        assert (upstream.count(name, transport="udp"), upstream.count(name, transport="tcp")) == (1, 1)


@pytest.mark.parametrize("behave", BROKEN)
def test_what_cannot_be_fetched_stays_truncated_and_is_told_in_time(broken, behave):
    shield, pairs = broken
    where = zone(behave, "cut-alone")
    (name,) = in_zone(where, 1)
    stopwatch = Stopwatch()
    reply = ask(name, server=shield)
    assert stopwatch.seconds() < DEADLINE + 0.5
    assert (reply.rcode(), bool(reply.flags & dns.flags.TC), reply.answer) == (NOERROR, True, [])
    assert pairs[where][0].count(name, transport="udp") == 1


@pytest.mark.parametrize("behave", BROKEN)
def test_what_cannot_be_fetched_from_one_is_fetched_from_another(broken_beside_another, behave):
    shield, pairs = broken_beside_another
    where = zone(behave, "cut")
    (name,) = in_zone(where, 1)
    assert ask(name, "TXT", server=shield).flags & dns.flags.TC  # it is too large for him all the same
    assert len(ask(name, "TXT", server=shield, tcp=True).answer[0]) == 30
    assert pairs[where][1].count(name, "TXT", "tcp") == 1


def test_where_the_port_is_closed_to_tcp_a_truncated_answer_is_told_at_once():
    with WithoutTcp(truncated) as upstream, behind(upstream) as (shield, _):
        stopwatch = Stopwatch()
        reply = ask(names(1)[0], server=shield)
        assert stopwatch.seconds() < 1.0
        assert (reply.rcode(), bool(reply.flags & dns.flags.TC)) == (NOERROR, True)


def test_a_truncated_answer_over_tcp_is_passed_on_as_it_is():
    with behind(truncated) as (shield, upstream):
        (name,) = names(1)
        for times in 1, 2:
            assert ask(name, server=shield, tcp=True).flags & dns.flags.TC
            assert upstream.count(name, transport="tcp") == times  # and is not kept


# ------------------------------------------------------------ connections that break


@pytest.mark.parametrize("behave", BROKEN)
def test_one_of_two_breaks_its_connections_and_nobody_fails(broken_beside_another, behave):
    shield, pairs = broken_beside_another
    where = zone(behave, "pair")
    asked = in_zone(where, 32)
    assert rcodes(ask_each(shield, asked)) == {NOERROR: 32}
    bad, other = pairs[where]
    assert [other.count(name) for name in asked] == [1] * 32
    assert bad.connections > 0


@pytest.mark.parametrize("behave", BROKEN)
def test_who_is_alone_and_breaks_his_connections_is_a_server_failure_in_time(broken, behave):
    shield, pairs = broken
    where = zone(behave, "alone")
    stopwatch = Stopwatch()
    assert rcodes(ask_each(shield, in_zone(where, 5))) == {SERVFAIL: 5}
    assert stopwatch.seconds() < DEADLINE + 0.7
    assert pairs[where][0].connections > 0


def test_who_broke_his_connections_and_does_no_more_is_asked_again():
    with Streaming(hang_up) as bad, behind(over_tcp(bad)) as (shield, _):
        assert rcodes(ask_each(shield, names(5))) == {SERVFAIL: 5}
        bad._behave = well
        assert rcodes(ask_each(shield, names(5))) == {NOERROR: 5}


@pytest.mark.parametrize("behave", ODD)
def test_who_is_odd_but_answers_is_understood(behave):
    with Streaming(behave) as odd, behind(over_tcp(odd, health={"check": "off"})) as (shield, _):
        for name in names(10):
            assert rcodes(ask_each(shield, [name])) == {NOERROR: 1}
        together = names(8)  # as many as connections
        assert rcodes(at_once(8, lambda n: ask_each(shield, [together[n]])[0])) == {NOERROR: 8}
        assert odd.count(transport="udp") == 0
        assert received(odd).total() >= 18


@pytest.mark.parametrize("behave", [close_after_each_answer, reset_after_two_answers])
def test_who_ends_connections_after_a_few_answers_is_asked_on_new_ones_and_everybody_is_served(behave):
    with Streaming(behave) as odd, behind(over_tcp(odd)) as (shield, _):
        assert rcodes(ask_each(shield, names(200))) == {NOERROR: 200}
        assert stats(shield)["retries"] == 0  # it costs no try


def test_answers_come_out_of_order_and_each_client_gets_his_own():
    async def last_first(upstream, queries, writer):
        waiting = []
        async for query in queries:
            waiting.append(query)
            if len(waiting) == 10:
                for each in reversed(waiting):
                    writer.write(upstream.framed(each))
                waiting.clear()

    def by_name(query):
        return answer(query, f"TXT {query.name.to_text()}").to_wire()

    forward = {"max_connections": 1}
    with Streaming(last_first, by_name) as upstream, behind(over_tcp(upstream), forward=forward) as (shield, _):
        asked = names(10)
        replies = at_once(10, lambda n: ask(asked[n], "TXT", server=shield))
        assert [reply.answer[0][0].strings[0].decode() for reply in replies] == asked
        assert (upstream.connections, received(upstream)) == (1, dict.fromkeys(asked, 1))


def test_a_connection_is_kept_and_never_are_there_more_than_allowed():
    with Streaming(well) as upstream, behind(over_tcp(upstream), forward={"max_connections": 3}) as (shield, _):
        for name in names(20):
            assert rcodes(ask_each(shield, [name])) == {NOERROR: 1}
        assert upstream.connections == 1
        asked = names(200)
        assert rcodes(ask_each(shield, asked)) == {NOERROR: 200}
        assert upstream.connections <= 3
        assert (upstream.count(transport="udp"), len(upstream.received)) == (0, 220)
        assert counters(shield, upstream)["responses"] == 220


def test_over_tcp_too_silence_is_answered_by_another_and_its_late_answer_is_nobodys():
    async def late(upstream, queries, writer):
        async for query in queries:
            asyncio.get_running_loop().call_later(1.2, writer.write, upstream.framed(query))

    forward = {**SOON, "policy": "order"}
    with (
        Streaming(late, numbered(66)) as slow,
        behind(over_tcp(slow), over_tcp(good), forward=forward) as (shield, _, quick),
    ):
        asked = names(5)
        stopwatch = Stopwatch()
        assert answerers(ask_each(shield, asked)) == {1: 5}
        assert stopwatch.seconds() < 1.15
        time.sleep(0.8)  # the late answers come
        assert answerers(ask_each(shield, asked)) == {1: 5}
        assert received(quick) == dict.fromkeys(asked, 1)


def test_an_upstream_that_is_asked_over_tcp_serves_clients_over_both():
    with behind(over_tcp(lambda query: answer(query, *LARGE))) as (shield, upstream):
        (name,) = names(1)
        assert ask(name, "TXT", server=shield).flags & dns.flags.TC
        assert len(ask(name, "TXT", server=shield, tcp=True).answer[0]) == 30
        assert (upstream.count(name, transport="tcp"), upstream.count(name, transport="udp")) == (1, 0)


def test_one_over_tcp_and_one_over_udp_stand_in_for_each_other():
    with behind(over_tcp(good), good, forward=SOON) as (shield, stream, datagrams):
        assert rcodes(ask_each(shield, names(40))) == {NOERROR: 40}
        assert stream.count(transport="udp") == datagrams.count(transport="tcp") == 0
        assert min(stream.count(), datagrams.count()) > 10
        for mute, other in (stream, datagrams), (datagrams, stream):
            mute.handle, other.handle = silent, good
            assert rcodes(ask_each(shield, names(40))) == {NOERROR: 40}


def test_who_came_over_tcp_gets_nothing_truncated():
    """He waits behind one over UDP, whom a truncated answer serves when nothing else comes; it is no good to him."""

    def cut(query):
        return truncated(query) if query.transport == "udp" else None

    query = dns.message.make_query("t.test.", "TXT")
    forward = {"timeout": 0.5, "deadline": 1.2, "attempts": 1}
    with behind(cut, forward=forward) as (shield, upstream), ThreadPoolExecutor(1) as pool:
        over_udp = pool.submit(shield.udp, query)
        upstream.wait_for(1)
        over_tcp = shield.tcp(query)
        assert over_udp.result().flags & dns.flags.TC
        assert (over_tcp.rcode(), over_tcp.flags & dns.flags.TC) == (SERVFAIL, 0)
        assert upstream.count("t.test.", "TXT", "udp") == 1
