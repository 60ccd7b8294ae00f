"""How a miss reaches an upstream: whom to ask, how often and how long, and how many may wait."""

from typing import Literal

from pydantic import Field, model_validator

from .guard import AllowSection
from .types import PortsField, Section

Policy = Literal["round-robin", "order", "least-outstanding", "random", "latency", "hash"]


class ForwardSection(Section):
    """How misses reach an upstream."""

    policy: Policy = Field(
        "round-robin",
        description='Which upstream of a group is asked: each in turn; the lowest `order`; the one with the fewest open'
                    ' queries for its weight; at random by weight; the faster of two (by their average); or always the'
                    ' same for a name, unless that one has too much to do.',
    )  # fmt: skip
    timeout: float = Field(1.0, ge=0.05, le=30, json_schema_extra={"unit": "s"},
                           description="After so long a silence, a query is sent again.")  # fmt: skip
    retry_after: float = Field(
        0.1, ge=0.01, le=30, json_schema_extra={"unit": "s"},
        description="The least silence after which another upstream is asked; how long depends on what is usual there.",
    )  # fmt: skip
    hedge: bool = Field(
        False, description="Ask another one too when an upstream is slower than it is in 95 of 100 queries."
    )
    retry_on: tuple[Literal["SERVFAIL", "REFUSED"], ...] = Field(
        ("SERVFAIL", "REFUSED"), strict=False, description="Responses with which another upstream is asked."
    )
    deadline: float = Field(2.5, ge=0.05, le=30, description="A client gets SERVFAIL after this.",
                            json_schema_extra={"unit": "s"})  # fmt: skip
    update_timeout: float = Field(
        10.0, ge=0.05, le=60, json_schema_extra={"unit": "s"},
        description="In place of `timeout` and `deadline`, for what may change something at the upstream, and so is"
                    " sent once: UPDATE, NOTIFY, TKEY, any opcode but QUERY.",
    )  # fmt: skip
    transfer_timeout: float = Field(
        10.0, ge=0.05, le=300, json_schema_extra={"unit": "s"},
        description="Within this the first message of a zone transfer must come, or another upstream is asked.",
    )  # fmt: skip
    attempts: int = Field(3, ge=1, le=4, description="How often a query is sent, in all.")
    max_outstanding: int = Field(
        32768, ge=16, le=1 << 22, description="Clients that wait for an upstream. Restart to change."
    )
    max_outstanding_per_zone: int = Field(
        8192, ge=1, le=1 << 22, description="Of these, for one zone; a name without a `[[zones]]` of its own counts for"
                                            " its last two labels.",
    )  # fmt: skip
    max_outstanding_per_prefix: int = Field(
        1000, ge=1, le=1 << 22,
        description="Clients that wait in one prefix (/24, or /56 of IPv6), over UDP and without a cookie of ours:"
                    " their addresses may be forged, and whoever has them gets all the answers.",
    )  # fmt: skip
    max_uncached: int = Field(
        512, ge=1, le=65535, description="Notifies that are passed on, and queries longer than 384 octets, at once."
    )
    max_transfers: int = Field(16, ge=1, le=65535, description="Zone transfers at once.")
    overload: Literal["refuse", "drop"] = Field("refuse", description="What queries over these bounds get.")
    retry_truncated: bool = Field(True, description="Fetch a truncated answer over TCP, and keep it whole.")
    spoof_threshold: int = Field(
        3, ge=0, le=255,
        description="After so many datagrams from an upstream, within five minutes, that answer nothing which was asked"
                    " lately, what comes from it over UDP is asked for again over TCP for some minutes; 0: never.",
    )  # fmt: skip
    sockets: int = Field(16, ge=1, le=63, description="UDP sockets, each with a random port, for each upstream.")
    source_port_lifetime: float = Field(20.0, ge=1, le=86400, description="A port is given up after this.",
                             json_schema_extra={"unit": "s"})  # fmt: skip
    source_port_avoid: tuple[PortsField, ...] = Field(
        (), max_length=1024, strict=False,
        description="Local ports that queries never leave from, for others need them: `5353`, or `\"5000-5010\"`."
                    " Those of the kernel's range (`net.ipv4.ip_local_port_range`) are drawn from, without its reserved"
                    " ones.",
    )  # fmt: skip
    max_connections: int = Field(8, ge=1, le=1024, description="TCP or TLS connections to one upstream at once.")
    allow: AllowSection = Field(AllowSection(), description="Who may do what an upstream trusts the shield with.")

    @model_validator(mode="after")
    def _tries_again(self) -> "ForwardSection":
        if self.deadline < self.timeout:
            raise ValueError(
                f"deadline is {self.deadline}, and timeout {self.timeout}: a client would get SERVFAIL before"
                " anything is tried again"
            )
        return self


class ClientSubnetSection(Section):
    """Telling upstreams which network a client is in (RFC 7871), where the client did not say so itself."""

    add: bool = Field(False, description="Tell them.")
    ipv4_prefix_length: int = Field(24, ge=1, le=32, description="Bits of an IPv4 address that are told.")
    ipv6_prefix_length: int = Field(56, ge=1, le=128, description="Bits of an IPv6 address that are told.")
    private: bool = Field(False, description="Tell of private addresses too.")
