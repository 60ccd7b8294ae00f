"""Know that the shield's TCP clients are pipelined, read octet by octet, bounded, and kept apart.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import itertools
import socket
import time

import dns.edns
import dns.message
import dns.rcode
import pytest
from support.client import ask, connected, frame
from support.control import stats
from support.proc import connections, resident
from support.process import run_shield
from support.rig import LARGE, by_name
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import ask_wire

IDLE = 0.6  # seconds
TOML = f"""
[tcp]
max_connections = 8
max_connections_per_client = 3
max_in_flight = 20
idle_timeout = {IDLE}
write_buffer = "64KiB"
[forward]
timeout = 1.0
deadline = 1.5
"""
serial = itertools.count()


@pytest.fixture(scope="module")
def running():
    with ScriptedUpstream(by_name) as upstream, run_shield([upstream], toml=TOML) as shield:
        yield upstream, shield


@pytest.fixture
def upstream(running):
    running[0].received.clear()
    return running[0]


@pytest.fixture
def shield(running):
    """Return the shield, once it has noticed that the clients of the test before are gone."""
    until(lambda: stats(running[1])["tcp_connections"] == 0, within=3.0)
    return running[1]


@pytest.fixture
def name():
    return f"name{next(serial)}.test."


@contextlib.contextmanager
def connect(shield, source="127.0.0.1", **how):
    """Connect from a loopback address; yield the socket and a file to read from."""
    with connected(shield, source, **how) as sock, sock.makefile("rb") as stream:
        yield sock, stream


def read(stream):
    """Return the next message; EOFError where the connection ends instead."""
    length = int.from_bytes(stream.read(2))
    if not length:
        raise EOFError
    return dns.message.from_wire(stream.read(length))


def ended(stream):
    """Tell whether the shield has ended the connection, in whatever manner."""
    try:
        return stream.read(1) == b""
    except ConnectionResetError:
        return True


def is_served(shield, name, source):
    """Tell whether a new connection from `source` is answered; it is closed again."""
    with connect(shield, source) as (sock, stream), contextlib.suppress(OSError, EOFError):
        sock.sendall(frame(ask_wire(name)))
        return bool(read(stream).answer)
    return False


# ------------------------------------------------------------ in


def test_many_queries_in_one_write_are_all_answered(upstream, shield, name):
    with connect(shield) as (sock, stream):
        sock.sendall(b"".join(frame(ask_wire(f"{n}.{name}", id=n)) for n in range(200)))
        replies = {reply.id: reply for reply in (read(stream) for _ in range(200))}
    assert sorted(replies) == list(range(200))
    for n, reply in replies.items():
        assert reply.question[0].name.to_text() == f"{n}.{name}"
        assert reply.answer
        assert upstream.count(f"{n}.{name}", "A") == 1
    assert len(upstream.received) == 200


def test_a_slow_answer_is_overtaken(upstream, shield, name):
    names = [f"slow.{name}", *(f"{n}.{name}" for n in range(9))]
    with connect(shield) as (sock, stream):
        sock.sendall(b"".join(frame(ask_wire(each, id=n)) for n, each in enumerate(names)))
        ids = [read(stream).id for _ in names]
    assert sorted(ids[:-1]) == list(range(1, 10))
    assert ids[-1] == 0
    assert [upstream.count(each) for each in names] == [1] * 10


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_queries_may_arrive_in_pieces(upstream, shield, name, step):
    octets = frame(ask_wire(name, id=1)) + frame(ask_wire(name.upper(), id=2))
    with connect(shield) as (sock, stream):
        for start in range(0, len(octets), step):
            sock.sendall(octets[start : start + step])
            time.sleep(0.002)
        replies = [read(stream), read(stream)]
    assert [reply.id for reply in replies] == [1, 2]
    assert [reply.question[0].name.to_text() for reply in replies] == [name, name.upper()]
    assert upstream.count(name) == 1


@pytest.mark.parametrize("where", [1, 20, -30, -1], ids=["length", "first", "second", "last octet"])
def test_two_queries_may_be_split_anywhere(upstream, shield, name, where):
    octets = frame(ask_wire(f"a.{name}", id=1)) + frame(ask_wire(f"b.{name}", id=2))
    with connect(shield) as (sock, stream):
        sock.sendall(octets[:where])
        time.sleep(0.05)
        sock.sendall(octets[where:])
        assert {read(stream).id, read(stream).id} == {1, 2}
    assert (upstream.count(f"a.{name}"), upstream.count(f"b.{name}"), len(upstream.received)) == (1, 1, 2)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0", b"\xff" * 11, b"\xff" * 500, bytes.fromhex("0001 8000 0001 0000 0000 0000 00 0001 0001")],
    ids=["nothing", "one octet", "less than a header", "ones", "a response"],
)
def test_what_can_be_no_query_ends_the_connection(upstream, shield, name, garbage):
    """RFC 7766 8: whoever sends it is broken, or hostile; his query behind it is not asked."""
    before = stats(shield)
    with connect(shield) as (sock, stream):
        sock.sendall(frame(garbage) + frame(ask_wire(name, id=2)))
        assert ended(stream)
    after = stats(shield)
    assert after["tcp_protocol_errors"] == before["tcp_protocol_errors"] + 1
    assert after["dropped_short"] + after["dropped_responses"] == (
        before["dropped_short"] + before["dropped_responses"] + 1
    )
    assert upstream.received == []


def test_a_malformed_query_is_a_format_error_and_the_next_one_is_answered(upstream, shield, name):
    with connect(shield) as (sock, stream):
        sock.sendall(frame(ask_wire(name, id=1)[:-1]) + frame(ask_wire(name, id=2)))
        replies = [read(stream), read(stream)]
    assert [(reply.id, reply.rcode()) for reply in replies] == [(1, dns.rcode.FORMERR), (2, dns.rcode.NOERROR)]
    assert upstream.count(name) == len(upstream.received) == 1


def test_a_query_as_long_as_dns_allows_is_answered(upstream, shield, name):
    padded = ask_wire(name, use_edns=0, pad=65535)
    assert len(padded) == 65535
    with connect(shield) as (sock, stream):
        sock.sendall(frame(padded))
        assert read(stream).answer
    assert upstream.count(name) == 1


@pytest.mark.parametrize("query", ["{}", "slow.{}"], ids=["at once", "slowly"])
def test_a_client_that_has_said_all_is_still_answered(upstream, shield, name, query):
    name = query.format(name)
    with connect(shield) as (sock, stream):
        sock.sendall(b"".join(frame(ask_wire(each, id=n)) for n, each in enumerate((name, f"a.{name}"))))
        sock.shutdown(socket.SHUT_WR)
        assert {read(stream).id, read(stream).id} == {0, 1}
        assert ended(stream)
    assert (upstream.count(name), upstream.count(f"a.{name}")) == (1, 1)


def test_hits_are_answered_after_the_client_has_said_all(upstream, shield, name):
    assert ask(name, server=shield).answer
    queries = b"".join(frame(ask_wire(name, id=n)) for n in range(1000))
    for _ in range(5):
        with connect(shield) as (sock, stream):
            sock.sendall(queries)
            sock.shutdown(socket.SHUT_WR)
            assert [read(stream).id for _ in range(1000)] == list(range(1000))
            assert ended(stream)
    assert upstream.count(name) == 1


def test_nothing_that_is_written_waits_for_an_acknowledgement(upstream, shield, name):
    """Who acknowledges late would wait for each answer but the first (RFC 896)."""
    with connect(shield) as (sock, stream):
        sock.sendall(frame(ask_wire(name)))
        assert read(stream).answer
        try:
            with connections(shield.process.pid) as held:
                peers = {each.getpeername(): each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in held}
        except PermissionError:
            pytest.skip("the kernel does not let us look")
        assert sock.getsockname() in peers
    assert set(peers.values()) == {1}


# ------------------------------------------------------------ keepalive (RFC 7828)

ASKS = dns.edns.GenericOption(11, b"")


def told(reply):
    """Return the tenths of a second that a reply says a connection may be idle, of each option."""
    return [int.from_bytes(option.to_wire()) for option in reply.options if option.otype == 11]


@pytest.mark.parametrize("kind", ["miss", "hit", "passed on", "failure", "malformed cookie"])
def test_who_asks_is_told_how_long_a_connection_may_be_idle(upstream, shield, name, kind):
    options = {"passed on": [dns.edns.NSIDOption(b"")], "malformed cookie": [dns.edns.GenericOption(10, b"x")]}
    name = f"silent.{name}" if kind == "failure" else name
    if kind == "hit":
        ask(name, server=shield, edns=1232)
    asked = ask_wire(name, use_edns=0, options=[*options.get(kind, ()), ASKS])
    with connect(shield) as (sock, stream):
        sock.sendall(frame(asked))
        reply = read(stream)
        assert told(reply) == ([] if kind == "malformed cookie" else [int(IDLE * 10)])
        assert len(reply.options) == (2 if kind == "failure" else len(told(reply)))
        sock.sendall(frame(ask_wire(name, use_edns=0)))
        assert told(read(stream)) == [], "who does not ask is not told"
    reply = ask(name, server=shield, options=[ASKS])
    assert told(reply) == [], "over UDP, there is no connection"
    assert not any(option.otype == 11 for query in upstream.received for option in query.message.options)


def test_who_asks_while_the_shield_drains_is_told_to_leave():
    with (
        ScriptedUpstream(by_name) as upstream,
        run_shield([upstream], toml="tcp.idle_timeout = 3600.0") as shield,
        connect(shield) as (sock, stream),
    ):
        sock.sendall(frame(ask_wire("slow.test.")) + frame(ask_wire("a.test.", options=[ASKS])))
        assert told(read(stream)) == [36000]
        upstream.wait_for(2)
        shield.process.terminate()
        until(lambda: "draining" in shield.log)
        sock.sendall(frame(ask_wire("a.test.", options=[ASKS])))
        assert told(read(stream)) == [0]
        assert read(stream).answer
        shield.process.wait(5)


def is_refused(shield):
    try:
        socket.create_connection(shield.address, timeout=10.0).close()
    except ConnectionRefusedError:
        return True
    return False


def test_who_connects_while_the_shield_drains_is_refused_at_once():
    """Another server may be there for him: a connection that nobody takes would keep him waiting."""
    toml = "drain_timeout = 10.0\n[forward]\ntimeout = 4.0\ndeadline = 4.0\nattempts = 1"
    with (
        ScriptedUpstream(by_name) as upstream,
        run_shield([upstream], toml=toml) as shield,
        connect(shield) as (sock, _),
    ):
        sock.sendall(frame(ask_wire("silent.test.")))
        upstream.wait_for(1)
        shield.process.terminate()
        until(lambda: is_refused(shield), within=3.0)
        assert shield.process.poll() is None
        assert "stopped" not in shield.log
        shield.process.wait(10)


# ------------------------------------------------------------ bounds


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0", b"\xff\xff garbage", frame(b"half of a query")[:9]],
    ids=["nothing", "half a length", "a length and no end", "half a query"],
)
def test_an_idle_connection_is_ended(upstream, shield, sent):
    start = time.monotonic()
    stopwatch = Stopwatch()
    with connect(shield) as (sock, stream):
        sock.sendall(sent)
        assert ended(stream)
    assert time.monotonic() - start > IDLE * 0.9
    assert stopwatch.seconds() < IDLE + 1.0
    assert upstream.received == []


def test_an_octet_now_and_then_keeps_no_connection(upstream, shield):
    with connect(shield) as (sock, _):
        timed_out = stats(shield)["tcp_idle_timeouts"]
        sock.settimeout(IDLE / 6)
        start = time.monotonic()
        stopwatch = Stopwatch()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < start + 4 * IDLE:
                sock.sendall(b"\xff")
                with contextlib.suppress(TimeoutError):
                    assert not sock.recv(1)
                    break
        assert time.monotonic() - start >= IDLE
        assert stopwatch.seconds() < 3 * IDLE
        assert stats(shield)["tcp_idle_timeouts"] == timed_out + 1
    assert upstream.received == []


def test_a_connection_in_use_is_kept(upstream, shield, name):
    with connect(shield) as (sock, stream):
        for n in range(4):
            time.sleep(IDLE / 2)
            sock.sendall(frame(ask_wire(name, id=n)))
            assert read(stream).id == n
    assert upstream.count(name) == 1


def test_a_connection_that_waits_for_an_upstream_is_not_idle(upstream, shield, name):
    with connect(shield) as (sock, stream):
        sock.sendall(frame(ask_wire(f"silent.{name}")))
        assert read(stream).rcode() == dns.rcode.SERVFAIL
    assert upstream.count(f"silent.{name}") == len(upstream.received) == 2


def test_an_address_may_hold_so_many_connections(upstream, shield, name):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(shield)) for _ in range(3)]
        before = stats(shield)["tcp_refused_per_client"]
        assert not is_served(shield, name, "127.0.0.1")
        assert stats(shield)["tcp_refused_per_client"] == before + 1
        assert upstream.received == []
        assert is_served(shield, name, "127.0.0.2")
        held[0][0].close()
        held[0][1].close()
        until(lambda: is_served(shield, name, "127.0.0.1"), within=3.0)
    assert upstream.count(name) == len(upstream.received) == 1


def test_where_all_connections_are_taken_the_one_silent_for_the_longest_gives_way(upstream, shield, name):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(shield, f"127.0.{2 + n}.1")) for n in range(8)]
        until(lambda: stats(shield)["tcp_connections"] == 8)
        for sock, stream in (held[0], held[2]):
            sock.sendall(frame(ask_wire(name)))
            assert read(stream).answer
        before = stats(shield)
        assert is_served(shield, name, "127.0.0.1")
        after = stats(shield)
        assert (after["tcp_evicted_idle"], after["tcp_refused"]) == (
            before["tcp_evicted_idle"] + 1,
            before["tcp_refused"],
        )
        assert ended(held[1][1])
        for sock, stream in (held[0], *held[2:]):
            sock.sendall(frame(ask_wire(name)))
            assert read(stream).answer
    assert upstream.count(name) == 1


def test_nobody_gives_way_to_a_client_who_has_enough(upstream, shield, name):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(shield, f"127.0.{2 + max(n - 2, 0)}.1")) for n in range(8)]
        until(lambda: stats(shield)["tcp_connections"] == 8)
        before = stats(shield)
        assert not is_served(shield, name, "127.0.2.1")
        after = stats(shield)
        assert (after["tcp_evicted_idle"], after["tcp_refused"]) == (
            before["tcp_evicted_idle"],
            before["tcp_refused"] + 1,
        )
        for sock, stream in held:
            sock.sendall(frame(ask_wire(name)))
            assert read(stream).answer
    assert upstream.count(name) == len(upstream.received) == 1


def test_where_all_wait_for_answers_the_oldest_of_the_prefix_with_the_most_gives_way(upstream, shield, name):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(shield, f"127.0.{2 + max(n - 2, 0)}.{1 + n % 3}")) for n in range(8)]
        until(lambda: stats(shield)["tcp_connections"] == 8)
        for sock, _ in held:
            sock.sendall(frame(ask_wire(f"slow.{name}")))
        until(lambda: upstream.received)
        before = stats(shield)
        assert is_served(shield, name, "127.0.0.1")
        after = stats(shield)
        for key, more in ("tcp_evicted_waiting", 1), ("tcp_evicted_idle", 0), ("tcp_refused", 0):
            assert after[key] == before[key] + more, key
        assert ended(held[0][1])
        assert all(read(stream).answer for _, stream in held[1:])
    assert upstream.count(f"slow.{name}") == upstream.count(name) == 1


def test_whose_prefix_has_the_most_is_refused_where_all_wait(upstream, shield, name):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(shield, f"127.0.{2 + max(n - 2, 0)}.{1 + n % 3}")) for n in range(8)]
        until(lambda: stats(shield)["tcp_connections"] == 8)
        for sock, _ in held:
            sock.sendall(frame(ask_wire(f"slow.{name}")))
        until(lambda: upstream.received)
        before = stats(shield)["tcp_refused_per_prefix"]
        assert not is_served(shield, name, "127.0.2.9")
        assert stats(shield)["tcp_refused_per_prefix"] == before + 1
        assert all(read(stream).answer for _, stream in held)
    assert upstream.count(f"slow.{name}") == len(upstream.received) == 1


def test_a_prefix_has_its_share_of_all_connections(upstream, shield, name):
    """Of eight, seven; its own that is silent the longest gives way."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(shield, f"127.0.2.{1 + n}")) for n in range(8)]
        assert ended(held[0][1])
        for sock, stream in held[1:]:
            sock.sendall(frame(ask_wire(name)))
            assert read(stream).answer
        assert stats(shield)["tcp_connections"] == 7
    assert upstream.count(name) == len(upstream.received) == 1


def test_so_many_queries_of_a_connection_wait_at_once(upstream, shield, name):
    with connect(shield) as (sock, stream):
        sock.sendall(b"".join(frame(ask_wire(f"slow.{n}.{name}", id=n)) for n in range(30)))
        upstream.wait_for(20)
        time.sleep(0.2)
        assert len(upstream.received) == 20
        assert sorted(read(stream).id for _ in range(30)) == list(range(30))
    assert len(upstream.received) == 30


def test_a_client_that_never_reads_costs_nothing_but_its_connection(upstream, shield, name):
    large = f"large.{name}"
    assert ask(large, "TYPE65280", server=shield, tcp=True).answer
    before = resident(shield.process)
    with connect(shield, receive_buffer=4096) as (sock, _):
        sock.setblocking(False)
        queries = frame(ask_wire(large, "TYPE65280")) * 2000  # 120 MB of answers
        sent = 0
        start = time.monotonic()
        while time.monotonic() - start < IDLE / 2:
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(queries[sent:]) if sent < len(queries) else 0
            time.sleep(0.01)
            assert ask(name, server=shield, tcp=True, timeout=1).answer
            assert resident(shield.process) < before + (8 << 20)
        timed_out = stats(shield)["tcp_idle_timeouts"]
        until(lambda: stats(shield)["tcp_idle_timeouts"] == timed_out + 1, within=3.0)
    assert (upstream.count(large), upstream.count(name)) == (1, 1)


def test_a_client_that_reads_late_gets_everything(upstream, shield, name):
    large = f"large.{name}"
    with connect(shield, receive_buffer=4096) as (sock, stream):
        sock.sendall(frame(ask_wire(large, "TYPE65280")) * 200)
        for _ in range(200):
            assert len(stream.read(int.from_bytes(stream.read(2)))) > LARGE
        sock.sendall(frame(ask_wire(name, id=9)))
        assert read(stream).id == 9
    assert (upstream.count(large), upstream.count(name)) == (1, 1)


@pytest.mark.parametrize("farewell", ["close", "reset"])
def test_a_client_that_leaves_before_its_answer_disturbs_nobody(upstream, shield, name, farewell):
    slow = f"slow.{name}"
    with connect(shield) as (sock, _):
        if farewell == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(frame(ask_wire(slow)))
        upstream.wait_for(1)
    assert ask(name, server=shield, tcp=True).answer
    assert ask(slow, server=shield, tcp=True).answer
    assert (upstream.count(slow), upstream.count(name)) == (1, 1)
