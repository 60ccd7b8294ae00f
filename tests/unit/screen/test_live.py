"""Show how often the daemon is asked, and what is seen of answers that are late, wrong, or another daemon's."""

import asyncio
import errno
import os
import pty
import signal
import termios
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from rich.console import Console
from support.shown import upstream
from support.status import status

from funkenshield.errors import FunkenShieldError
from funkenshield.screen import live
from funkenshield.screen.shown import Readings
from funkenshield.screen.tables import TABLES
from funkenshield.screen.terminal import Terminal

ONE, TWO = Path("/one.sock"), Path("/two.sock")


class Drawn:
    """A terminal, as far as frames are drawn on it."""

    def __init__(self):
        self.console = Console(color_system=None, width=100, height=24, force_terminal=True, _environ={})
        self.size = 100, 24
        self.text = ""

    def draw(self, frame):
        with self.console.capture() as captured:
            self.console.print(frame, end="", width=100, height=24)
        self.text = " ".join(captured.get().split())


class Daemon:
    """A daemon that takes its time, and answers as a test says."""

    def __init__(self, monkeypatch):
        self.now, self.took, self.requests, self.pauses, self.answers = 0.0, 0.0, [], [], {}
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1.8e9 + self.now))
        monkeypatch.setattr(live.asyncio, "sleep", self.sleep)

    async def ask(self, place, request, timeout):
        self.requests.append((place, request, timeout))
        self.now += self.took
        answer = self.answers.get(request["command"], status())
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
        if len(self.pauses) == 4:
            raise asyncio.CancelledError


@pytest.fixture
def daemon(monkeypatch):
    return Daemon(monkeypatch)


@pytest.fixture
def screen(daemon):
    return live.Live([ONE, TWO], 1.0, Drawn(), daemon.ask)


def ask_four_times(screen):
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(screen._ask_always())


@pytest.mark.parametrize(("took", "pause"), [(0.0, 1.0), (0.05, 0.95), (0.2, 1.8), (2.0, 18.0)])
def test_the_daemon_is_asked_once_a_second_and_more_seldom_where_that_takes_it_long(screen, daemon, took, pause):
    daemon.took = took
    ask_four_times(screen)
    assert daemon.requests == [(ONE, {"command": "status", "limit": 50}, 5.0)] * 4
    assert daemon.pauses == pytest.approx([pause] * 4)


def test_a_daemon_that_is_gone_is_asked_each_second(screen, daemon):
    daemon.took, daemon.answers["status"] = 0.4, FunkenShieldError(f"{ONE}: timed out")
    ask_four_times(screen)
    assert daemon.pauses == pytest.approx([0.6] * 4)
    assert "not reachable" in screen._terminal.text
    assert "/one.sock does not answer: timed out" in screen._terminal.text


def test_while_it_is_paused_nothing_is_asked_and_the_clock_goes_on(screen, daemon):
    screen._press([" "])
    ask_four_times(screen)
    assert daemon.requests == []
    assert "paused" in screen._terminal.text
    assert len(daemon.pauses) == 4


def test_an_answer_of_another_version_is_told(screen, daemon):
    daemon.answers["status"] = {"of": "tomorrow"}
    ask_four_times(screen)
    assert "its answer is not understood, it may be of another version" in screen._terminal.text


def steer(screen, *keys):
    """Press keys, and wait for what they ask for."""

    async def press():
        screen._press(list(keys[:-1]))
        screen._press([keys[-1]])
        while screen._tasks:
            await asyncio.wait(screen._tasks)

    asyncio.run(press())


def test_what_the_daemon_answers_to_a_key_is_shown(screen, daemon):
    daemon.answers["reload"] = {"reloaded": True, "errors": [], "warnings": []}
    steer(screen, "r", "y")
    assert daemon.requests == [(ONE, {"command": "reload"}, 120.0)]
    assert screen._terminal.text.endswith("reloaded")


@pytest.mark.parametrize(
    "answer",
    [FunkenShieldError("no, that is wrong"), {"reloaded": False, "errors": ["no, that is wrong"], "warnings": []}],
)
def test_what_it_refuses_is_shown(screen, daemon, answer):
    daemon.answers["reload"] = answer
    steer(screen, "r", "y")
    assert screen._terminal.text.endswith("no, that is wrong")
    assert screen._viewer.is_bad


@pytest.mark.parametrize("keys", ["yn", "ynnn"])
def test_what_was_confirmed_is_done_by_the_daemon_that_was_asked_about(screen, daemon, keys):
    screen._viewer.focus = [each.name for each in TABLES].index("upstreams")
    screen._viewer.shown = Readings().take(status(upstreams=[upstream("one")]), 0.0, 1.8e9)
    daemon.answers["upstream drain"] = {"upstreams": ["one"]}

    async def press():
        screen._press(["d"])
        screen._press(list(keys))  # all at once
        while screen._tasks:
            await asyncio.wait(screen._tasks)

    asyncio.run(press())
    assert [place for place, request, _ in daemon.requests if request["command"] == "upstream drain"] == [ONE]
    assert "/two.sock (2 of 2" in screen._terminal.text
    assert screen._terminal.text.endswith("/one.sock: one: draining")


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"outcome": "hit", "rcode": "NOERROR", "why": "fresh", "steps": []}, ""),
     (FunkenShieldError(f"{ONE}: timed out"), f"{ONE}: timed out")],
)  # fmt: skip
def test_an_explanation_is_not_shown_over_another_daemon(screen, answer, said):
    async def late(place, request, timeout):
        screen._select(1)  # meanwhile
        if isinstance(answer, Exception):
            raise answer
        return answer

    screen._ask = late
    asyncio.run(screen._steer(ONE, screen._viewer._explain("a.test A")))
    assert screen._viewer.explained == ()
    assert screen._viewer.message == said


def test_another_daemon_is_looked_at(screen, daemon):
    steer(screen, "n")
    assert [place for place, *_ in daemon.requests] == [TWO]
    assert "/two.sock (2 of 2, n: next)" in screen._terminal.text


def test_a_late_answer_of_another_daemon_is_not_shown(screen, daemon):
    async def late(place, request, timeout):
        screen._select(1)  # meanwhile
        return status()

    screen._ask = late
    asyncio.run(screen._update())
    assert screen._viewer.shown is None


@pytest.fixture
def terminal():
    """Yield a real terminal."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 80))
    os.set_blocking(outer, False)
    yield Terminal(Console(width=80, height=24, color_system=None, force_terminal=True, _environ={}), inner, inner)
    os.close(inner)
    os.close(outer)


GONE = OSError(errno.EIO, "the terminal is gone"), termios.error(errno.EIO, "the terminal is gone")


def test_a_terminal_that_was_gone_when_it_went_on_is_no_error(screen):
    for error in GONE:
        screen._terminal.take = Mock(side_effect=error)
        screen._resume()
        screen._terminal.take.assert_called_once_with()


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), *GONE])
def test_whatever_goes_wrong_the_terminal_is_given_back(terminal, error):
    async def fail(*_):
        raise error

    before, handler = termios.tcgetattr(terminal.input), signal.getsignal(signal.SIGTERM)
    running = live.Live([ONE], 1.0, terminal, fail).run()
    if error in GONE:
        asyncio.run(running)
    else:
        with pytest.raises(RuntimeError, match="a fault of ours"):
            asyncio.run(running)
    assert termios.tcgetattr(terminal.input) == before
    assert signal.getsignal(signal.SIGTERM) == handler
