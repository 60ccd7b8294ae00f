"""The whole file: all sections, what does not go together, and what takes a restart to change.

What a key means is said where its section is; nothing here reads a file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from operator import attrgetter
from typing import Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ..core._limits import LISTENERS_MAX, MEMBERS_MAX, PROXIES_MAX, SINKS_MAX, SOCKETS_MAX, UPSTREAMS_MAX
from .admin import PAGE, ControlSection, LogSection, MetricsSection, WebSection
from .announce import AnnounceSection
from .cache import CacheSection, StaleSection, TtlSection
from .clients import ChaosSection, CookiesSection, TcpSection, UdpSection
from .cluster import ClusterSection
from .events import DnstapSection, QueryLogSection
from .forward import ClientSubnetSection, ForwardSection, Policy
from .guard import GuardSection
from .listeners import UDP_TRANSPORTS, ClientTlsSection, Listener, ListenerSection, QuicSection
from .rule import RuleSection
from .types import Endpoint, EndpointField, ListOf, PathField, PrefixField, Seconds, Section, overlaps
from .upstreams import DEFAULT_GROUP, GroupSection, HealthSection, Member, UpstreamSection
from .zones import ZoneSection

ADDRESSES_MAX = 8  # of one host name
SOCKETS_USED = SOCKETS_MAX * 3 // 4  # those that are given up still wait for answers


class Config(Section):
    """The whole file."""

    listen: ListOf[EndpointField] = Field((Endpoint("127.0.0.1", 8054),), max_length=LISTENERS_MAX)
    """Addresses that queries are received on, over UDP and TCP; a wildcard may be combined with one of its addresses.
    Where `[[listeners]]` with UDP and TCP are given, by default none."""
    listeners: ListOf[ListenerSection] = Field((), max_length=LISTENERS_MAX)
    upstreams: ListOf[UpstreamSection] = Field(
        (UpstreamSection(address=(Endpoint("127.0.0.1", 8053),)),), min_length=1, max_length=UPSTREAMS_MAX
    )
    """The nameservers behind the shield: `ADDR:PORT`, `HOST:PORT`, `resolv.conf`, or tables (below)."""
    groups: ListOf[GroupSection] = Field((), max_length=1000)
    proxy_protocol_from: ListOf[PrefixField] = Field((), max_length=PROXIES_MAX)
    """Addresses or prefixes of proxies whose queries carry a PROXY protocol (version 2) header, which is accepted from
    nobody else."""
    workers: int = Field(0, ge=0, le=255)
    """Worker threads; 0: one for each core that may be used, by CPU affinity and the quota of the control group. Takes
    effect at restart."""
    user: str = Field("", description="User to switch to once the sockets are bound. Takes effect at restart.")
    drain_timeout: Seconds = Field(3.0, ge=0, le=300)
    """At shutdown, how long clients that wait for an upstream may still get their responses."""
    reload_on_change: bool = True
    """Reload when this file changes: when another takes its place (as a ConfigMap's does), or a second after it was
    last written to. SIGHUP reloads in any case."""
    lame_duck: Seconds = Field(0.0, ge=0, le=3600)
    """At shutdown, serve on for so long before that, while `/ready` says that the shield is not ready."""
    share_addresses: bool = False
    """Let other shields of this user listen on the same addresses, `metrics.listen` among them, as where a new one
    starts before the old one ends: the kernel spreads clients over both. By default, an address that is in use is an
    error. Not with QUIC, nor with `announce`. Takes effect for addresses that are listened on anew."""
    minimal_any: bool = Field(False, description="Answer ANY queries here, with one HINFO record (RFC 8482).")
    allow_notify_from: ListOf[PrefixField] = ()
    """Addresses or prefixes from which NOTIFY is accepted, for zones with a section: the serial is queried at once."""
    rrset_roundrobin: bool = Field(False, description="Rotate the A and AAAA records of an answer.")
    cache: CacheSection = CacheSection()
    ttl: TtlSection = TtlSection()
    stale: StaleSection = StaleSection()
    cookies: CookiesSection = CookiesSection()
    chaos: ChaosSection = ChaosSection()
    udp: UdpSection = UdpSection()
    tcp: TcpSection = TcpSection()
    tls: ClientTlsSection = ClientTlsSection()
    quic: QuicSection = QuicSection()
    forward: ForwardSection = ForwardSection()
    health: HealthSection = HealthSection()
    client_subnet: ClientSubnetSection = ClientSubnetSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    web: WebSection = WebSection()
    control: ControlSection = Field(default_factory=ControlSection)
    cluster: ClusterSection = ClusterSection()
    announce: AnnounceSection = AnnounceSection()
    dnstap: ListOf[DnstapSection] = Field((), max_length=SINKS_MAX)
    query_log: ListOf[QueryLogSection] = Field((), max_length=SINKS_MAX)
    zones: ListOf[ZoneSection] = Field((), max_length=4000)
    guard: GuardSection = GuardSection()
    rules: ListOf[RuleSection] = Field((), max_length=4096)
    rules_file: PathField = ""
    """File of rules in Python, which are evaluated after `[[rules]]`; without any of those, `rules = "FILE.py"` means
    the same."""

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def origin_of(self, key: str) -> str:
        """Return what has overridden the file for a key: a variable's name, or `command line`; "" if nothing has."""
        return self._origins.get(key.partition("[")[0], "")

    @model_validator(mode="before")
    @classmethod
    def _rules_may_be_a_file(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("rules"), str) and "rules_file" not in values:
            return {**{key: value for key, value in values.items() if key != "rules"}, "rules_file": values["rules"]}
        return values

    @model_validator(mode="before")
    @classmethod
    def _no_default_beside_other_listeners(cls, values: object) -> object:
        """Where other addresses were named for UDP and TCP, nobody expects one that was not."""
        if isinstance(values, dict) and "listen" not in values and _has_plain(values.get("listeners")):
            return {**values, "listen": ()}
        return values

    @field_validator("zones")
    @classmethod
    def _names_once(cls, zones: tuple[ZoneSection, ...]) -> tuple[ZoneSection, ...]:
        if twice := repeated(zone.name for zone in zones):
            raise ValueError(f"more than once: {', '.join(twice)}")
        return zones

    @model_validator(mode="after")
    def _addresses_are_listened_on_once(self) -> "Config":
        endpoints = self.endpoints
        if not endpoints:
            raise ValueError("listen: an empty list, and there are no [[listeners]]; at least one address is needed")
        if twice := repeated(self.listen):
            raise ValueError(f"listen: more than once: {', '.join(twice)}")
        bound = Counter((each.endpoint, over) for each in self.all_listeners for over in each.bound_over)
        if twice := sorted({str(endpoint) for (endpoint, _), count in bound.items() if count > 1}):
            raise ValueError(f"listeners: more than once, those of listen included: {', '.join(twice)}")
        if len(endpoints) > LISTENERS_MAX:
            raise ValueError(f"listeners: at most {LISTENERS_MAX}, those of listen included, not {len(endpoints)}")
        return self

    @model_validator(mode="after")
    def _tcp_is_there_for_what_needs_it(self) -> "Config":
        plain_too = self.tcp.max_connections != 0
        listeners = [each for each in self.all_listeners if each.needs_tcp or (each.has_udp and plain_too)]
        over_tcp = [each.endpoint for each in listeners]
        if self.tcp.max_connections == 0 and listeners:
            raise ValueError(f"tcp.max_connections: 0 disables TCP, and the listener {listeners[0]} needs it")
        scraped = self.web_endpoint
        if scraped and (scraped in over_tcp or overlaps(scraped, over_tcp)):
            key = "listen" if scraped in self.listen or overlaps(scraped, self.listen) else "listeners"
            raise ValueError(f"metrics.listen: {scraped} conflicts with {key} (TCP); choose another port")
        return self

    @model_validator(mode="after")
    def _what_is_shared_can_be(self) -> "Config":
        if self.share_addresses and any(each.is_quic for each in self.all_listeners):
            raise ValueError(
                "share_addresses: not with listeners over QUIC, whose connections would come to either of them"
            )
        if self.share_addresses and self.announce.engine != "off":
            raise ValueError(
                "share_addresses: not with announce: /ready of the one that ends would withdraw the routes"
            )
        return self

    @model_validator(mode="after")
    def _routes_are_withdrawn_in_time(self) -> "Config":
        announce = self.announce
        if announce.engine != "off" and self.web_endpoint is None:
            raise ValueError("announce: metrics.listen: none; /ready is asked for at that address")
        if announce.engine != "off" and self.lame_duck < (noticed := announce.interval + announce.timeout):
            raise ValueError(
                f"lame_duck: {self.lame_duck:g} s; routes are withdrawn up to {noticed:g} s (announce.interval and"
                " timeout) after it began: give neighbours some more to take that up"
            )
        return self

    @model_validator(mode="after")
    def _sinks_can_be_told_apart(self) -> "Config":
        sinks = [*map(str, self.dnstap), *map(str, self.query_log)]
        if twice := repeated(sinks):
            raise ValueError(f"dnstap, query_log: more than once: {', '.join(twice)}")
        if len(sinks) > SINKS_MAX:
            raise ValueError(f"dnstap, query_log: at most {SINKS_MAX} together, not {len(sinks)}")
        return self

    @model_validator(mode="after")
    def _upstreams_can_be_told_apart(self) -> "Config":
        counts = Counter((each.endpoint, each.section.connection_key) for each in self.all_upstreams)
        twice = {each.asked for each in self.all_upstreams if counts[each.endpoint, each.section.connection_key] > 1}
        if twice:
            raise ValueError(f"upstreams: more than once: {', '.join(sorted(twice))}")
        names = Counter((each.title, each.endpoint) for each in self.all_upstreams)
        if alike := sorted({str(each) for each in self.all_upstreams if names[each.title, each.endpoint] > 1}):
            raise ValueError(
                f"upstreams: several have the same identifier: {', '.join(alike)}; give each a name of its own"
            )
        for zone in self.zones:
            for endpoint in zone.upstreams or ():
                if len(meant := self._places[endpoint]) > 1:
                    raise ValueError(
                        f"zones: {zone.name}: {endpoint} is the address of several upstreams:"
                        f" {', '.join(map(str, meant))}; put the intended one into a group, and name the group"
                    )
        count = len(self.all_upstreams)
        if count > UPSTREAMS_MAX:
            raise ValueError(f"upstreams: at most {UPSTREAMS_MAX} in all, not {count}")
        if count * self.forward.sockets > SOCKETS_USED:
            raise ValueError(f"forward.sockets: at most {SOCKETS_USED // count} for each of {count} upstreams")
        return self

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> "Config":
        of_zones = {f"zones: {zone.name}: ttl": self.ttl.refined_by(zone.ttl) for zone in self.zones}
        for at, bounds in {"ttl": self.ttl, **of_zones}.items():
            if bounds.min > bounds.max:
                raise ValueError(f"{at}: min ({bounds.min}) is larger than max ({bounds.max})")
        return self

    @model_validator(mode="after")
    def _groups_have_members(self) -> "Config":
        names = [group.name for group in self.groups]
        wanted = {DEFAULT_GROUP: "upstreams"} | dict.fromkeys(names, "groups")
        for zone in self.zones:
            if len(set(zone.upstreams or ())) != len(zone.upstreams or ()):
                raise ValueError(f"zones: {zone.name} has an upstream more than once")
            if zone.group is not None and zone.upstreams is not None:
                raise ValueError(f"zones: {zone.name} has both upstreams and a group")
            if zone.group is not None:
                wanted.setdefault(zone.group, "zones")
        for name, key in wanted.items():
            if not 1 <= len(self.members(name)) <= MEMBERS_MAX:
                raise ValueError(f"{key}: group {name} has {len(self.members(name))} upstreams, not 1 to {MEMBERS_MAX}")
        if twice := repeated(names):
            raise ValueError(f"groups: more than once: {', '.join(twice)}")
        return self

    def keeping(self, before: "Config") -> "Config":
        """Return this configuration, with what takes a restart as it was before."""
        kept = self
        for key in RESTART:
            section, _, name = key.rpartition(".")
            value: Any = attrgetter(key)(before)
            if section:
                name, value = section, getattr(kept, section).model_copy(update={name: value})
            kept = kept.model_copy(update={name: value})
        return kept

    @property
    def all_listeners(self) -> list[Listener]:
        """Return all that clients come to."""
        own = [Listener(endpoint, each) for each in self.listeners for endpoint in each.address]
        plain = [Listener(endpoint, ListenerSection(address=(endpoint,))) for endpoint in self.listen]
        return [*plain, *own]

    @property
    def endpoints(self) -> list[Endpoint]:
        """Return the addresses that clients come to."""
        return [each.endpoint for each in self.all_listeners]

    @property
    def web_endpoint(self) -> Endpoint | None:
        """Return where metrics and the page are, if anywhere."""
        return self.metrics.listen or (PAGE if self.web.page else None)

    def members(self, group: str) -> tuple[Member, ...]:
        """Return the upstreams of a group."""
        joined = [upstream for upstream in self.upstreams if group in upstream.groups]
        return tuple(Member(each, upstream) for upstream in joined for each in upstream.address)

    def upstreams_of(self, zone: ZoneSection) -> tuple[Member, ...]:
        """Return the upstreams of a zone."""
        if zone.upstreams is None:
            return self.members(zone.group or DEFAULT_GROUP)
        return tuple(member for endpoint in zone.upstreams for member in self._places[endpoint])

    @property
    def all_upstreams(self) -> list[Member]:
        """Return the upstreams of all groups and zones."""
        return [member for members in self._places.values() for member in members]

    @cached_property
    def _places(self) -> dict[Endpoint, list[Member]]:
        """Return the upstreams by address; one that only a zone names has nothing but that."""
        places: dict[Endpoint, list[Member]] = {}
        for upstream in self.upstreams:
            for endpoint in upstream.address:
                places.setdefault(endpoint, []).append(Member(endpoint, upstream))
        for endpoint in (each for zone in self.zones for each in zone.upstreams or ()):
            places.setdefault(endpoint, [Member(endpoint, UpstreamSection(address=(endpoint,)))])
        return places

    @property
    def host_names(self) -> list[Endpoint]:
        """Return the upstreams that have a name in place of addresses, each once."""
        return [endpoint for endpoint in self._places if endpoint.is_name]

    def resolved(self, addresses: Mapping[Endpoint, tuple[Endpoint, ...]]) -> "Config":
        """Return this configuration with the addresses of host names, as far as there are some and they fit.

        An upstream that has no name of its own is called by the host's, one that only zones name, too.
        """
        if not self.host_names:
            return self
        names = sum(each.endpoint.is_name for each in self.all_upstreams)
        room = min(MEMBERS_MAX, SOCKETS_USED // self.forward.sockets) - (len(self.all_upstreams) - names)
        most = max(1, min(ADDRESSES_MAX, room // names))
        found = {each: tuple(addresses.get(each, ()))[:most] for each in self.host_names}
        zones = tuple(zone.model_copy(update=_in_zone(zone, found)) for zone in self.zones)
        upstreams = [section for each in self.upstreams for section in _with_addresses(each, found)]
        known = {address for each in self.upstreams for address in each.address}
        for name in (each for each in self.host_names if each not in known):
            taken = {address for each in upstreams for address in each.address}
            left = tuple(each for each in found[name] if each not in taken)
            alone = UpstreamSection(address=(name,)).model_copy(update={"groups": ()})
            upstreams += _with_addresses(alone, {name: left})
        resolved = self.model_copy(update={"upstreams": tuple(upstreams), "zones": zones})
        resolved.__dict__.pop("_places", None)  # what was worked out of the names
        return resolved

    def policy_of(self, group: str) -> Policy:
        """Return how one upstream of a group is chosen."""
        own = next((each for each in self.groups if each.name == group), None)
        return own.policy if own and "policy" in own.model_fields_set else self.forward.policy

    def health_of(self, upstream: UpstreamSection) -> HealthSection:
        """Return when an upstream is marked down."""
        return self.health.refined_by(upstream.health)


def _with_addresses(
    upstream: UpstreamSection, found: Mapping[Endpoint, tuple[Endpoint, ...]]
) -> Iterator[UpstreamSection]:
    """Yield the upstreams that one is whose hosts have these addresses."""
    if plain := tuple(each for each in upstream.address if not each.is_name):
        yield upstream.model_copy(update={"address": plain})
    for name in (each for each in upstream.address if each.is_name):
        reachable = tuple(filter(upstream.is_reachable, found[name]))
        yield upstream.model_copy(update={"address": reachable, "name": Member(name, upstream).title})


def _in_zone(zone: ZoneSection, found: Mapping[Endpoint, tuple[Endpoint, ...]]) -> dict[str, Any]:
    if zone.upstreams is None:
        return {}
    return {"upstreams": tuple(dict.fromkeys(at for each in zone.upstreams for at in found.get(each, (each,))))}


def _has_plain(listeners: object) -> bool:
    """Tell whether one of the listeners, as they were written, takes queries over UDP and TCP."""
    tables = listeners if isinstance(listeners, list | tuple) else [listeners]
    sections = (dict(each) if isinstance(each, ListenerSection) else each for each in tables)
    return any(isinstance(each, dict) and each.get("transport", "udp+tcp") in UDP_TRANSPORTS for each in sections)


def repeated(values: Iterable[object]) -> list[str]:
    """Return what is there more than once."""
    return sorted(str(value) for value, count in Counter(values).items() if count > 1)


RESTART = (
    "workers", "user", "cache.memory", "cache.snapshot", "cache.snapshot_interval", "cluster", "control",
    "forward.max_outstanding", "udp.receive_buffer", "guard.memory",
)  # fmt: skip
