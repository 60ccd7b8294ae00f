"""One daemon after another, without a loss: what passes from the old one to the new one.

    new                                                   old
    connects, "take over"
                                                          -> offer: bound sockets, memory of the cache, its clock
    reads its configuration, builds everything            serves on
    -> ready: with the same layout of entries, or not
                                                          -> entries, where the layout is another, and serves on
                                                          stops its workers: nobody reads nor writes the cache
                                                          -> connections, and state: what is where in that memory
    starts its workers
    -> serving
                                                          -> connections, as soon as nobody waits for answers there
                                                          answers who waits, and leaves

What comes meanwhile waits in the sockets, which are the same: a worker of the one or the other takes it. Until the new
one serves, all can be taken back, and the old one serves on. All of it passes over the control socket, or over a pair
of sockets where the old one has started the new one. The secrets and sockets go to whoever may connect to the control
socket: our own user, and root.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .admin.process import Priority, ends_with_us, notify
from .cache import hugepages
from .cache._store import Cache
from .cluster.node import Node
from .config import Config
from .core import system_calls
from .core._clock import Clock
from .errors import FunkenShieldError
from .forward.forwarder import Forwarder
from .policy.dynblocks import Blocks
from .server.inherited import Inherited
from .server.listeners import Listeners
from .server.tcp import Passed, TcpServer
from .server.udp import UdpServer
from .zones.soa_watch import Watchers

log = logging.getLogger(__name__)

VERSION = 1  # of what is said here; another one is refused
TAKE_OVER = "--take-over"  # of `funkenshield run`
REPORT = "FUNKENSHIELD_UPGRADE_REPORT"  # the descriptor that a new process tells why it failed,
PREDECESSOR = "FUNKENSHIELD_PREDECESSOR"  # and the one of its connection to the old one, where that has started it
START_WITHIN = 60.0  # seconds that the new process may take until it is ready,
SWITCH_WITHIN = 3.0  # and then until it serves: so long is nobody served, if it hangs
FDS_MAX = 200  # that are passed at once; the kernel takes 253
CHILD = 0.05  # seconds between two looks whether the new process has ended
PID_MAX = 20  # octets of a process ID
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # which a service manager may send to all processes, those that begin, too
# A program that starts another one, tells its process ID, and ends: so that is a child of whoever has started us.
SPAWN = """
import os, signal, sys
for each in signal.SIGUSR1, signal.SIGUSR2:
    signal.signal(each, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1, signal.SIGUSR2])
told = int(sys.argv[1])
os.set_inheritable(told, False)
os.write(told, b"%d" % os.spawnv(os.P_NOWAIT, sys.argv[2], sys.argv[2:]))
"""
STEP, STEP_MAX = 0.005, 0.1  # seconds between two looks for connections on which nobody waits


class UpgradeError(FunkenShieldError):
    """Another process cannot take over; the running daemon serves on."""


class _TruncatedError(UpgradeError):
    """Descriptors that were passed are lost."""


@dataclass(frozen=True)
class Parts:
    """What of a daemon is handed over, and what stands still meanwhile."""

    config: Callable[[], Config]
    cache: Cache
    memory_file: int  # of the cache; -1: nobody else can map it
    listeners: Listeners
    sockets: Callable[[], list[socket.socket]]  # all that are bound
    udp: UdpServer
    tcp: TcpServer
    forwarder: Forwarder
    blocks: Blocks
    watchers: Watchers
    priority: Priority
    cookie_secrets: Callable[[], tuple[bytes, ...]]
    ticket_secret: bytes  # that clients' sessions are resumed by, unless a file has it
    retry_secret: bytes  # by which clients over QUIC show where they are
    node: Node | None  # what it is of a cluster
    set_by_command: Callable[[], list[dict[str, Any]]]  # requests that operators have made, and are to be made again
    serves: Callable[[], bool]  # before that, it still takes over itself
    is_stopping: Callable[[], bool]
    stop_tasks: Callable[[], Awaitable[None]]  # all that write to the cache from time to time
    start_tasks: Callable[[], None]
    remaining: Callable[[], int]  # connections of clients
    leave: Callable[[], None]  # another process serves: only what waits is still to be done
    converse: Callable[[socket.socket], Awaitable[None]]  # as with whoever connects to the control socket


# ---------------------------------------------------------------- messages: a JSON object, octets, and descriptors


def _send(
    connection: socket.socket, message: dict[str, Any], octets: bytes = b"", fds: list[int] | None = None
) -> None:
    """Send a message as a file in memory: so it is whole, however long it is."""
    with open(system_calls.memory_file("funkenshield-message"), "w+b") as file:
        file.write(json.dumps(message).encode() + b"\n" + octets)
        file.flush()
        socket.send_fds(connection, [b"\0"], [file.fileno(), *(fds or [])])


async def _send_soon(
    connection: socket.socket, message: dict[str, Any], octets: bytes = b"", fds: list[int] | None = None,
    seconds: float = START_WITHIN,
) -> None:  # fmt: skip
    """Send a message as soon as the other one has taken enough of those before; UpgradeError where it does not."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return _send(connection, message, octets, fds)
                except BlockingIOError:
                    await asyncio.sleep(0.001)
    except TimeoutError:
        raise UpgradeError(f"it has taken nothing for {seconds:g} s") from None


def _receive(connection: socket.socket) -> tuple[dict[str, Any], bytes, list[int]]:
    """Return a message, octets and descriptors; UpgradeError where the other one says no more, or nothing but why."""
    try:
        begin, fds, flags, _ = socket.recv_fds(connection, 1, FDS_MAX + 1, socket.MSG_CMSG_CLOEXEC)
        if flags & socket.MSG_CTRUNC:
            for each in fds:
                os.close(each)
            raise _TruncatedError("too many files are open here: not all that the running daemon passed have come")
        if begin and not fds:  # an answer on the control socket of those who do not know what was asked
            line = begin + os.read(connection.fileno(), 65536)  # which does not wait, whatever the timeout
            raise UpgradeError(f"the running daemon hands nothing over: {json.loads(line).get('error')}")
    except (OSError, ValueError, AttributeError) as error:
        raise UpgradeError(f"the running daemon cannot be understood: {error}") from None
    if not begin:
        raise UpgradeError("the running daemon has ended the upgrade; its log says why")
    with open(fds[0], "rb") as file:
        file.seek(0)
        return json.loads(file.readline()), file.read(), fds[1:]


# ---------------------------------------------------------------- the new one


class Predecessor:
    """The daemon that runs, as the process sees it that takes over."""

    def __init__(self, connection: socket.socket) -> None:
        """Ask for all that can be had before it stops; UpgradeError where it says no."""
        self._connection = connection
        self._connection.settimeout(START_WITHIN)
        self._connection.sendall(json.dumps({"command": "take over", "version": VERSION}).encode() + b"\n")
        self._offer, _, fds = _receive(connection)
        if "refused" in self._offer:
            raise UpgradeError(self._offer["refused"])
        self._memory_file = fds.pop(0) if self._offer["shared"] else -1
        while len(fds) < self._offer["sockets"]:
            fds += _receive(connection)[2]
        self.inherited = Inherited(socket.socket(fileno=fd) for fd in fds)
        self.commands: list[dict[str, Any]] = []  # by which operators have made of it what it is
        self.cookie_secrets: tuple[bytes, ...] = ()
        self._shares = False

    @classmethod
    def find(cls, path: str, connected: int = -1) -> "Predecessor | None":
        """Return the daemon that has started us, and is `connected`, or the one behind a control socket; None: none."""
        if connected >= 0:
            return cls(socket.socket(fileno=connected))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            return None
        return cls(connection)

    @property
    def clock(self) -> Clock:
        """Return a clock that shows the time of its clock, by which ages are counted."""
        return Clock(*self._offer["clock"])

    @property
    def ticket_secret(self) -> bytes:
        """Return the secret that its clients' sessions are resumed by; b"": it tells none."""
        return bytes.fromhex(self._offer.get("ticket_secret", ""))

    @property
    def retry_secret(self) -> bytes:
        """Return the secret of the tokens that its clients over QUIC come back with; b"": it tells none."""
        return bytes.fromhex(self._offer.get("retry_secret", ""))

    @property
    def workers(self) -> int:
        """Return how many workers it has, and sockets of each address over UDP."""
        return int(self._offer["workers"])

    def cache(self, memory: int, clock: Clock, *, huge_pages: bool) -> tuple[Cache, int]:
        """Return a cache over its memory, where both lay it out in the same way, else one of our own, and the file."""
        secret = bytes.fromhex(self._offer["secret"])
        if self._memory_file >= 0 and memory == self._offer["memory"]:
            cache, file = Cache(memory, clock, secret, huge_pages, self._memory_file), self._memory_file
            self._shares = cache.arena_layout == self._offer["arena"]
        if not self._shares:
            if self._memory_file >= 0:  # or its memory would be kept for nobody
                os.close(self._memory_file)
            cache, file = open_cache(memory, clock, huge_pages=huge_pages, secret=secret)
        cache.zones.resume({int(number): bytes.fromhex(name) for number, name in self._offer["zones"].items()})
        return cache, file

    async def take_over(self, parts: Parts) -> set[str]:
        """Have it stop, and go on where it stopped; return the zones that it had. Workers can start, and then `serve`.

        Raises UpgradeError where it does not stop: then it serves on.
        """
        can_read = self._offer["form"] == parts.cache.layout.decode()
        if not (self._shares or can_read):
            log.warning("entries of the running daemon cannot be read by this version: the cache begins empty")
        self._say("ready", copy=not self._shares)
        while True:
            message, octets, fds = await asyncio.to_thread(_receive, self._connection)
            match message["what"]:
                case "entries" if can_read:
                    parts.cache.restore(octets, 0.0, message["purges"])
                case "connections":
                    self._go_on(parts, message["connections"], fds)
                case "state":
                    break
        (parts.cache.take_over if self._shares else parts.cache.take_purges)(octets)
        parts.blocks.resume(message["blocks"])
        parts.watchers.restore(message["serials"], entries=True)
        if parts.node is not None:
            parts.node.take_over(message.get("node"))
        self.commands = message["commands"]
        self.cookie_secrets = tuple(map(bytes.fromhex, message["cookie_secrets"]))
        return set(message["zones"])

    def serve(self, parts: Parts) -> None:
        """Say that we serve, and go on with connections as it lets them go; if it has died meanwhile, all is ours."""
        with contextlib.suppress(OSError):
            self._say("serving")
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._take_more, parts)

    @property
    def is_there(self) -> bool:
        """Tell whether it may pass on connections still."""
        return self._connection.fileno() >= 0

    def close(self) -> None:
        """Take no more of it."""
        if self._connection.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            notify("READY=1")  # by now we are the main process

    def _take_more(self, parts: Parts) -> None:
        try:
            message, _, fds = _receive(self._connection)
        except UpgradeError as error:
            if isinstance(error, _TruncatedError):
                log.warning("connections of the process before are closed: %s", error)
            self.close()
        else:
            self._go_on(parts, message["connections"], fds)

    def _say(self, what: str, **more: object) -> None:
        self._connection.sendall(json.dumps({"what": what, **more}).encode() + b"\n")

    @staticmethod
    def _go_on(parts: Parts, connections: list[list[Any]], fds: list[int]) -> None:
        """Go on with connections, but for those of listeners that there are no more."""
        numbers = {str(each): each.number for each in parts.listeners.open}
        found = []
        for fd, (listener, address, to, port, to_port, octets) in zip(fds, connections, strict=True):
            if listener in numbers and parts.tcp.workers:
                known, whom, rest = map(bytes.fromhex, (address, to, octets))
                found.append(Passed(fd, numbers[listener], known, whom, port, to_port, rest))
            else:
                os.close(fd)
        parts.tcp.take_over(found)


def open_cache(memory: int, clock: Clock, *, huge_pages: bool, secret: bytes | None = None) -> tuple[Cache, int]:
    """Return a cache, and the file of its memory, which another process can map, too; -1: that is not to be had."""
    file = hugepages.memory_file(memory, huge_pages=huge_pages)
    return Cache(memory, clock, secret, huge_pages, file), file


@contextlib.contextmanager
def reported() -> Iterator[int]:
    """Tell the daemon that has started us why we failed: who has asked for an upgrade is told.

    Yield the descriptor of our connection to it; -1: there is none.
    """
    fd, connected = (int(os.environ.pop(variable, "-1")) for variable in (REPORT, PREDECESSOR))
    try:
        yield connected
    except FunkenShieldError as error:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.write(fd, str(error).encode()[:4096])
        raise


# ---------------------------------------------------------------- the old one


class Successors:
    """Who takes over from this daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._connection: socket.socket | None = None  # to the one that does
        self._done: asyncio.Future[int] | None = None  # its process, once it serves
        self._pid = 0  # of the process that was started last
        self._conversation: asyncio.Future[None] | None = None  # with it
        self._task: asyncio.Task[Any] | None = None  # that hands over
        self.is_switching = False  # nothing may change any more, or it would be lost

    @property
    def in_progress(self) -> bool:
        """Tell whether another process is about to take over."""
        return self._connection is not None or self._done is not None

    # ---------------------------------------------------------------- started by us

    async def upgrade(self) -> int:
        """Have our own command line started again, and replace us; return its process ID.

        Raises UpgradeError where it fails, which is logged.
        """
        try:
            return await self._upgrade()
        except (UpgradeError, OSError) as error:
            log.error("upgrade failed, this daemon serves on: %s", error)
            raise UpgradeError(f"upgrade failed, process {os.getpid()} serves on: {error}") from None

    async def _upgrade(self) -> int:
        if why := self._unable():
            raise UpgradeError(why)
        if self.in_progress:
            raise UpgradeError("another one is in progress")
        self._done = asyncio.get_running_loop().create_future()
        try:
            told, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            with open(told, "rb", buffering=0) as reported, open(report, "wb", buffering=0):
                try:
                    return await self._replace(report, self._done)
                except UpgradeError as error:
                    if why := (reported.read(4096) or b"").decode(errors="replace"):
                        raise UpgradeError(why) from error
                    raise
        finally:
            self._done = None

    def _unable(self) -> str:
        """Return why no process can take over from this one, as things are; "": one can."""
        if ends_with_us():
            return "its container ends with this process: replace the container"
        if self._parts.is_stopping():
            return "this one ends"
        return "" if self._parts.serves() else "it does not serve by itself yet: ask again"

    async def _replace(self, report: int, done: "asyncio.Future[int]") -> int:
        """Start a process, which tells there why it fails, and have it take over; return its ID."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._pid = await asyncio.to_thread(self._start, report, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        self._conversation = asyncio.ensure_future(self._parts.converse(ours))
        return await self._wait_for(self._pid, done)

    def _start(self, report: int, connected: int) -> int:
        """Start our own command line anew, with what is where it is because we were root then; return the process ID.

        It is no child of ours: systemd takes the main process for somebody else's if it was when it was told of it,
        and has no patience with that when it is to end.
        """
        self._parts.priority.restore()  # or it would be inherited, as lowered under a flood
        config, arguments = self._parts.config(), sys.orig_argv[1:]
        if TAKE_OVER not in arguments:
            arguments = [*arguments, TAKE_OVER, "--control", config.control.socket]
        environment = {REPORT: str(report), PREDECESSOR: str(connected)}
        if "secret_file" not in config.cookies.model_fields_set and config.cookies.secret_file:
            environment["STATE_DIRECTORY"] = str(Path(config.cookies.secret_file).parent)
        told, telling = os.pipe2(os.O_CLOEXEC)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with open(told, "rb", buffering=0) as pid, open(telling, "wb"):
                subprocess.run(
                    [sys.executable, "-I", "-S", "-c", SPAWN, str(telling), sys.executable, *arguments],
                    stdin=subprocess.DEVNULL, pass_fds=(telling, report, connected), env=os.environ | environment,
                    check=True,
                )  # fmt: skip
                return int(pid.read(PID_MAX))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise UpgradeError(f"{sys.executable} cannot be started: {error}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def _wait_for(self, pid: int, done: "asyncio.Future[int]") -> int:
        """Return who has taken over, in all likelihood that process; it is gone where UpgradeError is raised."""
        end = asyncio.get_running_loop().time() + START_WITHIN
        with open(_followed(pid), "rb", buffering=0) as process:
            ended = select.poll()
            ended.register(process, select.POLLIN)
            while not done.done():
                if ended.poll(0):
                    raise UpgradeError("the new process has ended; its log says why")
                if asyncio.get_running_loop().time() > end and self._connection is None:  # else it takes over now
                    system_calls.kill(process.fileno())
                    raise UpgradeError(f"the new process was not ready within {START_WITHIN:g} s")
                await asyncio.wait([done], timeout=CHILD)
        return done.result()

    # ---------------------------------------------------------------- whoever asks to take over

    async def hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        """Hand all over to the process behind a connection; where it cannot take over, go on as before."""
        fd, connection = writer.get_extra_info("socket").fileno(), None
        try:
            connection = socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            pid, process = self._peer(connection)
        except OSError as error:
            log.error("a process that has asked cannot take over, this one serves on: %s", error)
            if connection is not None:
                connection.close()
            return
        if refused := self._refusal(version):
            log.warning("process %d may not take over, this one serves on: %s", pid, refused)
            with connection, open(process, "rb", buffering=0):
                _send(connection, {"refused": f"the running daemon, process {os.getpid()}: {refused}"})
            return
        self._connection = connection
        log.info("process %d is about to take over", pid)
        try:
            self._task = asyncio.current_task()
            zones = self._parts.cache.zones.numbered
            copies = await self._offer_all(connection, reader)
            if copies is not None:
                await self._copy(connection, copies)
            if self._parts.is_stopping():
                raise UpgradeError("this one ends")
            if self._parts.cache.zones.numbered != zones:
                raise UpgradeError("this one has read its configuration anew meanwhile; ask again")
            waited = await self._switch(connection, reader, process, copies)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, this one goes on
            why = error if isinstance(error, Exception) else "this one ends"
            log.error("process %d has not taken over, this one serves on: %s", pid, why)
            self._connection = None
            connection.close()
        else:
            log.info("process %d serves, after %.0f ms in which what came had to wait", pid, 1000 * waited)
            if self._done is not None and not self._done.done():
                self._done.set_result(pid)
            notify(f"MAINPID={pid}")
            self._parts.leave()
            self._parts.start_tasks()
        finally:
            self._task = None
            os.close(process)

    def _refusal(self, version: int) -> str:
        """Return why nobody may take over now; "": who asks may."""
        if self._connection is not None:
            return "another upgrade is in progress"
        if version != VERSION:
            return "it hands over in another way than this version takes over: stop it, and start anew"
        return self._unable()

    def _peer(self, connection: socket.socket) -> tuple[int, int]:
        """Return the ID of the process at the other end, and a descriptor of it (pidfd_open(2))."""
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = int(struct.unpack("3i", packed)[0])
        if pid == os.getpid():  # we have made both ends
            pid = self._pid
        return pid, system_calls.open_process(pid)

    async def _offer_all(
        self, connection: socket.socket, reader: asyncio.StreamReader
    ) -> dict[int, tuple[int, int]] | None:
        """Offer what can be had while we serve; return what to copy by: None where the new one maps our memory."""
        parts, fds = self._parts, [each.fileno() for each in self._parts.sockets()]
        offer = {
            "clock": parts.cache.clock.origin, "secret": parts.cache.secret.hex(), "arena": parts.cache.arena_layout,
            "form": parts.cache.layout.decode(),
            "memory": os.fstat(parts.memory_file).st_size if parts.memory_file >= 0 else 0,
            "shared": parts.memory_file >= 0, "sockets": len(fds), "workers": len(parts.udp.workers),
            "ticket_secret": parts.ticket_secret.hex(), "retry_secret": parts.retry_secret.hex(),
            "zones": {str(number): name.hex() for number, name in parts.cache.zones.numbered.items()},
        }  # fmt: skip
        first = [parts.memory_file] if parts.memory_file >= 0 else []
        await _send_soon(connection, offer, fds=first + fds[: FDS_MAX - 1])
        for begin in range(FDS_MAX - 1, len(fds), FDS_MAX):
            await _send_soon(connection, {}, fds=fds[begin : begin + FDS_MAX])
        ready = await _heard(reader, "ready", START_WITHIN)
        return {} if ready.get("copy") else None

    async def _copy(self, connection: socket.socket, copied: dict[int, tuple[int, int]]) -> None:
        """Send the entries of all segments where something was stored since they were copied."""
        cache = self._parts.cache
        for segment in range(cache.segments_total):
            stamp = cache.stamp(segment)
            if copied.get(segment, (0, 0)) != stamp:
                copied[segment], purges = stamp, cache.purges_total
                if entries := cache.export(segment):
                    await _send_soon(connection, {"what": "entries", "purges": purges}, entries)
                if not self.is_switching:
                    await asyncio.sleep(0)

    async def _switch(
        self, connection: socket.socket, reader: asyncio.StreamReader, process: int,
        copied: dict[int, tuple[int, int]] | None,
    ) -> float:  # fmt: skip
        """Stand still, and let the new one serve; return after how many seconds it does. Where it does not, go on."""
        parts, held, connections = self._parts, b"", list[Passed]()
        await parts.stop_tasks()
        begun = time.monotonic()
        self.is_switching = True
        try:
            parts.udp.stop()
            parts.tcp.pause()
            parts.forwarder.ready()  # what the workers handed over last
            parts.tcp.begin_hand_over()
            connections = parts.tcp.let_go()
            if copied is not None:
                await self._copy(connection, copied)
                held = parts.cache.purge_notes()
            else:
                held = parts.cache.ledger()
                parts.cache.let_go()
            await self._pass_on(connection, connections)
            state = {
                "what": "state", "blocks": parts.blocks.listed(), "serials": parts.watchers.serials,
                "zones": [zone.name for zone in parts.config().zones], "commands": parts.set_by_command(),
                "cookie_secrets": [secret.hex() for secret in parts.cookie_secrets()],
                "node": parts.node.handed_over() if parts.node is not None else None,
            }  # fmt: skip
            await _send_soon(connection, state, held)
            await _heard(reader, "serving", SWITCH_WITHIN)
        except BaseException:
            with contextlib.suppress(OSError):  # it must not write to what we go on with
                system_calls.kill(process)
            if copied is None and held:
                parts.cache.take_back(os.fstat(parts.memory_file).st_size, parts.memory_file, held)
            parts.tcp.end_hand_over()
            parts.tcp.take_over(connections)
            parts.tcp.start()
            if not parts.is_stopping():  # else nobody would stop them any more; who waits over TCP is still answered
                parts.udp.start()
                parts.start_tasks()
            self.is_switching = False
            raise
        for each in connections:
            os.close(each.fd)
        parts.tcp.start()  # for those that could not be passed on, or not yet
        return time.monotonic() - begun

    async def _pass_on(
        self, connection: socket.socket, connections: list[Passed], seconds: float = START_WITHIN
    ) -> None:
        listeners = {each.number: str(each) for each in self._parts.listeners.open}
        for begin in range(0, len(connections), FDS_MAX):
            some = connections[begin : begin + FDS_MAX]
            told = [
                [listeners.get(one.listener), one.address.hex(), one.to.hex(), one.port, one.to_port, one.octets.hex()]
                for one in some
            ]
            message = {"what": "connections", "connections": told}
            await _send_soon(connection, message, fds=[one.fd for one in some], seconds=seconds)

    async def drain(self, seconds: float) -> None:
        """Pass on the connections on which nobody waits any more; return when there are none, at most so much later."""
        loop, tcp, step = asyncio.get_running_loop(), self._parts.tcp, STEP
        end = loop.time() + seconds
        await self._settle(seconds)
        while self._done is not None and self._done.done():  # who has asked for it is to be told
            await asyncio.sleep(step)
        while self._connection is not None and self._parts.remaining() and loop.time() < end:
            await asyncio.sleep(step)
            step = min(2 * step, STEP_MAX)
            with tcp.paused():
                connections = tcp.let_go()
            try:
                await self._pass_on(self._connection, connections, max(end - loop.time(), step))
            except (OSError, UpgradeError):  # it has gone, or hangs: there is nobody else to pass them on to
                self._connection.close()
                self._connection = None
            finally:
                for each in connections:
                    os.close(each.fd)

    async def _settle(self, seconds: float) -> None:
        """Return once it is settled who serves: after so long, it is this one, which ends."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds if self.is_switching else 0)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _followed(pid: int) -> int:
    """Return a descriptor of a process that was started just now; it is killed where UpgradeError is raised."""
    try:
        return system_calls.open_process(pid)
    except ProcessLookupError:
        raise UpgradeError("the new process has ended at once; its log says why") from None
    except OSError as error:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise UpgradeError(f"the new process cannot be followed: {error.strerror}") from None


async def _heard(reader: asyncio.StreamReader, what: str, seconds: float) -> dict[str, Any]:
    """Return what the new process says; UpgradeError where it says nothing within so many seconds, or ends."""
    try:
        async with asyncio.timeout(seconds):
            message = json.loads(await reader.readline() or b"{}")
    except TimeoutError:
        raise UpgradeError(f"it was not {what} within {seconds:g} s") from None
    if message.get("what") != what:
        raise UpgradeError(f"it has ended before it was {what}; its log says why")
    return dict(message)
