"""The terminal: its state, taken and given back; frames drawn on it; keys read from it.

It knows no daemon. However the program ends or is stopped, the terminal is as it was before.
"""

import codecs
import contextlib
import os
import re
import select
import termios
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleDimensions, RenderableType

from .wording import as_ascii

ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"  # another screen, without a cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # what is between is shown at once, where a terminal knows that
SEQUENCE = re.compile(r"\x1b(?:\[[0-9;:?<=>]*[ -/]*[@-~]|O.|\x1b(?=\x1b)|[^\[O\x1b])|[^\x1b]", re.S)
NAMES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left", "\x1bOA": "up", "\x1bOB": "down",
    "\x1bOC": "right", "\x1bOD": "left", "\x1b[5~": "pageup", "\x1b[6~": "pagedown", "\x1b[H": "home",
    "\x1b[F": "end", "\x1bOH": "home", "\x1bOF": "end", "\x1b[1~": "home", "\x1b[4~": "end", "\x1b[7~": "home",
    "\x1b[8~": "end", "\x1b[Z": "backtab", "\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace",
    "\b": "backspace", "\x15": "clear",
}  # fmt: skip


class Keys:
    """Keys by name, from octets as they come."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._rest = ""

    def feed(self, octets: bytes, *, all: bool = False) -> list[str]:
        """Return the keys of what came; what may go on waits for more, unless that is all."""
        text = self._rest + self._decoder.decode(octets)
        found, at = [], 0
        while match := SEQUENCE.match(text, at):
            at = match.end()
            key = NAMES.get(match[0], match[0])
            if not key.startswith("\x1b"):  # of a key that means nothing here
                found.append(key)
        self._rest = "" if all else text[at:]
        return [*found, "esc"] if all and text[at:] == "\x1b" else found

    @property
    def is_waiting(self) -> bool:
        """Whether what came may go on: Escape alone, or the beginning of another key."""
        return bool(self._rest)


class Terminal:
    """The terminal of this process, taken while it is entered."""

    def __init__(self, console: Console, input: int = 0, output: int = 1, *, ascii: bool = False) -> None:
        self.console, self.input = console, input
        self._output, self._ascii = output, ascii
        self._before: list[Any] | None = None  # how it was
        self._drawn: list[str] = []

    def __enter__(self) -> "Terminal":
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.give_back()

    def take(self) -> None:
        """Take the terminal: keys come one by one, unseen, and all is drawn anew. Twice does no harm."""
        before = termios.tcgetattr(self.input)
        if self._before is None:
            self._before = before
        mode = termios.tcgetattr(self.input)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.input, termios.TCSADRAIN, mode)
        self._drawn = []
        self._write(ENTER)

    def give_back(self) -> None:
        """Have it as it was; a terminal that is gone needs nothing."""
        if self._before is None:
            return
        before, self._before = self._before, None
        with contextlib.suppress(OSError):
            self._write(LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.input, termios.TCSAFLUSH, before)

    @property
    def size(self) -> tuple[int, int]:
        """How many columns and lines there are now, whatever variables say."""
        size = os.get_terminal_size(self._output)
        return size.columns or 80, size.lines or 24

    def draw(self, frame: RenderableType) -> None:
        """Draw what is not on the screen yet, line by line."""
        width, height = self.console.size = ConsoleDimensions(*self.size)
        with self.console.capture() as captured:
            self.console.print(frame, end="", width=width, height=height, crop=True)
        drawn = captured.get().removesuffix("\n")
        lines = (as_ascii(drawn) if self._ascii else drawn).split("\n")[:height]
        if len(lines) != len(self._drawn):
            self._drawn = [""] * len(lines)
        changed = (
            f"\x1b[{place};1H{line}" for place, (line, drawn) in enumerate(zip(lines, self._drawn, strict=True), 1)
            if line != drawn
        )  # fmt: skip
        self._drawn = lines
        if told := "".join(changed):
            self._write(f"{BEGIN}{told}{END}")

    def resized(self) -> None:
        """Draw all anew."""
        self._drawn = []
        self._write("\x1b[2J")

    def read(self) -> bytes:
        """Return what keys sent; b"" where there is no terminal any more."""
        with contextlib.suppress(OSError):
            return os.read(self.input, 1024)
        return b""

    def _write(self, text: str) -> None:
        left = text.encode(self.console.encoding, "replace")
        while left:
            try:
                left = left[os.write(self._output, left) :]
            except BlockingIOError:  # another process has made this terminal non-blocking
                select.select([], [self._output], [])
