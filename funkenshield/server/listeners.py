"""The listeners that are open: each an endpoint, its transport, its number, and its sockets.

    bind: what a configuration names, beside what is open -> follow: workers take it up -> housekeeping: the rest ends

A socket is of an endpoint and a protocol, whatever is spoken there: a listener with another transport keeps it. Numbers
are what workers, rules and counters know listeners by; one is given to another listener only when nothing of the one
before is left.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from socket import SOCK_DGRAM, SOCK_STREAM, socket
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..config import Config
from ..config.listeners import NAMES, Listener, ListenerSection
from ..config.types import Endpoint, overlaps
from ..core._limits import CONNECTION_WORKERS_MAX, LISTENERS_MAX
from ..core.logs import RateLimited
from ..errors import ConfigError
from . import sockets
from ._listener_table import ListenerTable
from .inherited import Inherited
from .xdp import QUEUES_OF_WORKER, Interfaces

if TYPE_CHECKING:
    from ..forward._miss_path import MissPath
    from ._http2 import Http2Listener
    from ._tls import TlsListener
    from .tcp import TcpServer
    from .udp import UdpServer

log = logging.getLogger(__name__)
limited = RateLimited(log)

Protocol = Literal["udp", "tcp", "quic"]
Place = tuple[Endpoint, Protocol]  # what sockets are bound to

PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    **dict.fromkeys(("udp+tcp", "xdp"), ("udp", "tcp")), **dict.fromkeys(("tls", "https", "http"), ("tcp",)),
    **dict.fromkeys(("quic", "h3"), ("quic",)),
}  # fmt: skip


class OpenListener(NamedTuple):
    """An address that clients come to."""

    number: int  # as workers, rules and counters know it
    endpoint: Endpoint
    transport: str
    udp: Sequence[socket] = ()  # one for each worker; or none
    tcp: Sequence[socket] = ()  # one for each worker that holds connections; or none
    quic: Sequence[socket] = ()  # the one of the process that QUIC comes to; or none
    tls: "TlsListener | None" = None
    http: "Http2Listener | None" = None
    section: ListenerSection | None = None  # what was said of it

    def __str__(self) -> str:
        name = NAMES.get(self.transport)
        return f"{self.endpoint} ({name})" if name else str(self.endpoint)


class Leaving(NamedTuple):
    """What is not listened on any more, and still answered from."""

    until: float  # seconds of the clock
    sockets: Mapping[Place, Sequence[socket]]
    listeners: Sequence[OpenListener]  # whose connections need what they have


def places_of(listener: Listener, config: Config) -> list[Place]:
    """Return what a listener's sockets are bound to."""
    protocols = PROTOCOLS[listener.section.transport]
    return [(listener.endpoint, each) for each in protocols if each != "tcp" or config.tcp.max_connections != 0]


class Listeners:
    """All listeners that are open, and those that are closing.

    Memory ownership: sockets are its own, also those that are `given`, by what they are bound to.
    """

    def __init__(self, workers: int, given: Mapping[Place, Sequence[socket]] | None = None) -> None:
        self._count: dict[Protocol, int] = {"udp": workers, "tcp": min(workers, CONNECTION_WORKERS_MAX), "quic": 1}
        self._sockets = dict(given or {})
        self._free = deque(range(LISTENERS_MAX))  # numbers; the one that has been free for the longest first
        self._leaving: list[Leaving] = []
        self._before: dict[int, int] = {}  # messages that came to others of a number
        self.interfaces = Interfaces(workers)
        self._queue_numbers: list[int] = []  # of queues of interfaces, for each worker; listeners have others
        self.open: list[OpenListener] = []

    def inherit(self, inherited: Inherited, config: Config) -> None:
        """Take the sockets that others have bound for the listeners of a configuration."""
        for place in {place for each in config.all_listeners for place in places_of(each, config)}:
            endpoint, protocol = place
            kind = SOCK_STREAM if protocol == "tcp" else SOCK_DGRAM
            if taken := inherited.take(endpoint, kind, self._count[protocol]):
                self._sockets[place] = [
                    sockets.fit(each, endpoint, protocol, config.udp.receive_buffer) for each in taken
                ]

    @property
    def sockets(self) -> list[socket]:
        """Return all sockets that clients come to."""
        return [each for several in self._sockets.values() for each in several]

    def serve(self, udp: "UdpServer", tcp: "TcpServer", miss_path: "MissPath") -> None:
        """Take those who serve what is followed from now on."""
        self._workers, self._tcp, self._outbox = udp.workers, tcp, miss_path.outbox
        self._kernel_answers = udp.kernel_answers
        self.interfaces.share_answers(udp.kernel_answers.use)

    # ---------------------------------------------------------------- as the configuration says

    def numbered(self, config: Config) -> list[Endpoint | None]:
        """Return what each number will mean; ConfigError where there are too few numbers."""
        found: list[Endpoint | None] = [None] * LISTENERS_MAX
        for (endpoint, _), number in self._numbers(config).items():
            found[number] = endpoint
        return found

    def _numbers(self, config: Config) -> dict[tuple[Endpoint, str], int]:
        """Return the numbers of listeners, by endpoint, which one over TCP shares with one over QUIC, and transport."""
        known = {(each.endpoint, each.transport): each.number for each in self.open}
        wanted = [(each.endpoint, each.section.transport) for each in config.all_listeners]
        if any(each.section.transport == "xdp" for each in config.all_listeners) and not self._queue_numbers:
            if len(self._free) < QUEUES_OF_WORKER:
                raise ConfigError(f"listeners: at most {LISTENERS_MAX - QUEUES_OF_WORKER} beside queues of interfaces")
            self._queue_numbers = [self._free.pop() for _ in range(QUEUES_OF_WORKER)]
        new = [each for each in wanted if each not in known]
        if len(new) > len(self._free):
            raise ConfigError(
                f"listeners: at most {LISTENERS_MAX}, those included that are being closed; try again in a minute"
            )
        known |= zip(new, self._free, strict=False)
        return {each: known[each] for each in wanted}

    def bind(self, config: Config) -> list[OpenListener]:
        """Return the listeners of a configuration, which are bound beside those that are open, for `follow`.

        Raises ConfigError, or BindError where one cannot be bound; nothing is bound then.
        """
        all_listeners = config.all_listeners
        names = {place: each for each in all_listeners for place in places_of(each, config)}
        new = [place for place in names if place not in self._sockets]
        numbers, others_have_none = self._numbers(config), False
        try:
            with ExitStack() as bound:
                for place in () if config.share_addresses else self._others(new):
                    sockets.probe(*place, NAMES.get(names[place].section.transport, place[1].upper()))
                others_have_none = True  # where it is in use nevertheless, another user's listeners are ours of before
                opened = {place: self._bind(place, config.udp.receive_buffer, bound) for place in new}
                bound.pop_all()
        except sockets.BindError as error:
            if self.open and config.user and (others_have_none or error.for_want_of_privileges):
                raise sockets.BindError(f"{error}; a restart binds before it switches to {config.user}") from None
            raise
        self._sockets |= opened
        return [self._opened(numbers[at, each.transport], Listener(at, each), config) for at, each in all_listeners]

    def _opened(self, number: int, listener: Listener, config: Config) -> OpenListener:
        there = {kind: self._sockets[at, kind] for at, kind in places_of(listener, config)}
        udp, tcp, quic = (there.get(kind, ()) for kind in self._count)
        section = listener.section
        return OpenListener(number, listener.endpoint, section.transport, udp, tcp, quic, section=section)

    def attach(self, listeners: Iterable[OpenListener]) -> None:
        """Have interfaces give us the queries for these, as far as that can be."""
        self.interfaces.configure(
            (each.endpoint, each.section, each.number) for each in listeners if each.section and each.transport == "xdp"
        )
        self.interfaces.follow()

    def _others(self, new: Iterable[Place]) -> list[Place]:
        """Return the places that nothing of ours is at: what is taken there, others have."""
        held = [*self._sockets, *(place for each in self._leaving for place in each.sockets)]
        ours = {kind: [endpoint for endpoint, protocol in held if protocol == kind] for kind in self._count}
        return [(at, kind) for at, kind in new if at not in ours[kind] and not overlaps(at, ours[kind])]

    def _bind(self, place: Place, receive_buffer: int, bound: ExitStack) -> list[socket]:
        endpoint, protocol = place
        opened = sockets.bind(endpoint, protocol, self._count[protocol], receive_buffer)
        return [bound.enter_context(each) for each in opened]

    def follow(
        self,
        listeners: Iterable[OpenListener],
        encrypting: "Mapping[Endpoint, TlsListener]",
        requested: "Mapping[Endpoint, Http2Listener]",
        until: float,
    ) -> None:
        """Have workers serve these, and no others: what has come to others by now is answered `until` then."""
        before, counted = self.open, self._messages()
        self.open = [
            each._replace(tls=encrypting.get(each.endpoint), http=requested.get(each.endpoint)) if each.tcp else each
            for each in listeners
        ]
        numbers, known = {each.number for each in self.open}, {each.number for each in before}
        self._free = deque(number for number in self._free if number not in numbers)
        self._before |= {number: counted[number] for number in numbers - known}
        used = {(each.endpoint, kind) for each in self.open for kind in self._count if getattr(each, kind)}
        unused = {place: self._sockets.pop(place) for place in self._sockets.keys() - used}
        for (_, protocol), several in unused.items():
            if protocol == "udp":
                sockets.turn_away(several)  # those for QUIC are another process's
        self.attach(self.open)
        self._publish()
        if gone := [each for each in before if each.number not in numbers]:
            log.info("listening no more on %s", ", ".join(map(str, gone)))
        if before and (new := [each for each in self.open if each.number not in known]):
            log.info("listening on %s", ", ".join(map(str, new)))
        if unused or gone:
            self._leaving.append(Leaving(until, unused, gone))

    async def leave(self, until: float) -> None:
        """Leave what comes from now on to others at the same addresses; what has come is answered, `until` then.

        Return when nobody is left who has just come over TCP, and is about to ask.
        """
        self.follow((), {}, {}, until)
        while not self._is_followed():
            await asyncio.sleep(0.001)
        for leaving in self._leaving:
            _close({place: several for place, several in leaving.sockets.items() if place[1] == "tcp"})
        while any(each.dismissals.has_newcomers for each in self._tcp.workers):
            await asyncio.sleep(0.01)

    def _publish(self) -> None:
        self._kernel_answers.answer_for(
            each.number for each in self.open if each.section and each.section.kernel_answers
        )
        for k, worker in enumerate(self._workers):
            own = [
                (each.number, each.udp[k].fileno(), each.udp[0].fileno(), None, None) for each in self.open if each.udp
            ]
            queues = zip(self._queue_numbers, self.interfaces.queues_of(k), strict=False)
            worker.follow(ListenerTable(own, queues))
        for k, holder in enumerate(self._tcp.workers):
            holder.follow(
                ListenerTable(
                    (each.number, each.tcp[k].fileno(), -1, each.tls, each.http) for each in self.open if each.tcp
                )
            )

    # ---------------------------------------------------------------- what is gone

    def housekeeping(self, now: float) -> None:
        """Close what nobody can be at any more; called about once a second, `now` is seconds of the clock."""
        self._report_unheard()
        if self.interfaces.follow():
            self._publish()
        if not self._is_followed():  # which lets go of queues that nobody is at
            return
        self._leaving = [left for each in self._leaving if (left := self._end(each, now)) is not None]

    def _is_followed(self) -> bool:
        """Tell whether all workers are at what is open now, and nowhere else."""
        return all(each.listeners.is_followed for several in (self._workers, self._tcp.workers) for each in several)

    def _report_unheard(self) -> None:
        """Log which listeners have sockets that a worker could not have watched by the kernel."""
        masks = [each.unheard_listeners for each in self._workers]
        masks += [each.listening.unheard_listeners for each in self._tcp.workers]
        for each in self.open:
            if times := sum(mask >> each.number & 1 for mask in masks):
                limited.warning(
                    f"unheard {each}",
                    "listener %s: the kernel has no memory to watch a socket (or see fs.epoll.max_user_watches):"
                    " what comes there is answered late", each, times=times,
                )  # fmt: skip

    def _end(self, leaving: Leaving, now: float) -> Leaving | None:
        """Close what is leaving, if it is time; return what is left of it: listeners whose connections go on."""
        if now < leaving.until:
            return leaving
        for each in leaving.listeners if leaving.sockets else ():
            if each.udp:
                self._outbox.set_socket(each.number, -1)
        _close(leaving.sockets)
        ended = [each for each in leaving.listeners if not self._tcp.limits.held_at(each.number)]
        self._free.extend(each.number for each in ended)
        left = [each for each in leaving.listeners if each not in ended]
        return Leaving(leaving.until, {}, left) if left else None

    def close(self) -> None:
        """Close all sockets; nobody may be at them any more."""
        self.interfaces.close()
        for several in (self._sockets, *(each.sockets for each in self._leaving)):
            _close(several)

    # ---------------------------------------------------------------- counters

    def messages(self) -> dict[str, int]:
        """Return how many messages came to each listener, by its endpoint."""
        counted = self._messages()
        return {
            str(each if each.quic else each.endpoint): counted[each.number] - self._before[each.number]
            for each in self.open
        }

    def _messages(self) -> list[int]:
        """Return how many messages came to each number."""
        counts = [each.messages_by_listener() for each in self._workers]
        counts.append(self._kernel_answers.messages_by_listener())
        counts += [each.answering.messages_by_listener() for each in self._tcp.workers]
        return [sum(each) for each in zip(*counts, strict=True)]


def _close(several: Mapping[Place, Sequence[socket]]) -> None:
    for opened in (each for group in several.values() for each in group):
        opened.close()
