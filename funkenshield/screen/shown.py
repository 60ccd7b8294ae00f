"""What is shown of a daemon, from what it told a while ago and now; and what of that is no good.

It knows the daemon's words, and no screen. Rates and latencies are computed as for the web page.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..web.overview import Reading, overview
from .wording import duration, rate

SPAN = 3.0  # seconds that rates are of
HISTORY = 600  # rates that are kept, for the line of the last minutes
EXPIRES_SOON = 7 * 86400.0  # seconds

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """A line about what somebody should know of; `grave`: clients feel it, or soon will."""

    text: str
    grave: bool = True


@dataclass(frozen=True)
class Shown:
    """A daemon, as it was a moment ago."""

    about: Row  # version, host, pid
    told: Mapping[str, Any]  # what `overview` says
    has_rates: bool  # whether there was a reading before
    history: tuple[float, ...]  # queries a second, the latest last
    tables: Mapping[str, list[Row]]  # by name
    problems: tuple[Problem, ...]

    def rate(self, value: float) -> str:
        """Return a rate in words; where there was nothing to compare with, none."""
        return rate(value if self.has_rates else None)


class Readings:
    """What one daemon told, time after time."""

    def __init__(self) -> None:
        self._kept: deque[Reading] = deque()  # of the last SPAN seconds, and one before
        self._history: deque[float] = deque(maxlen=HISTORY)

    def take(self, status: Mapping[str, Any], at: float, unix: float | None = None) -> Shown:
        """Return what there is to show now, from a response to `status`.

        `at` is in seconds, of a clock that is never set. What lacks something raises LookupError, TypeError,
        ValueError or AttributeError: the daemon is of another version.
        """
        reading = Reading(at, time.time() if unix is None else unix, _counted(status))
        if self._kept and self._kept[-1].counted["start_time_seconds"] != reading.counted["start_time_seconds"]:
            self._kept.clear()  # it was restarted, and counts anew
        while len(self._kept) > 1 and self._kept[1].at <= at - SPAN:
            self._kept.popleft()
        before = self._kept[0] if self._kept else reading
        if self._kept:
            last = self._kept[-1]
            queries = reading.counted["queries"] - last.counted["queries"]
            self._history.append(max(queries, 0) / max(at - last.at, 0.001))
        self._kept.append(reading)
        told = overview(before, reading)
        return Shown(
            about=status["about"],
            told=told,
            has_rates=before is not reading,
            history=tuple(self._history),
            tables=_tables(told, status),
            problems=tuple(_problems(told, status, reading)),
        )


def _counted(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counters, with the state of upstreams that operators know: who decided it, and why."""
    counted = dict(status["stats"])
    states = [{"state": each["state"], "why": each["why"]} for each in status["upstreams"]]
    known = counted["upstreams"].items()
    counted["upstreams"] = {key: {**each, **state} for (key, each), state in zip(known, states, strict=True)}
    return counted


def _tables(told: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of all tables."""
    top, rules = status["top"], {each["name"]: each for each in status["rules"]}
    seconds = max(top["seconds"], 0.001)
    counted = sum(top["outcomes"].values())
    found: dict[str, list[Row]] = {
        f"{subject}s": [
            {
                "name": each[subject],
                "rate": each["queries"] / seconds,
                "share": each["queries"] / max(counted, each["queries"], 1),
                "unsure": each["error"] * 2 > each["queries"],
            }
            for each in top[f"{subject}s"]
        ]
        for subject in ("name", "client", "zone")
    }
    return found | {
        "upstreams": told["upstreams"],
        "rules": [{**each, **_of_rule(rules.get(each["name"], {}))} for each in told["rules"]],
        "blocks": status["blocks"],
        "failures": status["failures"],
        "changes": status["log"],
    }


def _of_rule(listed: Row) -> Row:
    """Return what a rule is for, and whether it is asked."""
    does = f"{listed.get('match') or 'everything'} -> {listed.get('action', '')}"
    return {"enabled": listed.get("enabled", True), "does": does}


def addresses_of(name: str, upstreams: Sequence[Row]) -> int:
    """Return how many addresses an upstream of this name has: it is one row for each, and is steered as one."""
    return sum(each["name"] == name for each in upstreams)


def name_of(row: Row, upstreams: Sequence[Row]) -> str:
    """Return the name of one of these upstreams; where it has several addresses, which of them this is, too."""
    name = str(row["name"])
    return f"{name} {row['address']}" if addresses_of(name, upstreams) > 1 else name


# ---------------------------------------------------------------- what is no good


def _problems(told: Mapping[str, Any], status: Mapping[str, Any], reading: Reading) -> Iterator[Problem]:
    """Yield what somebody should know of, the gravest first."""
    upstreams, outcomes = told["upstreams"], told["outcomes"]
    if upstreams and not any(each["up"] for each in upstreams):
        yield Problem("no upstream is in service: only what is cached is answered")
    if outcomes["failed"]:
        last = next(iter(status["failures"]), None)
        why = f", lately {last['name']} {last['type']}: {last['upstream']} {last['text']}" if last else ""
        yield Problem(f"{rate(outcomes['failed'])} queries/s fail for clients{why}")
    if outcomes["overload"]:
        yield Problem(f"{rate(outcomes['overload'])} queries/s are turned away: too many wait already")
    reload = next((each["text"] for each in status["log"] if each["text"].startswith("reload")), "")
    if reload.startswith("reload failed"):
        yield Problem(f"{reload}; the configuration before is in force")
    for each in upstreams:
        name = name_of(each, upstreams)
        if not each["up"]:
            by_command = "by command" in each["state"]
            why = "" if by_command or not each["why"] else f": {each['why']}"
            yield Problem(f"upstream {name} is {each['state']}{why}", grave=not by_command)
        elif each["suspected"]:
            yield Problem(f"upstream {name}: somebody seems to forge its answers; they are verified over TCP")
    for file, end in reading.counted.get("tls_certificate_expiry_timestamp_seconds", {}).items():
        left = end - reading.time
        if left < EXPIRES_SOON:
            when = f"expires in {duration(left)}" if left > 0 else "has expired"
            yield Problem(f"certificate {file} {when}", grave=left <= 0)
    for name in status["steered"]["rules disabled"]:
        yield Problem(f"rule {name} is disabled by command", grave=False)
    if level := status["steered"]["log level"]:
        yield Problem(f"the log's level is {level}, by command", grave=False)
