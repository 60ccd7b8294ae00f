"""Every option: its type, default, unit and bounds. A file for each idea, and all of them in `schema`.

TOML in, a frozen `Config` out, or a ConfigError that names file, key, what is wrong and what is
allowed. Nobody else reads files or flags.
"""

import os
import tomllib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.files import named_in, read_text
from ..errors import ConfigError
from . import environment
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
    "default_file", "default_secrets", "default_socket", "in_environment", "load", "read",
]  # fmt: skip

DEFAULT_FILE = Path("/etc/funkenshield.toml")


def load(
    path: Path | None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Return the configuration of a file (None: the defaults), overridden by variables, and these by flags.

    `overrides` maps keys, those of a table as `TABLE.KEY`, to values. Raises ConfigError with a line for each mistake.
    """
    values, flags = read(path) if path is not None else {}, overrides or {}
    variables = environment.values(environ or {}, Config)
    for key, value in {**variables, **flags}.items():
        _set(values, key, value)

    origins = {key: environment.variable_of(key) for key in variables} | dict.fromkeys(flags, "command line")

    def said(key: str) -> str:
        """Return who said something: a variable, a flag, the file, or all of what there is of these."""
        above = [key, *(key[:at] for at, letter in enumerate(key) if letter == ".")]
        everybody = "environment" if variables and not flags else "command line"
        return next((origins[each] for each in above if each in origins), str(path or everybody))

    try:
        with named_in(path) if path else nullcontext():
            config = Config.model_validate(values)
    except ValidationError as mistakes:
        lines = [f"{said(key)}: {line}" for key, line in explain(mistakes, Config, values)]
        raise ConfigError("\n".join(lines)) from None
    config._origins.update(origins)
    return config


def _set(values: dict[str, Any], key: str, value: object) -> None:
    """Set a key of a file; where no table is in the place of one, the model names that mistake."""
    *tables, name = key.split(".")
    for each in tables:
        values = values.setdefault(each, {})
        if not isinstance(values, dict):
            return
    values[name] = value


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


def in_environment(environ: Mapping[str, str]) -> bool:
    """Tell whether variables configure something; ConfigError where one is of no key."""
    return bool(environment.values(environ, Config))


def control_socket(path: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """Return where the daemon of a file (None: of the default one) is controlled, if no variable says otherwise.

    Other mistakes in the file do not matter: a daemon goes on with what it has read. ConfigError where it is not TOML.
    """
    path, variable = path or default_file(), environment.variable_of("control.socket")
    if environ and variable in environ:
        return _named_socket(Path(), environ[variable], variable)
    said = read(path).get("control") if path else None
    socket = said.get("socket") if isinstance(said, dict) else None
    return _named_socket(path or DEFAULT_FILE, socket if isinstance(socket, str) else default_socket(), str(path))


def _named_socket(file: Path, socket: str, where: str) -> Path:
    if not socket:
        raise ConfigError(f'{where}: control.socket is "": the daemon has no control socket')
    return file.parent / socket
