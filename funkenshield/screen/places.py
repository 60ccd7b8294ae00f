"""Which daemons run here: the sockets at which one may answer, and does."""

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config import control_socket, default_socket
from ..errors import ConfigError, FunkenShieldError

CONNECTING = 0.5  # seconds that a daemon has to accept
ROOTS, USERS = Path("/run/funkenshield/control.sock"), Path("/run/user")  # sockets of daemons
TEMPORARY = Path(tempfile.gettempdir())


def running(environ: Mapping[str, str]) -> list[Path]:
    """Return where daemons answer, that of the configuration first; FunkenShieldError where none does."""
    found: dict[tuple[int, int], Path] = {}  # by device and inode: a socket may have several paths
    silent: dict[Path, OSError] = {}
    for path in _candidates(environ):
        if path != _configured(environ) and path.is_relative_to(TEMPORARY) and not _is_ours(path.parent):
            continue  # anybody may have made that
        try:
            status = path.stat()
            _connect(path)
            found.setdefault((status.st_dev, status.st_ino), path)
        except OSError as error:
            silent[path] = error
    if not found:
        raise _nobody(silent)
    return list(found.values())


def _nobody(silent: Mapping[Path, OSError]) -> FunkenShieldError:
    """Return what says in a line where a daemon was looked for."""
    for path, error in silent.items():
        if isinstance(error, PermissionError):
            return FunkenShieldError(f"{path}: permission denied; try as root, or as the user that the daemon runs as")
    looked = ", ".join(map(str, silent))
    return FunkenShieldError(f"no daemon runs here: nobody answers at {looked}; --control PATH names another socket")


def _connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(CONNECTING)
        opened.connect(str(path))


def _configured(environ: Mapping[str, str]) -> Path | None:
    """Return the path that an operator has named, if any."""
    with contextlib.suppress(ConfigError):  # of a daemon without a socket
        path = control_socket(None, environ)
        return None if path == Path(default_socket()) else path
    return None


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield where a daemon may be: of the configuration, of this user, of root, of a playground, of other users."""
    if named := _configured(environ):
        yield named
    user = os.geteuid()
    yield Path(default_socket())
    yield ROOTS
    yield USERS / str(user) / "funkenshield.sock"
    for name in ("funkenshield.sock", "control.sock"):
        yield from sorted(TEMPORARY.glob(f"funkenshield-*/{name}"))
    if user == 0:
        yield from sorted(USERS.glob("*/funkenshield.sock"))


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder that anybody may have made is this user's, and nobody else's to change."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
