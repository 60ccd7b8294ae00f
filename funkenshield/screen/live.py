"""The screen while it is looked at: the daemon asked once a second, keys read, signals followed, frames drawn.

All of that is done by one event loop; nothing of it waits for a daemon that does not answer.
"""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..admin.control import ask_meanwhile
from ..errors import FunkenShieldError
from .frame import Daemon, Look, frame
from .shown import Readings
from .terminal import Keys, Terminal
from .viewer import Request, Viewer

ANSWERING = 5.0  # seconds that a daemon has to say how it is
LEISURE = 9  # times as long as an answer took pass before it is asked again
ESCAPE = 0.05  # seconds in which the rest of a key comes that begins with Escape
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
Ask = Callable[[Path, dict[str, Any], float], Awaitable[dict[str, Any]]]


def console() -> Console:
    """Return the console that frames are made for: no text of them means anything but itself."""
    return Console(markup=False, emoji=False, highlight=False)


def look_of(console: Console, size: tuple[int, int]) -> Look:
    """Return what a console of this size can show."""
    return Look(*size, colours=console.color_system is not None and not console.no_color)


def knows_ascii_only(console: Console) -> bool:
    """Tell whether a console lacks what bars are drawn with, as that of Linux does."""
    return not console.encoding.lower().startswith("utf") or os.environ.get("TERM") == "linux"


def watch(places: Sequence[Path], interval: float, *, ascii: bool) -> None:
    """Show the first of these daemons until somebody has seen enough; FunkenShieldError where that cannot be."""
    made = console()
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise FunkenShieldError("this is no terminal; --once prints one frame, --json one object")
    if made.is_dumb_terminal:
        raise FunkenShieldError("this terminal cannot show it (TERM=dumb); --once prints one frame")
    terminal = Terminal(made, ascii=ascii or knows_ascii_only(made))
    asyncio.run(Live(places, interval, terminal).run())


class Live:
    """One screen, from its first frame to its last."""

    def __init__(
        self, places: Sequence[Path], interval: float, terminal: Terminal, ask: Ask = ask_meanwhile
    ) -> None:  # fmt: skip
        """`interval` is how many seconds there are between two questions to the daemon, at least one."""
        self._places, self._interval, self._terminal, self._ask = places, interval, terminal, ask
        self._viewer, self._keys = Viewer(), Keys()
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[None]
        self._select(0)

    @property
    def _place(self) -> Path:
        """The control socket of the daemon that is looked at."""
        return self._places[self._number]

    def _select(self, number: int) -> None:
        """Look at another daemon."""
        self._number, self._readings, self._gone, self._since = number, Readings(), "", 0.0
        self._viewer.shown, self._viewer.opened = None, None

    async def run(self) -> None:
        """Show it until it is to end; what goes wrong is raised once the terminal is as it was."""
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        loop.set_exception_handler(lambda _, context: self._fail(context))
        for number in ENDING:
            loop.add_signal_handler(number, self._finish)
        with self._terminal:
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
            loop.add_signal_handler(signal.SIGTSTP, self._stop)
            loop.add_signal_handler(signal.SIGCONT, self._resume)
            loop.add_reader(self._terminal.input, self._read)
            try:
                self._begin(self._ask_always())
                await self._end
            finally:
                loop.remove_reader(self._terminal.input)
                for task in self._tasks:
                    task.cancel()

    def _begin(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        """Have something done meanwhile; where it fails, all ends."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self._fail({"exception": error})

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    def _finish(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    def _fail(self, context: dict[str, Any]) -> None:
        """End because of an error; a terminal that is gone is no error."""
        if not self._end.done():
            error = context.get("exception") or RuntimeError(context.get("message"))
            is_gone = isinstance(error, OSError | termios.error)
            self._end.set_result(None) if is_gone else self._end.set_exception(error)

    # ---------------------------------------------------------------- the daemon

    async def _ask_always(self) -> None:
        """Ask how it is, again and again."""
        while True:
            begun = time.monotonic()
            if not self._viewer.paused:
                await self._update()
            self._draw()
            took = time.monotonic() - begun
            await asyncio.sleep(max(self._interval - took, LEISURE * took if not self._gone else 0.0, 0.05))

    async def _update(self) -> None:
        """Ask how it is, once."""
        readings, place = self._readings, self._place
        try:
            status = await self._ask(place, {"command": "status", "limit": self._viewer.limit}, ANSWERING)
            shown = readings.take(status, time.monotonic())
        except FunkenShieldError as error:
            gone = str(error).removeprefix(f"{place}: ").removeprefix("no daemon answers on this control socket: ")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            gone = f"its answer is not understood, it may be of another version: {error!r}"
        else:
            gone, self._since = "", time.time()
            if readings is self._readings:
                self._viewer.shown = shown
        if readings is self._readings:  # the same daemon is still looked at
            self._gone = gone

    async def _steer(self, place: Path, request: Request) -> None:
        """Have the daemon at a place do something; say what it answers, and its place if another is looked at now."""
        try:
            response = await self._ask(place, dict(request.members), request.timeout)
            if place != self._place and request.explains:
                return
            said, is_bad = request.done(response), False
        except (FunkenShieldError, ValueError) as error:
            said, is_bad = str(error), True
        if place != self._place:
            said = f"{place}: {said.removeprefix(f'{place}: ')}"
        self._viewer.say(said, bad=is_bad)
        self._draw()

    # ---------------------------------------------------------------- the terminal

    def _draw(self) -> None:
        daemon = Daemon(str(self._place), self._number + 1, len(self._places), self._gone, self._since, time.time())
        look = look_of(self._terminal.console, self._terminal.size)
        self._terminal.draw(frame(self._viewer, daemon, look))

    def _read(self) -> None:
        """Read keys, and do what they are for."""
        came = self._terminal.read()
        if not came:  # the terminal is gone
            self._finish()
            return
        self._press(self._keys.feed(came))
        if self._keys.is_waiting:
            asyncio.get_running_loop().call_later(ESCAPE, lambda: self._press(self._keys.feed(b"", all=True)))

    def _press(self, keys: list[str]) -> None:
        viewer = self._viewer
        for key in keys:
            if request := viewer.press(key):
                viewer.say("asking the daemon ...")
                self._begin(self._steer(self._place, request))
            if viewer.wants_end:
                self._finish()
                return
            if viewer.wants_other:
                viewer.wants_other = False
                self._other()
            if viewer.question is not None:  # what was typed or pasted before it could be read is no answer to it
                break
        self._draw()

    def _other(self) -> None:
        if len(self._places) == 1:
            self._viewer.say("no other daemon runs here", bad=True)
            return
        self._select((self._number + 1) % len(self._places))
        self._begin(self._update())

    def _resized(self) -> None:
        self._terminal.resized()
        self._draw()

    def _stop(self) -> None:
        """Give the terminal back, and stop until somebody brings it to the foreground."""
        loop = asyncio.get_running_loop()
        self._terminal.give_back()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._resume()

    def _resume(self) -> None:
        """Take the terminal again, whatever others did to it meanwhile."""
        with contextlib.suppress(OSError, termios.error):
            self._terminal.take()
        self._draw()
