"""Interfaces whose queries workers have as frames, where this machine allows that: opened, followed, and left.

    configure: which ones, for which listeners -> take: as long as workers serve -> follow: as they change -> close

A listener has its sockets besides, always: what an interface does not give us comes by them. So nothing here fails;
what cannot be is said in one line, and tried again when the interface is another.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from ..config.kernel_answers import off
from ..config.listeners import ListenerSection
from ..config.types import Endpoint
from ..xdp._queue import QueueSocket
from ..xdp.interface import Answers, Interface, Link, XdpError, driver_of

log = logging.getLogger(__name__)

QUEUES_OF_WORKER = 16  # of all interfaces
TIME_OFFSETS = Path("/proc/self/timens_offsets")
COUNTED = ("received", "sent", "ignored", "dropped")
IN_FLIGHT = 0.001  # seconds until the kernel has given us all that it took while queries were taken
PATIENCE = 10  # attempts in which what is there may be our own of before, or whom we replace


class Wanted(NamedTuple):
    """What an interface is to give us."""

    listeners: tuple[tuple[Endpoint, int, bool], ...]  # with their numbers, and whether the program may answer
    generic: bool

    @property
    def answers(self) -> bool:
        """Whether the program may answer."""
        return any(in_kernel for *_, in_kernel in self.listeners)


def tells_the_kernels_time() -> bool:
    """Tell whether the clock of this process is that of programs in the kernel: not so in some time namespaces."""
    with contextlib.suppress(OSError):
        offsets = dict(line.split(maxsplit=1) for line in TIME_OFFSETS.read_text().splitlines())
        return not any(map(int, offsets["boottime"].split()))
    return True  # this kernel has no such namespaces


def no_room(name: str) -> XdpError:
    """Return what is wrong with an interface whose queues no worker has numbers for, as long as others have theirs."""
    return XdpError(f"{name}: workers have {QUEUES_OF_WORKER} queues each, and no room for another", may_pass=True)


class Interfaces:
    """All interfaces that listeners name. Memory ownership: programs, maps and sockets are closed by `close`."""

    def __init__(self, workers: int) -> None:
        self._queues_of: list[list[QueueSocket]] = [[] for _ in range(workers)]
        self._changes = 0  # of whose sockets are open
        self._wanted: dict[str, Wanted] = {}
        self._open: dict[str, Interface] = {}
        self._tried: dict[str, Link] = {}  # as each was when it gave us nothing
        self._told: dict[str, str] = {}  # the reason for that
        self._before: dict[str, dict[str, int]] = {}  # what was counted by sockets that have gone
        self._patience: dict[str, int] = {}
        self._answers = Answers()
        self._use: Callable[[mmap, mmap, mmap], None] | None = None
        self._against: list[str] = []  # reasons for which the kernel answers nothing
        self._taking = False
        self._waiting = False  # until whom we replace has left

    def share_answers(self, use: Callable[[mmap, mmap, mmap], None]) -> None:
        """Have somebody use the table of answers, as soon as there is one."""
        self._use = use
        self._use_answers()

    def _use_answers(self) -> None:
        if self._use is not None and self._answers.memory:
            self._use(*(self._answers.memory[name] for name in Answers.NAMES))
            self._use = None

    def configure(self, listeners: Iterable[tuple[Endpoint, ListenerSection, int]]) -> None:
        """Say which listeners take queries from interfaces; it is done by `follow`."""
        wanted: dict[str, Wanted] = {}
        for endpoint, section, number in listeners:
            others = wanted.get(section.interface, Wanted((), generic=False))
            wanted[section.interface] = Wanted(
                (*others.listeners, (endpoint, number, section.kernel_answers)), others.generic or section.generic_xdp
            )
        for name in self._wanted.keys() | wanted.keys():
            before, now = self._wanted.get(name), wanted.get(name)
            if before is None or now is None or (before.generic, before.answers) != (now.generic, now.answers):
                self._leave(name)
                self._told.pop(name, None)
            if before != now:
                self._tried.pop(name, None)
        self._wanted = wanted

    def follow(self) -> bool:
        """Have interfaces as they are now; tell whether others have sockets than before. Called about once a second."""
        before = self._changes
        for name, wanted in self._wanted.items() if not self._waiting else ():
            try:
                self._follow(name, wanted)
            except XdpError as error:
                self._leave(name)
                self._note(name, wanted, error)
        return before != self._changes

    def _follow(self, name: str, wanted: Wanted) -> None:
        link, opened = Link.of(name), self._open.get(name)
        if opened is not None and opened.link != link:
            log.info("%s has changed: its program is attached anew", name)
            self._leave(name)
            opened = None
        if opened is None:
            if self._tried.get(name) == link:
                return
            room = QUEUES_OF_WORKER * len(self._queues_of) - len(self.queues)
            if not room:
                raise no_room(name)
            answers = self._answers if wanted.answers and tells_the_kernels_time() else None
            opened = Interface(name, generic=wanted.generic, answers=answers, queues_max=room)
            self._open[name] = opened
            self._changes += 1
            for queue in opened.queues:
                min(self._queues_of, key=len).append(queue)
            self._use_answers()
            self._told.pop(name, None)
            if wanted.answers and answers is None:
                log.warning("%s: the kernel answers nothing itself: its time since boot is not that of ours", name)
            elif wanted.answers and driver_of(name) == "veth":
                log.warning("%s: a veth gives what the kernel answers to a peer with an XDP program alone", name)
            log.info(
                "queries are taken from %s: %d queues, %s, %s", name, len(opened.queues),
                "native" if opened.is_native else "generic", "zero-copy" if opened.is_zero_copy else "copied",
            )  # fmt: skip
        opened.listen(
            (endpoint.host.partition("%")[0], endpoint.port, number, in_kernel)
            for endpoint, number, in_kernel in wanted.listeners
        )
        opened.take(self._taking)

    def _note(self, name: str, wanted: Wanted, error: XdpError) -> None:
        """Log why an interface gives us nothing, once for each reason, and remember when to try again."""
        patience = self._patience.pop(name, 0) if error.may_pass else 0
        if patience:
            self._patience[name] = patience - 1
            return
        if not error.may_pass:
            with contextlib.suppress(XdpError):
                self._tried[name] = Link.of(name)
        if self._told.get(name) != str(error):
            self._told[name] = str(error)
            addresses = ", ".join(str(endpoint) for endpoint, *_ in wanted.listeners)
            log.warning("%s: served by sockets alone: %s", addresses, error)

    def _leave(self, name: str) -> None:
        """Detach from an interface, if that is so; its sockets end when no worker has them."""
        self._tried.pop(name, None)
        if (opened := self._open.pop(name, None)) is not None:
            opened.close()
            self._changes += 1
            for several in self._queues_of:
                several[:] = (queue for queue in several if queue not in opened.queues)
            self._before[name] = self._counted(name, opened.queues)
            self._patience[name] = PATIENCE

    def wait(self) -> None:
        """Attach to nothing until `take`: another process, which we replace, still has it."""
        self._waiting, self._patience = True, dict.fromkeys(self._wanted, PATIENCE)

    def take(self, taking: bool) -> None:
        """Have queries taken from now on, or left to sockets: what was taken is in the workers' sockets then."""
        self._taking, self._waiting = taking, self._waiting and not taking
        for each in self._open.values():
            each.take(taking)
        if self._open and not taking:
            time.sleep(IN_FLIGHT)

    def tell_whether_kernel_answers(self, against: Sequence[str]) -> None:
        """Log that the kernel answers nothing, because of these; or that it does again. Once for each change."""
        if list(against) != self._against:
            self._against = list(against)
            if against:
                log.warning("%s", off(against))
            else:
                log.info("kernel answers are on")

    def close(self) -> None:
        """Leave all interfaces for good; no worker may serve any more."""
        for name in (*self._open,):
            queues = self._open[name].queues
            self._leave(name)
            for each in queues:
                each.close()
        self._answers.close()
        self._wanted = {}

    @property
    def queues(self) -> list[QueueSocket]:
        """Return the sockets of all queues."""
        return [queue for each in self._open.values() for queue in each.queues]

    def queues_of(self, worker: int) -> list[QueueSocket]:
        """Return those that are a worker's, and nobody else's as long as they are open: a queue has no lock."""
        return self._queues_of[worker]

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what each interface gave us and took from us, and whether it does now (`attached`)."""
        return {
            name: {
                "attached": int(name in self._open),
                **self._counted(name, self._open[name].queues if name in self._open else ()),
            }
            for name in self._wanted
        }

    def _counted(self, name: str, queues: Sequence[QueueSocket]) -> dict[str, int]:
        counts: list[Mapping[str, int]] = [self._before.get(name, {}), *(each.counters() for each in queues)]
        return {what: sum(each.get(what, 0) for each in counts) for what in COUNTED}
