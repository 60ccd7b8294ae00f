"""Fair shares of what is bounded, in Python: transfers, connections for metrics; `_fair_shares` has all others.

A client prefix may take one more only while it holds less than four times what is left free (dynamic thresholds,
Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998): one gets four fifths, many share what they take,
and somebody new finds room. It knows prefixes and numbers; what is shared, and what is evicted, is for others.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

SHARE = 4  # times what is free
IPV4_PREFIX, IPV6_PREFIX = 24, 56  # bits of an address that make one client prefix

Held = TypeVar("Held")


def prefix_of(address: bytes) -> bytes:
    """Return the prefix that an address of 4 or 16 octets counts for."""
    return address[: (IPV4_PREFIX if len(address) == 4 else IPV6_PREFIX) // 8]


def may_take_one_more(mine: float, free: float) -> bool:
    """Tell whether a prefix that holds so much may take one more while so much is free."""
    return mine < SHARE * free


class Shares:
    """How much of one bounded thing each prefix has taken; `taken` is the sum."""

    def __init__(self) -> None:
        self.taken = 0
        self._of: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Return how many prefixes have taken something."""
        return len(self._of)

    def of(self, prefix: bytes) -> int:
        """Return what a prefix has taken."""
        return self._of.get(prefix, 0)

    def may_take(self, prefix: bytes, limit: int) -> bool:
        """Tell whether a prefix may take one more, where there are `limit` in all."""
        return may_take_one_more(self.of(prefix), limit - self.taken)

    def add(self, prefix: bytes, amount: int) -> None:
        """Count what a prefix has taken, or with a negative amount, given back."""
        self.taken += amount
        left = self.of(prefix) + amount
        if left:
            self._of[prefix] = left
        else:
            self._of.pop(prefix, None)


class Holders(Generic[Held]):
    """What each prefix holds, by number, that which was moved longest ago first; and which prefix holds most.

    Prefixes stand in rows by how many they hold, so nothing here takes longer the more there are.
    """

    def __init__(self) -> None:
        self.most = 0  # that one prefix holds
        self._of: dict[bytes, OrderedDict[int, Held]] = {}
        self._rows: dict[int, OrderedDict[bytes, None]] = {}

    def of(self, prefix: bytes) -> OrderedDict[int, Held]:
        """Return what a prefix holds."""
        return self._of.get(prefix) or OrderedDict()

    def add(self, prefix: bytes, number: int, held: Held) -> None:
        """Let a prefix hold one more."""
        mine = self._of.setdefault(prefix, OrderedDict())
        mine[number] = held
        self._rank(prefix, len(mine) - 1, len(mine))
        self.most = max(self.most, len(mine))

    def remove(self, prefix: bytes, number: int) -> None:
        """Let a prefix hold one less."""
        mine = self._of[prefix]
        del mine[number]
        self._rank(prefix, len(mine) + 1, len(mine))
        if not mine:
            del self._of[prefix]
        if self.most not in self._rows:
            self.most -= 1

    def move(self, prefix: bytes, number: int) -> None:
        """Note that something moved now."""
        self._of[prefix].move_to_end(number)

    def oldest_of_most(self) -> Held:
        """Return what was moved longest ago of what the prefix with the most holds; there must be something."""
        return next(iter(self._of[next(iter(self._rows[self.most]))].values()))

    def _rank(self, prefix: bytes, before: int, after: int) -> None:
        row = self._rows.get(before)
        if row is not None:
            del row[prefix]
            if not row:
                del self._rows[before]
        if after:
            self._rows.setdefault(after, OrderedDict())[prefix] = None
