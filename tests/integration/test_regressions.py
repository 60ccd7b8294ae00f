"""Know what once went wrong where somebody meant harm or broke down, each case as small as it can be.

Each test looks at what the client got, and at what the upstream received.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import time

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from support.client import Address, ask, frame, free_port
from support.control import request, stats
from support.forked import command
from support.proc import descriptors
from support.process import run_shield
from support.server import Received, frames
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import ScriptedUpstream, answer, respond, truncated
from support.wires import ask_wire, record_wire, reply_wire

from funkenshield import config
from funkenshield.daemon import Daemon
from funkenshield.errors import ConfigError


def limits(timeout, deadline, attempts=2):
    """Return a configuration that waits so many seconds for an upstream, and lets a client wait so many."""
    return f"""
[forward]
timeout = {timeout}
attempts = {attempts}
deadline = {deadline}
allow.transfers = ["127.0.0.0/8"]
"""


PATIENT = limits(5.0, 10.0)  # a busy machine is no silent upstream
NAME = "www.test."


def address(query):
    return answer(query, "A 192.0.2.1")


@contextlib.contextmanager
def behind(upstream, toml=PATIENT):
    """Run a shield in front of an upstream, or of a script of one; yield the shield and the upstream."""
    with (
        upstream if isinstance(upstream, ScriptedUpstream) else ScriptedUpstream(upstream) as running,
        run_shield([running], toml=toml) as shield,
    ):
        yield shield, running


# ------------------------------------------------------------ one bad datagram


def send_from_port_0(wire, to):
    """Send a datagram whose source port is 0, which nobody can answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(struct.pack("!4H", 0, to.port, 8 + len(wire), 0) + wire, (to.host, 0))


NO_QUESTIONS = {
    "a pointer": b"\xc0\x0c\0\1\0\1",
    "a label of 64 octets": b"\x40" + b"a" * 64 + bytes(5),
    "a name past the end": b"\3ww",
    "a name of 360 octets": b"\3abc" * 90 + bytes(5),
    "nothing": b"",
    "a second question": b"\0\0\1\0\1" * 2,
}


@pytest.mark.parametrize("opcode", [dns.opcode.QUERY, dns.opcode.STATUS, dns.opcode.NOTIFY, 6, 15])
@pytest.mark.parametrize("rest", NO_QUESTIONS.values(), ids=NO_QUESTIONS)
def test_a_question_that_is_none_ends_here_whatever_the_opcode(shield_before_echoes, rest, opcode):
    """An upstream that echoes it would say what answers nothing, and come under suspicion."""
    shield, upstream = shield_before_echoes
    count = 2 if rest == NO_QUESTIONS["a second question"] else 1
    wire = struct.pack("!6H", 7, opcode << 11, count, 0, 0, 0) + rest
    for way in shield.udp_wire, shield.tcp_wire:
        assert way(wire) == struct.pack("!6H", 7, 0x8001 | opcode << 11, 0, 0, 0, 0)
    assert upstream.received == []
    counted = stats(shield)["upstreams"][str(upstream.address)]
    assert (counted["unsolicited_replies"], counted["unexpected_replies"]) == (0, 0)


@pytest.fixture(scope="module")
def shield_before_echoes():
    """Run a shield in front of an upstream that says FORMERR, and the rest as it came."""
    with behind(lambda query: query.wire[:2] + bytes([query.wire[2] | 0x80, 1]) + query.wire[4:]) as both:
        yield both


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may send from port 0")
def test_a_query_from_port_0_costs_no_other_its_answer():
    with (
        behind(address) as (shield, upstream),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        for n in range(30):
            assert ask(f"name{n}.test.", server=shield).answer
        before = stats(shield)["queries"]
        sock.settimeout(2)
        sock.connect(shield.address)
        shield.process.send_signal(signal.SIGSTOP)  # so that it finds all of them at once
        for n in range(30):
            if n in (0, 15):
                send_from_port_0(ask_wire("name0.test."), shield.address)
            sock.send(ask_wire(f"name{n}.test.", id=n))
        shield.process.send_signal(signal.SIGCONT)
        assert {dns.message.from_wire(sock.recv(512)).id for _ in range(30)} == set(range(30))
        assert stats(shield)["queries"] == before + 32
        assert len(upstream.received) == 30


# ------------------------------------------------------------ a dead connection


class FirstConnectionDead(ScriptedUpstream):
    """Read the first connection and never say anything on it; later ones are answered."""

    connections = 0

    async def stream(self, reader, writer):
        self.connections += 1
        if self.connections > 1:
            return await super().stream(reader, writer)
        async for wire in frames(reader):
            self._record(Received(wire, "tcp", Address(*writer.get_extra_info("peername")[:2])))
        return None


def test_a_connection_on_which_nothing_comes_is_given_up():
    script = FirstConnectionDead(lambda query: truncated(query) if query.transport == "udp" else address(query))
    with behind(script, limits(0.3, 1.5, attempts=3)) as (shield, upstream):
        start = time.monotonic()
        stopwatch = Stopwatch()
        assert ask(NAME, server=shield, tcp=True, timeout=2).answer
        assert time.monotonic() - start > 0.25
        assert stopwatch.seconds() < 1.5
        stopwatch = Stopwatch()
        assert ask(f"next.{NAME}", server=shield, tcp=True, timeout=2).answer
        assert stopwatch.seconds() < 0.25
        assert (upstream.count(NAME), upstream.count(f"next.{NAME}"), len(upstream.received)) == (3, 2, 5)
        assert upstream.connections == 2


# ------------------------------------------------------------ compression pointers


def pointers(name, length=65000):
    """Return a query with 4,000 additional records; the owner of each leads over 8,000 pointers to its end."""
    wire = bytearray(ask_wire(name))
    wire += record_wire(16, b"")[:-2]
    chain = range(len(wire) + 2, 0x3FFF - 2, 2)
    wire += struct.pack("!H", 2 * len(chain))
    wire += b"".join(struct.pack("!H", 0xC000 | (12 if at == chain[0] else at - 2)) for at in chain)
    record = record_wire(1, b"", owner=struct.pack("!H", 0xC000 | chain[-1]))
    count = (length - len(wire)) // len(record)
    wire[10:12] = struct.pack("!H", 1 + count)
    assert count > 4000
    return bytes(wire + count * record)


def test_a_message_of_pointers_does_not_hold_up_others():
    large = []

    def script(query):
        if len(query.wire) < 1000:
            return address(query)
        large.append(query)  # and parse it at no price
        return None

    with behind(script, limits(1.0, 2.0)) as (shield, upstream), socket.create_connection(shield.address, 3) as sock:
        assert ask(NAME, server=shield).answer
        sock.sendall(3 * frame(pointers(f"large.{NAME}")))
        for n in range(5):
            stopwatch = Stopwatch()
            assert ask(f"{n}.{NAME}", server=shield).answer
            assert stopwatch.seconds() < 0.15
        with sock.makefile("rb") as stream:
            for _ in range(3):
                reply = stream.read(int.from_bytes(stream.read(2)))
                assert reply[3] & 15 in (dns.rcode.FORMERR, dns.rcode.SERVFAIL)
        small = [query for query in upstream.received if len(query.wire) < 1000]
        assert len(small) == 6
        assert len(large) == len(upstream.received) - 6 <= 6


# ------------------------------------------------------------ transfers


def soa(query):
    return reply_wire(query, record_wire(6, b"\xc0\x0c\xc0\x0c" + struct.pack("!5I", 5, 1, 1, 1, 1)))


def short(query):
    return query.wire[:2] + b"\x84\0\0"


def of_another_question(query):
    wire = soa(query)
    return wire[:13] + bytes([wire[13] ^ 1]) + wire[14:]


@pytest.mark.parametrize("begun", [False, True], ids=["at first", "after a good one"])
@pytest.mark.parametrize("bad", [short, of_another_question])
def test_a_transfer_that_goes_wrong_ends(bad, begun):
    with (
        behind(lambda query: [*[soa(query)] * begun, bad(query)]) as (shield, upstream),
        socket.create_connection(shield.address, 2) as sock,
        sock.makefile("rb") as stream,
    ):
        sock.sendall(frame(ask_wire(NAME, "AXFR")))
        stopwatch = Stopwatch()
        replies = []
        while not (replies and replies[-1][3] & 15) and (length := stream.read(2)):
            replies.append(stream.read(int.from_bytes(length)))
        assert stopwatch.seconds() < 2
        assert [reply[3] & 15 for reply in replies] == ([] if begun else [dns.rcode.SERVFAIL])[: len(replies)] or (
            begun and [reply[3] & 15 for reply in replies] in ([0], [0, dns.rcode.SERVFAIL])
        )
        assert 1 <= upstream.count(NAME, "AXFR", "tcp") == len(upstream.received) <= 2


# ------------------------------------------------------------ reset, and purged by mistake


def test_connections_that_are_reset_at_once_leave_nothing_behind():
    with behind(address) as (shield, upstream):
        assert ask(NAME, server=shield, tcp=True).answer
        before = descriptors(shield.process)
        for _ in range(50):
            with socket.create_connection(shield.address, 2) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ask(NAME, server=shield, tcp=True).answer
        until(lambda: descriptors(shield.process) <= before + 2, within=1.0)
        assert "Traceback" not in shield.log
        assert len(upstream.received) == 1


def test_an_empty_zone_is_an_error_and_purges_nothing():
    with behind(address) as (shield, upstream):
        assert ask(NAME, server=shield).answer
        done = command("purge", "--zone", "", "--control", shield.control)
        assert (done.returncode, "the name is empty" in done.stderr) == (2, True)
        assert "stats" not in request(shield, b'{"command": "purge", "name": "", "below": true}')[0]
        assert ask(NAME, server=shield).answer
        assert upstream.count(NAME) == len(upstream.received) == 1


# ------------------------------------------------------------ a configuration that is refused


def zones_of(count):
    """Return zones that have so many upstreams in all."""
    return "".join(
        f'[[zones]]\nname = "{n}.test"\nupstreams = ["127.1.{n // 200}.{n % 200}:53"]\n' for n in range(count)
    )


def test_too_many_upstreams_are_refused_as_a_whole():
    with ScriptedUpstream(lambda query: answer(query, "A 192.0.2.2")) as own:
        zone = f'[[zones]]\nname = "own.test"\nupstreams = ["{own.address}"]\n'
        with behind(address, zone) as (shield, upstream):
            path = shield.folder / "funkenshield.toml"
            config.load(path)
            path.write_text(path.read_text() + zones_of(255))
            with pytest.raises(ConfigError, match="upstreams: at most 256 in all, not 257"):
                config.load(path)
            done = command("check", "-c", path)
            assert (done.returncode != 0, "at most 256 in all" in done.stderr) == (True, True)
            shield.process.send_signal(signal.SIGHUP)
            until(lambda: "reload failed" in shield.log, within=10.0)
            assert "at most 256 in all" in shield.log
            assert ask("www.own.test.", server=shield).answer[0][0].address == "192.0.2.2"
            assert ask("www.0.test.", server=shield).answer[0][0].address == "192.0.2.1"
            assert (own.count("www.own.test."), upstream.count("www.0.test.")) == (1, 1)
            assert (len(own.received), len(upstream.received), stats(shield)["reloads"]) == (1, 1, 0)


def test_a_start_that_fails_leaves_no_control_socket(tmp_path):
    path, control = tmp_path / "funkenshield.toml", tmp_path / "control"
    path.write_text(
        f'listen = ["127.0.0.1:{free_port()}"]\nupstreams = ["127.0.0.1:53"]\n'
        f'[cookies]\nmode = "serve"\nsecret_file = "{tmp_path / "none"}"\n'
    )
    done = command("run", "-c", path, "--control", control)
    assert (done.returncode != 0, "Traceback" in done.stderr, len(done.stderr.splitlines())) == (True, False, 1)
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------ more than was asked for


def test_no_query_is_sent_more_often_than_configured():
    gone = [Address(f"127.9.0.{n}", free_port()) for n in range(6)]
    toml = "[forward]\ntimeout = 0.1\nattempts = 2\ndeadline = 0.5\n"
    with (
        ScriptedUpstream(lambda query: None) as upstream,
        run_shield([upstream, *gone], toml=toml) as shield,
    ):
        for n in range(10):
            assert ask(f"{n}.{NAME}", server=shield).rcode() == dns.rcode.SERVFAIL
        assert sum(each["queries"] for each in stats(shield)["upstreams"].values()) <= 20
        assert all(upstream.count(f"{n}.{NAME}") <= 2 for n in range(10))


# ------------------------------------------------------------ who knows without an upstream


def unable(*_):
    """Raise what nobody foresaw."""
    raise RuntimeError("unable")


class Unable:
    """Denials of which nothing can be asked, and which learn nothing."""

    response_to = learn = staticmethod(unable)


@contextlib.contextmanager
def errors_logged():
    """Yield the errors that are logged meanwhile, and leave all handlers as they were."""
    logged = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())
    ours, root = logging.getLogger("funkenshield"), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours.addHandler(handler)
    try:
        yield logged
    finally:
        ours.removeHandler(handler)
        root.handlers[:] = handlers
        root.setLevel(level)


async def ask_the_unable(path, upstream, asked):
    """Run a shield in this process that can consult nobody, and ask it."""
    server = Address("127.0.0.1", free_port())
    path.write_text(
        f'listen = ["{server}"]\nupstreams = ["{upstream.address}"]\nworkers = 1\ndrain_timeout = 0\n'
        f'control.socket = "{path}.control"\n[[zones]]\nname = "test"\naggressive_nsec = true\n'
    )
    daemon = Daemon(config.load(path))
    daemon.miss_path.consult(chaos=unable, nsec_cache=Unable)
    running = asyncio.create_task(daemon.run())
    try:
        for name, rdclass in asked:
            reply = await asyncio.to_thread(ask, name, server=server, timeout=2, rdclass=rdclass)
            assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    finally:
        daemon.stop()
        await running


def test_who_cannot_be_consulted_keeps_nobody_from_the_upstream(tmp_path):
    asked = ("id.server.", "CH"), (NAME, "IN"), ("www.example.", "IN")
    with errors_logged() as logged, ScriptedUpstream(respond) as upstream:
        asyncio.run(ask_the_unable(tmp_path / "funkenshield.toml", upstream, asked))
    assert [query.name.to_text() for query in upstream.received] == [name for name, _ in asked]
    assert sum("internal error, no local answer" in line for line in logged) == 2
