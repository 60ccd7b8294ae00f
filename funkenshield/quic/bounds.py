"""How many connections there may be, what they may hold, and who gives way: fair shares by client prefix; and time.

It knows connections as what has a prefix, and can be closed. All of it lives in one process, on one thread.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from ..core._rate_limit import RateTable
from ..core.fair_shares import SHARE, Holders, Shares, may_take_one_more

HANDSHAKES_MAX = 1000  # at once
SOURCES = 1 << 20  # octets of memory for who began how many handshakes
# Of the time: for whoever is unknown, for packets that nobody can say who is by, and for connections that begin.
OF_STRANGERS, OF_RESETS, OF_HANDSHAKES = 0.25, 0.05, 0.5
BURST = 0.05  # seconds of each, at once
FORGOTTEN = 1e-6  # seconds that are owed, or the part of them that is left
CANDIDATES = 8  # connections of a prefix among which an idle one is looked for


class Limits(NamedTuple):
    """What connections may be, and hold."""

    max_connections: int
    max_connections_per_client: int  # 0: as many as its prefix may have
    memory: int  # octets that wait, in either direction
    max_in_flight: int  # queries of a connection
    write_buffer: int  # octets that a client leaves unread
    idle_timeout: float
    handshakes_per_client: float  # per second; 0: any number
    handshake_timeout: float


class Held(Protocol):
    """A connection, as far as it is bounded."""

    number: int
    client: bytes  # as `client_of` has it
    prefix: bytes
    began: float

    @property
    def is_idle(self) -> bool:
        """Whether its client waits for nothing."""

    def give_way(self, now: float) -> None:
        """End, with a word to the client."""


class Share:
    """The part of the time that some kind of work may take of the processor, which waits, or is left, beyond that.

    What was not taken is kept for a burst of so many seconds.
    """

    def __init__(self, part: float, burst: float) -> None:
        self._part, self._burst, self._left, self._seen = part, burst, burst, 0.0

    def has_time(self, now: float) -> bool:
        """Tell whether more may be done."""
        self._left = min(self._left + max(now - self._seen, 0.0) * self._part, self._burst)
        self._seen = now
        return self._left > 0

    def spend(self, seconds: float) -> None:
        """Note how long something took, without what others did meanwhile."""
        self._left -= seconds


class FairShare:
    """A part of the time likewise, in which each client prefix has its fair share; time pays off all debts alike.

    Nothing here takes longer the more prefixes there are; those whose debts are next to nothing are forgotten.
    """

    def __init__(self, part: float, burst: float) -> None:
        self._part, self._burst, self._seen = part, burst, 0.0
        self._owed, self._scale = 0.0, 1.0
        self._of: dict[bytes, float] = {}  # what each owes, by that scale

    def may_begin(self, prefix: bytes, now: float) -> bool:
        """Tell whether more may be begun for a prefix."""
        self._pay_off(now)
        return may_take_one_more(self._of.get(prefix, 0.0) * self._scale, self._burst - self._owed)

    def may_go_on(self, prefix: bytes, now: float) -> bool:
        """Tell whether what was begun may go on: for whoever has had little of as much again, or it was for nothing."""
        return self.may_begin(prefix, now) or (
            SHARE * self._of.get(prefix, 0.0) * self._scale < 2 * self._burst - self._owed
        )

    def spend(self, prefix: bytes, seconds: float) -> None:
        """Note how long something took for a prefix; beyond a tenth of what is had at once, others had that time."""
        seconds = min(seconds, self._burst / 10)
        self._owed += seconds
        self._of[prefix] = self._of.get(prefix, 0.0) + seconds / self._scale

    def _pay_off(self, now: float) -> None:
        left = self._owed - self._part * max(now - self._seen, 0.0)
        self._seen = now
        if left <= 0:
            self._of.clear()
            self._owed, self._scale = 0.0, 1.0
            return
        self._scale *= left / self._owed
        self._owed = left
        if self._scale < FORGOTTEN:
            owing = {prefix: each * self._scale for prefix, each in self._of.items()}
            self._of = {prefix: each for prefix, each in owing.items() if each > FORGOTTEN}
            self._scale = 1.0


def client_of(address: bytes) -> bytes:
    """Return what counts as one client: an IPv4 address, or an IPv6 /64."""
    return address if len(address) == 4 else address[:8]


class Bounds:
    """All connections of this process."""

    def __init__(self, limits: Limits, counters: Counter[str]) -> None:
        self.limits, self.counters = limits, counters
        self._handshake_rate: RateTable | None = None
        self._holders: Holders[Held] = Holders()
        self._prefixes, self._memory = Shares(), Shares()
        self._clients: Counter[bytes] = Counter()
        self._handshakes: OrderedDict[int, Held] = OrderedDict()
        self.of_strangers, self.of_resets = Share(OF_STRANGERS, BURST), Share(OF_RESETS, BURST)
        self.of_handshakes = FairShare(OF_HANDSHAKES, BURST)
        self.configure(limits)

    def configure(self, limits: Limits) -> None:
        """Apply these limits from now on."""
        if limits.handshakes_per_client != self.limits.handshakes_per_client or self._handshake_rate is None:
            rate = limits.handshakes_per_client
            self._handshake_rate = RateTable(SOURCES, rate, 1.0) if rate > 0 else None
        self.limits = limits

    def __len__(self) -> int:
        """Return how many connections there are."""
        return self._prefixes.taken

    @property
    def memory(self) -> int:
        """How many octets wait."""
        return self._memory.taken

    def may_begin(self, address: bytes, now: float) -> bool:
        """Count a handshake that a client begins; False: he has begun too many."""
        if self._handshake_rate is None or not self._handshake_rate.exceeds(address, int(now * 1e9)):
            return True
        self.counters["handshakes_limited"] += 1
        return False

    def admit(self, held: Held, now: float) -> bool:
        """Take a connection, whose handshake begins; False: there is no room for it."""
        most = self.limits.max_connections_per_client
        if (most and self._clients[held.client] >= most) or not self._make_room(held.prefix, now):
            self.counters["refused"] += 1
            return False
        self._prefixes.add(held.prefix, 1)
        self._clients[held.client] += 1
        self._holders.add(held.prefix, held.number, held)
        self._handshakes[held.number] = held
        self.counters["accepted"] += 1
        if len(self._handshakes) > HANDSHAKES_MAX:
            next(iter(self._handshakes.values())).give_way(now)
        return True

    def _make_room(self, prefix: bytes, now: float) -> bool:
        """Let one more of a prefix in, in place of its own that is idle the longest, or of whoever has more."""
        if self._prefixes.may_take(prefix, self.limits.max_connections):
            return True
        own = self._holders.of(prefix)
        idle = next((each for each in islice(own.values(), CANDIDATES) if each.is_idle), None)
        if idle is None and self._prefixes.taken >= self.limits.max_connections and len(own) < self._holders.most:
            idle = self._holders.oldest_of_most()
        if idle is None:
            return False
        self.counters["evicted"] += 1
        idle.give_way(now)
        return True

    def end_handshake(self, held: Held) -> None:
        """Note that a handshake is over."""
        self._handshakes.pop(held.number, None)

    def is_shaking(self, held: Held) -> bool:
        """Tell whether a handshake goes on."""
        return held.number in self._handshakes

    def touch(self, held: Held) -> None:
        """Note that a client has asked."""
        self._holders.move(held.prefix, held.number)

    def count(self, held: Held, octets: int) -> bool:
        """Count what a connection holds more than before; False: its prefix holds more than its share."""
        self._memory.add(held.prefix, octets)
        free = self.limits.memory - self._memory.taken
        return octets <= 0 or self._memory.of(held.prefix) <= SHARE * free

    def remove(self, held: Held) -> None:
        """Forget a connection, which holds nothing any more."""
        self.end_handshake(held)
        self._prefixes.add(held.prefix, -1)
        self._clients[held.client] -= 1
        if not self._clients[held.client]:
            del self._clients[held.client]
        self._holders.remove(held.prefix, held.number)

    def end_handshakes(self, now: float) -> None:
        """End handshakes that take too long."""
        for held in self._late(now - self.limits.handshake_timeout):
            held.give_way(now)

    def _late(self, since: float) -> Iterator[Held]:
        while self._handshakes:
            oldest = next(iter(self._handshakes.values()))
            if oldest.began > since:
                return
            yield oldest
