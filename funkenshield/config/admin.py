"""What operators look at and steer with: the log, the metrics, the control socket."""

import os
from typing import Literal

from pydantic import Field

from .types import EndpointField, PathField, Section


class LogSection(Section):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is told.")
    format: Literal["text", "json"] = Field("text", description="Readable lines, or one JSON object a line.")


class MetricsSection(Section):
    """Counters for Prometheus."""

    listen: EndpointField | None = Field(
        None, description="HTTP endpoint of `/metrics`; none unless given. Restart to change."
    )


def default_socket() -> str:
    """Return where the control socket is unless configured: a folder that is this user's own."""
    if os.geteuid() == 0:
        return "/run/funkenshield/control.sock"
    return f"{os.environ.get('XDG_RUNTIME_DIR', f'/tmp/funkenshield-{os.geteuid()}')}/funkenshield.sock"


class ControlSection(Section):
    """The socket of `funkenshield stats` and `purge`."""

    socket: PathField = Field(
        default_factory=default_socket, max_length=107,
        description='Path of a UNIX socket, made with mode 0600; `""`: none. By default'
                    " `/run/funkenshield/control.sock`, or `funkenshield.sock` in the runtime directory of a user who"
                    " is not root; where that one cannot be made, there is none. Restart to change.",
    )  # fmt: skip
