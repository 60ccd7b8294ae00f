"""What stands between the world and the rules: access lists, limits, response rate limiting, blocks.

It says what an operator can ask of the guard, each with type, default, unit and bounds.
"""

from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from pydantic import Field, model_validator

from .types import PrefixField, Section

Prefixes = tuple[PrefixField, ...]
Refusal = Literal["drop", "refuse", "truncate"]


class AllowSection(Section):
    """Whose queries reach upstreams that may trust the shield's address, as primaries do: all others' are REFUSED.

    An upstream sees the shield's address, and cannot tell clients apart by theirs. Over UDP, clients' can be forged,
    too: what must be sure is signed (TSIG).
    """

    transfers: Prefixes = Field((), max_length=1000, strict=False, description="Prefixes whose AXFR and IXFR do.")
    updates: Prefixes = Field((), max_length=1000, strict=False, description="Prefixes whose UPDATE does.")
    notifies: Prefixes = Field((), max_length=1000, strict=False,
                               description="Prefixes whose NOTIFY does, beside those of `allow_notify_from` at the top"
                                           " and of zones; that it is heeded here, only those say.")  # fmt: skip


class AccessSection(Section):
    """Who may ask at all; of all prefixes that an address is in, the longest decides."""

    allow: Prefixes = Field((), strict=False, description="Prefixes that may.")
    deny: Prefixes = Field((), strict=False, description="Prefixes that may not.")
    default: Literal["allow", "deny"] = Field("allow", description="All others.")
    action: Literal["drop", "refuse"] = Field("refuse", description="What those get who may not.")

    @model_validator(mode="after")
    def _is_clear(self) -> "AccessSection":
        both = sorted({str(prefix) for prefix in self.allow} & {str(prefix) for prefix in self.deny})
        if both:
            raise ValueError(f"both allowed and denied: {', '.join(both)}")
        return self


class RateLimitSection(Section):
    """So many queries a second from each source prefix; several tables bound several prefix lengths."""

    queries_per_second: float = Field(gt=0, le=1_000_000, description="Queries a second.")
    burst: float = Field(1.0, gt=0, le=3600, json_schema_extra={"unit": "s"},
                         description="As many as come in so long may come at once.")  # fmt: skip
    ipv4_prefix_length: int = Field(32, ge=1, le=32, description="Bits of a source prefix, for IPv4.")
    ipv6_prefix_length: int = Field(64, ge=1, le=128, description="Bits of a source prefix, for IPv6.")
    action: Refusal = Field("drop", description="What queries over it get.")


class RrlSection(Section):
    """Response rate limiting: so that answers to forged sources do no harm there. Over UDP; 0 is no limit.

    A client that sends a valid cookie (`cookies.mode = "serve"`) proves its address, and is not limited.
    """

    responses_per_second: float = Field(
        0, ge=0, le=1_000_000, description="Equal answers a second, to a source prefix."
    )
    nxdomains_per_second: float = Field(0, ge=0, le=1_000_000,
                             description="NXDOMAIN a second, to a source prefix.")  # fmt: skip
    errors_per_second: float = Field(0, ge=0, le=1_000_000, description="Other errors a second, to a source prefix.")
    all_per_second: float = Field(
        0, ge=0, le=1_000_000, description="Responses of all kinds a second, to a source prefix."
    )
    burst: float = Field(2.0, gt=0, le=3600, json_schema_extra={"unit": "s"},
                         description="As many as go out in so long may go at once.")  # fmt: skip
    ipv4_prefix_length: int = Field(24, ge=1, le=32, description="Bits of a source prefix, for IPv4.")
    ipv6_prefix_length: int = Field(56, ge=1, le=128, description="Bits of a source prefix, for IPv6.")
    slip: int = Field(2, ge=0, le=100, description="One in so many responses over the limit goes out with TC=1, so that"
                                                   " a real client comes by TCP; 0: none.")  # fmt: skip
    exempt: Prefixes = Field((), max_length=1000, strict=False, description="Prefixes that are not limited.")


class DynamicBlockSection(Section):
    """A source prefix that is over a rate for a while is shut out for a while."""

    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$", description="What it is called when listed.")
    type: Literal["queries", "nxdomains", "servfails", "octets"] = Field(
        description="What is counted: queries, NXDOMAIN or SERVFAIL answered, octets of answers."
    )
    rate: float = Field(gt=0, le=1e10, description="So many a second.")
    seconds: float = Field(10.0, ge=1, le=3600, json_schema_extra={"unit": "s"},
                           description="So long over it: twice the rate takes so long, more is sooner.")  # fmt: skip
    duration: float = Field(60.0, ge=1, le=86400, json_schema_extra={"unit": "s"},
                         description="It is shut out for so long.")  # fmt: skip
    ipv4_prefix_length: int = Field(32, ge=1, le=32, description="Bits of a source prefix, for IPv4.")
    ipv6_prefix_length: int = Field(64, ge=1, le=128, description="Bits of a source prefix, for IPv6.")
    action: Refusal = Field("drop", description="What its queries get.")
    exempt: Prefixes = Field((), max_length=1000, strict=False, description="Prefixes that are never shut out.")


class GuardSection(Section):
    """What stands before the rules: every query passes here, and every answer."""

    memory: int = Field(4 << 20, ge=64 << 10, le=1 << 32, json_schema_extra={"unit": "octets"},
                         description="For each limit, also that of a block or a rule; where it is full, who asks least"
                                     " is forgotten. It is taken as it fills. Restart to change.")  # fmt: skip
    max_blocked: int = Field(4096, ge=16, le=65536, description="Prefixes shut out at once; more push out the oldest.")
    access: AccessSection = AccessSection()
    rate_limits: tuple[RateLimitSection, ...] = Field((), max_length=8, strict=False)
    rrl: RrlSection = RrlSection()
    dynamic_blocks: tuple[DynamicBlockSection, ...] = Field((), max_length=16, strict=False)


def packed(prefixes: tuple[IPv4Network | IPv6Network, ...]) -> list[tuple[bytes, int]]:
    """Return prefixes as (network address, bits)."""
    return [(prefix.network_address.packed, prefix.prefixlen) for prefix in prefixes]
