"""Is an upstream well? What real queries and checks say of it.

It knows when to mark an upstream down, when to check it and how its share of queries comes back. It sends nothing
(`pool` does) and reads no clock: signals, the results of checks and the time (seconds, monotonic) are given to it.

    up -- timeouts, ratios, failed checks --> down -- good checks, or time --> recovering --> up
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from ..config import HealthSection
from ..wire.messages import read_message
from ..wire.names import READ_MAX

BUCKET = 1.0  # seconds between two marks in the window
FIRST_SHARE = 1 / 16  # of an upstream that has just come back

TIMED_OUT = "timed out"

STATES = ("up", "recovering", "down", "up (forced)", "down (forced)")
Forced = Literal["auto", "up", "down"]


class Signals(NamedTuple):
    """What became of the queries to one upstream; all but `consecutive_failures` and `hedges_lost` only grow."""

    answered: int
    unanswered: int  # not in time, and errors of the network
    servfails: int  # of the answered
    consecutive_failures: int  # unanswered in a row, up to now
    hedges_lost: int = 0  # hedged in a row, up to now: another's answer came first, so nobody knows
    failure: str = TIMED_OUT  # what it did, the last time that a query failed


class Health:
    """Whether one upstream may be asked, and how much."""

    def __init__(self, settings: HealthSection, forced: Forced, now: float) -> None:
        """Take it for well."""
        self._seen = Signals(0, 0, 0, 0)
        self._now = now
        self._due = inf
        self._checking = False
        self._hold = self._wait = settings.interval
        self._good = self._bad = 0
        self._settings, self._forced = settings, forced
        self._start(now)

    def configure(self, settings: HealthSection, forced: Forced, now: float) -> None:
        """Follow a reload; what is known stays, but one that was forced starts as if new."""
        fresh, changed = self._forced != forced, self._settings != settings
        self._settings, self._forced, self._now = settings, forced, now
        if fresh:
            self._start(now)
            self.why = "forced by configuration"
        elif changed:
            due = self._due
            self._schedule_check(now)
            self._due = min(due, self._due) if self._checks_apply() else inf  # no reload puts a check off

    @property
    def in_service(self) -> bool:
        """Tell whether it may be asked."""
        return self._up if self._forced == "auto" else self._forced == "up"

    @property
    def state(self) -> str:
        """Name the state, as of the last time that was told."""
        if self._forced != "auto":
            return f"{self._forced} (forced)"
        if not self._up:
            return "down"
        return "up" if self.share(self._now) == 1 else "recovering"

    def share(self, now: float) -> float:
        """Return what it gets of its whole share, 0.0 to 1.0."""
        if not self.in_service:
            return 0.0
        slow = self._settings.slow_start
        if self._forced == "up" or now - self._up_since >= slow:
            return 1.0
        return FIRST_SHARE + (1 - FIRST_SHARE) * max(0.0, now - self._up_since) / slow

    def observe(self, signals: Signals, now: float) -> None:
        """Judge real queries; call it about once a second."""
        self._seen, self._now = signals, now
        if self._forced != "auto":
            return
        if not self._up:
            if self._settings.check == "off" and now >= self._down_until:
                self._mark_up("its hold time is over", now)
            return
        if reason := self._failure_reason(signals, now):
            self._mark_down(reason, now)
        elif self._checks_apply() and self._due == inf and not self._checking:
            self._due = now

    def check_due(self, now: float) -> bool:
        """Return True once for each check to be made; the next waits until it is `checked`."""
        if now < self._due or self._checking:
            return False
        self._due = inf
        if not self._checks_apply():
            return False
        self._checking = True
        return True

    def checked(self, well: bool, now: float) -> None:
        """Take the result of a check."""
        settings, self._now, self._checking = self._settings, now, False
        if not self._checks_apply():
            return
        self._good, self._bad = (self._good + 1, 0) if well else (0, self._bad + 1)
        if self._up and self._bad >= settings.fall:
            self._mark_down("health checks failed", now)
            return
        if not self._up and self._good >= settings.rise and now >= self._down_until:
            self._mark_up("health checks succeeded", now)
            return
        self._wait = settings.interval if self._up or well else self._backed_off(self._wait)
        self._due = now + self._wait

    def _failure_reason(self, signals: Signals, now: float) -> str:
        settings, marks = self._settings, self._marks
        # No response may have come while it was down: failures from before it came back do not count.
        failures = min(signals.consecutive_failures, signals.unanswered - self._changed.unanswered)
        if failures >= settings.fall:
            return f"{failures} queries in a row {_failed(signals)}"
        if signals.hedges_lost >= settings.fall and settings.check == "off":
            return f"{signals.hedges_lost} hedged queries in a row answered by another upstream first"
        while len(marks) > 1 and marks[1][0] <= now - settings.window:
            marks.popleft()
        base = marks[0][1]
        if now - marks[-1][0] >= BUCKET:
            marks.append((now, signals))
        answered, unanswered = signals.answered - base.answered, signals.unanswered - base.unanswered
        queries, servfails = answered + unanswered, signals.servfails - base.servfails
        if queries < max(1, settings.min_samples):
            return ""
        if unanswered / queries >= settings.timeout_ratio:
            return f"{100 * unanswered / queries:.0f} % of {queries} queries {_failed(signals)}"
        if answered and servfails / answered >= settings.servfail_ratio:
            return f"SERVFAIL in {100 * servfails / answered:.0f} % of {answered} responses"
        return ""

    def _start(self, now: float) -> None:
        self._up, self._up_since, self.why = True, -inf, ""
        self._reset_evidence(now)
        if self._settings.check == "always" and self._forced == "auto":
            self._due = now

    def _mark_down(self, reason: str, now: float) -> None:
        relapse = now - self._up_since <= self._settings.window
        self._hold = self._backed_off(self._hold) if relapse else self._settings.interval
        self._down_until = now + self._hold
        self._up, self.why = False, reason
        self._reset_evidence(now)

    def _mark_up(self, reason: str, now: float) -> None:
        self._up, self._up_since, self.why = True, now, reason
        self._reset_evidence(now)

    def _reset_evidence(self, now: float) -> None:
        """Let new evidence only count from here on."""
        self._good = self._bad = 0
        self._changed = self._seen
        self._marks = deque([(now, self._seen)])
        self._schedule_check(now)

    def _schedule_check(self, now: float) -> None:
        self._wait = self._settings.interval
        self._due = now + self._wait if self._checks_apply() else inf

    def _checks_apply(self) -> bool:
        check = self._settings.check
        suspect = not self._up or self._seen.hedges_lost >= self._settings.fall
        return self._forced == "auto" and (check == "always" or (check == "lazy" and suspect))

    def _backed_off(self, wait: float) -> float:
        return max(self._settings.interval, min(2 * wait, self._settings.max_backoff))


def _failed(signals: Signals) -> str:
    return TIMED_OUT if signals.failure == TIMED_OUT else f"failed; most recently, it {signals.failure}"


def check_query(name: str, type: str) -> bytes:
    """Return a query for a check: ID 0, recursion desired, no EDNS."""
    return dns.message.make_query(name, type, id=0).to_wire()


def is_healthy(response: bytes, rcodes: Sequence[str]) -> bool:
    """Tell whether a response to a check has one of these codes; one that is malformed, or huge, proves nothing."""
    if len(response) > READ_MAX:
        return False
    try:
        message = read_message(response)
    except dns.exception.DNSException:
        return False
    return bool(message.flags & dns.flags.QR) and dns.rcode.to_text(message.rcode()) in rcodes
