"""How a miss reaches an upstream: whom to ask, how often and how long, and how many may wait."""

from typing import Literal

from pydantic import Field, model_validator

from .guard import AllowSection
from .types import ListOf, PortsField, Seconds, Section

Policy = Literal["round-robin", "order", "least-outstanding", "random", "latency", "hash"]


class ForwardSection(Section):
    """How cache misses are forwarded to upstreams."""

    policy: Policy = "round-robin"
    """How an upstream is selected from its group: `"round-robin"`; `"order"`: the lowest `order`;
    `"least-outstanding"`: the fewest outstanding queries for its weight; `"random"`: weighted; `"latency"`: the faster
    of two (by average latency); `"hash"`: always the same for a name, unless it is overloaded."""
    timeout: Seconds = Field(1.0, ge=0.05, le=30)
    """Upper bound of the retransmission timeout: after this time without a response, a query is sent again."""
    retry_after: Seconds = Field(0.1, ge=0.01, le=30)
    """Lower bound of the retransmission timeout, which is derived from the latency of the upstream. The retry goes to
    another upstream where there is one."""
    hedge: bool = False
    """Also query a second upstream when the first takes longer than its 95th percentile."""
    retry_on: ListOf[Literal["SERVFAIL", "REFUSED"]] = ("SERVFAIL", "REFUSED")
    """Response codes after which another upstream is queried."""
    deadline: Seconds = Field(2.5, ge=0.05, le=30, description="After this time, a client gets SERVFAIL.")
    update_timeout: Seconds = Field(10.0, ge=0.05, le=60)
    """In place of `timeout` and `deadline`, for queries that may change something at the upstream and are therefore
    sent once: UPDATE, NOTIFY, TKEY, any opcode but QUERY."""
    transfer_timeout: Seconds = Field(10.0, ge=0.05, le=300)
    """The first message of a zone transfer must arrive within this time, or another upstream is asked."""
    attempts: int = Field(3, ge=1, le=4, description="How many times a query is sent, including the first.")
    max_outstanding: int = Field(32768, ge=16, le=1 << 22)
    """Client queries at once that wait for an upstream. Takes effect at restart."""
    max_outstanding_per_zone: int = Field(8192, ge=1, le=1 << 22)
    """Client queries at once that wait, for one zone; a name without a `[[zones]]` of its own counts for its last two
    labels."""
    max_outstanding_per_prefix: int = Field(1000, ge=1, le=1 << 22)
    """Client queries at once that wait, over UDP and without a valid cookie, for one client prefix (/24 or /56): the
    source addresses may be forged, and their owner gets the responses."""
    max_uncached: int = Field(512, ge=1, le=65535)
    """NOTIFY messages, and queries longer than 384 octets, that are outstanding at once."""
    max_transfers: int = Field(16, ge=1, le=65535, description="Zone transfers at once.")
    overload: Literal["refuse", "drop"] = "refuse"
    """What queries over these limits get: REFUSED, or no response."""
    retry_truncated: bool = True
    """Repeat a query over TCP when its response is truncated, and cache the whole response."""
    spoof_threshold: int = Field(3, ge=0, le=255)
    """After this many responses from an upstream, within five minutes, that match no outstanding or recent query, its
    responses over UDP are verified over TCP for some minutes; 0: never."""
    resolve_interval: Seconds = Field(60.0, ge=1, le=86400)
    """Time between two look-ups of the host names of upstreams. If one of a host is marked down, or a look-up fails,
    the next one is sooner; until it succeeds, the addresses that are known are used."""
    sockets: int = Field(16, ge=1, le=63, description="UDP sockets, and so source ports, toward each upstream.")
    source_port_lifetime: Seconds = Field(20.0, ge=1, le=86400)
    """A UDP source port is replaced after this time."""
    source_port_avoid: ListOf[PortsField] = Field((), max_length=1024)
    """Local ports that are never used as source ports, because other programs need them: `5353`, or `"5000-5010"`.
    Ports are taken from the kernel's range (`net.ipv4.ip_local_port_range`), without the reserved ones."""
    max_connections: int = Field(8, ge=1, le=1024, description="TCP or TLS connections to one upstream at once.")
    allow: AllowSection = AllowSection()
    """Which clients may transfer, update and notify through the shield."""

    @model_validator(mode="after")
    def _tries_again(self) -> "ForwardSection":
        if self.deadline < self.timeout:
            raise ValueError(
                f"deadline ({self.deadline}) is shorter than timeout ({self.timeout}): a client would get SERVFAIL"
                " before the query is retried"
            )
        return self


class ClientSubnetSection(Section):
    """EDNS Client Subnet toward upstreams (RFC 7871), for queries that come without one."""

    add: bool = Field(False, description="Add the client's subnet.")
    ipv4_prefix_length: int = Field(24, ge=1, le=32, description="Prefix length that is sent for IPv4.")
    ipv6_prefix_length: int = Field(56, ge=1, le=128, description="Prefix length that is sent for IPv6.")
    private: bool = Field(False, description="Also for private addresses.")
