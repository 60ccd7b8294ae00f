"""Show that queries that leave together arrive as they were asked, each for itself, whatever the way there allows.

That they pass the kernel as one is seen by an upstream whose socket asks for what belongs together (UDP_GRO).
"""

import contextlib
import socket
from collections import Counter

import pytest
from support.path import Path
from support.quick import name_wire

from funkenshield.upstream import pool
from funkenshield.upstream.ports import open_udp

UDP_GRO = 104
SO_NO_CHECK = 11  # without checksums, the kernel takes datagrams one by one
LENGTHS = [f"{'x' * (1 + n * 7 % 23)}{n}.test" for n in range(50)]


@pytest.fixture
def path():
    """Return a shield that asks one upstream through one socket."""
    with contextlib.ExitStack() as stack:
        yield Path(stack)


@pytest.fixture
def one_by_one(monkeypatch):
    """Have ways to upstreams that take no datagrams together."""

    def opened(endpoint, source="", ports=None):
        way = open_udp(endpoint, source, ports)
        way.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        return way

    monkeypatch.setattr(pool, "open_udp", opened)


def together(path, names):
    """Ask for names at once; return the lengths of what arrives, and which names are in it."""
    path.server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    path.hand_over(*names)
    arrived = path.arrived_in_all()
    return [len(each) for each in arrived], sorted(
        name for each in arrived for name in names if name_wire(name) in each
    )


def test_queries_of_many_lengths_arrive_each_once_and_are_answered(path):
    asked = path.ask(*LENGTHS)
    assert Counter(each.name for each in asked) == Counter(map(name_wire, LENGTHS))
    assert len({each.port for each in asked}) == 1, "in one batch"
    assert len({each.ident for each in asked}) == len(LENGTHS)
    path.answer(*asked)
    assert path.miss_path.pending_queries == 0
    assert path.table.counters(0)["queries"] == len(LENGTHS)
    assert path.table.counters(0)["responses"] == len(LENGTHS)


def test_queries_of_one_length_pass_the_kernel_as_one(path):
    names = [f"n{n:03}.test" for n in range(40)]
    lengths, found = together(path, names)
    assert (lengths, found) == ([40 * (16 + len(name_wire(names[0])))], names)
    assert path.table.counters(0)["queries"] == 40


def test_a_batch_is_as_many_as_the_kernel_takes_as_one(path):
    names = [f"n{n:03}.test" for n in range(64)]
    lengths, found = together(path, names)
    assert (sum(lengths), found) == (64 * (16 + len(name_wire(names[0]))), names)
    assert path.table.counters(0)["queries"] == 64


@pytest.mark.usefixtures("one_by_one")
def test_where_the_way_takes_none_together_each_passes_for_itself(path):
    names = [f"n{n:03}.test" for n in range(40)]
    lengths, found = together(path, [*names, "longer.than.those.test"])
    assert (len(lengths), found) == (41, sorted([*names, "longer.than.those.test"]))
    assert path.table.counters(0)["queries"] == 41
    assert path.table.counters(0)["network_errors"] == 0


@pytest.mark.usefixtures("one_by_one")
def test_where_the_way_takes_none_together_all_are_answered(path):
    for part in (LENGTHS[:25], LENGTHS[25:]):  # the first finds it out
        asked = path.ask(*part)
        assert Counter(each.name for each in asked) == Counter(map(name_wire, part))
        path.answer(*asked)
    assert path.miss_path.pending_queries == 0


def test_an_upstream_that_is_gone_is_noticed_with_many_as_with_one(path):
    path.server.close()
    path.hand_over(*LENGTHS[:20])
    for _ in range(3):  # tries
        path.miss_path.receive()  # the kernel has heard of it
        path.clock.advance(0.1)
        path.miss_path.tick()
        path.miss_path.send()
    assert path.table.counters(0)["network_errors"] >= 3
    assert path.miss_path.pending_queries == 0
