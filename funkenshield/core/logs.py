"""Lines on standard error: readable, or one JSON object each; and bounded where strangers cause them.

Nobody who logs waits for the reader of standard error: a thread does. What does not fit is counted, and reported
once there is room.
"""

import json
import logging
import os
import queue
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

MINUTE = 60.0  # seconds between two lines of one kind
LINES = 1000  # that wait to be written
RECENT = 50  # lines that are kept for who looks later
OF_QUERIES = "funkenshield.rules"  # which logs single queries, where rules say so: of these, none is kept
FLUSH_TIMEOUT = 1.0  # seconds in which the last ones are written
_all: WeakSet["RateLimited"] = WeakSet()


class JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with time (seconds since the epoch), level, logger and message."""
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class NonBlockingHandler(logging.Handler):
    """Has lines written to a descriptor by a thread, and never waits: a pipe that nobody reads stops nobody.

    The thread takes no lock while it writes, so that nothing at the end of the process waits for it either.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.lost = 0  # lines for which there was no room, and that were not reported yet
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(LINES)
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written, or count it."""
        try:
            line = self.format(record)
        except Exception as error:  # a record that cannot be put into words
            line = f"a line of the log is wrong: {error!r}, at {record.pathname}:{record.lineno}"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def flush_within(self, seconds: float) -> None:
        """Wait until all is written, at most so long."""
        end = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _write_all(self) -> None:
        while True:
            written = self._write(self._lines.get())
            self.acquire()
            lost, self.lost = (self.lost, 0) if written else (0, self.lost + 1)
            self.release()
            if lost:
                text = "%d log lines lost: standard error could not be written in time"
                self._write(self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (lost,), None)))
            self._lines.task_done()

    def _write(self, line: str) -> bool:
        """Write a line, however long that takes; False: it cannot be written."""
        left = f"{line}\n".encode(errors="backslashreplace")
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process has made this pipe non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # nobody will ever read it, or the disk is full
                return False
        return True


class RecentHandler(logging.Handler):
    """Keeps the last lines that tell what changed, whatever becomes of standard error."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.addFilter(lambda record: record.name != OF_QUERIES or record.levelno > logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; what cannot be put into words is told by who writes it."""
        try:
            text = record.getMessage()
        except Exception:
            return
        self.kept.appendleft({"time": round(record.created, 3), "level": record.levelname.lower(), "text": text})


_handler: NonBlockingHandler | None = None
_recent = RecentHandler()


def recent() -> list[dict[str, Any]]:
    """Return the last lines from "info" on that were logged, the latest first."""
    return list(_recent.kept)


def set_up(level: str, form: str) -> None:
    """Send everything from `level` on to standard error in this form; may be called again."""
    global _handler  # noqa: PLW0603 - as there is one standard error
    if _handler is None and sys.__stderr__ is not None:  # without it, its number may be any file's
        _handler = NonBlockingHandler(sys.__stderr__.fileno())
    root = logging.getLogger()
    root.handlers[:] = [_handler or logging.NullHandler(), _recent]
    root.handlers[0].setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Log an exception that nobody can catch."""
    logging.getLogger(__name__).error("%s: %r", unraisable.err_msg or "unraisable exception", unraisable.exc_value)


def flush() -> None:
    """Wait for the last lines, but not for ever."""
    if _handler is not None:
        _handler.flush_within(FLUSH_TIMEOUT)


@dataclass(slots=True)
class _Kind:
    """When a kind of line was written last, how many were not since, and the latest of these."""

    since: float
    level: int
    more: int
    latest: tuple[Any, ...]


class RateLimited:
    """Lines that others can cause: of each kind the first at once, then one a minute that says how many.

    The kind is the caller's choice, and must not be a client's.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        _all.add(self)

    def info(self, kind: str, text: str, *values: object) -> None:
        """Do as `warning` does, for what is as it should be."""
        self._write(logging.INFO, kind, text, values, 1)

    def warning(self, kind: str, text: str, *values: object, times: int = 1) -> None:
        """Write a line for what happened so many times, unless one of its kind was within a minute: then it counts."""
        self._write(logging.WARNING, kind, text, values, times)

    def _write(self, level: int, kind: str, text: str, values: tuple[object, ...], times: int) -> None:
        now = self._clock()
        before = self._kinds.get(kind)
        if before is not None:
            before.more += times
            before.latest = (text, *values)
            return
        if times > 1:
            text, values = f"{text}; %d like this", (*values, times)
        self._log.log(level, text, *values)
        self._kinds[kind] = _Kind(now, level, 0, ())

    def summarize(self) -> None:
        """Write how many lines were not, of the kinds whose minute is over."""
        now = self._clock()
        for name, kind in list(self._kinds.items()):
            if kind.since + MINUTE > now:
                continue
            if kind.more:
                text, *values = kind.latest
                self._log.log(kind.level, f"{text}; %d like this in the last minute", *values, kind.more)
                self._kinds[name] = _Kind(now, kind.level, 0, ())
            else:
                del self._kinds[name]


def summarize() -> None:
    """Have every kind of line that was held back summed up, once its minute is over; to be called now and then."""
    for each in list(_all):
        each.summarize()
