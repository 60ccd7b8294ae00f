"""Where a configuration is read from unless somebody says otherwise, and where its daemon is controlled."""

import os
from pathlib import Path

from ..errors import ConfigError
from . import default_socket, read

DEFAULT_FILE = Path("/etc/funkenshield.toml")


def default_file() -> Path | None:
    """Return the file that is read where none is named, if there is one that we may read."""
    return DEFAULT_FILE if os.access(DEFAULT_FILE, os.R_OK) else None


def control_socket(path: Path | None) -> Path:
    """Return where the daemon of a file (None: of the default one) is controlled.

    Other mistakes in the file do not matter: a daemon goes on with what it has read. ConfigError where it is not TOML.
    """
    path = path or default_file()
    said = read(path).get("control") if path else None
    socket = said.get("socket") if isinstance(said, dict) else None
    if socket == "":
        raise ConfigError(f'{path}: control.socket is "": the daemon has no control socket')
    return (path or DEFAULT_FILE).parent / (socket if isinstance(socket, str) else default_socket())
