"""One frame, for those who have no terminal or no time: as text, or as one JSON object."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from ..admin.control import ask
from ..errors import FunkenShieldError
from .frame import Daemon, sheet
from .live import console, knows_ascii_only, look_of
from .shown import Readings, Shown
from .viewer import Viewer
from .wording import as_ascii

LIMIT = 20  # of what is asked for most


def read(place: Path, seconds: float) -> Shown:
    """Return what a daemon does within so many seconds."""
    readings = Readings()
    try:
        readings.take(ask(place, {"command": "status", "limit": LIMIT}), time.monotonic())
        time.sleep(seconds)
        return readings.take(ask(place, {"command": "status", "limit": LIMIT}), time.monotonic())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FunkenShieldError(
            f"{place}: its answer is not understood, it may be of another version: {error!r}"
        ) from None


def as_text(place: Path, shown: Shown, *, ascii: bool) -> None:
    """Print all of it, one table below the other."""
    made = console()
    with made.capture() as captured:
        made.print(
            sheet(Viewer(shown=shown), Daemon(str(place), now=shown.told["time"]), look_of(made, (made.width, 0)))
        )
    text = captured.get()
    sys.stdout.write(as_ascii(text) if ascii or knows_ascii_only(made) else text)


def as_json(place: Path, shown: Shown) -> str:
    """Return all of it: rates are per second, latencies in seconds."""
    problems = [{"text": each.text, "grave": each.grave} for each in shown.problems]
    told: dict[str, Any] = {"socket": str(place), "about": shown.about, "problems": problems}
    return json.dumps({**told, **shown.told, **shown.tables})
