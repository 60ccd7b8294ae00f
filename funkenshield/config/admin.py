"""What operators look at and steer with: the log, the metrics, the control socket."""

import os
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .types import Endpoint, EndpointField, ListOf, PathField, Section

PAGE = Endpoint("127.0.0.1", 8055)  # where the page is unless configured
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$", max_length=255)]


class LogSection(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    format: Literal["text", "json"] = Field("text", description="Plain lines, or one JSON object per line.")


class MetricsSection(Section):
    """Metrics for Prometheus."""

    listen: EndpointField | None = None
    """HTTP endpoint of `/metrics`; by default none, or 127.0.0.1:8055 with `web.page`. Where `user` is set, a port
    below 1024 takes a restart."""


class WebSection(Section):
    """A page for people that shows what the shield does, and steers it, with an API beside it.

    Both are on `metrics.listen`.
    """

    page: bool = Field(False, description="Serve the page, and the API below `/api/`.")
    token_file: PathField = ""
    """File with the token, 16 or more letters and digits, that it takes to change something: to purge, block, reload
    and the like. `""`: nothing can be changed. It is read at the start, before `user` is switched to, and when this
    section or `metrics.listen` is changed."""
    open_reading: bool = True
    """Let everybody who reaches `metrics.listen` read the page; `false`: that takes the token, too."""
    host_names: ListOf[HostName] = Field((), max_length=64)
    """Host names that the page and `/metrics` may be reached by, besides addresses, `localhost` and the machine's own
    name."""


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
