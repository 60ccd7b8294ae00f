"""How clients are served: over UDP and TCP, with cookies, and with answers about the shield itself."""

import os
from typing import Literal

from pydantic import Field

from ..core._limits import EDNS_UDP_SIZE
from .types import Octets, PathField, Seconds, Section


class UdpSection(Section):
    """Clients over UDP."""

    max_payload: Octets = Field(EDNS_UDP_SIZE, ge=512, le=4096)
    """Largest response over UDP, and the EDNS payload size that is advertised."""
    receive_buffer: Octets = Field(4 << 20, ge=4096, le=1 << 30)
    """Receive buffer of each socket (SO_RCVBUF). Takes effect at restart."""


class TcpSection(Section):
    """Clients over TCP."""

    max_connections: int | None = Field(None, ge=0, le=1_000_000)
    """Connections at once; 0 disables TCP. By default, as many as file descriptors are left, and one for each 64 KiB of
    memory beside the cache. A client prefix (/24 or /56) gets a fair share of them. When all are in use, the one that
    has been idle longest is closed."""
    max_connections_per_client: int = Field(0, ge=0, le=1_000_000)
    """Connections at once from one IPv4 address or one IPv6 /64; 0: as many as its prefix may have."""
    memory: Octets = Field(64 << 20, ge=8 << 20, le=1 << 40)
    """Memory for queries that were received and not processed, and for responses that were not sent, of all connections
    together. A client prefix (/24 or /56) gets a fair share of it."""
    max_in_flight: int = Field(100, ge=1, le=65535)
    """Queries at once that wait for a response, for each connection."""
    idle_timeout: Seconds = Field(10.0, ge=0.1, le=3600)
    """A connection without traffic is closed after this time."""
    write_buffer: Octets = Field(256 << 10, ge=1 << 10, le=1 << 30)
    """When a client leaves more than this unread, nothing more is read from it, and the connection is closed when
    idle."""


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

    mode: Literal["serve", "off"] = "serve"
    """`"serve"`: the shield is the cookie server; `"off"`: clients get no cookie, neither from the shield nor from an
    upstream."""
    secret_file: PathField = Field(default_factory=default_secrets)
    """File with one secret of 32 hexadecimal digits on each line; the first one makes cookies, all are accepted. It is
    read again when it changes. By default `cookies` in the service's state directory, `/var/lib/funkenshield`, or
    `~/.local/state/funkenshield` for users other than root; that one is created where it is missing. `""`: a random
    secret for each start."""
    require: bool = False
    """Over UDP, answer BADCOOKIE to a query with a cookie but without a valid server cookie."""


class ChaosSection(Section):
    """Answers of class CHAOS about the shield itself; where a value is empty, the query is forwarded."""

    identity: str = Field("", max_length=100, description="TXT record of `id.server` and `hostname.bind`.")
    version: str = Field("", max_length=100, description="TXT record of `version.server` and `version.bind`.")
