"""Every option: its type, default, unit and bounds. A file for each idea, and all of them in `schema`.

TOML in, a frozen `Config` out, or a ConfigError that names file, key, what is wrong and what is
allowed. Nobody else reads files or flags.
"""

import os
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.files import named_in, read_text
from ..errors import ConfigError
from .admin import default_socket
from .clients import TcpSection, default_secrets
from .forward import ForwardSection
from .listeners import ClientTlsSection
from .mistakes import explain, not_toml
from .schema import RESTART, Config
from .types import Endpoint
from .upstreams import DEFAULT_GROUP, HealthSection, Member, TlsSection, UpstreamSection
from .zones import ZoneSection

__all__ = [
    "DEFAULT_FILE", "DEFAULT_GROUP", "RESTART", "ClientTlsSection", "Config", "Endpoint", "ForwardSection",
    "HealthSection", "Member", "TcpSection", "TlsSection", "UpstreamSection", "ZoneSection", "control_socket",
    "default_file", "default_secrets", "default_socket", "load", "read",
]  # fmt: skip

DEFAULT_FILE = Path("/etc/funkenshield.toml")


def load(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """Return the configuration of a file (None: the defaults), with flags laid over it.

    `overrides` maps keys, those of a table as `TABLE.KEY`, to values. Raises ConfigError with a line for each mistake.
    """
    values = read(path) if path is not None else {}
    for key, value in (overrides or {}).items():
        section, _, name = key.rpartition(".")
        table = values.setdefault(section, {}) if section else values
        if isinstance(table, dict):  # or else the model names the mistake
            table[name] = value
    try:
        with named_in(path) if path else nullcontext():
            return Config.model_validate(values)
    except ValidationError as mistakes:
        lines = [
            f"{path if path and key not in (overrides or {}) else 'command line'}: {line}"
            for key, line in explain(mistakes, Config, values)
        ]
        raise ConfigError("\n".join(lines)) from None


def read(path: Path) -> dict[str, Any]:
    """Return what stands in a file; ConfigError where it cannot be read, or is not TOML."""
    try:
        text = read_text(path).removeprefix("\ufeff")
        found = tomllib.loads(text)
        str(found)  # ValueError: it has an integer that could not even be shown
        return found
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not accepted: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        at, why = not_toml(error, text)
        raise ConfigError(f"{path}:{at}: {why}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None
    except ValueError:
        raise ConfigError(f"{path}: not accepted: an integer has too many digits") from None


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
