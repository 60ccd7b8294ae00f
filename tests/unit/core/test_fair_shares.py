"""Show the law of fairness: what one prefix gets, what ten get, and that somebody new always finds room."""

import asyncio
from collections import OrderedDict
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.config import TcpSection
from funkenshield.core.fair_shares import SHARE, Holders, Shares, client_of, may_take_one_more, prefix_of
from funkenshield.server.tcp import TcpServer


def packed(address):
    return ip_address(address).packed


@pytest.mark.parametrize(
    ("one", "other", "same_client", "same_prefix"),
    [
        ("192.0.2.1", "192.0.2.255", False, True),
        ("192.0.2.1", "192.0.3.1", False, False),
        ("2001:db8::1", "2001:db8::ffff:1", True, True),
        ("2001:db8::1", "2001:db8:0:1::1", False, True),
        ("2001:db8::1", "2001:db8:0:100::1", False, False),
    ],
)
def test_who_counts_as_one(one, other, same_client, same_prefix):
    assert (client_of(packed(one)) == client_of(packed(other))) is same_client
    assert (prefix_of(packed(one)) == prefix_of(packed(other))) is same_prefix


@pytest.mark.parametrize("hogs", [1, 2, 10, 99])
def test_so_many_hogs_get_a_share_each_and_leave_one(hogs):
    shares, limit = Shares(), 1000
    for hog in [bytes([hog]) for hog in range(hogs)] * limit:
        if shares.may_take(hog, limit):
            shares.add(hog, 1)
    taken = [shares.of(bytes([hog])) for hog in range(hogs)]
    assert max(taken) - min(taken) <= 1
    fair = SHARE * limit // (SHARE * hogs + 1)
    assert fair <= max(taken) <= fair + 1
    assert limit - shares.taken >= limit // (SHARE * hogs + 1) - hogs
    assert shares.may_take(b"new", limit)


def test_what_is_given_back_leaves_nothing():
    shares = Shares()
    shares.add(b"a", 7)
    shares.add(b"b", 1)
    shares.add(b"a", -7)
    assert (shares.taken, len(shares), shares.of(b"a")) == (1, 1, 0)
    assert not may_take_one_more(0, 0)


@given(st.lists(st.tuples(st.sampled_from("amr"), st.integers(0, 5), st.integers(0, 10))))
def test_who_holds_most_and_what_is_oldest_there_is_known_at_any_time(steps):
    holders, model = Holders(), {}
    for step, prefix, number in steps:
        mine = model.setdefault(prefix, OrderedDict())
        if step == "a" and number not in mine:
            holders.add(prefix, number, (prefix, number))
            mine[number] = (prefix, number)
        elif step == "m" and number in mine:
            holders.move(prefix, number)
            mine.move_to_end(number)
        elif step == "r" and number in mine:
            holders.remove(prefix, number)
            del mine[number]
        assert list(holders.of(prefix).items()) == list(mine.items())
        assert holders.most == max(map(len, model.values()))
        if holders.most:
            held = holders.oldest_of_most()
            assert len(model[held[0]]) == holders.most
            assert held == next(iter(model[held[0]].values()))


class Transport(SimpleNamespace):
    """A connection from an address that notes its end."""

    def __init__(self, source):
        super().__init__(source=source, ended=False)

    def get_extra_info(self, what):
        return {"peername": (self.source, 1), "sockname": ("192.0.2.53", 53)}.get(what)

    def is_closing(self):
        return self.ended

    def set_write_buffer_limits(self, high):
        pass

    def abort(self):
        self.ended = True


def connected(sources, **settings):
    """Return a server and the connections that it has from addresses."""

    async def connect():
        inflight = SimpleNamespace(settings_writer=SimpleNamespace(is_proxy=lambda _: False))
        server = TcpServer(inflight, lambda: None, TcpSection(**settings))
        transports = [Transport(source) for source in sources]
        for transport in transports:
            connection = server.protocol()
            connection.connection_made(transport)
            if transport.ended:
                connection.connection_lost(None)
        return server, transports

    return asyncio.run(connect())


def test_an_ipv6_host_is_one_client_whatever_its_address():
    sources = [*(f"2001:db8::{n:x}" for n in range(1, 101)), "2001:db8:0:1::1"]
    server, transports = connected(sources, max_connections=1000, max_connections_per_client=10)
    assert [transport.ended for transport in transports] == [False] * 10 + [True] * 90 + [False]
    assert (server.refused_per_client, len(server.connections)) == (90, 11)


def test_an_ipv6_site_is_one_prefix_whatever_its_networks():
    sources = [*(f"2001:db8:0:{n:x}::1" for n in range(100)), "2001:db8:0:100::1"]
    server, transports = connected(sources, max_connections=20, max_connections_per_client=10)
    assert (len(server.connections), server.evicted_idle) == (17, 84)
    assert [transport.ended for transport in transports[-17:]] == [False] * 17


def test_a_turn_may_end_connections_that_wait_for_theirs():
    async def story():
        inflight = SimpleNamespace(settings_writer=SimpleNamespace(is_proxy=lambda _: False))
        server = TcpServer(inflight, lambda: None, TcpSection())
        waiting = [server.protocol() for _ in range(3)]
        for connection in waiting:
            connection.connection_made(Transport("192.0.2.1"))
            server.queue(connection)
        taken, complaints = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        waiting[0].take_turn = lambda: (taken.append(0), waiting[1].evict(), waiting[2].evict())
        await asyncio.sleep(0)
        return taken, complaints, len(server.connections)

    assert asyncio.run(story()) == ([0], [], 1)
