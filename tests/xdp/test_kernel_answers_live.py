"""A daemon whose kernel answers, as clients find it: under load, nothing wrong or old once something has changed."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from support import quick
from support.client import udp_wire
from support.control import advance, request, stats
from support.in_kernel import PROGRAMS, InKernel
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import ask_wire, record_wire, reply_wire

from xdp.wires import HERE, SERVER, SERVER_6, Wire, listener

HOT = quick.query("hot.test", quick.A)
ADDRESSES = 5  # of the largest answer


class Versions:
    """An upstream whose addresses tell which version of its data they are of."""

    def __init__(self):
        self.version = 1

    def __call__(self, query):
        name, rdtype = query.name.labels[0], query.message.question[0].rdtype
        address = bytes([192, 0, self.version // 256, self.version % 256])
        if name.startswith(b"no"):
            return reply_wire(query, record_wire(6, b"\0\0" + bytes(16) + b"\0\0\1\0"), (0, 1, 0), 0x8403)
        if name.startswith(b"many"):
            return reply_wire(query, record_wire(1, address) * ADDRESSES, (ADDRESSES, 0, 0))
        if rdtype == quick.A:
            return reply_wire(query, record_wire(1, address))
        return reply_wire(query, record_wire(rdtype, b"\x04text"))


@pytest.fixture
def wire():
    """Yield a wire whose far end has a program, too: else a veth keeps what the other end's program sends."""
    with ExitStack() as stack:
        laid = stack.enter_context(Wire())
        with laid.far.entered():
            stack.callback(os.close, InKernel(stack, PROGRAMS / "queries.bpf.o", "take_queries").attach(laid.name))
        yield laid


@pytest.fixture
def running(wire):
    """Yield what runs a shield on the wire, with a configuration."""

    @contextlib.contextmanager
    def run(toml=""):
        with wire.near.entered(), ScriptedUpstream(Versions()) as upstream:
            toml = f"{toml}\n{listener(wire.name, SERVER, SERVER_6, kernel_answers='true')}"
            with run_shield([upstream], toml=toml) as shield:
                yield shield, upstream.handle

    return run


def version_of(reply):
    return int.from_bytes(reply[-2:])


def in_kernel(shield):
    return stats(shield)["kernel_answers"]


def heat(wire, shield, query=HOT, server=SERVER):
    """Ask until the kernel answers."""
    before = in_kernel(shield)
    until(lambda: wire.ask(query, server) and in_kernel(shield) > before)


class Load:
    """A client who asks for the same all the time, and notes what it gets, with the time at which it asked."""

    def __init__(self, wire):
        self._wire, self._ended, self.replies = wire, threading.Event(), []

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        with self._wire.far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect(tuple(SERVER))
            number = 0
            while not self._ended.is_set():
                number = number % 65535 + 1
                asked = time.monotonic()
                with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                    sock.send(number.to_bytes(2) + HOT[2:])
                    while (reply := sock.recv(512))[:2] != number.to_bytes(2):
                        pass
                    self.replies.append((asked, reply))

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def after(self, moment):
        """Return what was got for what was asked after a moment, once there is enough of it."""
        until(lambda: len(self.replies) > 100 and self.replies[-100][0] > moment)
        return [reply for asked, reply in self.replies if asked > moment]


def test_hits_are_answered_in_the_kernel_and_counted_as_hits(wire, running):
    with running() as (shield, _):
        for server in (SERVER, SERVER_6):
            heat(wire, shield, server=server)
        before = stats(shield)
        replies = [wire.ask(HOT, server) for server in (SERVER, SERVER_6) for _ in range(50)]
        after = stats(shield)
        counted = {
            name: after[name] - before[name] for name in ("kernel_answers", "queries", "cache_hits", "cache_misses")
        }
        assert counted["kernel_answers"] > 50
        assert counted == {**counted, "queries": 100, "cache_hits": 100, "cache_misses": 0}
        assert after["responses"]["udp"]["NOERROR"] - before["responses"]["udp"]["NOERROR"] == 100
        assert after["listener_messages"][str(SERVER)] - before["listener_messages"][str(SERVER)] == 50
        assert {version_of(reply) for reply in replies} == {1}


QUERIES = [
    ask_wire(name, rdtype, use_edns=edns, want_dnssec=do, flags=flags, payload=payload)
    for name in ("hot.test", "wWw.Odd.teST", "nothing.test", "many.test", ".")
    for rdtype in ("A", "TXT", "HTTPS")
    for edns, do, payload in ((False, False, None), (0, False, 1232), (0, True, 512))
    for flags in (0x0100, 0, 0x0110, 0x0120)
]


def test_explain_tells_whether_the_kernel_answers(wire, running):
    with running() as (shield, _):
        heat(wire, shield)
        wire.ask(quick.query("seldom.test", quick.A))

        def told(name):
            asked = "explain", "--json", "--listener", str(SERVER), "--no-edns", "--no-ad", name
            return [each["text"] for each in json.loads(shield.command(*asked))["steps"] if each["step"] == "kernel"]

        assert told("hot.test")[0].startswith("the kernel answers it")
        assert "seldom" in told("seldom.test")[0]
        assert told("other.test") == []
        shield.command("block", "add", "198.51.100.1")
        assert "who asks" in told("hot.test")[0]


def test_octets_are_those_of_the_socket_hot_and_cold(wire, running):
    """With TTLs as they were sent: else a second goes by between the two."""
    with running("ttl.serve_original = true") as (shield, _):
        cold = [wire.ask(query) for query in QUERIES]
        with wire.near.entered():
            expected = [udp_wire((HERE, 53), query) for query in QUERIES]
        assert cold == expected
        for _ in range(3):
            assert wire.ask_all(QUERIES) == expected
        before = in_kernel(shield)
        assert wire.ask_all(QUERIES) == expected
        assert in_kernel(shield) - before > len(QUERIES) // 2


def test_what_is_purged_under_load_is_never_seen_again(wire, running):
    with running() as (shield, upstream):
        heat(wire, shield)
        with Load(wire) as load:
            for version in range(2, 12):
                load.after(time.monotonic())
                upstream.version = version
                request(shield, json.dumps({"command": "purge", "name": "hot.test"}).encode())
                assert {version_of(reply) for reply in load.after(time.monotonic())} == {version}
        assert in_kernel(shield) > 500


def test_a_block_holds_at_once(wire, running):
    with running() as (shield, _):
        heat(wire, shield)
        with Load(wire) as load:
            load.after(time.monotonic())
            shield.command("block", "add", "--refuse", "192.0.2.9")
            moment = time.monotonic()
            assert {reply[3] & 15 for reply in load.after(moment)} == {5}
            off = "kernel answers are off, because of blocks: workers answer all queries"
            until(lambda: shield.log.endswith(f"{off}\n"))
            before = in_kernel(shield)
            shield.command("block", "remove", "192.0.2.9")
            until(lambda: in_kernel(shield) > before)
            until(lambda: shield.log.endswith("kernel answers are on\n"))


def test_a_rule_of_a_reload_holds_at_once(wire, running):
    rule = '[[rules]]\nmatch = { name = "hot.test" }\naction = "refused"\n'
    with running() as (shield, _):
        heat(wire, shield)
        config = shield.folder / "funkenshield.toml"
        config.write_text(f"{config.read_text()}\n{rule}")
        with Load(wire) as load:
            load.after(time.monotonic())
            shield.command("reload")
            assert {reply[3] & 15 for reply in load.after(time.monotonic())} == {5}


def test_an_entry_that_has_expired_is_asked_for_anew(wire, running):
    with running() as (shield, upstream):
        heat(wire, shield)
        upstream.version = 2
        advance(shield, 301)
        assert version_of(wire.ask(HOT)) == 2


def test_an_entry_in_use_in_the_kernel_is_prefetched(wire, running):
    with running() as (shield, upstream):
        heat(wire, shield)
        upstream.version = 2
        advance(shield, 280)
        until(lambda: version_of(wire.ask(HOT)) == 2)
        assert stats(shield)["prefetches"] == 1
        assert stats(shield)["cache_misses"] == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
def test_who_is_dead_or_stopped_answers_nothing(wire, running, how):
    with contextlib.suppress(AssertionError), running() as (shield, _):
        heat(wire, shield)
        with Load(wire) as load:
            load.after(time.monotonic())
            os.kill(shield.process.pid, how)
            if how == signal.SIGKILL:
                shield.process.wait(10)  # to end takes the kernel a while, where it has little time
            moment = time.monotonic() + (1.1 if how == signal.SIGSTOP else 0)
            time.sleep(1.5)
        answered = [reply for asked, reply in load.replies if asked > moment]
        with contextlib.suppress(ProcessLookupError):
            os.kill(shield.process.pid, signal.SIGKILL)
        if answered:
            pytest.fail(f"{len(answered)} answers")


def test_a_log_of_some_queries_has_as_many_of_those_that_the_kernel_answers(wire, running, tmp_path):
    log = tmp_path / "queries"
    sink = f'[[query_log]]\nfile = "{log}"\nsample = 0.1\n'
    with running(sink) as (shield, _):
        heat(wire, shield)
        queries = [HOT] * 5000
        wire.ask_all(queries)
        before = in_kernel(shield)
        wire.ask_all(queries)
        assert 0.7 < (in_kernel(shield) - before) / len(queries) < 0.95
        until(lambda: log.read_text().count("\n") > 850)
        time.sleep(0.5)
        assert 850 < log.read_text().count("\n") < 1150  # five deviations


def test_a_log_of_some_queries_has_no_more_of_a_listener_whose_queries_the_kernel_never_answers(
    wire, running, tmp_path
):
    log, other = tmp_path / "queries", SERVER._replace(port=5300)
    with running(f'[[query_log]]\nfile = "{log}"\nsample = 0.1\n{listener(wire.name, other)}') as (shield, _):
        heat(wire, shield)
        before = in_kernel(shield)
        for _ in range(10):
            wire.ask(HOT)
            wire.ask_all([HOT] * 100, other)
        assert in_kernel(shield) - before <= 10
        time.sleep(0.5)
        assert 50 < log.read_text().count("\n") < 160
