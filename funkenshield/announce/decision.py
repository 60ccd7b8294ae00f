"""Whether routes are announced: what rounds of looking found, and when, decides.

It looks at nothing and reads no clock; times are seconds, monotonic.

    nothing said --rise good rounds--> announced --fall bad rounds, or the shield ends--> withdrawn --hold, rise--> ...
"""

from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from ..config.announce import AnnounceSection


class Seen(NamedTuple):
    """What one round has found."""

    trouble: str = ""  # why the shield does not answer well; "": it does
    leaving: str = ""  # why the routes must go at once; "": they need not
    last: bool = False  # nobody else would answer

    @property
    def why(self) -> str:
        """Return what speaks against the routes; "" if nothing does."""
        return self.leaving or self.trouble


@dataclass(frozen=True, slots=True)
class Standing:
    """How the routes stand, and what the next round needs to know of those before."""

    announced: bool | None = None  # None: nothing was said yet, and what another process has said is in force
    since: float = -inf  # when that changed
    hold: float = 0.0  # seconds for which they stay withdrawn at least
    good: int = 0  # rounds in a row
    bad: int = 0

    def held_until(self) -> float:
        """Return when they may be announced again."""
        return -inf if self.announced is None else self.since + self.hold


def decide(before: Standing, seen: Seen, now: float, section: AnnounceSection) -> Standing:
    """Return how the routes stand after another round.

    Of the last node, they are not withdrawn, and not held back once it answers well.
    """
    good, bad = (0, before.bad + 1) if seen.why else (before.good + 1, 0)
    after = replace(before, good=good, bad=bad)
    if before.announced is not True and good >= section.rise and (seen.last or now >= before.held_until()):
        return replace(after, announced=True, since=now)
    if before.announced is not False and (seen.leaving or bad >= section.fall) and not seen.last:
        return replace(after, announced=False, since=now, hold=_hold(before, now, section))
    return after


def _hold(before: Standing, now: float, section: AnnounceSection) -> float:
    """Return how long routes stay withdrawn: the sooner that comes after the last time, the longer."""
    settled = now - before.since >= section.hold_max
    return section.hold if settled or not before.hold else min(2 * before.hold, section.hold_max)
