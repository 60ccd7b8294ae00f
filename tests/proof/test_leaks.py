"""Know that nothing is lost on the way: millions of queries of all kinds, and neither memory nor descriptors grow."""

import itertools
import os
import signal
import socket

import pytest
from support import quick
from support.certificates import HOST, Authority
from support.client import Address, frame, free_port
from support.control import request, stats
from support.encrypted import GARBAGE, ByHand, Door, ends, shown
from support.nameservers import nsd
from support.proc import descriptors, resident
from support.process import run_shield
from support.until import until

from funkenshield.tools.perf import run_perf

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]
ROUNDS, WARM_UP = 10, 4
HITS, MISSES, FAILURES, LOST, PASSED_ON = 300_000, 100_000, 20_000, 400, 100  # a round
CONNECTIONS, HANDSHAKES, RELOADS = 2000, 600, 20  # too
GROWTH = 2 << 20  # octets, in all rounds after the warm-up: one for each query
RESET = b"\1\0\0\0\0\0\0\0"  # of SO_LINGER
TOML = """
cache.memory = "16MiB"
forward.timeout = 0.2
forward.deadline = 0.4
[[zones]]
name = "hole.test"
upstreams = ["{hole}"]
[[listeners]]
address = "{address}"
transport = "tls"
certificates = {{ certificate = "{certificate}", key = "{key}", ocsp_response = "{ocsp}" }}
[tls]
handshakes_per_second_per_client = 0
"""
HOT = [quick.query(f"hot{n}.wild.shield.test.", quick.A) for n in range(100)]
serial = itertools.count()


def ask_for(shield, queries, count, rcode):
    """Ask so many questions, as fast as 200 at once are answered; assert what came of them."""
    report = run_perf(queries, *shield.address, seconds=120, limit=count, window=200, timeout=3)
    assert (report.sent, report.lost, report.rcodes) == (count, 0, {rcode: count})


def fresh(count, zone):
    """Return queries for so many names that nobody has asked for."""
    return [quick.query(f"n{next(serial)}.{zone}", quick.A) for _ in range(count)]


def connect(shield, number):
    """Ask over a connection of its own, and end it in one way or another."""
    with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
        sock.sendall(frame(HOT[number % len(HOT)]))
        if number % 3 == 0:
            sock.shutdown(socket.SHUT_WR)
        if number % 3 == 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return
        assert stream.read(int.from_bytes(stream.read(2)))


def come_over_tls(door, number, session):
    """Shake hands, wholly, by a session, or not to the end, and ask; end it in one way or another."""
    match number % 6:
        case 0:
            assert not door.resumes(HOT[0], **session | {"session": None})
        case 1 | 2:
            assert door.resumes(HOT[0], **session)
        case 3:
            with door.plain() as sock:
                sock.sendall(GARBAGE)
                assert ends(sock)
        case 4:
            with door.plain() as sock:
                client = ByHand(sock, door.context())
                sock.sendall(client.hello()[: 60 + number])
        case 5:
            with door.plain() as sock:
                client = ByHand(sock, door.context())
                client.shake_hands()
                client.send(frame(HOT[0]) * 20)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def renew(authority):
    """Have the shield's certificate be another one, with what is said of it."""
    authority.vouch(authority.issue(HOST))


def one_round(shield, door):
    ask_for(shield, HOT, HITS, "NOERROR")
    ask_for(shield, fresh(MISSES, "wild.shield.test."), MISSES, "NOERROR")
    ask_for(shield, fresh(MISSES, "nobody.shield.test."), MISSES, "NXDOMAIN")
    ask_for(shield, fresh(FAILURES, "elsewhere.test."), FAILURES, "REFUSED")
    ask_for(shield, fresh(LOST, "hole.test."), LOST, "SERVFAIL")
    status = [query[:2] + b"\x10" + query[3:] for query in HOT]  # passed on; NSD says NOTIMP, without a question
    assert run_perf(status, *shield.address, seconds=5, limit=PASSED_ON, timeout=0.5).mismatched == PASSED_ON
    for number in range(CONNECTIONS):
        connect(shield, number)
    session = door.session(HOT[0])
    for number in range(HANDSHAKES):
        come_over_tls(door, number, session)
    before = stats(shield)["reloads"]
    for number in range(RELOADS):
        renew(door.authority)
        shield.process.send_signal(signal.SIGHUP)
        name = f"hot{number}.wild.shield.test".encode()
        assert request(shield, b'{"command": "purge", "name": "%s"}' % name) == [{"ok": True}]
    until(lambda: stats(shield)["reloads"] > before)


def test_millions_of_queries_leave_nothing_behind(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole, nsd() as upstream:
        hole.bind(("127.0.0.1", 0))
        authority = Authority(tmp_path)
        credentials = authority.issue(HOST)
        door = Door(Address("127.0.0.1", free_port()), authority)
        files = shown(credentials, authority.vouch(credentials))
        toml = TOML.format(
            hole="{}:{}".format(*hole.getsockname()), address=door.address, ocsp=files.pop("ocsp_response"), **files
        )
        with run_shield([upstream], workers=len(os.sched_getaffinity(0)), toml=toml) as shield:
            memory, held = [], []
            for number in range(ROUNDS):
                one_round(shield, door)
                until(lambda: stats(shield)["tcp_connections"] == 0)
                memory.append(resident(shield.process))
                held.append(descriptors(shield.process))
                print(f"round {number}: {memory[-1] >> 10:,} KiB, {held[-1]} descriptors")
            told = stats(shield)
    print(
        {
            key: told[key]
            for key in (
                "queries",
                "cache_hits",
                "cache_misses",
                "resolution_failures",
                "uncached_queries",
                "tcp_accepted",
                "reloads",
            )
        }
    )
    assert told["queries"] > 5_000_000
    assert max(memory[WARM_UP:]) - memory[WARM_UP - 1] < GROWTH
    assert max(held[1:]) <= held[0] + 2
