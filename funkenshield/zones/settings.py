"""Zones with settings of their own: from the configuration to what the compiled part follows, by number.

Zone 0 is everything that has no section of its own; it asks the default group of upstreams.
"""

import math
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ..cache._zone_table import Zones
from ..config import DEFAULT_GROUP, Config, ZoneSection
from ..upstream.pool import Group
from ..wire.names import name_to_wire
from .soa_watch import PollInterval, WatchedZone

ON_NOTIFY = PollInterval(math.inf, 0.0)


class Assignment(NamedTuple):
    """What the zones' numbers stand for."""

    notifiers: dict[int, tuple[IPv4Network | IPv6Network, ...]]  # whose NOTIFY counts
    changed: list[bytes]  # names of zones that are new, or no more


def sharing(config: Config, zones: Zones) -> Mapping[int, str]:
    """Return by number what the nodes' cache is to each zone."""
    own = {zones.number(name_to_wire(zone.name)): zone.shared_cache for zone in config.zones}
    return {0: config.cluster.shared_cache} | {
        number: config.cluster.shared_cache if each is None else each for number, each in own.items()
    }


def groups(config: Config) -> dict[str, Group]:
    """Return the groups of upstreams: the default one, those that have a name, and those of zones with their own."""
    joined = [name for upstream in config.upstreams for name in upstream.groups]
    chosen = [zone.group for zone in config.zones if zone.group is not None]
    named = dict.fromkeys([DEFAULT_GROUP, *joined, *(group.name for group in config.groups), *chosen])
    made = {name: Group(config.policy_of(name), config.members(name)) for name in named}
    for zone in config.zones:
        if zone.upstreams is not None:
            made[_own_group(zone)] = Group(config.forward.policy, config.upstreams_of(zone))
    return made


def needs_nsec_cache(config: Config) -> bool:
    """Tell whether any zone is answered for from names that are known not to exist."""
    return config.cache.nxdomain_cut or any(zone.nxdomain_cut or zone.aggressive_nsec for zone in config.zones)


def watched(config: Config) -> dict[WatchedZone, PollInterval]:
    """Return which zones are watched where, and how often: those with notifiers when these say so."""
    intervals: dict[WatchedZone, PollInterval] = {}
    for zone in config.zones:
        notifiers = config.allow_notify_from if zone.allow_notify_from is None else zone.allow_notify_from
        if zone.watch or notifiers:
            interval = PollInterval(zone.watch_interval, zone.watch_jitter) if zone.watch else ON_NOTIFY
            intervals |= {WatchedZone(zone.name, each.asked): interval for each in config.upstreams_of(zone)}
    return intervals


def _own_group(zone: ZoneSection) -> str:
    return f"zone {zone.name}"  # no group of that name can be configured: a space is not allowed there


def assign(zones: Zones, config: Config, numbers: Mapping[str, int]) -> Assignment:
    """Give each zone a number, and its settings; `numbers` are those of the groups.

    What is stored under `changed` is of other settings and must go.
    """
    changed = zones.assign([name_to_wire(zone.name) for zone in config.zones])
    made = Assignment({0: config.allow_notify_from}, changed)
    _configure(zones, 0, config, ZoneSection(name="."), 0)
    for zone in config.zones:
        number = zones.number(name_to_wire(zone.name))
        if zone.allow_notify_from is not None:
            made.notifiers[number] = zone.allow_notify_from
        group = _own_group(zone) if zone.upstreams is not None else zone.group or DEFAULT_GROUP
        _configure(zones, number, config, zone, numbers[group])
    return made


def _configure(zones: Zones, number: int, config: Config, zone: ZoneSection, group: int) -> None:
    ttl, stale = config.ttl.refined_by(zone.ttl), config.stale.refined_by(zone.stale)
    zones.configure(
        number,
        nxdomain_cut=config.cache.nxdomain_cut if zone.nxdomain_cut is None else zone.nxdomain_cut,
        max_outstanding=zone.max_outstanding or config.forward.max_outstanding_per_zone,
        trust_nsec=zone.aggressive_nsec,
        group=group,
        shortest=ttl.min,
        longest=ttl.max,
        negative=ttl.negative_max,
        failure=ttl.failure,
        keep_ttl=ttl.serve_original,
        payload=config.udp.max_payload,
        shuffle=config.rrset_roundrobin,
        prefetch=config.cache.prefetch,
        stale=stale.mode,
        stale_longest=stale.max,
        stale_ttl=stale.ttl,
        client_timer=stale.client_timeout,
        recheck=stale.recheck,
    )
