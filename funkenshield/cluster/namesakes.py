"""Other processes that have this node's name: each writes over what the other says of itself.

It knows what was seen when, and for how long one process may follow another: a restart or the next pod is no namesake.
"""

from collections.abc import Callable

FOLLOWS = 120.0  # seconds in which a process may still be there whose place another has taken


class Namesakes:
    """Who was seen under this node's name, besides this process."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._seen: dict[str, tuple[float, float]] = {}  # by instance, when first and last, in seconds since the epoch

    def saw(self, instance: str) -> None:
        """Note that another process has said something of itself since this one did."""
        now = self._wall()
        first, last = self._seen.get(instance, (now, now))
        self._seen[instance] = (first if now - last < FOLLOWS else now), now

    @property
    def are_there(self) -> bool:
        """Tell whether one was seen for longer than it takes to follow another, and still is."""
        now = self._wall()
        self._seen = {instance: seen for instance, seen in self._seen.items() if now - seen[1] < FOLLOWS}
        return any(last - first >= FOLLOWS for first, last in self._seen.values())
