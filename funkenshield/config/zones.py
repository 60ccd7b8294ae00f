"""Zones with settings of their own."""

from pydantic import Field

from .cache import StaleSection, TtlSection
from .types import EndpointField, GroupName, PrefixField, Section, ZoneName
from .upstreams import GROUP_MAX


class ZoneSection(Section):
    """A zone with settings of its own; the longest one that a name is in counts. A new or removed one starts empty.

    `[zones.ttl]` and `[zones.stale]` take the keys of `[ttl]` and `[stale]`; what they leave out is as it is there.
    """

    name: ZoneName = Field(description="Its name, such as `example.com`.")
    upstreams: tuple[EndpointField, ...] | None = Field(
        None, min_length=1, max_length=GROUP_MAX, strict=False, description="Its nameservers, a group of their own."
    )
    group: GroupName | None = Field(None, description='Or else the group that is asked; none: `"default"`.')
    max_outstanding: int | None = Field(
        None, ge=1, le=1 << 22, description="Clients that wait, in place of `forward.max_outstanding_per_zone`."
    )
    allow_notify_from: tuple[PrefixField, ...] | None = Field(
        None,
        strict=False,
        description="Whose NOTIFY has its serial looked at, in place of `allow_notify_from` at the top.",
    )
    watch: bool = Field(False, description="Ask for the serial of its SOA; a change purges it.")
    watch_interval: float = Field(60.0, ge=1, le=86400, description="So often.", json_schema_extra={"unit": "s"})
    watch_jitter: float = Field(0.1, ge=0, le=0.9, description="More or less, as a share of the interval.")
    nxdomain_cut: bool | None = Field(None, description="In place of `cache.nxdomain_cut`.")
    aggressive_nsec: bool = Field(False, description="Deny what lies between NSEC records that were seen (RFC 8198).")
    ttl: TtlSection = Field(TtlSection(), description="What differs from `[ttl]`.")
    stale: StaleSection = Field(StaleSection(), description="What differs from `[stale]`.")
