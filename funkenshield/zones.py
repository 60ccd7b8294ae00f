"""Zones with settings of their own: from the configuration to what the compiled part follows, by number.

Zone 0 is everything that has no section of its own; its group of upstreams is group 0.
"""

from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from ._zones import Zones
from .config import DEFAULT_GROUP, Config, StaleSection, TtlSection, ZoneSection
from .fields import Endpoint
from .names import name_to_wire


class Assignment(NamedTuple):
    """What the zones' numbers stand for."""

    groups: dict[int, tuple[Endpoint, ...]]  # of upstreams
    notifiers: dict[int, tuple[IPv4Network | IPv6Network, ...]]  # whose NOTIFY counts
    changed: list[bytes]  # names of zones that are new, or no more


def assign(zones: Zones, config: Config) -> Assignment:
    """Give each zone a number, and its policy; what is stored under `changed` is of another policy and must go."""
    changed = zones.assign([name_to_wire(zone.name) for zone in config.zones])
    made = Assignment({0: config.members(DEFAULT_GROUP)}, {0: config.notify}, changed)
    zones.set_policy(
        0,
        cut=config.cache.nxdomain_cut,
        open=config.forward.open_zone,
        upstreams=len(made.groups[0]),
        **_policy(config, config.ttl, config.stale),
    )
    for zone in config.zones:
        number = zones.number(name_to_wire(zone.name))
        if zone.upstreams is not None or zone.group is not None:
            made.groups[number] = config.upstreams_of(zone)
        if zone.notify is not None:
            made.notifiers[number] = zone.notify
        _set_policy(zones, number, config, zone)
    return made


def _set_policy(zones: Zones, number: int, config: Config, zone: ZoneSection) -> None:
    zones.set_policy(
        number,
        cut=config.cache.nxdomain_cut if zone.nxdomain_cut is None else zone.nxdomain_cut,
        open=zone.open or config.forward.open_zone,
        trust_nsec=zone.nsec == "trust",
        group=number if zone.upstreams is not None or zone.group is not None else 0,
        upstreams=len(config.upstreams_of(zone)),
        **_policy(config, config.ttl_of(zone), config.stale_of(zone)),
    )


def _policy(config: Config, ttl: TtlSection, stale: StaleSection) -> dict[str, Any]:
    return {
        "shortest": ttl.min,
        "longest": ttl.max,
        "negative": ttl.negative_max,
        "failure": ttl.failure,
        "keep_ttl": ttl.on_wire == "keep",
        "payload": config.udp.payload,
        "shuffle": config.shuffle,
        "prefetch": config.cache.prefetch,
        "stale": stale.mode,
        "stale_longest": stale.max,
        "stale_ttl": stale.ttl,
        "client_timer": stale.client_timer,
        "recheck": stale.recheck,
    }
