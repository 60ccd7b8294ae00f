"""How clients are served: over UDP and TCP, with cookies, and with answers about the shield itself."""

import os
from typing import Literal

from pydantic import Field

from .types import PathField, Section


class UdpSection(Section):
    """How clients are served over UDP."""

    edns_udp_size: int = Field(1232, ge=512, le=4096, description="Largest answer, and the EDNS payload size we tell.",
                         json_schema_extra={"unit": "octets"})  # fmt: skip
    receive_buffer: int = Field(4 << 20, ge=4096, le=1 << 30, json_schema_extra={"unit": "octets"},
                                 description="Kernel's buffer of each socket. Restart to change.")  # fmt: skip


class TcpSection(Section):
    """How clients are served over TCP."""

    max_connections: int = Field(
        1000, ge=0, le=1_000_000,
        description="Connections at once; 0 turns TCP off. One /24 or /56 has its share of them. Where all are"
                    " taken, who is silent the longest gives way.",
    )  # fmt: skip
    max_connections_per_client: int = Field(
        100, ge=1, le=1_000_000, description="Connections at once from one IPv4 address, or one IPv6 /64."
    )
    memory: int = Field(
        64 << 20, ge=8 << 20, le=1 << 40, json_schema_extra={"unit": "octets"},
        description="What may wait in all connections: queries that came and were not taken, and answers that do not go"
                    " out. One /24 or /56 has its share of it.",
    )  # fmt: skip
    max_in_flight: int = Field(100, ge=1, le=65535, description="Queries that wait for an answer, each connection.")
    idle_timeout: float = Field(10.0, ge=0.1, le=3600, description="A connection without traffic is closed after this.",
                        json_schema_extra={"unit": "s"})  # fmt: skip
    write_buffer: int = Field(
        256 << 10, ge=1 << 10, le=1 << 30, json_schema_extra={"unit": "octets"},
        description="A client that leaves more unread is read no further, and closed when idle.",
    )  # fmt: skip


def default_secrets() -> str:
    """Return where the secret of cookies is kept unless configured: in a folder of state; "": there is none."""
    if folder := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:  # the service manager's
        return f"{folder}/cookies"
    if os.geteuid() == 0:
        return "/var/lib/funkenshield/cookies"
    folder = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return f"{folder}/funkenshield/cookies" if os.path.isabs(folder) else ""


class CookiesSection(Section):
    """DNS cookies (RFC 7873, 9018)."""

    mode: Literal["serve", "off"] = Field(
        "serve", description='`"serve"` makes the shield the server; with `"off"`, no client gets one from anybody.'
    )
    secret_file: PathField = Field(
        default_factory=default_secrets,
        description="File with a secret of 32 hexadecimal digits a line; the first makes cookies, all are known."
                    " Read again when it changes. By default `cookies` in the service's state directory,"
                    " `/var/lib/funkenshield`, or `~/.local/state/funkenshield` of a user who is not root: it is made"
                    ' where it is missing. `""`: a random secret for each start.',
    )  # fmt: skip
    require: bool = Field(False, description="Over UDP, answer BADCOOKIE to a cookie that is not ours.")


class ChaosSection(Section):
    """Answers of class CHAOS about the shield itself; an empty one leaves the question to the upstream."""

    identity: str = Field("", max_length=100, description="TXT of `id.server` and `hostname.bind`.")
    version: str = Field("", max_length=100, description="TXT of `version.server` and `version.bind`.")
