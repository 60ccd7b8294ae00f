"""Know that who holds connections, memory or transfers over TCP keeps nobody else out, and fills no log."""

import contextlib
import itertools
import socket
import time

import dns.message
import dns.rrset
import pytest
from support import quick
from support.client import ask, connected, frame
from support.control import stats
from support.links import Peer
from support.proc import descriptors, resident
from support.process import run_shield
from support.rig import by_name
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import ask_wire

from funkenshield.admin.process import need_descriptors
from funkenshield.config import load

serial = itertools.count()


@contextlib.contextmanager
def shielded(toml, script=by_name):
    with ScriptedUpstream(script) as upstream, run_shield([upstream], toml=toml) as shield:
        yield shield


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:
        yield stack


def connect(opened, shield, source, **how):
    """Connect from a loopback address, until the test ends."""
    return opened.enter_context(connected(shield, source, **how))


def is_answered(sock, wire):
    """Tell whether a query over a connection is answered with what it asked for."""
    try:
        sock.sendall(frame(wire))
        stream = sock.makefile("rb")
        return bool(dns.message.from_wire(stream.read(int.from_bytes(stream.read(2)))).answer)
    except (OSError, dns.exception.DNSException):
        return False


def is_served(opened, shield, source):
    return is_answered(connect(opened, shield, source), ask_wire(f"name{next(serial)}.test."))


# ------------------------------------------------------------ connections

WAITING = """
[tcp]
max_connections = 64
[forward]
timeout = 5.0
deadline = 10.0
attempts = 1
"""


def test_connections_that_wait_for_silence_keep_nobody_out(opened):
    """From one prefix, then from so many that all is taken."""
    with shielded(WAITING) as shield:
        for source in [*(f"127.1.1.{n + 1}" for n in range(64)), *(f"127.2.{n}.1" for n in range(64))]:
            with contextlib.suppress(OSError):
                connect(opened, shield, source).sendall(frame(ask_wire(f"silent.name{next(serial)}.test.")))
        until(lambda: stats(shield)["tcp_evicted_waiting"] >= 31)
        assert stats(shield)["tcp_connections"] == 64
        stopwatch = Stopwatch()
        assert [is_served(opened, shield, f"127.3.{n}.1") for n in range(10)] == [True] * 10
        assert stopwatch.seconds() < 2.0


def test_one_prefix_gets_four_fifths_and_the_next_ones_their_share(opened):
    with shielded(WAITING) as shield:
        for prefix, expected in (1, 52), (2, 10), (3, 2):
            before = stats(shield)["tcp_connections"]
            for n in range(64):
                with contextlib.suppress(OSError):
                    wire = ask_wire(f"silent.name{next(serial)}.test.")
                    connect(opened, shield, f"127.{prefix}.1.{n + 1}").sendall(frame(wire))
            until(lambda: stats(shield)["tcp_connections"] == before + expected)  # noqa: B023
        assert is_served(opened, shield, "127.9.1.1")


def test_with_few_descriptors_who_is_idle_the_longest_gives_way(opened, tmp_path):
    """As many connections as descriptors are left, and no more: what else needs one always finds it."""
    config = tmp_path / "file.toml"
    config.write_text('listen = ["127.0.0.1:5300"]\nupstreams = ["127.0.0.1:5301"]\nworkers = 1')
    most = need_descriptors(load(config)) + 10  # half of which is for others
    with (
        ScriptedUpstream(by_name) as upstream,
        run_shield([upstream], under=("prlimit", f"--nofile={most}:{most}")) as shield,
    ):
        held = []
        for n in range(12):
            held.append(connect(opened, shield, f"127.4.{n}.1"))
            assert is_answered(held[-1], ask_wire(f"name{next(serial)}.test."))
        counted = stats(shield)
        assert (counted["tcp_connections"], counted["tcp_evicted_idle"], counted["tcp_refused"]) == (5, 7, 0)
        assert [is_answered(sock, ask_wire(f"name{next(serial)}.test.")) for sock in held] == [False] * 7 + [True] * 5


# ------------------------------------------------------------ memory

MEMORY = 8 << 20
MARGIN = 16 << 20  # of the allocator, and of what is on its way
CLIENTS = 150
NEVER_READ = f"""
[tcp]
max_connections = 1000
memory = {MEMORY}
write_buffer = "1MiB"
idle_timeout = 60.0
[cache]
memory = "4MiB"
"""


@pytest.mark.parametrize("spread", [1, CLIENTS], ids=["one prefix", "a prefix each"])
def test_who_never_reads_takes_no_more_than_is_set_and_costs_others_nothing(opened, spread):
    with shielded(NEVER_READ) as shield:
        large = ask_wire("large.test.", "TYPE65280")
        assert ask("large.test.", "TYPE65280", server=shield, tcp=True).answer
        before = resident(shield.process)
        honest = connect(opened, shield, "127.0.0.1")
        held = []
        for n in range(CLIENTS):
            sock = connect(opened, shield, f"127.5.{n % spread}.{1 + n}", receive_buffer=4096)
            sock.setblocking(False)
            held.append(sock)
        for _ in range(5):
            for sock in held:
                with contextlib.suppress(OSError):
                    sock.send(frame(large) * 40)
            assert is_answered(honest, ask_wire(f"name{next(serial)}.test."))
            assert is_answered(honest, large)
            assert resident(shield.process) < before + MEMORY + MARGIN
        counted = stats(shield)
        assert counted["tcp_evicted_memory"] > 0
        assert counted["tcp_buffered_bytes"] < MEMORY + (1 << 20)
        until(lambda: "octets are buffered" in shield.log)
        assert shield.log.count("octets are buffered") == 1
        for sock in held:
            sock.close()
        until(lambda: stats(shield)["tcp_buffered_bytes"] == 0)
        assert is_answered(honest, large)


def test_who_says_half_of_a_long_query_takes_no_more_than_is_set(opened):
    with shielded(NEVER_READ) as shield:
        for n in range(CLIENTS * 2):
            sock = connect(opened, shield, f"127.5.{n % 200}.{1 + n % 250}")
            with contextlib.suppress(OSError):
                sock.sendall(b"\xff\xff" + bytes(65000))
        until(lambda: stats(shield)["tcp_evicted_memory"] > 0)
        assert stats(shield)["tcp_buffered_bytes"] < MEMORY + (1 << 20)
        assert is_served(opened, shield, "127.0.0.1")


# ------------------------------------------------------------ transfers

ALLOWED = """
[forward]
allow = { transfers = ["127.0.0.0/8"] }
"""
PATIENT = f"""
{ALLOWED}
timeout = 30.0
deadline = 30.0
max_transfers = 8
"""


def transfer(rdtype="AXFR"):
    query = dns.message.make_query("zone.test.", rdtype, flags=0)
    if rdtype == "IXFR":
        query.authority.append(dns.rrset.from_text("zone.test.", 0, "IN", "SOA", ". . 3 0 0 0 0"))
    return frame(query.to_wire())


def soa(wire):
    """Return a response of the SOA record alone."""
    response = dns.message.make_response(dns.message.from_wire(wire))
    response.answer.append(dns.rrset.from_text("zone.test.", 60, "IN", "SOA", ". . 5 0 0 0 0"))
    return frame(response.to_wire())


def hold(link):
    """Take the query and say nothing."""
    link.query()
    link.query()


def begin(link):
    """Say how the zone begins, and nothing more."""
    link.send(soa(link.query()))
    link.query()


def endless(link):
    """Begin a zone, and go on as long as anybody takes it."""
    asked = link.query()
    link.send(soa(asked))
    more = frame(quick.answer(asked, bytes(60_000), rdtype=65280))
    while True:
        link.send(more)


@pytest.mark.parametrize("farewell", ["close", "reset"])
@pytest.mark.parametrize("script", [hold, begin], ids=["before the first message", "after it"])
@pytest.mark.parametrize("rdtype", ["AXFR", "IXFR"])
def test_a_transfer_of_a_client_that_is_gone_ends_at_once(opened, rdtype, script, farewell):
    """One that only closes may still wait for what it asked: a second shows whether it does."""
    with Peer(script) as peer, run_shield([peer], toml=PATIENT) as shield:
        before = descriptors(shield.process)
        sock = connect(opened, shield, "127.0.0.1")
        sock.sendall(transfer(rdtype))
        until(lambda: peer.queries)
        if script is begin:
            assert sock.recv(2)
        if farewell == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        assert peer.links[0].ended.wait(0.5 if farewell == "reset" else 2.0)
        until(lambda: descriptors(shield.process) == before)
        assert len(peer.links) == 1


def test_a_transfer_whose_client_does_not_read_ends_as_idle(opened):
    with Peer(endless) as peer, run_shield([peer], toml=f"{PATIENT}\n[tcp]\nidle_timeout = 0.5") as shield:
        sock = connect(opened, shield, "127.0.0.1", receive_buffer=4096)
        sock.sendall(transfer())
        assert sock.recv(2)
        assert peer.links[0].ended.wait(10.0)
        until(lambda: stats(shield)["tcp_connections"] == 0)
        assert stats(shield)["tcp_idle_timeouts"] == 1


def test_a_transfer_that_is_read_slowly_goes_on(opened):
    with Peer(endless) as peer, run_shield([peer], toml=f"{PATIENT}\n[tcp]\nidle_timeout = 0.5") as shield:
        sock = connect(opened, shield, "127.0.0.1", receive_buffer=4096)
        sock.sendall(transfer())
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert sock.recv(4096)
            time.sleep(0.005)
        assert stats(shield)["tcp_idle_timeouts"] == 0
        sock.close()
        assert peer.links[0].ended.wait(10.0)


def test_transfers_that_stand_still_leave_places_to_other_prefixes(opened):
    with Peer(hold) as peer, run_shield([peer], toml=PATIENT) as shield:
        for n in range(8):
            connect(opened, shield, f"127.7.1.{n + 1}").sendall(transfer())
        until(lambda: len(peer.queries) == 7)
        connect(opened, shield, "127.8.1.1").sendall(transfer())
        until(lambda: len(peer.queries) == 8)
        refused = connect(opened, shield, "127.7.1.9")
        refused.sendall(transfer())
        assert refused.recv(6)[5] & 15 == 5
        assert len(peer.links) == 8


def test_a_lone_soa_is_waited_behind_for_no_longer_than_for_a_first_message(opened):
    with Peer(begin) as peer, run_shield([peer], toml=f"{ALLOWED}\ntimeout = 0.2") as shield:
        sock = connect(opened, shield, "127.0.0.1")
        sock.sendall(transfer("IXFR"))
        assert peer.links[until(lambda: len(peer.queries)) - 1].ended.wait(1.5)
        until(lambda: stats(shield)["tcp_connections"] == 0)


# ------------------------------------------------------------ the log


def test_transfers_that_fail_write_one_line(opened):
    with Peer(lambda link: link.query()) as peer, run_shield([peer], toml=ALLOWED) as shield:
        sock = connect(opened, shield, "127.0.0.1")
        with sock.makefile("rb") as stream:
            for _ in range(100):
                sock.sendall(transfer())
                assert stream.read(int.from_bytes(stream.read(2)))[3] & 15 == 2
        assert len(peer.queries) >= 100
        until(lambda: "zone transfer" in shield.log)
        assert shield.log.count("zone transfer") == 1


def test_connections_that_are_refused_are_counted_by_reason_and_write_one_line_for_each(opened):
    with shielded(
        "[tcp]\nmax_connections = 16\nmax_connections_per_client = 2\n" + WAITING.partition("64")[2]
    ) as shield:
        for source in [*["127.4.1.1"] * 50, *(f"127.4.1.{n + 1}" for n in range(50))]:
            with contextlib.suppress(OSError):
                connect(opened, shield, source).sendall(frame(ask_wire(f"silent.name{next(serial)}.test.")))
        counted = until(lambda: (found := stats(shield))["tcp_refused"] == 87 and found)
        assert (counted["tcp_refused_per_client"], counted["tcp_refused_per_prefix"]) == (49, 38)
        until(lambda: shield.log.count(" refused: ") >= 2)
        assert shield.log.count(" refused: ") == 2
