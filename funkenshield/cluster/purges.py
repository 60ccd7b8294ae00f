"""Purges for all nodes: a stream in the store, which each node reads from where it was.

    tell -> XADD -> the stream -> XREAD -> apply: purged here, and other names in the shared cache from now on

A message says what is purged, who says so and when; it is sealed, and a sender's are only believed in the order of its
clock, so that nobody says an old one again. Who was away reads on where it was; where what it missed is gone, it
empties its cache. What a node has told in the last minutes, it tells again where the stream was lost.

The seals of the purges that concern a name are its `epoch`: part of what its entries are called in the shared cache.
"""

import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..core.logs import RateLimited
from ..forward._shared_cache import NAME_AT
from ..wire.names import name_from_wire
from .sealing import MESSAGE, SEAL, Sealer

log = logging.getLogger(__name__)
limited = RateLimited(log)

HORIZON = 90000.0  # seconds; an hour longer than any entry lasts
EPOCHS_MAX = 65536  # names with an epoch of their own
APART = 60.0  # seconds between the clocks of nodes and the store, at most
REPEATED = 600.0  # seconds; what was told since is told again where the stream was lost
WAITING_MAX = 4096  # messages that are still to be told
ROOT = b"\0"

StreamId = tuple[int, int]


@dataclass(frozen=True)
class Message:
    """What one node tells all."""

    node: str
    time: int  # milliseconds since the epoch; another for each of a node's
    name: str = ""  # on the wire, in hexadecimal; "" tells nothing but that the stream is there
    below: bool = True
    type: int = -1
    let_expire: bool = False
    serial: int = -1  # of the zone, where it is a new one

    @property
    def wire(self) -> bytes:
        """Return the name on the wire."""
        return bytes.fromhex(self.name)


MESSAGES = TypeAdapter(Message)


def parse_id(text: bytes) -> StreamId:
    """Return the milliseconds and the number that an ID in a stream has; ValueError."""
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number)


class Epochs:
    """Which purges concern a name: those of it, and of all names above it."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._of: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def add(self, name: bytes, seal: bytes, told: float) -> None:
        """Let a purge of a time concern a name and all below it; where there are too many, all names."""
        while self._of and next(iter(self._of.values()))[0] < self._wall() - HORIZON:
            self._of.popitem(last=False)
        if len(self._of) >= EPOCHS_MAX and name not in self._of:
            self._of.clear()
            name = ROOT
        self._of[name] = told, seal
        self._of.move_to_end(name)

    def of(self, key: bytes) -> bytes:
        """Return the epoch of the name in a cache key."""
        if not self._of:
            return b""
        labels, end = [], NAME_AT
        while key[end]:
            labels.append(end)
            end += 1 + key[end]
        found = (self._of.get(key[at : end + 1]) for at in (*labels, end))
        oldest = self._wall() - HORIZON
        return b"".join(each[1] for each in found if each is not None and each[0] > oldest)


@dataclass(eq=False)
class Purges:
    """What one node tells, and hears, of purges.

    `purge` takes a name out of this node's cache; `knows` tells whether it has found a zone's new serial by itself.
    `entries_since` is until when purges are known that concern what is in the cache at the start, in seconds since the
    epoch.
    """

    node: str
    sealer: Sealer
    wall: Callable[[], float]
    purge: Callable[[Message], None]
    knows: Callable[[bytes, int], bool]
    _: KW_ONLY
    entries_since: float
    epochs: Epochs = field(init=False)

    def __post_init__(self) -> None:
        self.epochs = Epochs(self.wall)
        self.position: StreamId | None = None  # of the last message that was heard
        self.heard = self.rejected = self.emptied = 0
        self.outbox: deque[Message] = deque(maxlen=WAITING_MAX)
        self._recent: deque[Message] = deque(maxlen=WAITING_MAX)
        self._own: OrderedDict[bytes, None] = OrderedDict()  # seals
        self._latest: dict[str, int] = {}  # by node, the time of its last message
        self._serials: dict[tuple[bytes, int], float] = {}  # that some node has told of, and when
        self._last = 0

    # ---------------------------------------------------------------- told

    def message(self, **what: Any) -> Message:  # noqa: ANN401 - Message's own
        """Return a message of this node's, later than all before."""
        self._last = max(int(self.wall() * 1000), self._last + 1, self._latest.get(self.node, 0) + 1)
        return Message(self.node, self._last, **what)

    def tell(self, message: Message) -> None:
        """Have a message told; from now on, entries from before are not looked up."""
        if message.name:
            self._recent.append(message)
            self.epochs.add(message.wire, self.sealed(message)[:SEAL], message.time / 1000)
        self.outbox.append(message)

    def sealed(self, message: Message) -> bytes:
        """Return a message as it is told."""
        octets = json.dumps(asdict(message), separators=(",", ":")).encode()
        sealed = self.sealer.seal(MESSAGE, b"", octets)
        self._own[sealed[:SEAL]] = None
        while len(self._own) > WAITING_MAX:
            self._own.popitem(last=False)
        return sealed

    def is_news(self, zone: bytes, serial: int) -> bool:
        """Tell whether no node has told of a zone's serial in the last minutes, and note that one has."""
        now = self.wall()
        self._serials = {key: told for key, told in self._serials.items() if told > now - REPEATED}
        news = (zone, serial) not in self._serials
        self._serials[zone, serial] = now
        return news

    def repeat(self) -> None:
        """Tell the last minutes' messages again, for nobody may have heard them."""
        since = int((self.wall() - REPEATED) * 1000)
        recent, self._recent = [each for each in self._recent if each.time > since], deque(maxlen=WAITING_MAX)
        self.outbox.append(self.message())
        for each in recent:
            what = asdict(each)
            self.tell(self.message(**{key: what[key] for key in what.keys() - {"node", "time"}}))

    # ---------------------------------------------------------------- heard

    def hear(self, at: StreamId, sealed: object) -> None:
        """Take a message from the stream."""
        self.position = at
        octets = self.sealer.open(MESSAGE, b"", sealed)
        try:
            if octets is None:
                raise ValueError("not sealed by a node")
            message = MESSAGES.validate_json(octets)
            if message.time <= self._latest.get(message.node, 0):
                raise ValueError("said before")
            wire = message.wire
            name = name_from_wire(wire) if wire else ""
        except (ValueError, ValidationError):
            self.rejected += 1
            return
        assert isinstance(sealed, bytes)
        self._latest[message.node] = message.time
        if not wire:
            return
        self.epochs.add(wire, sealed[:SEAL], message.time / 1000)
        own, known = sealed[:SEAL] in self._own, message.serial >= 0 and self.knows(wire, message.serial)
        if message.serial >= 0:
            self.is_news(wire, message.serial)
        if own or known or at[0] / 1000 < self.entries_since - APART:  # no entry is from before
            return
        self.heard += 1
        below = " and all below it" if message.below else ""
        limited.info("heard", "purged by node %s: %s%s", message.node, name, below)
        self.purge(message)

    def empty(self) -> None:
        """Empty this node's cache, for what was purged is not known."""
        log.warning("cluster: purges were missed while the store was not reached; the whole cache is purged")
        self.emptied += 1
        self.purge(self.message(name=ROOT.hex()))
