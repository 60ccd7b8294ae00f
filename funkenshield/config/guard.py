"""What stands between the world and the rules: access lists, limits, response rate limiting, blocks.

It says what an operator can ask of the guard, each with type, default, unit and bounds.
"""

from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from pydantic import Field, model_validator

from .types import ListOf, Octets, PrefixField, Seconds, Section

Prefixes = ListOf[PrefixField]
Refusal = Literal["drop", "refuse", "truncate"]


class AllowSection(Section):
    """Which clients may transfer, update and notify through the shield; all others get REFUSED.

    An upstream sees the shield's address, and cannot apply access lists of its own. Over UDP, source addresses can be
    forged: sign what must be secure (TSIG).
    """

    transfers: Prefixes = Field((), max_length=1000, description="Prefixes from which AXFR and IXFR are forwarded.")
    updates: Prefixes = Field((), max_length=1000, description="Prefixes from which UPDATE is forwarded.")
    notifies: Prefixes = Field((), max_length=1000)
    """Prefixes from which NOTIFY is forwarded, besides those of `allow_notify_from`; it causes no query for the
    serial."""


class AccessSection(Section):
    """Access control; of all prefixes that match an address, the longest decides."""

    allow: Prefixes = Field((), description="Prefixes that are allowed.")
    deny: Prefixes = Field((), description="Prefixes that are denied.")
    default: Literal["allow", "deny"] = Field("allow", description="For all other addresses.")
    action: Literal["drop", "refuse"] = Field("refuse", description="What denied clients get.")

    @model_validator(mode="after")
    def _is_clear(self) -> "AccessSection":
        both = sorted({str(prefix) for prefix in self.allow} & {str(prefix) for prefix in self.deny})
        if both:
            raise ValueError(f"in both allow and deny: {', '.join(both)}")
        return self


class RateLimitSection(Section):
    """A limit of queries per second for each source prefix; several tables limit several prefix lengths."""

    queries_per_second: float = Field(gt=0, le=1_000_000, description="Queries per second.")
    window: Seconds = Field(1.0, gt=0, le=3600)
    """Time over which the rate is averaged: so many seconds' worth may come at once."""
    ipv4_prefix_length: int = Field(32, ge=1, le=32, description="Length of an IPv4 source prefix.")
    ipv6_prefix_length: int = Field(64, ge=1, le=128, description="Length of an IPv6 source prefix.")
    action: Refusal = Field("drop", description="What queries over the limit get.")


class RrlSection(Section):
    """Response rate limiting, against reflection: over UDP, for each source prefix; 0 is no limit.

    A client with a valid cookie (`cookies.mode = "serve"`) has proven its address, and is not limited.
    """

    responses_per_second: float = Field(0, ge=0, le=1_000_000, description="Identical responses per second.")
    nxdomains_per_second: float = Field(0, ge=0, le=1_000_000, description="NXDOMAIN responses per second.")
    errors_per_second: float = Field(0, ge=0, le=1_000_000, description="Other error responses per second.")
    all_per_second: float = Field(0, ge=0, le=1_000_000, description="Responses of any kind per second.")
    window: Seconds = Field(2.0, gt=0, le=3600)
    """Time over which rates are averaged: so many seconds' worth may be sent at once."""
    ipv4_prefix_length: int = Field(24, ge=1, le=32, description="Length of an IPv4 source prefix.")
    ipv6_prefix_length: int = Field(56, ge=1, le=128, description="Length of an IPv6 source prefix.")
    slip: int = Field(2, ge=0, le=100)
    """One in this many responses over the limit is sent with TC=1, so that a real client retries over TCP; 0: none."""
    exempt: Prefixes = Field((), max_length=1000, description="Prefixes that are not limited.")


class DynamicBlockSection(Section):
    """A rule that blocks a source prefix for a time when it exceeds a rate."""

    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$", description="Name in lists and logs.")
    type: Literal["queries", "nxdomains", "servfails", "octets"]
    """What is counted: queries, NXDOMAIN responses, SERVFAIL responses, octets of responses."""
    rate: float = Field(gt=0, le=1e10, description="Rate per second.")
    seconds: Seconds = Field(10.0, ge=1, le=3600)
    """Bucket size, in seconds at that rate: a prefix at twice the rate is blocked after this time, a faster one
    sooner."""
    duration: Seconds = Field(60.0, ge=1, le=86400, description="How long the prefix is blocked.")
    ipv4_prefix_length: int = Field(32, ge=1, le=32, description="Length of an IPv4 source prefix.")
    ipv6_prefix_length: int = Field(64, ge=1, le=128, description="Length of an IPv6 source prefix.")
    action: Refusal = Field("drop", description="What queries of a blocked prefix get.")
    exempt: Prefixes = Field((), max_length=1000, description="Prefixes that are never blocked.")


class GuardSection(Section):
    """Access control, rate limits, response rate limiting and dynamic blocks: applied to each query and response."""

    memory: Octets = Field(4 << 20, ge=64 << 10, le=1 << 32)
    """Memory of each rate limit, also those of dynamic blocks and rules; when it is full, the least active sources are
    forgotten. It is allocated as it fills. Takes effect at restart."""
    max_blocked: int = Field(4096, ge=16, le=65536)
    """Prefixes that are blocked at once; a new one replaces the oldest."""
    access: AccessSection = AccessSection()
    rate_limits: ListOf[RateLimitSection] = Field((), max_length=8)
    rrl: RrlSection = RrlSection()
    dynamic_blocks: ListOf[DynamicBlockSection] = Field((), max_length=16)


def packed(prefixes: tuple[IPv4Network | IPv6Network, ...]) -> list[tuple[bytes, int]]:
    """Return prefixes as (network address, bits)."""
    return [(prefix.network_address.packed, prefix.prefixlen) for prefix in prefixes]
