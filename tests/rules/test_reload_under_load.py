"""Know that other rules are taken up at once, under load, and that nobody is lost meanwhile."""

import contextlib
import threading

import pytest
from faults.load import Load
from support.control import stats
from support.rig import behind, good
from support.stopwatch import Stopwatch
from support.until import until

from rules.changing import Asking, configure, reloaded, write
from rules.flood import fresh, outcome, outcomes, same, send

MATCH = {"suffix": "ruled.test"}
NXDOMAIN = [3]


def function(number, body="", cached=False):
    """Return a file of rules whose function answers with 192.0.2.`number`."""
    return f"""from funkenshield.rules import *
import asyncio
@shield.rule(suffix("ruled.test"), cache={cached})
async def ruled(query):
    {body or "pass"}
    return query.respond("300 A 192.0.2.{number}")
"""


@contextlib.contextmanager
def ruled(tmp_path, text=None, script=good, **options):
    """Run a shield with a file of rules, if there is any; yield it, its upstream, and the file."""
    path = tmp_path / "shield_rules.py"
    if text is not None:
        path.write_text(text)
        options["rules"] = str(path)
    with behind(script, **options) as (shield, upstream):
        yield shield, upstream, path


# ------------------------------------------------------------ before, and after


def test_rules_of_the_configuration_change_at_once_and_nobody_is_lost(tmp_path):
    with ruled(tmp_path, rules=[{"match": MATCH, "action": {"answer": "A 192.0.2.7"}}]) as (shield, upstream, _):
        with Load(shield) as load, Asking(shield, "a.ruled.test.") as client:
            for count, action in enumerate([{"answer": "A 192.0.2.8"}, "nxdomain", {"answer": "A 192.0.2.9"}], 1):
                load.go_on(0.2)
                configure(shield, upstream, rules=[{"match": MATCH, "action": action}])
                reloaded(shield, count)
            load.go_on(0.2)
        assert load.outcome == load.flawless
        assert client.seen == [7, 8, NXDOMAIN, 9]


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_of_rules_is_taken_up_without_a_signal(tmp_path, cached):
    with ruled(tmp_path, function(7, cached=cached)) as (shield, _, path):
        with Load(shield) as load, Asking(shield, "a.ruled.test.") as client:
            write(path, function(8, cached=cached))
            reloaded(shield, 1)
            load.go_on(0.2)
        assert load.outcome == load.flawless
        assert client.seen == [7, 8]


def test_a_file_of_names_is_taken_up_without_a_signal(tmp_path):
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("other.test\n")
    rules = [{"match": {"suffix_file": str(blocked)}, "action": "nxdomain"}]
    with ruled(tmp_path, rules=rules) as (shield, _, _):
        with Load(shield) as load, Asking(shield, "a.ruled.test.") as client:
            write(blocked, "ruled.test\n")
            reloaded(shield, 1)
            load.go_on(0.1)
        assert load.outcome == load.flawless
        assert client.seen == [1, NXDOMAIN]


def test_a_file_that_changes_while_it_is_taken_up_is_taken_up_again(tmp_path):
    slow = "\n@shield.setup\nasync def wait():\n    print('waits', flush=True)\n    await asyncio.sleep(0.5)\n"
    with ruled(tmp_path, function(7)) as (shield, _, path):
        with Asking(shield, "a.ruled.test.") as client:
            write(path, function(8) + slow)
            until(lambda: "waits" in shield.log)
            write(path, function(9))
            until(lambda: client.seen[-1] == 9)
        assert client.seen == [7, 8, 9]


def test_a_file_that_exits_changes_nothing(tmp_path):
    with ruled(tmp_path, function(7)) as (shield, _, path):
        with Asking(shield, "a.ruled.test.") as client:
            write(path, "import sys\nsys.exit(1)\n")
            until(lambda: f"reload failed: {path}:2: SystemExit: 1" in shield.log)
            write(path, function(8))
            reloaded(shield, 1)
            until(lambda: client.seen[-1] == 8)
        assert client.seen == [7, 8]


def test_who_a_function_that_goes_lets_pass_meets_the_new_rules(tmp_path):
    go_on = tmp_path / "go on"
    text = function(7, f"""
    while not Path({str(go_on)!r}).exists():
        await asyncio.sleep(0.01)
    return None""") + "from pathlib import Path\n"  # fmt: skip
    with ruled(tmp_path, text) as (shield, upstream, _):
        replies = []
        waiting = threading.Thread(target=lambda: replies.append(shield.udp_wire(same(1, "a.ruled.test.")[0])))
        waiting.start()
        until(lambda: stats(shield)["rules"]["ruled"]["handler_calls"] == 1)
        configure(shield, upstream, rules=[{"match": MATCH, "action": "nxdomain"}])
        reloaded(shield, 1)
        go_on.touch()
        waiting.join()
        assert outcome(replies[0]) == "NXDOMAIN"
        assert upstream.received == []


# ------------------------------------------------------------ many names


def test_a_hundred_thousand_names_are_taken_up_while_misses_go_on(tmp_path):
    blocked = tmp_path / "blocked.txt"
    many = "".join(f"name{number}.of.many.test\n" for number in range(100_000))
    blocked.write_text(many)
    rules = [{"match": {"suffix_file": str(blocked)}, "action": "nxdomain"}]
    with ruled(tmp_path, rules=rules) as (shield, _, _):
        assert outcomes(send(shield, same(1, "a.name99999.of.many.test."))) == {"NXDOMAIN": 1}
        with Load(shield) as load, Asking(shield, "a.ruled.test.") as client:
            stopwatch = Stopwatch()
            write(blocked, many + "ruled.test\n")
            reloaded(shield, 1)
            load.go_on(0.2)
        assert load.outcome == load.flawless
        assert client.seen == [1, NXDOMAIN]
        assert load.slowest < 0.3 + stopwatch.waited()
        assert outcomes(send(shield, same(1, "a.name99999.of.many.test.") + fresh(1))) == {"NXDOMAIN": 1, "NOERROR": 1}
