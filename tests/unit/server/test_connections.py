"""Know whose connection counts where, who gives way, and that all is given back in the end."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.client import frame
from support.proxied import STREAM, local, told
from support.quick import answer, query
from support.tcp_worker import Running, connect, has_ended
from support.until import until


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


def connected(stack, running, sources):
    """Connect as if from these addresses, one after the other; return the sockets."""
    sockets = []
    for n, source in enumerate(sources):
        sockets.append(connect(stack, running, told(source, transport=STREAM)))
        until(lambda seen=n + 1: arrived(running) == seen)
    return sockets


def arrived(running):
    counted = running.counters()
    return counted["tcp_accepted"] + counted["tcp_refused_per_client"] + counted["tcp_refused_per_prefix"]


def test_an_ipv6_host_is_one_client_whatever_its_address(stack):
    running = Running(stack, proxied=True, max_connections=1000, max_per_client=10)
    sources = [*(f"2001:db8::{n:x}" for n in range(1, 101)), "2001:db8:0:1::1"]
    sockets = connected(stack, running, sources)
    assert [has_ended(sock) for sock in sockets] == [False] * 10 + [True] * 90 + [False]
    assert (running.counters()["tcp_refused_per_client"], running.connections) == (90, 11)


def test_an_ipv6_site_is_one_prefix_whatever_its_networks(stack):
    running = Running(stack, proxied=True, max_connections=20, max_per_client=10)
    sockets = connected(stack, running, [*(f"2001:db8:0:{n:x}::1" for n in range(100)), "2001:db8:0:100::1"])
    assert (running.connections, running.counters()["tcp_evicted_idle"]) == (17, 84)
    assert [has_ended(sock) for sock in sockets[-17:]] == [False] * 17


def test_without_a_limit_for_clients_one_may_have_four_fifths(stack):
    running = Running(stack, proxied=True, max_connections=20)
    connected(stack, running, ["192.0.2.1"] * 30)
    assert (running.connections, running.counters()["tcp_evicted_idle"]) == (16, 14)


@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "waiting"])
def test_what_ends_gives_back_its_place_and_its_memory(stack, waiting):
    running = Running(stack, memory=8 << 20)
    octets = frame(query("waits.test")) if waiting else b""
    sockets = [connect(stack, running, octets + b"\xff\xff" + bytes(50_000)) for _ in range(20)]
    until(lambda: running.connections == 20 and running.memory >= 20 * 50_000)
    until(lambda: running.counters()["queries"] == 20 * waiting)
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    until(lambda: running.limits.held == (0, 0))
    assert running.counters()["queries"] == 20 * waiting


@pytest.mark.parametrize(
    "header", [told("192.0.2.7", transport=STREAM), local()], ids=["a client's", "the proxy's own"]
)
def test_a_header_in_pieces_moves_what_is_held_to_whom_it_tells(stack, header):
    running = Running(stack, proxied=True)
    sock = connect(stack, running)
    for octet in header:
        sock.sendall(bytes([octet]))
        until(lambda: running.connections == 1)
    sock.sendall(b"\xff\xff" + bytes(5000))
    until(lambda: running.memory >= 5000)
    sock.close()
    until(lambda: running.limits.held == (0, 0))
    assert running.counters()["tcp_accepted"] == 1


def test_where_the_control_thread_is_behind_connections_wait_and_nothing_is_lost(stack):
    """The ring takes some thousand queries: what is beyond stays with the client."""
    running = Running(stack, max_in_flight=65535, memory=64 << 20, max_connections=1000)
    sockets = [connect(stack, running) for _ in range(8)]
    pool = stack.enter_context(ThreadPoolExecutor(8))
    for n, sock in enumerate(sockets):
        pool.submit(sock.sendall, b"".join(frame(query(f"{k}.c{n}.test")) for k in range(2000)))
    taken = 0
    while taken < 8 * 2000:
        taken += until(running.miss_path.collect, within=10.0)
    counted = running.counters()
    assert (counted["queries"], counted["dropped_queue_full"]) == (16_000, 0)
    until(lambda: running.miss_path.collect() == 0)


def test_a_header_as_long_as_there_is_fits_with_what_comes_behind_it(stack):
    """Sixteen octets more than a message and its length: it was written beyond the buffer."""
    running = Running(stack, proxied=True, memory=8 << 20)
    header = told("192.0.2.7", transport=STREAM, tlvs=bytes(65535 - 12))
    octets = header + frame(query("a.test")) * 200
    sock = connect(stack, running, octets[:65550])
    until(lambda: running.memory >= 65550)
    sock.sendall(octets[65550:])
    until(lambda: running.counters()["queries"] == 10)  # so many may be in flight
    assert running.counters()["tcp_accepted"] == 1


def test_who_reads_in_bursts_gets_all_answers(stack):
    """However often a client is held back, and let go again while its queries are looked at."""
    running = Running(stack, write_buffer=1024, memory=8 << 20)
    asked = query("large.test", rdtype=65280)
    assert running.miss_path.cache.store(asked, answer(asked, bytes(60_000), rdtype=65280))
    sock = connect(stack, running)
    pool = stack.enter_context(ThreadPoolExecutor(1))
    sent = pool.submit(sock.sendall, frame(asked) * 500)
    expected, got = 500 * (2 + len(answer(asked, bytes(60_000), rdtype=65280))), 0
    while got < expected:
        got += len(sock.recv(1 << 20))
        time.sleep(0.001)
    assert sent.result() is None
    assert running.counters()["cache_hits"] == 500


def test_prefixes_that_fill_the_ring_keep_nobody_else_waiting(stack):
    """Nobody takes their misses; whoever comes from elsewhere is answered from the cache all the same."""
    running = Running(stack, proxied=True, max_in_flight=65535, memory=64 << 20, max_connections=1000)
    asked = query("known.test")
    assert running.miss_path.cache.store(asked, answer(asked, bytes(4)))
    for network in range(3):
        for n in range(4):
            sock = connect(stack, running, told(f"192.0.{network}.{n}", transport=STREAM))
            sock.setblocking(False)
            for k in range(2000):
                with contextlib.suppress(BlockingIOError):
                    sock.send(frame(query(f"{k}.{n}.{network}.test")))
    other = connect(stack, running, told("192.0.9.1", transport=STREAM) + frame(asked))
    assert other.recv(2)
    assert running.counters()["cache_hits"] == 1
    assert running.counters()["dropped_queue_full"] == 0
