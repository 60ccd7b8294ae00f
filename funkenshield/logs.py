"""Lines on standard error: readable, or one JSON object each; and bounded where strangers cause them."""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

MINUTE = 60.0  # seconds between two lines of one kind
_all: WeakSet["RateLimited"] = WeakSet()


class JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with time (seconds since the epoch), level, logger and message."""
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(level: str, form: str) -> None:
    """Send everything from `level` on to standard error in this form; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


@dataclass(slots=True)
class _Kind:
    """When a kind of line was written last, how many were not since, and the latest of these."""

    since: float
    more: int
    latest: tuple[Any, ...]


class RateLimited:
    """Lines that clients and upstreams can cause: of each kind the first at once, then one a minute that says how many.

    What tells kinds apart is the caller's, and must not be a stranger's to choose.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        _all.add(self)

    def warning(self, kind: str, text: str, *values: object) -> None:
        """Write a line, unless one of this kind was written within a minute: then it is counted."""
        now = self._clock()
        before = self._kinds.get(kind)
        if before is None:
            self._log.warning(text, *values)
            self._kinds[kind] = _Kind(now, 0, ())
        else:
            before.more += 1
            before.latest = (text, *values)

    def summarize(self) -> None:
        """Write how many lines were not, of the kinds whose minute is over."""
        now = self._clock()
        for name, kind in list(self._kinds.items()):
            if kind.since + MINUTE > now:
                continue
            if kind.more:
                text, *values = kind.latest
                self._log.warning(f"{text}; %d like this in the last minute", *values, kind.more)
                self._kinds[name] = _Kind(now, 0, ())
            else:
                del self._kinds[name]


def summarize() -> None:
    """Have every kind of line that was held back summed up, once its minute is over; to be called now and then."""
    for each in list(_all):
        each.summarize()
