"""Know that a flood of misses leaves room in the ring for everybody else's, while the control gear takes nothing."""

import contextlib
import socket

import pytest
from support.path import Path
from support.quick import query
from support.until import until

FLOOD = 12_000  # several times what the ring takes


@pytest.fixture
def path():
    with contextlib.ExitStack() as stack:
        yield Path(stack)


def flood(path, sources, zones):
    """Send queries from so many networks, for names in so many zones, until the worker has seen them all."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(sources)]
        before = path.worker.counters()["queries"]
        for n, sock in enumerate(sockets):
            sock.bind((f"127.7.{n}.1", 0))
            sock.connect(path.listener.getsockname())
        for n in range(FLOOD):
            sockets[n % sources].send(query(f"x{before + n}.zone{n % zones}.flood"))
            if n % 100 == 99:
                until(lambda seen=before + n + 1: path.worker.counters()["queries"] >= seen)


@pytest.mark.parametrize(("sources", "zones"), [(1, 1), (1, 5000), (100, 1)])
def test_who_floods_the_ring_leaves_room_for_others(path, sources, zones):
    flood(path, sources, zones)
    counted = path.worker.counters()
    assert counted["queue_share_exceeded"] > FLOOD // 2
    assert counted["dropped_queue_full"] == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.9.9.9", 0))
        other.connect(path.listener.getsockname())
        for n in range(100):
            other.send(query(f"other{n}.test"))
        until(lambda: path.worker.counters()["queries"] == FLOOD + 100)
    while path.miss_path.collect():
        pass
    path.miss_path.send()
    dropped = path.worker.counters()["queue_share_exceeded"]
    assert dropped <= counted["queue_share_exceeded"] + 1, "a query is counted before what becomes of it"
    assert path.miss_path.pending_queries == FLOOD + 100 - dropped


def test_what_was_taken_out_counts_no_more(path):
    taken = []
    for _ in range(2):
        before = path.worker.counters()
        flood(path, 1, 1)
        taken.append(FLOOD - (path.worker.counters()["queue_share_exceeded"] - before["queue_share_exceeded"]))
        while path.miss_path.collect():
            pass
    assert taken[0] == pytest.approx(taken[1], rel=0.05)
