"""Who is told what becomes of queries: collectors of dnstap, and query logs."""

import os
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from .types import EndpointField, ListOf, PathField, Section, ZoneName

Outcome = Literal[
    "hit", "prefetch", "stale", "forwarded", "coalesced", "synthesised", "local", "rule", "blocked", "limited",
    "denied", "refused", "malformed", "badcookie", "rejected", "failed", "dropped",
]  # fmt: skip
Message = Literal[
    "client_query", "client_response", "forwarder_query", "forwarder_response", "update_query", "update_response"
]
PATH_MAX = 1000
SOCKET_MAX = 107  # octets of a path in a sockaddr
Identity = Annotated[str, StringConstraints(max_length=100)]


class SinkSection(Section):
    """What all who are told have in common."""

    outcomes: ListOf[Outcome] = ()
    """Tell only of queries that this became of: `"hit"`, `"prefetch"`, `"stale"`, `"forwarded"`, `"coalesced"`,
    `"synthesised"`, `"local"`, `"rule"`, `"blocked"`, `"limited"`, `"denied"`, `"refused"`, `"malformed"`,
    `"badcookie"`, `"rejected"`, `"failed"`, `"dropped"`; by default, of all."""
    zones: ListOf[ZoneName] = Field((), max_length=64)
    """Tell only of names in these zones; by default, of all."""
    sample: float = Field(1.0, gt=0, le=1, description="Share of queries that are told of: 0.01 is one in a hundred.")
    ipv4_prefix_length: int = Field(32, ge=0, le=32)
    """Bits of clients' IPv4 addresses that are told; the rest is zeros. What is in messages, such as the client subnet
    option, is told as it is."""
    ipv6_prefix_length: int = Field(128, ge=0, le=128, description="Bits of clients' IPv6 addresses that are told.")


class DnstapSection(SinkSection):
    """A collector that is sent dnstap messages, by Frame Streams in both directions.

    A collector that is away, or stops reading, costs events, never answers. It is tried again after 0.1 to 5 seconds.
    """

    socket: PathField = Field("", max_length=SOCKET_MAX, description="UNIX socket that the collector listens on.")
    address: EndpointField | None = Field(None, description="`ADDR:PORT` that it listens on, over TCP.")
    messages: ListOf[Message] = ("client_query", "client_response", "update_query", "update_response")
    """Types of messages: these, and `"forwarder_query"` and `"forwarder_response"`: what upstreams are asked, and
    answer. With `outcomes`, a query that is forwarded has no `client_query`, for what becomes of it is not known yet;
    exchanges with upstreams are told whatever becomes of it."""
    identity: Identity = Field("", description="Identity of this server in each message; by default, its host name.")
    version: Identity = Field("", description="Version in each message; by default, FunkenShield's.")

    @model_validator(mode="after")
    def _is_somewhere(self) -> "DnstapSection":
        if bool(self.socket) == bool(self.address):
            raise ValueError("needs either socket or address")
        if len(os.fsencode(self.socket)) > SOCKET_MAX:
            raise ValueError(f"socket: a path of at most {SOCKET_MAX} octets")
        return self

    def __str__(self) -> str:
        return f"dnstap {self.socket or self.address}"


class QueryLogSection(SinkSection):
    """A log of queries, a line for each, written beside the work that goes on.

    A file, or pipe, that takes no more costs lines, never answers.
    """

    file: PathField = Field("", max_length=PATH_MAX)
    """File that lines are appended to, with mode 0640. Where another file, or none, stands at its path, it is opened
    anew within a second; on SIGUSR1, at once. `""`: standard output, which is the journal under systemd."""
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or readable lines.")

    def __str__(self) -> str:
        return f"query log {self.file or 'standard output'}"
