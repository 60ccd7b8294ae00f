"""Purges, and blocks, for all nodes: a stream in the store, which each node reads from where it was.

    tell -> XADD -> the stream -> XREAD -> apply: purged here, and other names in the shared cache from now on

A message says what is purged, who says so and when; it is sealed. The time is its number: a sender's are only believed
in that order, so that nobody says an old one again, and each has the number of the purge that its sender told before
(`after`): whoever has not heard that one empties its cache, whatever became of it. What a node has told in the last
minutes, it tells again where the stream was lost.

The seals of the purges that concern a name are its `epoch`: part of what its entries are called in the shared cache.
"""

import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..config.guard import Refusal
from ..core.logs import RateLimited
from ..errors import FunkenShieldError
from ..forward._shared_cache import NAME_AT
from ..wire.names import name_from_wire
from .sealing import MESSAGE, SEAL, Sealer
from .shared_blocks import SharedBlocks

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
    time: int  # milliseconds since the epoch; later for each of a node's: its number
    name: str = ""  # on the wire, in hexadecimal; "" tells nothing but that the stream is there
    below: bool = True
    type: int = -1
    let_expire: bool = False
    serial: int = -1  # of the zone, where it is a new one
    after: int = 0  # the number of the purge that this node told before; 0: of none that it knows
    leaves: bool = False  # this node ends: nobody waits for it any more
    prefix: str = ""  # of sources, that is blocked; "": it tells nothing of blocks
    until: int = 0  # milliseconds since the epoch; 0: it is blocked no more
    action: Refusal = "drop"

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
    """Which purges concern a name: those of it, and of all names above it.

    All nodes hear purges in one order, and go by the last one. What this node has told, and not yet heard itself, is
    after all that it hears meanwhile, and before or after what others tell meanwhile: until then, its entries have
    names of its own.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._of: OrderedDict[bytes, tuple[float, bytes, float]] = OrderedDict()
        self._told: dict[bytes, dict[bytes, float]] = {}  # by name and seal, when

    def tell(self, name: bytes, seal: bytes, told: float) -> None:
        """Let a purge concern a name that this node tells, until it is heard."""
        self._told.setdefault(name, {})[seal] = told

    def told_anew(self) -> None:
        """Say that what was told and not heard is told by other messages."""
        self._told.clear()

    def add(self, name: bytes, seal: bytes, told: float, said: float = 0.0) -> None:
        """Let a purge of a time concern a name and all below it; where there are too many, all names.

        `said` is when its node said so, if that was before: a message that was kept back undoes no later one.
        """
        said = said or told
        if name in self._told:
            self._told[name].pop(seal, None)
            self._told = {each: seals for each, seals in self._told.items() if seals}
        while self._of and next(iter(self._of.values()))[0] < self._wall() - HORIZON:
            self._of.popitem(last=False)
        if len(self._of) >= EPOCHS_MAX and name not in self._of:
            self._of.clear()
            name = ROOT
        before = self._of.get(name)
        if before is not None and before[1] != seal and said < before[2] - APART:
            return
        self._of[name] = told, seal, said
        self._of.move_to_end(name)

    def of(self, key: bytes) -> bytes:
        """Return the epoch of the name in a cache key."""
        if not self._of and not self._told:
            return b""
        labels, end = [], NAME_AT
        while key[end]:
            labels.append(end)
            end += 1 + key[end]
        names = [key[at : end + 1] for at in (*labels, end)]
        oldest = self._wall() - HORIZON
        heard = b"".join(each[1] for each in map(self._of.get, names) if each is not None and each[0] > oldest)
        told = ((seal, at) for name in names for seal, at in self._told.get(name, {}).items()) if self._told else ()
        return heard + b"".join(b"told" + seal for seal, at in told if at > oldest)


@dataclass(eq=False)
class Purges:
    """What one node tells, and hears, of purges.

    `purge` takes a name out of this node's cache; `knows` tells whether it has found a zone's new serial by itself;
    `blocks` are those that all nodes have.
    `entries_since` is when this node began, in seconds since the epoch, with a cache that was empty.
    """

    node: str
    sealer: Sealer
    wall: Callable[[], float]
    purge: Callable[[Message], None]
    knows: Callable[[bytes, int], bool]
    _: KW_ONLY
    entries_since: float
    blocks: SharedBlocks
    epochs: Epochs = field(init=False)

    def __post_init__(self) -> None:
        self.epochs = Epochs(self.wall)
        self.position: StreamId | None = None  # of the last message that was heard
        self.heard = self.rejected = self.emptied = 0
        self.outbox: deque[Message] = deque()
        self.repeated_to = 0  # the number of the last message that was told again
        self.seen = {self.node: self.wall()}  # by node, when it said something, in seconds since the epoch
        self.since = 0.0  # seconds since the epoch: all epochs from then on are known
        self.emptied_to: StreamId = (0, 0)  # of the last message that there was when the cache was emptied
        self._recent: deque[Message] = deque(maxlen=WAITING_MAX)
        self._own: OrderedDict[bytes, None] = OrderedDict()  # seals
        self._latest: dict[str, tuple[float, int]] = {}  # by node, when its last message was heard, and its number
        self._carried_out: dict[str, int] = {}  # by node, up to which number what is in the cache was purged before
        self._blocked: dict[str, int] = {}  # by node, up to which number its blocks are in the table of the start
        self._is_live = False  # all that there was at the start has been heard
        self._serials: dict[tuple[bytes, int], float] = {}  # that some node has told of, and when
        self._last_serials: dict[bytes, int] = {}  # the last one, by zone
        self._last = self._purged = 0  # our last number, and that of our last purge

    # ---------------------------------------------------------------- told

    def message(self, **what: Any) -> Message:  # noqa: ANN401 - Message's own
        """Return a message of this node's, later than all before."""
        self._last = max(int(self.wall() * 1000), self._last + 1, self._number(self.node) + 1)
        return Message(self.node, self._last, after=self._purged, **what)

    def tell(self, message: Message) -> None:
        """Have a purge told; from now on, entries from before are not looked up. Where too many wait, all is purged."""
        if len(self.outbox) >= WAITING_MAX:
            self._purged = next((each.after for each in self.outbox if each.name), self._purged)
            self.outbox = deque(each for each in self.outbox if each.prefix)
            self.epochs.told_anew()
            self._recent.clear()
            message = self.message(name=ROOT.hex())
        self._note(message)
        self.epochs.tell(message.wire, self._seal(message), message.time / 1000)
        self.outbox.append(message)

    def tell_block(self, **what: Any) -> Message:  # noqa: ANN401 - Message's own
        """Have a block told, and return the message; FunkenShieldError where too much waits to be told."""
        if len(self.outbox) >= WAITING_MAX:
            raise FunkenShieldError(f"blocked here; other nodes are not told, for {WAITING_MAX} messages wait already")
        if not what["until"]:
            self.blocks.removed(what["prefix"])
        message = self.message(**what)
        self.outbox.append(message)
        return message

    def _note(self, message: Message) -> None:
        self._purged = message.time
        self._recent.append(message)

    def _seal(self, message: Message) -> bytes:
        return self.sealed(message)[:SEAL]

    def sealed(self, message: Message) -> bytes:
        """Return a message as it is told."""
        octets = json.dumps(asdict(message), separators=(",", ":")).encode()
        sealed = self.sealer.seal(MESSAGE, b"", octets)
        self._own[sealed[:SEAL]] = None
        while len(self._own) > WAITING_MAX:
            self._own.popitem(last=False)
        return sealed

    def is_news(self, zone: bytes, serial: int, *, back: bool = False) -> bool:
        """Tell whether no node has told of a zone's serial in the last minutes, and note that one has.

        One that the zone was set `back` to is news unless it was the last one told.
        """
        now = self.wall()
        self._serials = {key: told for key, told in self._serials.items() if told > now - REPEATED}
        news = (zone, serial) not in self._serials or (back and self._last_serials.get(zone) != serial)
        self._serials[zone, serial], self._last_serials[zone] = now, serial
        return news

    def repeat(self) -> None:
        """Tell the last minutes' messages again, and all that wait, for nobody may have heard them."""
        since, waiting = int((self.wall() - REPEATED) * 1000), set(self.outbox)
        recent = [each for each in self._recent if each.time > since or each in waiting]
        self._recent.clear()
        self.outbox.clear()
        self.epochs.told_anew()
        if recent:
            self._purged = recent[0].after  # who has heard that one misses nothing
        self.outbox.append(self.message())
        for each in recent:
            what = asdict(each)
            self.tell(self.message(**{key: what[key] for key in what.keys() - {"node", "time", "after"}}))
        self.outbox.extend(self.message(**each) for each in self.blocks.standing())
        self.repeated_to = self._last

    # ---------------------------------------------------------------- heard

    def hear(self, at: StreamId, sealed: object, *, emptied: bool = False) -> bool:
        """Take a message from the stream; False: its node told purges before that are not known.

        Then the cache is to be emptied, and the message taken with `emptied`.
        """
        try:
            message, name = self._opened(at, sealed)
        except (ValueError, ValidationError):
            self.position = at
            self.rejected += 1
            return True
        assert isinstance(sealed, bytes)
        seal = sealed[:SEAL]
        if seal not in self._own and not emptied and self._has_missed(message, at):
            return False
        self.position = at
        if not self._latest:
            self.since = max(self.since, at[0] / 1000, message.time / 1000)
        self._latest[message.node] = self.wall(), message.time
        self._see(message, at)
        if message.prefix and seal not in self._own and message.time > self._blocked.get(message.node, 0):
            self.blocks.heard(message.node, message.prefix, message.until, message.action)
        if not message.name:
            return True
        self.epochs.add(message.wire, seal, max(at[0], message.time) / 1000, min(at[0], message.time) / 1000)
        known = message.serial >= 0 and self.knows(message.wire, message.serial)
        if message.serial >= 0:
            self.is_news(message.wire, message.serial)
        if seal in self._own or known or self._is_carried_out(message.node, message.time, at[0]):
            return True
        self.heard += 1
        below = " and all below it" if message.below else ""
        limited.info("heard", "purged by node %s: %s%s", message.node, name, below)
        self.purge(message)
        return True

    def _opened(self, at: StreamId, sealed: object) -> tuple[Message, str]:
        """Return a message, and the name that it purges; ValueError where it is not to be believed."""
        octets = self.sealer.open(MESSAGE, b"", sealed)
        if octets is None:
            raise ValueError("not sealed by a node")
        message = MESSAGES.validate_json(octets)
        if message.time <= self._number(message.node):
            raise ValueError("said before")
        if message.time < at[0] - HORIZON * 1000:
            raise ValueError("kept back for too long, or its node's clock is wrong")
        return message, name_from_wire(message.wire) if message.name else ""

    def _has_missed(self, message: Message, at: StreamId) -> bool:
        """Tell whether purges that its node told before are not known, and concern what is in the cache."""
        if message.after <= self._number(message.node) or message.after / 1000 < self.wall() - HORIZON:
            return False
        self.since = max(self.since, message.after / 1000)
        return at > self.emptied_to and not self._is_carried_out(message.node, message.after, message.after)

    def _is_carried_out(self, node: str, number: int, at: int) -> bool:
        """Tell whether no entry is from before a purge: so it may be with those that were told before we began."""
        since = (self.entries_since - APART) * 1000
        return not self._is_live and (at < since or number <= self._carried_out.get(node, 0))

    def _see(self, message: Message, at: StreamId) -> None:
        """Note who is there, and what we have told ourselves, before the last start."""
        if message.leaves:
            self.seen.pop(message.node, None)
        else:
            self.saw(message.node, at[0] / 1000)
        if message.node == self.node:
            self._purged = max(self._purged, message.time if message.name else message.after)

    def saw(self, node: str, at: float) -> None:
        """Note that a node was there, in seconds since the epoch."""
        self.seen[node] = max(self.seen.get(node, 0.0), at)

    def _number(self, node: str) -> int:
        """Return the number of a node's last message that was heard."""
        return self._latest.get(node, (0.0, 0))[1]

    def caught_up(self) -> None:
        """Say that all there is has been heard."""
        if not self._latest:
            self.since = max(self.since, self.wall())
        self._is_live = True

    def empty(self, last: StreamId) -> None:
        """Empty this node's cache, for it is not known what was purged up to the last message that there is."""
        log.warning("cluster: purges were missed while the store was not reached; the whole cache is purged")
        self.emptied += 1
        self.since, self.emptied_to = self.wall(), last
        self.purge(Message(self.node, int(self.since * 1000), ROOT.hex()))

    # ---------------------------------------------------------------- another process in our place

    def numbers(self, within: float = HORIZON) -> dict[str, int]:
        """Return up to which number each node's purges are carried out, of those that spoke in so many seconds."""
        since = self.wall() - within
        before = {node: number for node, number in self._carried_out.items() if number / 1000 > since}
        return before | {node: number for node, (heard, number) in self._latest.items() if heard > since}

    def carried_out(self, numbers: Mapping[str, int]) -> None:
        """Say up to which number each node's purges are carried out in what is in the cache at the start."""
        self.entries_since, self._carried_out = 0.0, dict(numbers)

    def handed_over(self) -> dict[str, Any]:
        """Return what another process needs that goes on in our place."""
        waiting = [each.time for each in self.outbox if each.name]
        recent = [*self._recent, *(each for each in self.outbox if each.prefix)]
        return {"purged": self._purged, "waiting": waiting, "recent": [asdict(each) for each in recent]}

    def take_over(self, purged: int, waiting: Sequence[int], recent: Sequence[Mapping[str, Any]]) -> None:
        """Go on as the process before, with the blocks that it had."""
        self._blocked = self._carried_out
        messages = sorted(map(MESSAGES.validate_python, recent), key=lambda each: each.time)
        for message in messages:
            if message.name:
                self._note(message)
                note = self.epochs.tell if message.time in waiting else self.epochs.add
                note(message.wire, self._seal(message), message.time / 1000)
            if message.prefix or message.time in waiting:
                self.outbox.append(message)
        self._purged = purged
        self._last = max([purged, *(each.time for each in messages)])
