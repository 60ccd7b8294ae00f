"""Blocks of source prefixes at all nodes: what an operator blocks, or lets in again, at one of them.

It knows by the reason of a block who has told it. A message has the time at which a block ends, and not how long it
lasts, so it may be told again; what is in force, and what was let in lately, is what is told again.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ..config.guard import Refusal
from ..core.logs import RateLimited
from ..errors import FunkenShieldError

limited = RateLimited(logging.getLogger(__name__))

REMOVED = 600.0  # seconds for which it is known what was let in again
REMOVED_MAX = 4096


class Blocks(Protocol):
    """The prefixes that are blocked here."""

    def take(self, text: str, seconds: float, action: Refusal, reason: str) -> None:
        """Block a prefix, soon, or until it is over, which it may be; FunkenShieldError."""

    def remove(self, text: str) -> int:
        """Remove the blocks of a prefix, and of all within it; FunkenShieldError."""

    def listed(self) -> list[dict[str, Any]]:
        """Return the blocks: prefix, seconds, action, reason."""

    def holds(self, text: str) -> bool:
        """Tell whether a prefix, or any within it, is blocked."""


class SharedBlocks:
    """What one node tells, and hears, of blocks."""

    def __init__(self, node: str, blocks: Blocks, wall: Callable[[], float]) -> None:
        self._node, self._blocks, self._wall = node, blocks, wall
        self._removed: deque[tuple[float, str]] = deque(maxlen=REMOVED_MAX)

    @staticmethod
    def reason(node: str) -> str:
        """Return why a prefix is blocked that a node has blocked everywhere."""
        return f"by hand at {node}, for all nodes"

    def removed(self, prefix: str) -> None:
        """Note that this node tells that a prefix is let in again."""
        self._removed.append((self._wall(), prefix))

    def heard(self, node: str, prefix: str, until: int, action: Refusal) -> None:
        """Block what a node has blocked, until a time in milliseconds since the epoch; 0: let it in again."""
        with contextlib.suppress(FunkenShieldError):  # what another version means
            if until:
                seconds = until / 1000 - self._wall()
                self._blocks.take(prefix, seconds, action, self.reason(node))
                limited.info("blocked", "%s blocked by node %s for %.0f s: %s", prefix, node, seconds, action)
            elif self._blocks.remove(prefix):
                limited.info("unblocked", "%s not blocked any more, by node %s", prefix, node)

    def standing(self) -> list[dict[str, Any]]:
        """Return what is to be told again where the store has lost it, as members of messages."""
        now, own = self._wall(), self.reason(self._node)
        removed = {prefix: None for at, prefix in self._removed if at > now - REMOVED}
        return [
            *({"prefix": each, "until": 0} for each in removed if not self._blocks.holds(each)),
            *(
                {
                    "prefix": each["prefix"],
                    "until": int((now + each["seconds"]) * 1000),
                    "action": each["action"],
                }
                for each in self._blocks.listed()
                if each["reason"] == own
            ),
        ]
