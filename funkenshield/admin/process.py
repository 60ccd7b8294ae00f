"""The daemon's process and its host: file descriptors, priority, privileges, signals, and the service manager."""

import asyncio
import contextlib
import logging
import os
import pwd
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..config import Config
from ..core import early_signals, logs, machine
from ..errors import ConfigError, FunkenShieldError
from ..server.xdp import QUEUES_OF_WORKER

log = logging.getLogger(__name__)

OTHERS = 24  # descriptors that are there whatever is configured
CONNECTIONS_MIN = 1000  # however little memory there is, unless configured
CONNECTION_MEMORY = 64 << 10  # octets: what the kernel and we have for one that is not idle, on the average
OF_INTERFACE = 12  # descriptors of a program, its maps and its link
NOTIFYING = 1.0  # seconds that the service manager may take
FOR_ONE_CHILD = {  # as the kernel names programs that are process 1 for one child, and end with it
    "tini", "tini-static", "docker-init", "podman-init", "catatonit", "dumb-init", "sh", "dash", "bash",
}  # fmt: skip
NICE, CALM = 10, 60.0  # of the control thread under a flood of misses, and until so many seconds after it


def need_descriptors(config: Config) -> int:
    """Return how many descriptors a shield needs at least, without any connection."""
    workers = config.workers or machine.cores()
    over_udp = [each for each in config.all_upstreams if each.section.transport == "udp"]
    upstreams = sum(2 if each.endpoint.is_name else 1 for each in over_udp)  # a host over IPv4 and IPv6
    listening = sum(2 if each.has_udp else 1 for each in config.all_listeners)  # over TCP, and over UDP
    of_workers = workers * (listening + 5)  # sockets, epoll(7), eventfd(2)
    interfaces = {each.section.interface for each in config.all_listeners if each.section.interface}
    of_interfaces = len(interfaces) * OF_INTERFACE + bool(interfaces) * workers * QUEUES_OF_WORKER
    return OTHERS + of_workers + of_interfaces + upstreams * config.forward.sockets


def allow_descriptors(config: Config) -> None:
    """Have as many descriptors as we may; FunkenShieldError where that is too few."""
    needed, allowed = need_descriptors(config), machine.descriptors()
    if allowed < needed:
        raise FunkenShieldError(
            f"cannot start: {needed} file descriptors are needed, the limit is {allowed}; raise it (ulimit -n,"
            " LimitNOFILE=), or lower forward.sockets or workers"
        )
    if (limit := connection_limit(config)) < (config.tcp.max_connections or 0):
        logs.set_up(config.log.level, config.log.format)
        log.warning(
            "tcp.max_connections reduced to %d: the limit is %d file descriptors (ulimit -n, LimitNOFILE=)",
            limit, allowed,
        )  # fmt: skip


def connection_limit(config: Config) -> int:
    """Return how many connections of clients there may be at once: as configured, or as many as fit this machine.

    Connections to upstreams, and files, find descriptors however many clients there are.
    """
    left = max(machine.descriptors() - need_descriptors(config), 0)
    others = config.forward.max_connections * len(config.all_upstreams) + config.forward.max_transfers + OTHERS
    memory = machine.memory() - config.cache.memory - config.tcp.memory
    wanted = config.tcp.max_connections
    if wanted is None:
        wanted = max(memory // CONNECTION_MEMORY, CONNECTIONS_MIN)
    return min(left - min(others, left // 2), wanted)


def allow_nice() -> None:
    """Let a thread whose priority was lowered have it raised again."""
    allowed = 20 - os.getpriority(os.PRIO_PROCESS, 0)  # as getrlimit(2) counts
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NICE, (allowed, allowed))


class Priority:
    """The priority of the control thread: workers go first, while they drop misses for want of shares.

    Else this thread has the time that it takes. Where there are cores for all, that changes nothing. To come back
    takes RLIMIT_NICE, which `allow_nice` sets at start.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.own = self._set = os.getpriority(os.PRIO_PROCESS, 0)
        self._dropped, self._calm_at = 0, 0.0

    def follow(self, dropped: int) -> None:
        """Lower the priority, or restore it, as so many misses have been dropped by now."""
        flooded, self._dropped = dropped != self._dropped, dropped
        if flooded:
            self._calm_at = self._now() + CALM
        wanted = NICE if flooded or self._now() < self._calm_at else self.own
        if wanted != self._set:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), wanted)
            self._set = wanted

    def restore(self) -> None:
        """Have the thread that calls this have the priority that there was at start: what it starts inherits it.

        It is for other threads than that one; those that it began under a flood have its priority of that moment.
        """
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.own)


def ends_with_us(processes: Path = Path("/proc")) -> bool:
    """Tell whether process 1, and with it a container, ends when this process does: it is ours, or an init's first.

    That init may have been started by another one, as `--init` starts an image's own.
    """
    process, ours = "1", str(os.getpid())
    with contextlib.suppress(OSError):
        while process != ours and (processes / process / "comm").read_text().strip() in FOR_ONE_CHILD:
            children = (processes / process / "task" / process / "children").read_text().split()
            process = children[0] if children else ""  # the eldest; orphans come after it
        return process == ours
    return False


def find_user(user: str) -> pwd.struct_passwd:
    """Return a user of this machine; ConfigError where there is none."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"user: no user {user} on this machine") from None


def drop_privileges(user: str, *owned: Path) -> None:
    """Give up root for a user, who gets the control socket; ConfigError where that cannot be done."""
    entry = find_user(user)
    if entry.pw_uid == os.geteuid():
        return
    if os.geteuid() != 0:  # where system calls are filtered, to try may be the end
        raise ConfigError(f"user: cannot change to {user}: only root can")
    try:
        for path in owned:
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise ConfigError(f"user: cannot change to {user}: {error.strerror}") from None


@contextlib.contextmanager
def signals_handled(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Follow signals, until the very end: nothing may kill the daemon while it writes its last snapshot.

    Afterwards they do what they did before, or nothing where the process is ours: it has ended in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():  # to take one from the loop would have it kill us, until it is set anew
        signal.signal(number, lambda *_, handler=handler: loop.call_soon_threadsafe(handler))
        signal.siginterrupt(number, False)
    try:
        yield
    finally:
        for number in handlers:
            signal.signal(number, early_signals.afterwards(before[number]))


def notify(state: str) -> None:
    """Tell the service manager (sd_notify(3)), if one asked to be told."""
    if path := os.environ.get("NOTIFY_SOCKET", ""):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
            opened.settimeout(NOTIFYING)
            opened.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
