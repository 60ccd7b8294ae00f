"""Zones with settings of their own."""

from pydantic import Field

from ..core._limits import MEMBERS_MAX
from .cache import StaleSection, TtlSection
from .cluster import Sharing
from .types import GroupName, ListOf, PlaceField, PrefixField, Seconds, Section, ZoneName


class ZoneSection(Section):
    """Settings of a zone; for a name in several zones, the longest counts. An added or removed zone starts empty.

    `[zones.ttl]` and `[zones.stale]` take the keys of `[ttl]` and `[stale]`; keys left out are as they are there.
    """

    name: ZoneName = Field(description="Name of the zone, such as `example.com`.")
    upstreams: ListOf[PlaceField] | None = Field(None, min_length=1, max_length=MEMBERS_MAX)
    """Its upstreams, as a group of their own."""
    group: GroupName | None = Field(None, description='Group of upstreams, in place of `"default"`.')
    max_outstanding: int | None = Field(None, ge=1, le=1 << 22)
    """In place of `forward.max_outstanding_per_zone`."""
    allow_notify_from: ListOf[PrefixField] | None = None
    """In place of `allow_notify_from` at the top of the file."""
    watch: bool = False
    """Query the serial of its SOA record, and purge the zone from the cache when it changes."""
    watch_interval: Seconds = Field(60.0, ge=1, le=86400, description="Time between two such queries.")
    watch_jitter: float = Field(0.1, ge=0, le=0.9, description="Random variation of the interval, as a ratio.")
    nxdomain_cut: bool | None = Field(None, description="In place of `cache.nxdomain_cut`.")
    aggressive_nsec: bool = Field(False, description="Answer NXDOMAIN and NODATA from cached NSEC records (RFC 8198).")
    shared_cache: Sharing | None = Field(None, description="In place of `cluster.shared_cache`.")
    ttl: TtlSection = Field(TtlSection(), description="What differs from `[ttl]`.")
    stale: StaleSection = Field(StaleSection(), description="What differs from `[stale]`.")
