"""Show that what became of each query is told as it was: to collectors, in query logs, by `failures` and `top`.

Collectors are ours, and Debian's and PyPI's where they are installed.
"""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dns.message
import pytest
from support.control import request, stats
from support.dnstap import Collector
from support.rig import HASTY, Holding, answering, ask, asked, at_once, behind, failing, placed, rcode, silent
from support.until import until

RULES = [
    {"name": "the rule", "match": {"suffix": "ruled.test."}, "action": "refused"},
    {"match": {"suffix": "ignored.test."}, "action": "drop"},
]

PYTHON = """from funkenshield.rules import *

@shield.rule(suffix("python.test"))
def silent(query):
    return drop()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Yield a shield that tells of all that it does, its upstream, a collector, and the query log."""
    folder = tmp_path_factory.mktemp("events")
    log = folder / "queries"
    (folder / "rules.py").write_text(PYTHON)
    with (
        Collector(folder / "tap") as collector,
        Holding(answering("192.0.2.1")) as upstream,
        behind(
            placed(upstream, name="ams"),
            dnstap=[{
                "socket": str(folder / "tap"), "identity": "shield",
                "messages": ["client_query", "client_response", "forwarder_query", "forwarder_response"],
            }],
            query_log=[{"file": str(log)}],
            rules=RULES,
            rules_file=str(folder / "rules.py"),
            guard={"access": {"deny": ["127.0.0.66"]}},
            minimal_any=True,
        ) as (shield, _),
    ):  # fmt: skip
        until(lambda: collector.connections)
        yield shield, upstream, collector, log


def outcome_of(log, name, count=1):
    """Return what became of queries for a name, the earliest first, once so many are told of."""

    def found():
        told = [json.loads(line) for line in log.read_text().splitlines()]
        mine = [event for event in told if event.get("name", "").lower() == name]
        # Lines of two threads are in order but for a few milliseconds.
        mine.sort(key=lambda event: event["time"])
        return [event["outcome"] for event in mine] if len(mine) >= count else None

    return until(found)


@pytest.mark.parametrize("tcp", [False, True])
def test_a_miss_and_a_hit_are_told_with_all_messages(told, tcp):
    shield, _, collector, log = told
    name = f"hit-{tcp}.test.".lower()
    since = len(collector.messages)
    for _ in range(2):
        assert ask(shield, asked(name), tcp=tcp).answer
    assert outcome_of(log, name, 2) == ["forwarded", "hit"]
    mine = until(lambda: collector.messages[since:] if len(collector.messages) - since >= 6 else None)
    assert Counter(each["type"] for each in mine) == {"CQ": 2, "CR": 2, "FQ": 1, "FR": 1}
    assert {each["identity"] for each in mine} == {"shield"}
    for each in mine:
        octets = each["query"] or each["response"]
        assert dns.message.from_wire(octets).question[0].name.to_text() == name
        assert each["protocol"] == (1 if each["type"][0] == "F" or not tcp else 2)
        assert abs(each["asked"] - time.time()) < 60
    assert {each["extra"] for each in mine if each["type"] == "CR"} == {"forwarded", "hit"}
    latest = [event for event in map(json.loads, log.read_text().splitlines()) if event.get("name") == name]
    assert {event["outcome"]: event.get("upstream") for event in latest} == {"forwarded": "ams", "hit": None}
    assert {event["transport"] for event in latest} == {"tcp" if tcp else "udp"}
    assert all(0 < event["milliseconds"] < 10_000 for event in latest)


def test_who_waits_for_anothers_answer_is_coalesced(told):
    shield, upstream, _, log = told
    upstream.hold()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, shield, asked("together.test.")) for _ in range(3)]
        until(lambda: stats(shield)["outstanding_queries"] == 3)
        upstream.let_go()
        assert all(each.result().answer for each in waiting)
    assert sorted(outcome_of(log, "together.test.", 3)) == ["coalesced", "coalesced", "forwarded"]


def test_what_is_answered_here_or_not_at_all_says_why(told):
    shield, _, collector, log = told
    since = len(collector.messages)
    assert rcode(ask(shield, asked("a.ruled.test."))) == "REFUSED"
    assert rcode(ask(shield, asked("a.ignored.test."), timeout=0.2)) == "silence"
    assert rcode(ask(shield, asked("a.python.test."), timeout=0.2)) == "silence"
    assert rcode(ask(shield, asked("any.test.", "ANY"))) == "NOERROR"
    assert rcode(ask(shield, asked("zone.test.", "AXFR"), tcp=True)) == "REFUSED"
    assert rcode(ask(shield, asked("denied.test."), source="127.0.0.66", timeout=0.2)) in {"silence", "REFUSED"}
    wanted = {
        "a.ruled": "rule",
        "a.ignored": "rule",
        "a.python": "rule",
        "any": "local",
        "zone": "refused",
        "denied": "denied",
    }
    assert {name: outcome_of(log, f"{name}.test.")[0] for name in wanted} == wanted
    assert {event["rule"] for event in map(json.loads, log.read_text().splitlines()) if "rule" in event} >= {"the_rule"}
    until(lambda: len(collector.messages) - since >= 8)
    assert {each["type"] for each in collector.messages[since:]} == {"CQ", "CR"}  # no upstream was asked


def test_a_response_that_is_held_back_is_told_with_its_name(tmp_path):
    log, guard = tmp_path / "queries", {"rrl": {"responses_per_second": 0.5, "window": 2, "slip": 0}}
    with (
        Holding(answering("192.0.2.1")) as upstream,
        behind(upstream, query_log=[{"file": str(log)}], guard=guard) as (shield, _),
        ThreadPoolExecutor(2) as pool,
    ):
        upstream.hold()
        waiting = [pool.submit(ask, shield, asked("held.test."), timeout=1.0) for _ in range(2)]
        until(lambda: stats(shield)["outstanding_queries"] == 2)
        upstream.let_go()
        assert sorted(rcode(each.result()) for each in waiting) == ["NOERROR", "silence"]
        assert outcome_of(log, "held.test.", 2)[-1] == "limited"


def test_top_tells_what_is_asked_for_most_as_long_as_somebody_looks(told):
    shield, *_ = told
    assert request(shield, b'{"command": "top"}')[0]["top"]["names"] == []
    for number in range(6):
        ask(shield, asked("most.top.test." if number % 2 else f"n{number}.top.test."))

    def counted():
        found = request(shield, b'{"command": "top", "limit": 1}')[0]["top"]
        return found if sum(found["outcomes"].values()) == 6 else None

    top = until(counted)
    assert top["names"] == [{"name": "most.top.test.", "queries": 3, "error": 0}]
    assert top["zones"] == [{"zone": "top.test.", "queries": 6, "error": 0}]
    assert top["clients"][0]["client"] == "127.0.0.1"
    assert top["outcomes"] == {"forwarded": 4, "hit": 2}


def test_the_metrics_say_what_was_told(told):
    shield, _, collector, log = told
    found = stats(shield)
    assert found["events_lost"] == {f"dnstap {collector.address}": 0, f"query log {log}": 0}
    assert found["events_unread"] == 0
    assert found["events_written"][f"query log {log}"] == len(log.read_text().splitlines())


def test_the_log_is_opened_again_on_sigusr1(told):
    shield, _, _, log = told
    moved = log.rename(log.with_suffix(".1"))
    shield.process.send_signal(signal.SIGUSR1)
    until(log.exists, within=0.9)
    before = moved.read_text()
    ask(shield, asked("rotated.test."))
    assert outcome_of(log, "rotated.test.") == ["forwarded"]
    assert moved.read_text() == before


# ------------------------------------------------------------ failures


def test_failures_are_shown_with_name_upstream_and_reason():
    with behind(placed(silent, name="quiet"), forward=HASTY) as (shield, _):
        assert "no query failed" in shield.command("failures")
        assert rcode(ask(shield, asked("lost.test.", "MX"))) == "SERVFAIL"
        (found,) = request(shield, b'{"command": "failures"}')[0]["failures"]
        assert (found["name"], found["type"], found["reason"], found["times"]) == ("lost.test.", "MX", "timeout", 1)
        assert found["upstream"].startswith("quiet (")
        assert abs(found["time"] - time.time()) < 30
        shown = shield.command("failures")
        assert "  lost.test. MX: quiet (" in shown
        assert json.loads(shield.command("failures", "--json"))["failures"] == [found]


def test_a_flood_of_failures_leaves_room_for_others():
    with behind(failing(5), forward=HASTY) as (shield, _):
        ask(shield, asked("one.example.org."))
        at_once(16, lambda thread: [ask(shield, asked(f"n{thread}-{k}.flood.test.")) for k in range(12)])
        found = request(shield, b'{"command": "failures"}')[0]["failures"]
    by_zone = Counter(each["name"].split(".", 1)[1] for each in found)
    assert by_zone == {"example.org.": 1, "flood.test.": 10}
    assert {each["reason"] for each in found} == {"refused"}


# ------------------------------------------------------------ tools that are not ours, and collectors under load


@contextlib.contextmanager
def captured(at, out):
    """Run Debian's collector."""
    command = ["fstrm_capture", "-t", "protobuf:dnstap.Dnstap", "-u", str(at), "-w", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


@pytest.mark.skipif(not shutil.which("fstrm_capture") or not shutil.which("dnstap-ldns"), reason="Debian's are missing")
def test_debians_tools_read_it_also_after_one_was_killed_stopped_and_started_again(tmp_path):
    at, out = tmp_path / "tap", tmp_path / "captured"

    def load(seconds):
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            assert ask(shield, asked(f"n{count % 50}.load.test.")).answer
            count += 1
        return count

    with behind(answering("192.0.2.1"), dnstap=[{"socket": str(at)}]) as (shield, _):
        name = f"dnstap {at}"
        with captured(at, tmp_path / "first") as first:
            until(lambda: load(0.1) and stats(shield)["events_written"][name])
            first.kill()
        with captured(at, out) as second:
            load(1)  # it is found again
            second.send_signal(signal.SIGSTOP)
            assert load(0.5) > 50  # and nobody who asks waits for one that stands still
            second.send_signal(signal.SIGCONT)
            ask(shield, asked("last.load.test."))
            until(lambda: stats(shield)["events_written"][name])
            time.sleep(0.1)
            shield.process.terminate()
            shield.process.wait()
        read = subprocess.run(["dnstap-ldns", "-r", str(out)], capture_output=True, text=True, check=True).stdout
    kinds = Counter(line.split()[2] for line in read.splitlines())
    assert min(kinds["CQ"], kinds["CR"]) > 50
    assert any('"last.load.test."' in line for line in read.splitlines())


def test_python_packages_read_it(tmp_path):
    dnstap_pb = pytest.importorskip("dnstap_pb")
    with Collector(tmp_path / "tap") as collector:
        with behind(answering("192.0.2.1"), dnstap=[{"socket": str(tmp_path / "tap")}]) as (shield, _):
            until(lambda: collector.connections)
            ask(shield, asked("package.test."))
            until(lambda: len(collector.frames) >= 2)
        read = dnstap_pb.Dnstap()
        read.ParseFromString(collector.frames[0])
    assert read.message.type == read.message.CLIENT_QUERY
    assert dns.message.from_wire(read.message.query_message).question[0].name.to_text() == "package.test."
    assert read.identity == socket.gethostname().encode()
