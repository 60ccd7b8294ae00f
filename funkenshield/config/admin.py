"""What operators look at and steer with: the log, the metrics, the control socket."""

import os
from typing import Literal

from pydantic import Field

from .types import EndpointField, PathField, Section


class LogSection(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    format: Literal["text", "json"] = Field("text", description="Plain lines, or one JSON object per line.")


class MetricsSection(Section):
    """Metrics for Prometheus."""

    listen: EndpointField | None = None
    """HTTP endpoint of `/metrics`; by default none. Takes effect at restart."""


def default_socket() -> str:
    """Return where the control socket is unless configured: a folder that is this user's own."""
    if os.geteuid() == 0:
        return "/run/funkenshield/control.sock"
    return f"{os.environ.get('XDG_RUNTIME_DIR', f'/tmp/funkenshield-{os.geteuid()}')}/funkenshield.sock"


class ControlSection(Section):
    """The control socket, for `funkenshield stats`, `purge` and the like."""

    socket: PathField = Field(default_factory=default_socket, max_length=107)
    """Path of a UNIX socket, created with mode 0600; `""`: none. By default `/run/funkenshield/control.sock`, or
    `funkenshield.sock` in the runtime directory for users other than root; where that one cannot be created, there is
    none. Takes effect at restart."""
