"""What all who ask may take of the control thread together, and what of that one client prefix may."""

from collections.abc import Callable

from ..core.fair_shares import may_take_one_more

SHARE = 0.02  # of the time, unless said otherwise
BURST = 0.125  # seconds of it at once, of which one prefix has four fifths


class Budget:
    """Time that was spent for each prefix, and is not paid off yet; time pays off all debts alike.

    What a request will take is known only afterwards: who begins with something left may end with less than nothing.
    """

    def __init__(self, elapsed: Callable[[], float], share: float = SHARE) -> None:
        self._elapsed, self._paid_at, self._share = elapsed, elapsed(), share
        self._owed: dict[bytes, float] = {}

    def has_turn(self, prefix: bytes) -> bool:
        """Tell whether a prefix may take something now."""
        self._pay_off()
        return may_take_one_more(self._owed.get(prefix, 0.0), BURST - sum(self._owed.values()))

    def spend(self, prefix: bytes, seconds: float) -> None:
        """Note what was taken for a prefix."""
        self._owed[prefix] = self._owed.get(prefix, 0.0) + seconds

    def _pay_off(self) -> None:
        now, owed = self._elapsed(), sum(self._owed.values())
        left = max(0.0, owed - self._share * (now - self._paid_at))
        self._owed = {prefix: each * left / owed for prefix, each in self._owed.items()} if left else {}
        self._paid_at = now
