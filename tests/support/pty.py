"""Know how to sit before a terminal: a program in it, what it has drawn, keys, another size.

The screen knows as much as `funkenshield top` uses: text at the beginning of lines, colours, another screen.
"""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios

from support.until import until

SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


class Seated:
    """A program in a terminal of so many columns and lines."""

    def __init__(self, command, size, env):
        self._outer, self.terminal = pty.openpty()
        self.raw, self.lines, self._line, self._rest = "", {}, 0, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.resize(*size)
        self.before = termios.tcgetattr(self.terminal)

        def sit():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command, stdin=self.terminal, stdout=self.terminal, stderr=self.terminal, env=os.environ | env,
            preexec_fn=sit,  # noqa: PLW1509 - it makes the terminal its own, and locks nothing
        )  # fmt: skip

    def resize(self, columns, lines):
        """Give the terminal another size; who is in it is told."""
        termios.tcsetwinsize(self.terminal, (lines, columns))

    def press(self, keys):
        """Press keys."""
        os.write(self._outer, keys.encode())

    def signal(self, number):
        """Send the program a signal."""
        self.process.send_signal(number)

    def text(self):
        """Return what is on the screen now, each line with single spaces."""
        while select.select([self._outer], [], [], 0.01)[0]:
            with contextlib.suppress(OSError):
                came = self._decoder.decode(os.read(self._outer, 65536))
                self.raw += came
                self._draw(self._rest + came)
        return "\n".join(" ".join(self.lines[number].split()) for number in sorted(self.lines))

    def until(self, told, within=30.0):
        """Wait until the screen shows something, by a regular expression."""
        try:
            until(lambda: re.search(told, self.text()), within)
        except AssertionError:
            raise AssertionError(f"{told!r} is not on the screen:\n{self.text()}\n{self.raw[-300:]!r}") from None

    def _draw(self, came):
        at = 0
        for match in SEQUENCE.finditer(came):
            self._write(came[at : match.start()])
            at = match.end()
            if match[3] == "J":
                self.lines = {}
            elif match[3] == "H":
                self._line = int(match[2].partition(";")[0] or 1)
                self.lines[self._line] = ""
        text, escape, more = came[at:].partition("\x1b")
        self._write(text)
        self._rest = escape + more

    def _write(self, text):
        if text:
            self.lines[self._line] = self.lines.get(self._line, "") + text

    def is_as_before(self):
        """Tell whether the terminal's state is what it was, cursor and screen included."""
        self.text()
        shown, hidden = self.raw.rfind("\x1b[?25h"), self.raw.rfind("\x1b[?25l")
        ours, others = self.raw.rfind("\x1b[?1049l"), self.raw.rfind("\x1b[?1049h")
        return shown >= hidden and ours >= others and termios.tcgetattr(self.terminal) == self.before

    def close(self):
        """End it, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._outer)
        os.close(self.terminal)
