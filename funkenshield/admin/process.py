"""The daemon's process and its host: file descriptors, priority, privileges, and the service manager."""

import contextlib
import logging
import os
import pwd
import resource
import socket
from pathlib import Path

from ..config import Config
from ..core import logs, machine
from ..errors import ConfigError, FunkenShieldError

log = logging.getLogger(__name__)

OTHERS = 24  # descriptors that are there whatever is configured
NOTIFYING = 1.0  # seconds that the service manager may take


def need_descriptors(config: Config) -> int:
    """Return how many descriptors a shield needs at least, without any connection."""
    workers = config.workers or machine.cores()
    upstreams = sum(each.section.transport == "udp" for each in config.all_upstreams)
    listeners = len(config.listen) * (workers + 1)
    return OTHERS + listeners + 2 * workers + upstreams * config.forward.sockets


def allow_descriptors(config: Config) -> None:
    """Have as many descriptors as we may; FunkenShieldError where that is too few."""
    needed, allowed = need_descriptors(config), machine.descriptors()
    if allowed < needed:
        raise FunkenShieldError(
            f"cannot start: {needed} file descriptors are needed, the limit is {allowed}; raise it (ulimit -n,"
            " LimitNOFILE=), or lower forward.sockets or workers"
        )
    if allowed < needed + config.tcp.max_connections:
        logs.set_up(config.log.level, config.log.format)
        log.warning(
            "tcp.max_connections reduced to %d: the limit is %d file descriptors (ulimit -n, LimitNOFILE=)",
            allowed - needed, allowed,
        )  # fmt: skip


def allow_nice() -> None:
    """See that whoever has given way to others may have its own place again."""
    allowed = 20 - os.getpriority(os.PRIO_PROCESS, 0)  # as getrlimit(2) counts
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NICE, (allowed, allowed))


def drop_privileges(user: str, *owned: Path) -> None:
    """Give up root for a user, who gets the control socket and what is new; ConfigError where that cannot be done."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"user: no user {user} on this machine") from None
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


def notify(state: str) -> None:
    """Tell the service manager (sd_notify(3)), if one asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
            opened.settimeout(NOTIFYING)
            opened.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
