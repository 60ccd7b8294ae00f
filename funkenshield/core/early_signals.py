"""Signals that come before the daemon can follow them: from the first instruction on, none kills it, and none is lost.

SIGTERM, SIGINT   end it at once, and cleanly
SIGHUP            is remembered; what it asks for is done once the daemon is ready
SIGUSR1, SIGUSR2  mean nothing yet

Once the daemon follows none any more, none means anything: Python would have them kill it while it winds up.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ALL = (*HELD, signal.SIGUSR1, signal.SIGUSR2)
_came: set[int] = set()


class EndedError(KeyboardInterrupt):
    """A signal ended the daemon before it handles signals; nobody but the command may catch it."""


def hold() -> None:
    """Have nothing happen by default; as process 1, what has no handler would be lost."""
    for number in HELD:
        signal.signal(number, _note)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def came(number: int) -> bool:
    """Tell whether a signal came while it was held; it is told once."""
    known = number in _came
    _came.discard(number)
    return known


def afterwards(before: Callable[..., Any] | int | None) -> Callable[..., Any] | int:
    """Return what a signal is to do that the daemon does not follow any more; `before`: what it did before that."""
    return signal.SIG_IGN if before is _note else before or signal.SIG_DFL


def _note(number: int, _: FrameType | None) -> None:
    _came.add(number)
    if number != signal.SIGHUP:
        raise EndedError
