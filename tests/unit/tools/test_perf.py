"""The load tester against a responder in this process: what was sent, what came back, what is told of it.

It asserts both sides: the counters of the load and the datagrams that the responder saw.
"""

import io
import json
import os
import signal
import socket
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import dns.flags
import dns.message
import pytest
from rich.console import Console
from support.stopwatch import Stopwatch

from funkenshield.errors import FunkenShieldError
from funkenshield.tools._loadgen import Load
from funkenshield.tools.perf import make_queries, read_queries, run_perf

QR, TC = 0x80, 0x02
QUERIES = make_queries([f"host{i}.example A" for i in range(10)], edns=False, dnssec=False, rd=True)


def reflect(wire, _number, *, rcode=0, flags=0):
    return bytes((*wire[:2], wire[2] | QR | flags, wire[3] | rcode, *wire[4:]))


class Responder:
    """Answer datagrams in a thread with what `handle(wire, number)` returns: octets, a list, or None."""

    def __init__(self, handle=reflect, host="127.0.0.1"):
        self.handle, self.host = handle, host
        self.seen, self.clients = [], set()
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        while wire := (received := self.socket.recvfrom(4096))[0]:
            answers = self.handle(wire, len(self.seen))
            self.seen.append(wire)
            self.clients.add(received[1])
            for answer in answers if isinstance(answers, list) else [answers] if answers else []:
                self.socket.sendto(answer, received[1])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket(self.socket.family, socket.SOCK_DGRAM) as s:
            s.sendto(b"", (self.host, self.port))  # an empty datagram ends the thread
        self.thread.join()
        self.socket.close()


def counters(load):
    return SimpleNamespace(**load.snapshot())


def load_to_the_end(responder, queries=QUERIES, **options):
    load = Load(queries, responder.host, responder.port, **({"window": 20, "timeout": 2} | options))
    while load.run(0.2):
        pass
    return counters(load)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_query_is_sent_and_answered_once(host):
    with Responder(host=host) as responder:
        now = load_to_the_end(responder, limit=500, sockets=3)
    assert len(responder.seen) == now.sent == now.answered == now.rcodes[0] == 500
    assert (now.lost, now.outstanding, now.late, now.mismatched, now.refused, now.truncated) == (0,) * 6
    assert now.octets == sum(map(len, responder.seen))
    assert len(responder.clients) == 3
    assert 0 < now.least <= now.total / now.answered <= now.most <= now.ended - now.began


def test_the_list_is_cycled_in_order():
    with Responder() as responder:
        load_to_the_end(responder, sockets=1, window=1, limit=25)
    assert [wire[2:] for wire in responder.seen] == [QUERIES[i % 10][2:] for i in range(25)]


def test_ids_are_unique_among_outstanding_queries_when_they_wrap():
    with Responder(lambda wire, number: reflect(wire, number) if number >= 3 else None) as responder:
        now = load_to_the_end(responder, sockets=1, window=64, limit=66000, timeout=0.8)
    assert (now.sent, now.answered, now.lost, now.mismatched) == (66000, 65997, 3, 0)
    assert len({wire[:2] for wire in responder.seen}) == 65536


def test_what_is_never_answered_is_lost():
    with Responder(lambda wire, number: reflect(wire, number) if number % 10 else None) as responder:
        now = load_to_the_end(responder, limit=200, timeout=0.3)
    assert (now.sent, now.answered, now.lost, now.mismatched) == (200, 180, 20, 0)


def test_no_more_than_the_window_is_outstanding():
    with Responder(lambda _wire, _number: None) as responder:
        load = Load(QUERIES, responder.host, responder.port, window=150, timeout=0.2)
        assert load.run(0.1)
        assert (counters(load).sent, counters(load).outstanding) == (150, 150)
        load.drain()
        assert not load.run(0.1)
    assert (counters(load).sent, counters(load).outstanding, counters(load).lost) == (150, 0, 150)


def test_a_response_after_the_timeout_is_late_and_its_query_lost():
    def handle(wire, number):
        return None if number == 0 else [reflect(responder.seen[0], 0)] * 2 if number == 30 else reflect(wire, 0)

    with Responder(handle) as responder:
        load = Load(QUERIES, responder.host, responder.port, sockets=1, rate=150, timeout=0.15, limit=40)
        load.run(1)
    now = counters(load)
    assert (now.sent, now.answered, now.lost, now.late, now.mismatched) == (40, 38, 2, 1, 1)


WRONG = {
    "another ID": lambda wire: bytes((wire[0], wire[1] ^ 0x80)) + reflect(wire, 0)[2:],
    "another question": lambda wire: reflect(wire, 0)[:13] + b"H" + wire[14:],
    "no response": lambda wire: wire,
    "no whole question": lambda wire: reflect(wire, 0)[:-1],
    "no whole header": lambda wire: reflect(wire, 0)[:11],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_answers_no_outstanding_query_is_mismatched(wrong):
    with Responder(lambda wire, _number: wrong(wire)) as responder:
        now = load_to_the_end(responder, limit=20, sockets=1, timeout=0.1)
    assert (now.sent, now.answered, now.lost, now.mismatched) == (20, 0, 20, 20)


def test_only_the_first_of_two_responses_is_an_answer():
    with Responder(lambda wire, number: [reflect(wire, number)] * 2) as responder:
        now = load_to_the_end(responder, limit=100, window=1, sockets=1)
    assert (now.sent, now.answered, now.lost) == (100, 100, 0)
    assert 99 <= now.mismatched <= 100  # the last one may come when all is done


def test_rcodes_and_truncation_are_counted():
    def handle(wire, number):
        return reflect(wire, number, rcode=number % 16, flags=TC if number % 4 == 0 else 0)

    with Responder(handle) as responder:
        now = load_to_the_end(responder, limit=160)
    assert now.rcodes == [10] * 16
    assert now.truncated == 40


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_closed_port_refuses_and_is_survived(host):
    with Responder(host=host) as closed:
        pass
    now = load_to_the_end(closed, limit=30, window=30, timeout=0.1)
    assert (now.sent, now.answered, now.lost) == (30, 0, 30)
    assert now.refused > 0


def test_the_rate_is_kept():
    with Responder() as responder:
        load = Load(QUERIES, responder.host, responder.port, rate=400)
        for _slice in range(3):
            load.run(0.1)
        load.drain()
    now = counters(load)
    assert now.answered == now.sent
    assert 90 <= now.sent <= 1 + 400 * (now.ended - now.began) / 1e9


def test_percentiles_rise_and_fit_the_delay():
    def handle(wire, number):
        time.sleep(0.02 if number % 10 == 0 else 0.002)
        return reflect(wire, number)

    with Responder(handle) as responder:
        load = Load(QUERIES, responder.host, responder.port, window=1, limit=50)
        assert load.percentile(50) == 0
        load.run(3)
    figures = [load.percentile(percent) for percent in (0, 1, 50, 80, 95, 99, 100)]
    now = counters(load)
    assert figures == sorted(figures)
    assert 2e6 * 0.94 <= now.least <= figures[0] <= figures[2] < 20e6 * 0.94 <= figures[4]
    assert figures[-1] == pytest.approx(now.most, rel=0.0625)


BAD = {
    "window must be 1 to 32768, not 0": {"window": 0},
    "window must be 1 to 32768, not 32769": {"window": 32769},
    "port must be 1 to 65535, not 65536": {"port": 65536},
    "timeout must be 0.001 to 3600, not 0": {"timeout": 0},
    "timeout must be 0.001 to 3600, not nan": {"timeout": float("nan")},
    "sockets must be 1 to 64, not 65": {"sockets": 65},
    "batch must be 1 to 64, not -1": {"batch": -1},
    "rate must be 0 to 1000000000.0, not -1": {"rate": -1},
    "limit must be 0 to": {"limit": -1},
    "'localhost' does not appear to be an IPv4 or IPv6 address": {"host": "localhost"},
    "there is no query to send": {"queries": []},
    "query 1 is not a DNS message with one question": {"queries": [QUERIES[0], QUERIES[0][:-1]]},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_arguments_are_told(message, options):
    options = {"queries": QUERIES, "host": "127.0.0.1", "port": 53} | options
    with pytest.raises(ValueError, match=message):
        Load(**options)


def test_cut_names_and_pointers_are_no_question():
    for name in (
        b"",
        b"\3ab",
        b"\3abc",
        b"\xc0\x0c",
        b"\x3f" + b"a" * 63,
        (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
    ):
        with pytest.raises(ValueError, match="query 0 is not"):
            Load([QUERIES[0][:12] + name], "127.0.0.1", 53)


def test_queries_are_what_the_lines_say():
    lines = ["; a comment\n", "# another\n", "\n", "  www.Example.COM.  aaaa\n", "münchen.de TYPE65\n"]
    first, second = map(dns.message.from_wire, make_queries(lines, edns=False, dnssec=False, rd=True))
    assert first.question[0].to_text() == "www.Example.COM. IN AAAA"
    assert second.question[0].to_text() == "xn--mnchen-3ya.de. IN HTTPS"
    assert (first.id, first.flags, first.edns) == (0, dns.flags.RD, -1)
    (query,) = map(dns.message.from_wire, make_queries([". NS"], edns=False, dnssec=True, rd=False))
    assert (query.flags, query.edns, query.ednsflags) == (0, 0, dns.flags.DO)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.example A\nb.example FOO\n", ":2: unknown type 'FOO'"),
        ("a.example TYPE65536\n", ":1: unknown type 'TYPE65536'"),
        ("\na..example A\n", ":2: bad name 'a..example': A DNS label is empty."),
        ("a.example\n", ":1: expected a name and a type, not 'a.example'"),
        ("a.example IN A\n", ":1: expected a name and a type, not 'a.example IN A'"),
        ("; nothing\n\n", ": no queries"),
    ],
)
def test_errors_in_a_data_file_name_the_line(tmp_path, monkeypatch, text, message):
    path = tmp_path / "data"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    for name, source in ((str(path), str(path)), ("-", "stdin")):
        with pytest.raises(FunkenShieldError) as caught:
            read_queries(name)
        assert str(caught.value) == source + message


def test_a_file_that_is_no_text_or_is_not_there(tmp_path):
    (tmp_path / "octets").write_bytes(b"\xff\xfe A\n")
    with pytest.raises(FunkenShieldError, match="octets: not UTF-8 text"):
        read_queries(str(tmp_path / "octets"))
    with pytest.raises(FunkenShieldError, match="gone: No such file or directory"):
        read_queries(str(tmp_path / "gone"))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_prints_what_it_returns(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={})
    with Responder(lambda wire, number: reflect(wire, number, rcode=3 if number % 4 else 0)) as responder:
        report = run_perf(QUERIES, "127.0.0.1", responder.port, 5, rate=600, limit=200, console=console)
    printed = console.file.getvalue()
    assert ("queries/s, 0 lost" in printed) is terminal
    for line in (
        "queries sent    200\n",
        "answered        200 (100.00%)\n",
        "rcode NXDOMAIN  150 (75.00%)\n",
    ):
        assert line in printed
    assert report.rcodes == {"NOERROR": 50, "NXDOMAIN": 150}
    assert list(report.latency) == ["min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"]
    assert all(a <= b for a, b in pairwise(v for k, v in report.latency.items() if k != "mean"))
    assert report.qps == pytest.approx(report.answered / report.seconds)
    assert json.loads(json.dumps(report._asdict()))["latency"]["max"] == report.latency["max"]


def test_a_run_without_an_answer_has_a_report():
    with Responder(lambda _wire, _number: None) as responder:
        report = run_perf(QUERIES, "127.0.0.1", responder.port, 0.1, window=5, timeout=0.1)
    assert report.sent == report.lost > 0
    assert report.qps == 0
    assert set(report.latency.values()) == {0.0}


def test_ctrl_c_ends_the_run_and_still_reports():
    with Responder() as responder:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        stopwatch = Stopwatch()
        report = run_perf(QUERIES, "127.0.0.1", responder.port, 60, rate=100)
        timer.join()
    assert stopwatch.seconds() < 10
    assert report.sent == report.answered > 0


def test_a_run_that_cannot_be_is_told_in_one_line():
    with pytest.raises(FunkenShieldError, match="cannot load ns1 port 53: 'ns1' does not appear to be an IP"):
        run_perf(QUERIES, "ns1", 53, 1)
