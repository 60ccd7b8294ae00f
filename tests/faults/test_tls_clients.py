"""Know that whoever comes in over TLS and does it badly costs nobody else an answer, is counted, and is bounded.

Why a handshake failed is told by its counter: closed, timeout, alert, version, cipher, not_tls, other.
"""

import base64
import contextlib
import re
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.certificates import HOST, self_signed
from support.client import Address, ask, frame, free_port
from support.control import advance, stats
from support.encrypted import (
    GARBAGE,
    TLS12,
    TLS13,
    ByHand,
    Door,
    Secrets,
    encrypted,
    ends,
    has_ended,
    read_wire,
    reload,
    s_client,
    shown,
    tally,
)
from support.nameservers import program
from support.proc import resident
from support.process import run_shield
from support.rig import LARGE, by_name, names, toml
from support.stopwatch import Stopwatch
from support.tls_fixtures import FIXTURES
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import ask_wire

from funkenshield.admin.process import need_descriptors
from funkenshield.config import load

HANDSHAKE, IDLE = 0.6, 2.0  # seconds
EACH = 64 << 10  # octets of memory that a connection may take (docs/configuration.md)
MARGIN = 16 << 20  # of the allocator, and of what is on its way
versions = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
authority, door, _, opened, shield, upstream = FIXTURES


@pytest.fixture(scope="module")
def running(authority):
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        listener={"ciphersuites": "TLS_AES_128_GCM_SHA256"},
        tcp={"idle_timeout": IDLE},
        tls={"handshakes_per_second_per_client": 0, "handshake_timeout": HANDSHAKE},
    ) as stage:
        yield stage


@contextlib.contextmanager
def failing(shield, door, upstream, reason):
    """Assert that meanwhile a handshake fails, for this reason, and nothing else comes of it."""
    before = tally(shield)
    yield
    until(lambda: tally(shield) - before)
    assert tally(shield) - before == Counter({"failed": 1, reason: 1})
    assert upstream.received == []
    assert_served(door)


def assert_served(door, **how):
    """Assert that somebody else is answered."""
    wire = ask_wire(names(1)[0], id=4711)
    assert door.ask(wire, **how)[:2] == wire[:2]


# ------------------------------------------------------------ who does not shake hands


@pytest.mark.parametrize("said", [0, 1, 5, 60, -1, None], ids=str)
def test_who_falls_silent_in_the_handshake_is_ended_in_time(upstream, shield, door, said):
    """After nothing, a part of the hello, all but its last octet, or all of it."""
    with failing(shield, door, upstream, "timeout"), door.plain() as sock:
        start, stopwatch = time.monotonic(), Stopwatch()
        sock.sendall(ByHand(sock, door.context()).hello()[:said])
        assert ends(sock)
        assert time.monotonic() - start > HANDSHAKE * 0.9
        assert stopwatch.seconds() < HANDSHAKE + 1.0


def test_an_octet_now_and_then_is_no_handshake(upstream, shield, door):
    """Its hello would take a minute."""
    with failing(shield, door, upstream, "timeout"), door.plain(timeout=HANDSHAKE / 6) as sock:
        stopwatch = Stopwatch()
        for octet in ByHand(sock, door.context()).hello():
            try:
                sock.sendall(bytes([octet]))
                assert sock.recv(1 << 16) == b""
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert HANDSHAKE * 0.9 <= stopwatch.seconds() + stopwatch.waited() < 3 * HANDSHAKE + stopwatch.waited()


@pytest.mark.parametrize(
    "said",
    [GARBAGE, b"GET / HTTP/1.1\r\n\r\n", frame(ask_wire("a.test.")), bytes(100), b"\xff" * 100],
    ids=["lines", "HTTP", "DNS", "zeros", "ones"],
)
def test_what_is_not_tls_is_ended_at_once(upstream, shield, door, said):
    with failing(shield, door, upstream, "not_tls"), door.plain() as sock:
        stopwatch = Stopwatch()
        sock.sendall(said)
        assert ends(sock)
        assert stopwatch.seconds() < HANDSHAKE / 2


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\3\1\0\5hello", b"\x16\3\1\0\0", b"\x16\3\1\xff\xff" + bytes(200), b"\x17\3\3\0\5hello",
        b"\x14\3\3\0\1\1" * 50, b"\x80\x2e\1\0\2" + bytes(43), b"\x16\3\1\0\4\1\0\0\0",
        b"\x16\3\1\0\4\2\0\0\0", b"\x16\3\1\0\4\1\xff\xff\xff",
    ],
    ids=[
        "hello", "an empty record", "a record too long", "data first", "fifty changes of cipher", "SSL 2",
        "an empty hello", "a server's hello", "a hello of 16 MB",
    ],
)  # fmt: skip
def test_what_only_looks_like_tls_is_ended(upstream, shield, door, said):
    before = tally(shield)["failed"]
    with door.plain() as sock:
        sock.sendall(said)
        assert ends(sock)
    until(lambda: tally(shield)["failed"] == before + 1)
    assert upstream.received == []
    assert_served(door)


@pytest.mark.parametrize("farewell", ["close", "reset"])
@pytest.mark.parametrize("said", [0, 60, None], ids=["nothing", "half a hello", "a hello"])
def test_who_leaves_in_the_handshake_disturbs_nobody(upstream, shield, door, said, farewell):
    with failing(shield, door, upstream, "closed"), door.plain() as sock:
        octets = ByHand(sock, door.context()).hello()[:said]
        sock.sendall(octets)
        if octets and said is None:
            sock.recv(1)
        else:
            until(lambda: stats(shield)["tcp_connections"] == 1)
        if farewell == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@versions
def test_who_does_not_trust_us_is_counted_as_an_alert(upstream, shield, door, version, tmp_path):
    doubting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    doubting.load_verify_locations(self_signed(tmp_path, HOST).certificate)
    doubting.maximum_version = version
    with failing(shield, door, upstream, "alert"), door.plain() as sock:
        client = ByHand(sock, doubting)
        with pytest.raises(ssl.SSLCertVerificationError):
            client.shake_hands()
        client.flush()
        assert ends(sock)


@versions
def test_an_alert_instead_of_an_answer_to_the_hello_ends_the_handshake(upstream, shield, door, version):
    with failing(shield, door, upstream, "alert"), door.plain() as sock:
        sock.sendall(ByHand(sock, door.context(newest=version)).hello())
        assert sock.recv(1)
        sock.sendall(b"\x15\3\3\0\2\2\x28")
        assert ends(sock)


@pytest.mark.slow
def test_tls_at_the_plain_port_is_waited_for_as_an_unfinished_query(upstream, shield, door):
    """A record's head is a length, by chance: of more than the hello has."""
    with socket.create_connection(shield.address, timeout=20.0) as sock:
        timed_out = stats(shield)["tcp_idle_timeouts"]
        sock.sendall(ByHand(sock, door.context()).hello())
        assert ends(sock)
        assert stats(shield)["tcp_idle_timeouts"] == timed_out + 1
    assert upstream.received == []
    assert ask(names(1)[0], server=shield, tcp=True).answer


# ------------------------------------------------------------ after the handshake


@versions
def test_another_handshake_is_refused_over_the_same_connection(shield, door, version):
    """TLS 1.2 can renegotiate, at the server's cost; TLS 1.3 cannot (RFC 8446 4.1.2)."""
    before = tally(shield)
    if version == TLS12:
        printed = s_client(door, "-tls1_2", commands=("R",))
        assert "no renegotiation" in printed.partition("RENEGOTIATING")[2]
    else:
        with door.plain() as sock:
            client = ByHand(sock, door.context())
            hello = client.hello()
            sock.sendall(hello)
            client.shake_hands()
            sock.sendall(hello)
            assert ends(sock)
    assert (tally(shield) - before)["full"] == 1
    assert_served(door)


@pytest.fixture
def client(door, tmp_path, opened):
    """A client of TLS 1.3 whose secrets are known, after its handshake: its socket, its stream, and they."""
    context = door.context(oldest=TLS13)
    context.keylog_filename = str(tmp_path / "keys")
    sock, stream = opened.enter_context(door.connect(context=context))
    return sock, stream, Secrets(tmp_path / "keys")


def send_past(sock, octets):
    """Send octets below TLS."""
    socket.socket.sendall(sock, octets)


def is_sent(sock, octets):
    """Tell whether octets below TLS could be sent."""
    with contextlib.suppress(OSError):
        send_past(sock, octets)
        return True
    return False


@pytest.mark.parametrize("wanted", [False, True], ids=["its own", "both"])
def test_keys_may_be_updated(upstream, client, wanted):
    """RFC 8446 4.6.3; by one side or by both, between queries and in the middle of one."""
    sock, stream, secrets = client
    for name in names(3):
        octets = frame(ask_wire(name, id=9))
        parts = secrets.record(Secrets.DATA, octets[:7]), secrets.key_update(wanted=wanted)
        send_past(sock, b"".join(parts))
        send_past(sock, secrets.record(Secrets.DATA, octets[7:]))
        assert read_wire(stream)[:2] == b"\0\x09"
        assert upstream.count(name) == 1


FLOOD = 40_000  # key updates; about a second of a processor


@pytest.mark.slow
def test_a_flood_of_key_updates_takes_no_turn_of_others(upstream, shield, door, client, opened):
    """Nothing that a query could be comes of them, so whoever waits for that may wait for long."""
    sock, stream, secrets = client
    flood = b"".join(secrets.key_update(wanted=True) for _ in range(FLOOD))
    honest, answers = opened.enter_context(door.connect())
    before = resident(shield.process)
    flooding = threading.Thread(target=is_sent, args=(sock, flood))
    flooding.start()
    slowest = 0.0
    while flooding.is_alive():
        stopwatch = Stopwatch()
        honest.sendall(frame(ask_wire("hit.test.", id=9)))
        assert read_wire(answers)[:2] == b"\0\x09"
        slowest = max(slowest, stopwatch.seconds())
    flooding.join()
    assert slowest < 0.1
    assert resident(shield.process) < before + (4 << 20)
    (name,) = names(1)
    with contextlib.suppress(OSError, EOFError):  # it may be ended for that
        send_past(sock, secrets.record(Secrets.DATA, frame(ask_wire(name, id=9))))
        assert read_wire(stream)[:2] == b"\0\x09"
    assert upstream.count(name) <= 1


@pytest.mark.parametrize(
    "ending",
    [
        lambda secrets: secrets.record(Secrets.ALERT, b"\2\x50"),
        lambda secrets: secrets.record(Secrets.ALERT, b"\1"),
        lambda secrets: secrets.record(Secrets.DATA, b"forged")[:-1] + b"\0",
        lambda secrets: secrets.record(Secrets.HANDSHAKE, b"\1\0\0\0"),
        lambda secrets: secrets.record(99, b"what"),
        lambda _: frame(ask_wire("plain.test.")),
        lambda _: b"\x15\3\3\0\2\2\x28",
        lambda _: b"\x17\3\3\xff\xff" + bytes(100),
    ],
    ids=[
        "a fatal alert", "half an alert", "a forged record", "a hello", "an unknown kind", "plain DNS", "a plain alert",
        "a record too long",
    ],
)  # fmt: skip
def test_what_breaks_tls_ends_the_connection_and_no_query_comes_of_it(upstream, shield, door, client, ending):
    sock, stream, secrets = client
    (name,) = names(1)
    sock.sendall(frame(ask_wire(name, id=9)))
    assert read_wire(stream)[:2] == b"\0\x09"
    secrets.record(Secrets.DATA, b"")  # the query had the first number
    send_past(sock, ending(secrets) + frame(ask_wire("behind.test.")))
    assert has_ended(stream)
    until(lambda: stats(shield)["tcp_connections"] == 0)
    assert upstream.count(name) == len(upstream.received) == 1
    assert_served(door)


@pytest.mark.slow
def test_records_without_octets_are_no_traffic(door, shield, client):
    """Each is allowed (RFC 8446 5.4); who sends nothing else is idle."""
    sock, _, secrets = client
    end = time.monotonic() + 5 * IDLE
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            send_past(sock, secrets.record(Secrets.DATA, b""))
            time.sleep(0.2)
    assert time.monotonic() < end
    assert_served(door)


@pytest.mark.parametrize("garbage", [b"\0\0", b"\0\1\0", b"\0\x0b" + b"\xff" * 11])
def test_what_can_be_no_query_ends_the_connection_as_over_tcp(upstream, shield, door, garbage):
    before = stats(shield)["tcp_protocol_errors"]
    with door.connect() as (sock, stream):
        sock.sendall(garbage + frame(ask_wire("behind.test.")))
        assert has_ended(stream)
    assert stats(shield)["tcp_protocol_errors"] == before + 1
    assert upstream.received == []


@pytest.mark.parametrize("farewell", ["close", "reset", "close_notify"])
def test_a_client_that_leaves_before_its_answer_disturbs_nobody(upstream, shield, door, farewell):
    (name,) = names(1)
    with door.plain() as sock:
        client = ByHand(sock, door.context())
        client.shake_hands()
        client.send(frame(ask_wire(f"slow.{name}")))
        upstream.wait_for(1)
        if farewell == "close_notify":
            client.finish()
        elif farewell == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert_served(door)
    assert door.ask(ask_wire(f"slow.{name}"))
    assert upstream.count(f"slow.{name}") == 1


# ------------------------------------------------------------ bounds

MEMORY = 8 << 20
CLIENTS = 150
NEVER_READ = {
    "tcp": {"max_connections": 1000, "memory": MEMORY, "write_buffer": "1MiB", "idle_timeout": 60.0},
    "cache": {"memory": "4MiB"},
    "tls": {"handshakes_per_second_per_client": 0},
}


def send_on_all(socks, octets):
    """Send on each socket what it takes, if it is still connected; to be run in a thread of its own.

    Later Pythons leave the error of a socket in a queue that OpenSSL has for each thread, and the next socket of that
    thread that has to wait raises it (https://github.com/python/cpython/issues/148594).
    """
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.send(octets)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1, CLIENTS], ids=["one prefix", "a prefix each"])
def test_who_never_reads_takes_no_more_than_is_set_and_costs_others_nothing(authority, opened, spread):
    with encrypted(by_name, authority=authority, certificates=[authority.issue(HOST)], **NEVER_READ) as (
        shield,
        door,
        _,
    ):
        large = ask_wire("large.test.", "TYPE65280")
        assert len(door.ask(large)) > LARGE
        before = resident(shield.process)
        honest, stream = opened.enter_context(door.connect())
        held, context = [], door.context()
        crowd = opened.enter_context(ThreadPoolExecutor(1))
        leaving = opened.enter_context(contextlib.ExitStack())
        for n in range(CLIENTS):
            source = f"127.5.{n % spread}.{1 + n}"
            sock, _ = leaving.enter_context(door.connect(source=source, receive_buffer=4096, context=context))
            sock.setblocking(False)
            held.append(sock)
        for _ in range(5):
            crowd.submit(send_on_all, held, frame(large) * 40).result()
            for wire in ask_wire(names(1)[0], id=7), large:
                honest.sendall(frame(wire))
                assert read_wire(stream)[:2] == wire[:2]
            assert resident(shield.process) < before + MEMORY + MARGIN + CLIENTS * EACH
        counted = stats(shield)
        assert counted["tcp_evicted_memory"] > 0
        assert counted["tcp_buffered_bytes"] < MEMORY + (1 << 20)
        leaving.close()
        until(lambda: stats(shield)["tls_connections"] == 1)
        until(lambda: stats(shield)["tcp_buffered_bytes"] < 1 << 20)


def test_who_reads_late_gets_everything(upstream, door):
    (name,) = names(1)
    large = ask_wire(f"large.{name}", "TYPE65280")
    with door.connect(receive_buffer=4096) as (sock, stream):
        sock.sendall(frame(large) * 100)
        for _ in range(100):
            assert len(read_wire(stream)) > LARGE
    assert upstream.count(f"large.{name}") == 1


MANY = 2000
CROWD = {
    "tcp": {"max_connections": MANY + 100, "idle_timeout": 60.0},
    "cache": {"memory": "4MiB"},
    "tls": {"handshakes_per_second_per_client": 0, "handshake_timeout": 60.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("said", ["nothing", "a hello"])
def test_two_thousand_that_never_finish_their_handshake(authority, opened, said):
    """Where so many go on at once, the oldest ends: whoever does finish is quicker."""
    with encrypted(by_name, authority=authority, certificates=[authority.issue(HOST)], **CROWD) as (shield, door, _):
        assert_served(door)
        before = resident(shield.process)
        hello = ByHand(None, door.context()).hello()[: 0 if said == "nothing" else None]
        for n in range(MANY):
            sock = opened.enter_context(door.plain(source=f"127.{1 + n // 250}.{n % 250}.1"))
            with contextlib.suppress(OSError):
                sock.sendall(hello)
        until(lambda: stats(shield)["tcp_accepted"] == MANY + 1)
        held = stats(shield)["tcp_connections"]
        assert 0 < held < MANY
        assert tally(shield)["crowded"] == tally(shield)["failed"] == MANY - held
        assert resident(shield.process) < before + MANY * EACH + MARGIN
        stopwatch = Stopwatch()
        assert_served(door, source="127.0.0.1")
        assert stopwatch.seconds() < 1.0


@pytest.mark.slow
def test_two_thousand_that_are_silent_after_their_handshake(authority, opened):
    with encrypted(by_name, authority=authority, certificates=[authority.issue(HOST)], **CROWD) as (shield, door, _):
        wire = ask_wire(names(1)[0])
        session = door.session(wire)
        before = resident(shield.process)
        for n in range(MANY):
            opened.enter_context(door.connect(source=f"127.{1 + n // 250}.{n % 250}.1", **session))
        assert stats(shield)["tls_connections"] == MANY
        assert resident(shield.process) < before + MANY * EACH + MARGIN
        stopwatch = Stopwatch()
        assert_served(door, source="127.0.0.1")
        assert stopwatch.seconds() < 1.0


@pytest.mark.parametrize(("length", "reason"), [(60_000, ""), (100_000, "other"), ((1 << 24) - 1, "other")])
def test_long_hellos_take_no_more_than_is_set(authority, opened, length, reason):
    """Each says that it is so long, and sends all but the last octet, as far as that is taken."""
    with encrypted(
        by_name, authority=authority, certificates=[authority.issue(HOST)], **CROWD | {"tcp": NEVER_READ["tcp"]}
    ) as (shield, door, _):
        assert_served(door)
        before = resident(shield.process)
        hello = b"\1" + length.to_bytes(3) + bytes(min(length, 100_000) - 1)
        parts = [hello[at : at + (1 << 14)] for at in range(0, len(hello), 1 << 14)]
        records = b"".join(b"\x16\3\1" + len(part).to_bytes(2) + part for part in parts)
        for n in range(CLIENTS):
            sock = opened.enter_context(door.plain(source=f"127.5.{n}.1"))
            with contextlib.suppress(OSError):
                sock.sendall(records)
        assert_served(door)
        assert resident(shield.process) < before + MEMORY + MARGIN + CLIENTS * EACH
        if reason:
            until(lambda: tally(shield)[reason] == CLIENTS)


def test_handshakes_have_a_limit_for_each_client(authority):
    limit, wire = 3, ask_wire("hit.test.", id=9)
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        tls={"handshakes_per_second_per_client": limit},
    ) as (shield, door, _):
        tried = [door.serves(wire, source="127.0.0.2") for _ in range(20)]
        assert tried[:limit] == [True] * limit
        assert sum(tried) < limit + 5, "more than a second's, and what came meanwhile"
        assert tally(shield)["limited"] == 20 - sum(tried)
        assert door.serves(wire, source="127.0.0.3")
        assert ask(names(1)[0], server=shield, tcp=True, source="127.0.0.2").answer
        advance(shield, 1)
        assert [door.serves(wire, source="127.0.0.2") for _ in range(limit)] == [True] * limit
        assert (tally(shield)["full"], tally(shield)["failed"]) == (sum(tried) + 1 + limit, 0)


def test_over_the_limit_a_connection_is_ended_at_once_and_says_nothing(authority):
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        tls={"handshakes_per_second_per_client": 1},
    ) as (_, door, _):
        assert_served(door)
        with door.plain() as sock:
            stopwatch = Stopwatch()
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            assert stopwatch.seconds() < 1.0


def test_who_is_connected_already_is_under_no_limit_of_handshakes(authority):
    with (
        encrypted(
            by_name,
            authority=authority,
            certificates=[authority.issue(HOST)],
            tls={"handshakes_per_second_per_client": 1},
        ) as (_, door, _),
        door.connect() as (sock, stream),
    ):
        for name in names(50):
            sock.sendall(frame(ask_wire(name, id=9)))
            assert read_wire(stream)[:2] == b"\0\x09"


def test_with_few_descriptors_who_is_idle_the_longest_gives_way(authority, opened, tmp_path):
    credentials = authority.issue(HOST)
    listener = {"address": "127.0.0.1:8530", "transport": "tls", "certificates": [shown(credentials)]}
    config = tmp_path / "file.toml"
    config.write_text(toml(listen=["127.0.0.1:5300"], upstreams=["127.0.0.1:5301"], workers=1, listeners=[listener]))
    most = need_descriptors(load(config)) + 10  # half of which is for others
    address = Address("127.0.0.1", free_port())
    listener["address"] = str(address)
    with (
        ScriptedUpstream(by_name) as upstream,
        run_shield([upstream], toml=toml(listeners=[listener]), under=("prlimit", f"--nofile={most}:{most}")) as shield,
    ):
        door = Door(address, authority)
        held = []
        for n in range(12):
            held.append(opened.enter_context(door.connect(source=f"127.4.{n}.1")))
            assert is_answered(*held[-1])
        counted = stats(shield)
        assert (counted["tcp_connections"], counted["tcp_evicted_idle"], counted["tcp_refused"]) == (5, 7, 0)
        assert [is_answered(*one) for one in held] == [False] * 7 + [True] * 5


def is_answered(sock, stream):
    """Tell whether a query over a connection is answered."""
    try:
        sock.sendall(frame(ask_wire(names(1)[0], id=9)))
        return read_wire(stream)[:2] == b"\0\x09"
    except (OSError, EOFError):
        return False


@pytest.mark.slow
def test_a_flood_of_handshakes_leaves_others_their_turn(shield, door, opened):
    """Of clients that others wrote, each of which does nothing else."""
    command = [program("openssl"), "s_time", "-connect", str(door.address), "-new", "-time", "3"]
    before = stats(shield)["tcp_accepted"]
    wire = ask_wire("hit.test.", id=9)
    honest, stream = opened.enter_context(door.connect())
    floods = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    slowest = {"tls": 0.0, "udp": 0.0}
    while any(each.poll() is None for each in floods):
        stopwatch = Stopwatch()
        honest.sendall(frame(wire))
        assert read_wire(stream)[:2] == wire[:2]
        slowest["tls"] = max(slowest["tls"], stopwatch.seconds())
        stopwatch = Stopwatch()
        assert shield.udp_wire(wire)[:2] == wire[:2]
        slowest["udp"] = max(slowest["udp"], stopwatch.seconds())
    assert stats(shield)["tcp_accepted"] - before > 100
    assert max(slowest.values()) < 0.1, slowest


# ------------------------------------------------------------ while it changes

SECRETS = [digits * 32 for digits in ("42", "17", "2a")]


class Clients:
    """Clients who come again and again, with the session of the time before or without, while the context is entered.

    `told` has, for each connection, whether it was resumed, and the number of the certificate.
    """

    def __init__(self, door, name=HOST, *, resuming=True):
        self.told, self.errors = [], []
        self._door, self._name, self._resuming = door, name, resuming
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"127.0.9.{n + 1}",)) for n in range(4)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.told) > 20)
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self):
        """Let each come some times more."""
        goal = len(self.told) + 40
        until(lambda: len(self.told) > goal or self.errors, within=10.0)

    def _run(self, source):
        how = {"context": self._door.context(), "name": self._name, "source": source, "session": None}
        while not self._over.is_set():
            try:
                with self._door.connect(**how) as (sock, stream):
                    asked = names(2)
                    sock.sendall(b"".join(frame(ask_wire(name, id=n)) for n, name in enumerate(asked)))
                    if {read_wire(stream)[:2] for _ in asked} != {b"\0\0", b"\0\1"}:
                        raise EOFError("another answer")
                    how["session"] = sock.session if self._resuming else None
                    self.told.append((sock.session_reused, sock.getpeercert()["serialNumber"]))
            except (OSError, EOFError) as error:
                self.errors.append(error)


@pytest.mark.slow
def test_the_secret_of_tickets_changes_under_load(authority, tmp_path):
    file = tmp_path / "tickets"
    file.write_text(SECRETS[0] + "\n")
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        tls={"ticket_secret_file": str(file), "handshakes_per_second_per_client": 0},
    ) as (shield, door, _):
        wire = ask_wire(names(1)[0])
        with Clients(door) as clients:
            for secret in SECRETS[1:]:
                session = door.session(wire)
                assert door.resumes(wire, **session)
                file.write_text(secret + "\n")
                reload(shield)
                assert not door.resumes(wire, **session)
                clients.go_on()
        assert clients.errors == []
        full = sum(not resumed for resumed, _ in clients.told)
        assert 4 < full < len(clients.told) / 2


@pytest.mark.slow
def test_a_certificate_is_replaced_under_load(authority):
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue("moved.test")],
        tls={"handshakes_per_second_per_client": 0},
    ) as (shield, door, _):
        with Clients(door, "moved.test", resuming=False) as clients:
            for _ in range(3):
                authority.issue("moved.test")
                reload(shield)
                clients.go_on()
        assert clients.errors == []
        assert len({number for _, number in clients.told}) == 4


@versions
def test_tickets_that_were_tampered_with_are_not_taken(shield, door, tmp_path, version):
    """In the name of the key, in what is encrypted, in what authenticates it: a full handshake each, and no failure."""
    option = {TLS12: "-tls1_2", TLS13: "-tls1_3"}[version]
    file = tmp_path / "session"
    ticket = ticket_in(s_client(door, option, "-servername", HOST, sess_out=file))
    head, _, rest = file.read_text().partition("-----BEGIN SSL SESSION PARAMETERS-----\n")
    body, _, tail = rest.partition("-----END")
    session = base64.b64decode(body)
    assert session.count(ticket) == 1
    before = tally(shield)["failed"]
    for place in 0, 15, 16, 20, len(ticket) // 2, len(ticket) - 1:
        spoilt = bytearray(ticket)
        spoilt[place] ^= 1
        text = base64.encodebytes(session.replace(ticket, bytes(spoilt))).decode()
        file.write_text(f"{head}-----BEGIN SSL SESSION PARAMETERS-----\n{text}-----END{tail}")
        assert "New, TLSv1" in s_client(door, option, "-servername", HOST, "-sess_in", file)
    file.write_text(f"{head}-----BEGIN SSL SESSION PARAMETERS-----\n{body}-----END{tail}")
    assert "Reused, TLSv1" in s_client(door, option, "-servername", HOST, "-sess_in", file)
    assert tally(shield)["failed"] == before


def ticket_in(printed):
    """Return the last ticket in what OpenSSL's client has printed."""
    dump = printed.rpartition("TLS session ticket:\n")[2]
    lines = re.findall(r"^ *[0-9a-f]{4} - ((?:[0-9a-f]{2}[ -]){1,16})", dump, re.M)
    return bytes.fromhex("".join(lines).replace("-", " "))


@pytest.mark.slow
def test_who_ends_takes_no_handshake_with_it(authority, opened):
    """What was asked is answered; who has not finished a handshake is not waited for."""
    with encrypted(by_name, authority=authority, certificates=[authority.issue(HOST)]) as (shield, door, upstream):
        for n in range(20):
            sock = opened.enter_context(door.plain(source=f"127.0.1.{n + 1}"))
            sock.sendall(ByHand(sock, door.context()).hello()[: 60 * (n % 2)])
        sock, stream = opened.enter_context(door.connect())
        sock.sendall(frame(ask_wire("slow.test.", id=9)))
        upstream.wait_for(1)
        shield.process.terminate()
        assert read_wire(stream)[:2] == b"\0\x09"
        assert stream.read(1) == b""  # without close_notify, SSLEOFError
        assert shield.process.wait(5) == 0


def test_failures_write_no_line_each(shield, door):
    lines = len(shield.log.splitlines())
    for _ in range(50):
        with door.plain() as sock:
            sock.sendall(GARBAGE)
            assert ends(sock)
    assert len(shield.log.splitlines()) <= lines + 1
