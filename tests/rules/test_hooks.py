"""Know when what a file of rules wants done before and after is done, how often, and what is done where it fails."""

import signal
import threading

import pytest
from faults.load import Load
from support.client import free_port
from support.control import stats
from support.forked import command
from support.rig import behind, good
from support.until import until

from rules.changing import Asking, configure, reloaded, write
from rules.flood import same

RULES = """from funkenshield.rules import *
import asyncio

@shield.setup
async def connect():
    global database
    print("connect {number}", flush=True)
    await asyncio.sleep(0.1)
    database = "192.0.2.{number}"

@shield.setup
def count():
    print("count {number}", database, flush=True)

@shield.rule(suffix("ruled.test"))
async def ruled(query):
    await asyncio.sleep({wait})
    return query.respond("300 A " + database)

@shield.teardown
def disconnect():
    global database
    print("disconnect {number}", flush=True)
    del database
"""
HOOKS = ("connect", "count", "disconnect")


def rules(number, wait=0):
    """Return a file of rules that answers with 192.0.2.`number`, as long as it is connected."""
    return RULES.format(number=number, wait=wait)


def told(shield):
    """Return what hooks have printed."""
    return [line for line in shield.log.splitlines() if line.startswith(HOOKS)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shield_rules.py"


def test_setup_comes_before_and_teardown_after_and_each_once(path):
    path.write_text(rules(7))
    with behind(good, rules=str(path)) as (shield, upstream):
        with Load(shield) as load, Asking(shield, "a.ruled.test.") as client:
            assert told(shield) == ["connect 7", "count 7 192.0.2.7"]
            write(path, rules(8))
            reloaded(shield, 1)
            until(lambda: client.seen[-1] == 8)
        assert told(shield) == ["connect 7", "count 7 192.0.2.7", "connect 8", "count 8 192.0.2.8", "disconnect 7"]
        assert load.outcome == load.flawless
        assert client.seen == [7, 8]
        configure(shield, upstream)
        until(lambda: told(shield)[-1] == "disconnect 8")
        path.write_text(rules(9))
        configure(shield, upstream, rules=str(path))
        reloaded(shield, 3)
        shield.terminate()
        assert told(shield)[5:] == ["disconnect 8", "connect 9", "count 9 192.0.2.9", "disconnect 9"]


def asked(shield, name="a.ruled.test."):
    """Ask for a name in a thread; return it, and the list that its reply comes to."""
    replies = []
    thread = threading.Thread(target=lambda: replies.append(shield.udp_wire(same(1, name)[0])))
    thread.start()
    until(lambda: stats(shield)["rules"]["ruled"]["handler_calls"] == 1)
    return thread, replies


def test_teardown_waits_for_who_is_with_a_function(path):
    path.write_text(rules(7, wait=0.6))
    with behind(good, rules=str(path)) as (shield, _):
        thread, replies = asked(shield)
        write(path, rules(8))
        thread.join()
        assert replies[0][-1] == 7
        until(lambda: told(shield)[-1] == "disconnect 7")


def test_who_is_with_a_function_at_the_end_gets_an_answer(path):
    path.write_text(rules(7, wait=0.6))
    with behind(good, rules=str(path)) as (shield, _):
        thread, replies = asked(shield)
        shield.terminate()
        thread.join()
        assert replies[0][-1] == 7
        assert told(shield)[-1] == "disconnect 7"


def test_a_teardown_that_fails_is_reported_and_the_new_rules_are_in_force(path):
    path.write_text(rules(7) + "\n@shield.teardown\ndef fail():\n    1 / 0\n")
    with behind(good, rules=str(path)) as (shield, _):
        write(path, rules(8))
        reloaded(shield, 1)
        until(lambda: f"rules: teardown fail: ZeroDivisionError: division by zero at {path}:28" in shield.log)
        assert shield.udp_wire(same(1, "a.ruled.test.")[0])[-1] == 8


def test_a_setup_that_fails_at_the_start_ends_it_with_one_line(path, tmp_path):
    path.write_text("from funkenshield.rules import *\n@shield.setup\ndef fail():\n    1 / 0\n")
    config = tmp_path / "funkenshield.toml"
    config.write_text(f'listen = ["127.0.0.1:{free_port()}"]\nupstreams = ["127.0.0.1:9"]\nrules = "{path}"\n')
    done = command("run", "-c", config, "--control", tmp_path / "control")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"funkenshield: rules: setup fail: ZeroDivisionError: division by zero at {path}:4"
    ]


def test_a_setup_that_fails_at_a_reload_has_those_before_it_torn_down(path):
    path.write_text(rules(7))
    with behind(good, rules=str(path)) as (shield, _):
        write(path, rules(8) + "\n@shield.setup\ndef fail():\n    1 / 0\n")
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: "reload failed: rules: setup fail: ZeroDivisionError" in shield.log)
        until(lambda: "disconnect 8" in shield.log)
        assert "disconnect 7" not in shield.log
        assert shield.udp_wire(same(1, "a.ruled.test.")[0])[-1] == 7
