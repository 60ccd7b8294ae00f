"""Show that keys are read as terminals send them, and that a terminal is left as it was."""

import contextlib
import os
import pty
import termios

import pytest
from rich.console import Console
from rich.text import Text

from funkenshield.screen.terminal import Keys, Terminal


@pytest.mark.parametrize(
    ("octets", "keys"),
    [
        (b"qy", ["q", "y"]),
        (b"\x1b[A\x1bOB\x1b[5~\x1b[Z\t\r\x7f", ["up", "down", "pageup", "backtab", "tab", "enter", "backspace"]),
        ("ü".encode(), ["ü"]),
        (b"\x1b[1;5C\x1b[<0;1;1Mx", ["x"]),
        (b"\x1b[200~y\x1b[201~", ["y"]),
        (b"\xff\xfe", []),
        (b"\x1bp", []),
    ],
)
def test_keys_have_names_and_others_mean_nothing(octets, keys):
    assert Keys().feed(octets) == keys


def test_escape_is_a_key_where_nothing_follows():
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.is_waiting
    assert keys.feed(b"[A") == ["up"]
    assert not keys.is_waiting
    assert keys.feed(b"\x1b") == []
    assert keys.feed(b"", all=True) == ["esc"]
    assert not keys.is_waiting


def test_half_a_character_waits_for_its_rest():
    keys = Keys()
    assert keys.feed("ü".encode()[:1]) == []
    assert keys.feed("ü".encode()[1:]) == ["ü"]


@pytest.fixture
def terminal():
    """Yield a terminal of 20 x 3, and what reads all that was written to it."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (3, 20))
    os.set_blocking(outer, False)

    def written():
        found = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                found += os.read(outer, 65536)
        return found.decode()

    yield (
        Terminal(Console(width=20, height=3, color_system=None, force_terminal=True, _environ={}), inner, inner),
        written,
    )
    os.close(outer)
    os.close(inner)


def test_a_terminal_is_left_as_it_was_whatever_happens(terminal):
    taken, written = terminal
    before = termios.tcgetattr(taken.input)
    with contextlib.suppress(KeyError), taken:
        mode = termios.tcgetattr(taken.input)
        assert not mode[3] & (termios.ICANON | termios.ECHO)
        assert mode[3] & termios.ISIG, "Ctrl-C and Ctrl-Z are signals"
        assert written().startswith("\x1b[?1049h\x1b[?25l")
        taken.take()
        raise KeyError
    assert termios.tcgetattr(taken.input) == before
    assert written().endswith("\x1b[?25h\x1b[?1049l")
    taken.give_back()
    assert written() == "", "once is enough"


def test_only_lines_that_differ_are_drawn_and_all_after_a_resize(terminal):
    taken, written = terminal
    with taken:
        taken.draw(Text("one\ntwo\nthree"))
        assert "\x1b[1;1Hone" in written()
        taken.draw(Text("one\n2\nthree"))
        shown = written()
        assert "\x1b[2;1H2" in shown
        assert "one" not in shown
        taken.draw(Text("one\n2\nthree"))
        assert written() == ""
        termios.tcsetwinsize(taken.input, (2, 10))
        taken.resized()
        taken.draw(Text("one\n2\nthree"))
        shown = written()
        assert shown.startswith("\x1b[2J")
        assert "one" in shown
        assert "three" not in shown


def test_a_terminal_is_as_large_as_it_is_whatever_variables_say(terminal):
    taken, written = terminal
    said = Console(color_system=None, force_terminal=True, _environ={"COLUMNS": "5", "LINES": "1"})
    with Terminal(said, taken.input, taken.input) as other:
        other.draw(Text("a line that is long\nanother"))
        assert "a line that is long" in (drawn := written())
        assert "another" in drawn
