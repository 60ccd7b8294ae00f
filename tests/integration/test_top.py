"""`funkenshield top` in a terminal, before a real daemon: what it shows, what its keys do, what it leaves behind."""

import json
import re
import signal
import sys

import pytest
from click.testing import CliRunner
from support.control import request, stats
from support.pty import Seated
from support.rig import ask, behind, names, numbered, placed

from funkenshield import cli

COMMAND = [sys.executable, "-m", "funkenshield", "top", "--control"]
ENVIRONMENT = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
SMALL, LARGE = (80, 24), (160, 50)


@pytest.fixture(scope="module")
def shield():
    """Yield a shield before two upstreams, of which one has a name that would steer a terminal."""
    rules = [{"name": "ads", "match": {"suffix": "ads.test"}, "action": "nxdomain"}]
    upstreams = placed(numbered(1), name="one"), placed(numbered(2), name="[red]two\u202e")
    with behind(*upstreams, rules=rules) as (shield, *_):
        yield shield


@pytest.fixture
def sit():
    """Return what sits before a screen of a size, in which a command runs."""
    opened = []

    def sit(command, size=SMALL):
        opened.append(Seated(command, size, ENVIRONMENT))
        return opened[-1]

    yield sit
    for each in opened:
        each.close()


def state_of(shield, name):
    (told,) = request(shield, b'{"command": "upstream list"}')
    return {each["name"]: each["state"] for each in told["upstreams"]}[name]


@pytest.mark.slow
def test_what_happens_is_seen_and_steered_after_a_question(shield, sit):
    seat = sit([*COMMAND, shield.control])
    seat.until("Queries 0/s")
    (name,) = names(1)
    for _ in range(40):
        ask(shield, name)
    seat.until(re.escape(name))
    seat.until(r"9\d\.\d % since the start")
    purges = stats(shield)["cache_purges"]
    seat.press("p")
    seat.until(f"Purge {name}\\?")
    seat.press("n")
    seat.until("nothing was changed")
    assert stats(shield)["cache_purges"] == purges
    seat.press("p")
    seat.until(f"Purge {name}\\?")
    seat.press("y")
    seat.until(f"purged: {name}")
    assert stats(shield)["cache_purges"] == purges + 1

    seat.press("4/one\r")
    seat.until("only with 'one'")
    seat.press("dy")
    seat.until("Drain one")
    assert state_of(shield, "one") == "up", "what came with the key that asks is no answer"
    seat.press("y")
    seat.until("one: draining")
    assert state_of(shield, "one") == "draining (by command)"
    seat.until(r"upstream one is draining \(by command\)")
    seat.press("u")
    seat.until("Give back one")
    seat.press("y")
    seat.until("one: given back")
    assert state_of(shield, "one") == "up"
    seat.press("\x1b")
    seat.until(re.escape("[red]two\\u202e"))

    seat.press("2b")
    seat.until("Block which prefix")
    seat.press("\x1510.0.0.0/7 1h\r")
    seat.until("Block 10.0.0.0/7 for 1 h")
    seat.press("y")
    seat.until("10.0.0.0/7 has .* addresses")  # it is the daemon who refuses that

    seat.resize(*LARGE)
    for told in ("Responses", "1 Names", "8 Changes", "ready: listening on", "ads"):
        seat.until(told)
    seat.resize(*SMALL)
    seat.until("1 Names 2 Clients 3 Zones")
    assert max(seat.lines) == 24
    seat.press(" ")
    seat.until("paused")
    seat.press(" q")
    assert seat.process.wait(10) == 0
    assert seat.is_as_before()


@pytest.mark.slow
def test_a_daemon_that_is_gone_is_waited_for(shield, sit, tmp_path):
    where = tmp_path / "control"
    seat = sit([*COMMAND, where], LARGE)
    seat.until("does not answer: No such file")
    where.symlink_to(shield.control)
    seat.until("Queries 0/s")
    where.unlink()
    seat.until("not reachable")
    seat.until("no answer since .*No such file")
    assert "Queries 0/s" in seat.text(), "what was seen last stays"
    where.symlink_to(shield.control)
    seat.until(r"live [\d:]+\n")
    seat.signal(signal.SIGTERM)
    assert seat.process.wait(10) == 0
    assert seat.is_as_before()


@pytest.mark.slow
def test_whoever_stops_it_has_his_terminal_until_it_goes_on(shield, sit):
    seat = sit(["bash", "--norc", "-i"])
    seat.press("PS1='ready> '\n")
    seat.until("ready>")
    seat.press(f"{' '.join(map(str, COMMAND))} {shield.control}\n")
    seat.until("From cache")
    seat.press("\x1a")
    seat.until("Stopped")
    seat.press("stty -a\n")
    seat.until(r" echo\b")
    seat.press("fg\n")
    seat.until("q quit")
    seat.press("\x03")
    seat.until("ready>$")
    seat.press("echo $? $((6 * 7))\n")
    seat.until("0 42")


def run(*args):
    return CliRunner(env={"NO_COLOR": "1", "COLUMNS": "100"}).invoke(cli.main, ["top", *map(str, args)])


def test_without_a_terminal_a_line_says_what_can_be_had(shield):
    done = run("--control", shield.control)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "funkenshield: this is no terminal; --once prints one frame, --json one object\n"


@pytest.mark.slow
def test_one_object_and_one_frame_are_printed(shield):
    told = json.loads(run("--control", shield.control, "--json").stdout)
    assert (told["socket"], told["rates"]["queries"], told["problems"]) == (str(shield.control), 0, [])
    assert [each["name"] for each in told["upstreams"]] == ["one", "[red]two\u202e"]
    assert told["rules"][0]["does"] == "suffix = ads.test. -> nxdomain"
    done = run("--control", shield.control, "--once", "--ascii")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    for line in ("Queries", "[red]two\\u202e", "Changes", "ready: listening on"):
        assert line in done.stdout


def test_where_no_daemon_is_a_line_says_so(tmp_path):
    done = run("--control", tmp_path / "none", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    why = "no daemon answers on this control socket: No such file or directory"
    assert done.stderr == f"funkenshield: {tmp_path}/none: {why}\n"
