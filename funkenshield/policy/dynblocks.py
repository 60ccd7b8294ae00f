"""Dynamic blocks: source prefixes that exceeded a rate, and those that an operator has blocked.

The guard counts and raises alarms; this module decides which prefixes are blocked until when, and publishes them.
"""

import heapq
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from operator import attrgetter
from time import thread_time
from typing import Any

from ..config.guard import DynamicBlockSection, GuardSection, RateLimitSection, Refusal, RrlSection, packed
from ..config.types import parse_prefix
from ..core.logs import RateLimited
from ..errors import FunkenShieldError
from ._guard import Guard

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
PAUSE = 10  # times as long as it took to make the guard's table anew: so it takes a tenth of the thread at most
SHORT = {4: 8, 6: 16}  # bits, by IP version: to block a shorter prefix takes a confirmation


class BlockError(FunkenShieldError):
    """A block cannot be added or removed."""


@dataclass(frozen=True)
class Block:
    """A prefix that is blocked."""

    prefix: Network
    until: float  # seconds, of the clock
    action: Refusal
    reason: str

    @cached_property
    def packed(self) -> tuple[bytes, int, Refusal]:
        """What the guard has to know of it."""
        return self.prefix.network_address.packed, self.prefix.prefixlen, self.action


class Blocks:
    """All prefixes that are blocked now."""

    def __init__(self, guard: Guard, now: Callable[[], float]) -> None:
        self.added = 0
        self._guard = guard
        self._now = now
        self._limited = RateLimited(log, now)
        self._blocks: dict[Network, Block] = {}
        self._rules: tuple[DynamicBlockSection, ...] = ()
        self._max_blocked = GuardSection().max_blocked
        self._is_changed, self._publish_at = False, 0.0

    def __len__(self) -> int:
        return len(self._blocks)

    def configure(self, section: GuardSection) -> None:
        """Apply these settings; what is blocked stays blocked."""
        access, rrl = section.access, section.rrl
        self._rules, self._max_blocked = section.dynamic_blocks, section.max_blocked
        self._guard.set_access(
            packed(access.allow), packed(access.deny), default_allow=access.default == "allow",
            refuse=access.action == "refuse",
        )  # fmt: skip
        self._guard.set_limits(
            [(each.queries_per_second, each.window, *_lengths(each), each.action) for each in section.rate_limits]
        )
        ipv4, ipv6 = _lengths(rrl)
        self._guard.set_rrl(
            answers=rrl.responses_per_second, nxdomains=rrl.nxdomains_per_second, errors=rrl.errors_per_second,
            all=rrl.all_per_second, window=rrl.window, ipv4=ipv4, ipv6=ipv6, slip=rrl.slip, exempt=packed(rrl.exempt),
        )  # fmt: skip
        self._guard.set_dynblocks(
            [
                (each.type, each.rate, each.seconds, *_lengths(each), packed(each.exempt))
                for each in section.dynamic_blocks
            ]
        )

    def update(self) -> None:
        """Block the prefixes that exceeded a rate, and remove the blocks that have expired.

        However many they are, that takes no more than a share of the time: the guard may know them a little later.
        """
        now, begun = self._now(), thread_time()
        over = [prefix for prefix, block in self._blocks.items() if block.until <= now]
        for prefix in over:
            del self._blocks[prefix]
        alarms = self._guard.take_alarms()
        for number, address, bits in alarms:
            if number < len(self._rules):  # there may be fewer than when it was raised
                self._block(ip_network((address, bits)), self._rules[number], now)
        self._is_changed |= bool(alarms or over)
        self._publish_in_turn(now, begun)

    def _publish_in_turn(self, now: float, begun: float) -> None:
        """Have the guard know what has changed, unless it has done so a moment ago."""
        if self._is_changed and now >= self._publish_at:
            self._make_room(0)
            self._publish()
            self._publish_at = now + PAUSE * (thread_time() - begun)

    def _block(self, prefix: Network, rule: DynamicBlockSection, now: float) -> None:
        reason = rule.name or f"over {rule.rate:g} {rule.type} a second"
        if prefix not in self._blocks:
            self.added += 1
            self._limited.warning(reason, "%s blocked for %g s: %s", prefix, rule.duration, reason)
        until = now + rule.duration
        if prefix not in self._blocks or self._blocks[prefix].until <= until:  # an alarm never shortens a block
            self._blocks[prefix] = Block(prefix, until, rule.action, reason)

    def _make_room(self, places: int) -> None:
        """Remove the blocks that expire first, where there are too many for so many more."""
        excess = len(self._blocks) + places - self._max_blocked
        for block in heapq.nsmallest(excess, self._blocks.values(), key=attrgetter("until")):
            del self._blocks[block.prefix]

    def _publish(self) -> None:
        self._guard.set_blocks([block.packed for block in self._blocks.values()])
        self._is_changed = False

    # ---------------------------------------------------------------- for operators

    def listed(self) -> list[dict[str, Any]]:
        """Return the blocks, by the time that is left."""
        return [
            {"prefix": str(block.prefix), "seconds": round(block.until - self._now(), 1), "action": block.action,
             "reason": block.reason}
            for block in sorted(self._blocks.values(), key=lambda each: each.until)
        ]  # fmt: skip

    def add(
        self, text: str, seconds: float, action: Refusal = "drop", *, confirmed: bool = False, reason: str = "by hand"
    ) -> str:
        """Block a prefix for `seconds`, and return it; BlockError if it is none, or short and not `confirmed`."""
        if not 1 <= seconds <= 366 * 86400:
            raise BlockError("a block lasts 1 second to 366 days")
        prefix = _prefix(text)
        if prefix.prefixlen < SHORT[prefix.version] and not confirmed:
            raise BlockError(
                f"{prefix} has 2^{prefix.max_prefixlen - prefix.prefixlen} addresses;"
                " to block it nevertheless, add --yes"
            )
        self._make_room(prefix not in self._blocks)
        self._blocks[prefix] = Block(prefix, self._now() + seconds, action, reason)
        self._publish()
        return str(prefix)

    def take(self, text: str, seconds: float, action: Refusal, reason: str) -> None:
        """Block a prefix as another node does: soon, where there are many; BlockError if it is none."""
        now, begun = self._now(), thread_time()
        prefix = _prefix(text)
        self._blocks[prefix] = Block(prefix, now + seconds, action, reason)
        self._is_changed = True
        self._publish_in_turn(now, begun)

    def resume(self, listed: Iterable[Mapping[str, Any]]) -> None:
        """Block what another process has blocked, as `listed` there."""
        for each in listed:
            prefix = ip_network(each["prefix"])
            self._blocks[prefix] = Block(prefix, self._now() + each["seconds"], each["action"], each["reason"])
        self._make_room(0)
        self._publish()

    def remove(self, text: str) -> int:
        """Remove the blocks of a prefix and of all within it; return how many there were."""
        removed = list(self._within(_prefix(text)))
        for prefix in removed:
            del self._blocks[prefix]
        self._publish()
        return len(removed)

    def holds(self, text: str) -> bool:
        """Tell whether a prefix, or any within it, is blocked."""
        return any(self._within(_prefix(text)))

    def _within(self, wanted: Network) -> Iterator[Network]:
        return (
            prefix for prefix in self._blocks
            if prefix.version == wanted.version and prefix.subnet_of(wanted)  # type: ignore[arg-type]
        )  # fmt: skip


def _lengths(section: RateLimitSection | RrlSection | DynamicBlockSection) -> tuple[int, int]:
    return section.ipv4_prefix_length, section.ipv6_prefix_length


def _prefix(text: str) -> Network:
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise BlockError(str(error)) from None
