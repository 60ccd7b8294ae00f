"""The nameservers behind the shield: how each is reached, its health, and whether it is asked.

It opens sockets, rotates ports, updates health, and publishes what it knows to the compiled part, which chooses.
Which queries go where, and what becomes of them, is the forwarder's business.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import dns.opcode
import dns.rcode

from ..cache._entry import is_response_to
from ..config import DEFAULT_GROUP, Config, ForwardSection, HealthSection, Member, UpstreamSection
from ..config.types import Endpoint
from ..core._clock import Clock
from ..core._limits import GROUPS_MAX, UPSTREAMS_MAX
from ..core.logs import RateLimited
from ..errors import ConfigError, FunkenShieldError
from ..wire._message import error_response, inspect_query
from ._selection import UpstreamTable
from ._sockets_and_ids import Sockets
from .health import TIMED_OUT, Health, Signals, check_query, is_healthy
from .ports import FEW, has_address, local_address, open_udp, usable
from .streams import MAX_PIPELINED, Connections
from .tls import read_ca_file

log = logging.getLogger(__name__)
limited = RateLimited(log)

LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a20000000")  # of PROXY protocol version 2: nobody's but our own
CASE_LOST_MAX = 8  # consecutive responses over TCP that do not preserve the case of names
WINDOW = 10.0  # seconds, once or twice, that quantiles of latency are taken over
RECENT = 20  # responses that quantiles are computed from
FAILURE_TEXTS = {  # by reason
    "timeout": TIMED_OUT,
    "connection_refused": "refused the connection",
    "connection_closed": "closed the connection before it answered",
    "unreachable": "is unreachable",
    "local": "was not sent the query: local network error",
    "other": "sent a malformed or untrusted response",
    "servfail": "answered SERVFAIL",
    "refused": "answered REFUSED",
}
REOPEN_INTERVAL = 0.1  # seconds between two times that all sockets of one upstream are reopened
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class LocalSocket(NamedTuple):
    """A UDP socket to an upstream: since when (seconds), its number in the pool, and our address."""

    opened: float
    number: int
    address: str


class Group(NamedTuple):
    """Upstreams of which one is asked, and how it is chosen."""

    policy: str
    members: tuple[Member, ...]


class Upstream:
    """One nameserver: UDP sockets on ports that rotate, connections, and its health."""

    def __init__(self, number: int, endpoint: Endpoint, sockets: Sockets, table: UpstreamTable, clock: Clock) -> None:
        self.number = number
        self.endpoint = endpoint
        self.section = UpstreamSection(address=(endpoint,))
        self.ca_pem = ""  # in the file that it names
        self.steered = ""  # by an operator, whatever the configuration says: "down" or "draining"
        self.connections = Connections(endpoint, self.section)
        self.health = Health(HealthSection(), "auto", clock.seconds())
        self._settings = HealthSection()
        self._forward = ForwardSection()
        self._case_lost = False
        self._ports = usable()
        self._pool = sockets
        self._table = table
        self._clock = clock
        self._sockets: deque[LocalSocket] = deque()
        self._reopened = -REOPEN_INTERVAL
        self._waits_until = 0.0  # by then, seconds of the clock, whatever was asked by now is answered
        self._retired: deque[tuple[float, Connections]] = deque()  # old connections, until they are closed
        self._latencies = Latencies()
        self._responses = self._spoof_detections = 0
        self._visible_failures: dict[str, int] = {}
        self._socket_error = ""  # that was logged last
        self._checks: set[asyncio.Task[None]] = set()

    def __str__(self) -> str:
        return str(self.member)

    @property
    def member(self) -> Member:
        """Return what the configuration says of it."""
        return Member(self.endpoint, self.section)

    def configure(
        self, section: UpstreamSection, connections: Connections | None, health: HealthSection, forward: ForwardSection
    ) -> None:
        """Apply a new configuration; what is known of it stays. `connections` are given where they change."""
        before, old = self.health.in_service, self.section
        for each in (self._forward, forward):  # who asked before waits for as long as he could then
            waits_until = self._clock.seconds() + max(each.deadline, each.update_timeout)
            self._waits_until = max(self._waits_until, waits_until)
        self._ports = usable(forward.source_port_avoid)
        self.section, self._settings, self._forward = section, health, forward
        self._case_lost = self._case_lost and section == old
        if connections is not None:
            self._retired.append((self._waits_until, self.connections))
            self.connections = connections
        if section.source != old.source:
            self._retire_all()
        self._publish_settings()
        self.rotate_ports(forward.sockets, forward.source_port_lifetime)
        self.health.configure(health, self._wanted, self._clock.seconds())
        self._publish_state(before)

    @property
    def _wanted(self) -> Literal["auto", "up", "down"]:
        """Return the state that it is given, if any is."""
        return "down" if self.steered else self.section.state

    @property
    def state(self) -> str:
        """Name its state, and whose decision that is."""
        return f"{self.steered} (by command)" if self.steered else self.health.state

    def steer(self, how: str, resend: Callable[[int], None]) -> None:
        """Take it out of service, "down" or "draining", whatever its health; "": give it back, as if it were new.

        What waits for it goes on waiting while it is draining, and is asked elsewhere where it is down.
        """
        before, self.steered = self.health.in_service, how
        self.health.configure(self._settings, self._wanted, self._clock.seconds())
        self.health.why = "by command"
        self._publish_state(before)
        if how == "down":
            for each in self._sockets:
                resend(each.number)
            self.connections.close()
            self.connections = Connections(self.endpoint, self.section, ca_pem=self.ca_pem)

    def _publish_settings(self) -> None:
        """Publish to the selection how it is asked."""
        max_outstanding, over_stream = self.section.max_outstanding, self.section.transport != "udp"
        if over_stream:  # what its connections do not take is a bound of ours, and no failure of the upstream
            max_outstanding = min(max_outstanding, self._forward.max_connections * MAX_PIPELINED)
        self._table.set_upstream(
            self.number,
            order=self.section.order,
            weight=self.section.weight,
            max_outstanding=max_outstanding,
            over_stream=over_stream,
            random_case=self.section.random_case and not self._case_lost,
            proxied=self.section.proxy_protocol,
            seed=int.from_bytes(blake2b(self.member.asked.encode(), digest_size=8).digest()),
        )

    # ---------------------------------------------------------------- sockets for compiled code

    def rotate_ports(self, count: int, life: float) -> None:
        """Keep `count` sockets open, each on a random port (RFC 5452) and none longer than `life` seconds.

        Where no other can be had, one is used for longer: without any, nobody gets an answer.
        """
        if self.section.transport != "udp":
            count = 0
        while len(self._sockets) > count:
            self._retire(self._sockets[0])
        while len(self._sockets) < count and self._add():
            pass
        while self._sockets and self._sockets[0].opened + life <= self._clock.seconds() and self._add():
            self._retire(self._sockets[0])

    def rotate_one_port(self, count: int, life: float) -> None:
        """Replace the oldest socket, so that ports change one by one rather than all at once."""
        if self._sockets and self._add():
            self._retire(self._sockets[0])
        self.rotate_ports(count, life)

    def replace_known_ports(self) -> None:
        """Have another socket take the place of each whose port somebody may know."""
        for exposed in [each for each in self._sockets if self._pool.is_port_known(each.number)]:
            if not self._add():
                return
            self._retire(exposed)

    def reopen_sockets(self, count: int, life: float) -> None:
        """Open new sockets, for no old one works any more; not too often."""
        if self._reopened + REOPEN_INTERVAL <= self._clock.seconds():
            self._reopened = self._clock.seconds()
            self._retire_all()
            self.rotate_ports(count, life)

    def follow_source_address(self, resend: Callable[[int], None]) -> None:
        """Replace sockets whose local address is not the one that the kernel would choose now.

        A socket keeps its address even where that was removed: over IPv6, the kernel still sends from it.
        """
        ours = local_address(self.endpoint, str(self.section.source or ""))
        if not ours:
            return
        for other in [each for each in self._sockets if each.address != ours]:
            gone = not has_address(other.address)
            if not self._add():
                return
            self._retire(other)
            if gone:
                resend(other.number)
        self.connections.close_other_sources(ours)

    def _add(self) -> bool:
        """Open one more socket; False: there is none to be had."""
        try:
            with open_udp(self.endpoint, str(self.section.source or ""), self._ports) as opened:
                address = opened.getsockname()[0]
                number = self._pool.add(self.number, opened.fileno())
                opened.detach()  # from here on, the pool closes it
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._socket_error:
                log.warning("upstream %s: cannot open a UDP socket: %s", self, reason)
            self._socket_error = reason
            return False
        self._sockets.append(LocalSocket(self._clock.seconds(), number, address))
        self._socket_error = ""
        return True

    def _retire(self, old: LocalSocket) -> None:
        self._sockets.remove(old)
        self._pool.retire(old.number)

    def _retire_all(self) -> None:
        while self._sockets:
            self._retire(self._sockets[0])

    # ---------------------------------------------------------------- health

    def update_health(self) -> None:
        """Update its health from real queries, and begin a check where one is due."""
        now, health = self._clock.seconds(), self.health
        before = health.in_service
        health.observe(
            Signals(*self._table.signals(self.number), FAILURE_TEXTS[self._table.last_failure(self.number)]), now
        )
        if health.check_due(now):
            checking = asyncio.get_running_loop().create_task(self._check())
            self._checks.add(checking)
            checking.add_done_callback(self._checks.discard)
        self._publish_state(before)

    def _publish_state(self, before: bool) -> None:
        """Publish to the selection whether it is asked, and log what changed."""
        health = self.health
        if health.in_service and not before:
            log.info("upstream %s marked up: %s", self, health.why)
        if before and not health.in_service:
            log.warning("upstream %s marked down: %s", self, health.why)
        forced = self._wanted != "auto"
        self._table.set_health(
            self.number,
            in_service=health.in_service,
            forced=forced,
            share=health.share(self._clock.seconds()),
            fall=0xFFFF if forced else self._settings.fall,
            hedge_after=self._latencies.recent(QUANTILES["p95"]) if self._forward.hedge else 0.0,
        )

    async def _check(self) -> None:
        """Ask it something of our own."""
        settings, well = self._settings, False
        try:
            async with asyncio.timeout(settings.timeout):
                response = await self.exchange(check_query(settings.name, settings.type))
            well = is_healthy(response, settings.rcodes)
        except OSError:  # TimeoutError is one
            pass
        except Exception as error:  # a check that is cancelled says nothing; its upstream's number may be another's now
            limited.warning(f"{self} check", "upstream %s: internal error, health check failed: %r", self, error)
        before = self.health.in_service
        self.health.checked(well, self._clock.seconds())
        self._publish_state(before)

    def housekeeping(self) -> None:
        """Age what is known, and report what is new; called about once a second."""
        while self._retired and self._retired[0][0] <= self._clock.seconds():
            self._retired.popleft()[1].close()
        counters = self._table.counters(self.number)
        self._latencies.take(counters["latencies"], self._clock.seconds())
        if counters["responses"] == self._responses:
            self._table.decay_latency(self.number)
        self._responses = counters["responses"]
        if counters["spoof_detections"] != self._spoof_detections:
            log.warning(
                "upstream %s: spoofing suspected, %d unsolicited replies so far; for some minutes, queries that it"
                " answers over UDP are repeated over TCP",
                self,
                counters["unsolicited_replies"],
            )
        self._spoof_detections = counters["spoof_detections"]
        for reason, count in counters["client_visible_failures"].items():
            if times := count - self._visible_failures.get(reason, 0):
                limited.warning(
                    f"{self} {reason}", "query failed: upstream %s %s", self, FAILURE_TEXTS[reason], times=times
                )
        self._visible_failures = counters["client_visible_failures"]
        if self.section.random_case and not self._case_lost and self._table.case_lost(self.number) >= CASE_LOST_MAX:
            log.warning(
                "upstream %s does not preserve the case of names, not even over TCP: random_case disabled", self
            )
            self._case_lost = True
            self._publish_settings()

    def counters(self) -> dict[str, Any]:
        """Return its counters, by the names that `metrics` gives a meaning."""
        counters = self._table.counters(self.number)
        latencies = counters.pop("latencies")
        rcodes = {rcode_name(code): count for code, count in enumerate(counters["rcodes"]) if count}
        return counters | {
            "name": self.member.title,
            "address": str(self.endpoint),
            "state": self.health.state,
            "up": int(self.health.in_service),
            "tcp_verification_active": int(self._table.suspected_until(self.number) > self._clock.seconds()),
            "rcodes": rcodes,
            "latency": {
                name: self._latencies.recent(share) or quantile(latencies, share) for name, share in QUANTILES.items()
            },
        }

    def close(self) -> None:
        """Retire all sockets, close all connections, and check no more."""
        self._retire_all()
        for connections in (self.connections, *(left for _, left in self._retired)):
            connections.close()
        for checking in self._checks:
            checking.cancel()

    # ---------------------------------------------------------------- one query at a time

    def proxy_header(self, client: bytes) -> bytes:
        """Return the PROXY header before a query, from the one of its client; b"" is the shield itself."""
        return (client or LOCAL) if self.section.proxy_protocol else b""

    async def exchange(self, query: bytes, client: bytes = b"", *, once: bool = False) -> bytes:
        """Return the response to a query that is not coalesced, nor tried elsewhere; OSError where none comes.

        Over UDP, a datagram that is no answer to it is ignored, as if it had not come. `once`: never sent again.
        """
        if self.section.transport != "udp":
            header = self.proxy_header(client)
            response = await self.connections.exchange(query, self._forward.max_connections, header, once=once)
            return _sanitized(query, response)
        loop = asyncio.get_running_loop()
        wire = secrets.token_bytes(2) + query[2:]
        with open_udp(self.endpoint, str(self.section.source or ""), self._ports) as opened:
            await loop.sock_sendall(opened, self.proxy_header(client) + wire)
            while True:
                response = await loop.sock_recv(opened, 65535)
                if response[:2] == wire[:2] and is_response_to(query, response):
                    return _sanitized(query, response)


def _sanitized(query: bytes, response: bytes) -> bytes:
    """Return a response; one that leaves out the question says no more than that it is an error, in our octets."""
    asked = inspect_query(query)
    if response[4:6] != b"\0\0" or "qname" not in asked or asked["opcode"] == dns.opcode.UPDATE:
        return response
    return error_response(query, response[3] & 15)


def _read_ca_files(members: Iterable[Member]) -> dict[str, str]:
    """Return the CA certificates in each file, each read once; ConfigError where one cannot be."""
    read: dict[str, str] = {}
    for member in members:
        tls = member.section.tls
        if tls.ca_file not in read:
            try:
                read[tls.ca_file] = read_ca_file(tls)
            except ConfigError as error:
                raise ConfigError(f"upstream {member}: {error}") from None
    return read


def _kept_upstreams(before: Iterable[Upstream], wanted: Mapping[str, Member]) -> dict[str, Upstream]:
    """Return who is among the wanted: those of the same name, else of the same transport, else of the same address."""
    kept: dict[str, Upstream] = {}
    left = list(before)
    for key in (str, lambda each: (each.endpoint, each.section.connection_key), lambda each: each.endpoint):
        found = {key(each.member): each for each in left}
        for name, member in wanted.items():
            if name not in kept and (same := found.pop(key(member), None)):
                kept[name] = same
                left.remove(same)
    return kept


class Latencies:
    """How long an upstream takes, from histograms that only grow: of the last ten to twenty seconds."""

    def __init__(self) -> None:
        self._since = 0.0
        self._older: list[int] = []
        self._old: list[int] = []
        self._now: list[int] = []

    def take(self, counts: list[int], now: float) -> None:
        """Take in a histogram as it is now."""
        self._now = counts
        if not self._older or now >= self._since + WINDOW:
            self._older, self._old, self._since = self._old or counts, counts, now

    def recent(self, share: float) -> float:
        """Return the seconds within which so large a share of the responses came, or 0 where there were too few."""
        counts = [now - then for now, then in zip(self._now, self._older, strict=True)] if self._now else []
        return quantile(counts, share) if sum(counts) >= RECENT else 0.0


def quantile(counts: Sequence[int], share: float) -> float:
    """Return where in a latency histogram so large a share lies below, in seconds; 0 where it is empty."""
    wanted = share * sum(counts)
    below = 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            start, width = bucket_start(bucket), bucket_start(bucket + 1) - bucket_start(bucket)
            return (start + width * (wanted - below) / count) / 1e9
        below += count
    return 0.0


def bucket_start(bucket: int) -> int:
    """Return the nanoseconds that a bucket begins at: there are four for each power of two."""
    return (4 + bucket % 4) << (8 + bucket // 4)


def rcode_name(code: int) -> str:
    """Return the name of an RCODE, "OTHER" for what a header has no room for."""
    return str(dns.rcode.to_text(dns.rcode.Rcode(code))) if code < 16 else "OTHER"


class Upstreams:
    """All nameservers behind the shield, in groups."""

    def __init__(self, sockets: Sockets, table: UpstreamTable, clock: Clock, resend: Callable[[int], None]) -> None:
        """`resend` sends what waits for an answer through a socket, by its number, again through another one."""
        self.all: list[Upstream] = []
        self.groups: dict[int, list[Upstream]] = {}
        self.health_interval = 1.0  # seconds between two calls of `update_health`
        self.steered: dict[str, str] = {}  # by an operator, by what an upstream is called: "down" or "draining"
        self._without_address: set[str] = set()  # what those are called whose host has none now
        self._pool = sockets
        self._table = table
        self._clock = clock
        self._settings = ForwardSection()
        self._by_number: dict[int, Upstream] = {}
        self._group_numbers = {DEFAULT_GROUP: 0}
        self._policies: dict[int, str] = {}
        self._free_groups = deque(range(1, GROUPS_MAX))  # what was given back is used last: answers may still come
        self._free_numbers = deque(range(UPSTREAMS_MAX))
        self._next_renewal = 0.0
        self._resend = resend

    def renew(self, number: int) -> None:
        """Open new sockets to an upstream, by its number."""
        upstream = self.by_number(number)
        if upstream is not None:
            upstream.reopen_sockets(self._settings.sockets, self._settings.source_port_lifetime)

    def configure(self, groups: Mapping[str, Group], config: Config) -> dict[str, int]:
        """Ask these from now on, and return the groups' numbers; that of the default group is 0.

        Those that stay keep their number, sockets and counters. Raises ConfigError, and changes nothing, where one
        cannot be reached as is said.
        """
        if len(groups) > GROUPS_MAX:
            raise ConfigError(f"at most {GROUPS_MAX} groups of upstreams, not {len(groups)}, those of zones included")
        if len(ports := usable(config.forward.source_port_avoid)) < FEW:
            log.warning(
                "only %d source ports for queries: spoofing is easier; see forward.source_port_avoid and"
                " net.ipv4.ip_local_port_range", len(ports),
            )  # fmt: skip
        wanted = {str(member): member for group in groups.values() for member in group.members}
        kept = _kept_upstreams(self.all, wanted)
        certificates = _read_ca_files(wanted.values())
        fresh = {
            name: Connections(endpoint, section, ca_pem=certificates[section.tls.ca_file])
            for name, (endpoint, section) in wanted.items()
            if name not in kept
            or (kept[name].section.connection_key, kept[name].ca_pem)
            != (section.connection_key, certificates[section.tls.ca_file])
        }
        for upstream in self.all:
            if upstream not in kept.values():
                upstream.close()
                self._table.set_health(upstream.number, in_service=False, forced=True)
                self._free_numbers.append(upstream.number)
        self._settings = config.forward
        self._without_address = {section.name for section in config.upstreams if not section.address}
        self._next_renewal = self._next_renewal or self._clock.seconds() + self._renewal()
        self.all = []
        for name, (endpoint, section) in wanted.items():
            if name not in kept:
                number = self._free_numbers.popleft()
                self._table.forget(number)
                kept[name] = Upstream(number, endpoint, self._pool, self._table, self._clock)
            self.all.append(kept[name])
            kept[name].steered = self.steered.get(wanted[name].title, "")
            kept[name].ca_pem = certificates[section.tls.ca_file]
            kept[name].configure(section, fresh.get(name), config.health_of(section), config.forward)
        self._by_number = {upstream.number: upstream for upstream in self.all}
        self.health_interval = min([1.0, *(config.health_of(section).interval for _, section in wanted.values())])
        return self._number_groups(groups, kept)

    def _number_groups(self, groups: Mapping[str, Group], known: Mapping[str, Upstream]) -> dict[str, int]:
        """Give each group a number, the one it had if it had one: who still waits must not go to another group."""
        numbers, self.groups = self._group_numbers, {}
        for name in numbers.keys() - groups.keys() - {DEFAULT_GROUP}:
            self._table.set_group(numbers[name], "order", ())
            self._free_groups.append(numbers.pop(name))
        for name in groups.keys() - numbers.keys():
            numbers[name] = self._free_groups.popleft()
        for name, group in groups.items():
            members = list(dict.fromkeys(known[str(each)] for each in group.members))  # two hosts may have one address
            self._table.set_group(numbers[name], group.policy, [each.number for each in members])
            self.groups[numbers[name]] = members
        self._policies = {numbers[name]: group.policy for name, group in groups.items()}
        return dict(numbers)

    def steer(self, name: str, how: str) -> list[str]:
        """Have those that are called so, or asked so, or at this address, steered; return what each is called.

        So they stay, whatever addresses a host has later. Raises FunkenShieldError where there is none.
        """
        found = [each for each in self.all if name in {each.member.title, each.member.asked, str(each.endpoint)}]
        titles = list(dict.fromkeys([*(each.member.title for each in found), *self._without_address & {name}]))
        if not titles:
            raise FunkenShieldError(f"no upstream {name}; there are {', '.join(self.titles)}")
        self.steered = {each: how for each, how in (self.steered | dict.fromkeys(titles, how)).items() if how}
        for each in self.all:
            if each.member.title in titles:
                each.steer(how, self._resend)
        for number, members in self.groups.items():
            if members and not any(each.health.in_service for each in members):
                log.warning("group %s: no upstream is in service", self.group_name(number))
        return titles

    @property
    def titles(self) -> list[str]:
        """What all are called, those whose host has no address now included; each once."""
        return list(dict.fromkeys([*(each.member.title for each in self.all), *sorted(self._without_address)]))

    def group_name(self, number: int) -> str:
        """Return the name of a group; that of a zone with upstreams of its own has a name of the zone's."""
        return next((name for name, each in self._group_numbers.items() if each == number), str(number))

    def policy_of(self, number: int) -> str:
        """Return how one of a group is chosen."""
        return self._policies[number]

    def listed(self) -> list[dict[str, Any]]:
        """Return what an operator wants to know of each."""
        return [
            {
                "name": each.member.title,
                "address": str(each.endpoint),
                "transport": each.section.transport,
                "groups": [self.group_name(number) for number, members in self.groups.items() if each in members],
                "state": each.state,
                "why": each.health.why,
                "share": round(each.health.share(self._clock.seconds()), 3),
                "outstanding": counted["outstanding_queries"],
                "queries": counted["queries"],
                "latency": counted["latency"],
            }
            for each in self.all
            for counted in [each.counters()]
        ]

    def choose(self, group: int, tried: Sequence[int] = ()) -> Upstream | None:
        """Return whose turn it is in a group after those that were tried, or None."""
        return self.by_number(self._table.next_of(group, tried))

    def by_number(self, number: int) -> Upstream | None:
        """Return an upstream by its number, or None where there is none any more."""
        return self._by_number.get(number)

    async def ask(self, asked: str, query: bytes) -> bytes:
        """Return the response of an upstream that is asked so to a query of our own; OSError where none comes."""
        upstream = next((each for each in self.all if each.member.asked == asked), None)
        if upstream is None:
            raise OSError(f"{asked} is no upstream any more")
        async with asyncio.timeout(self._settings.deadline):
            return await upstream.exchange(query)

    @property
    def down(self) -> set[Endpoint]:
        """The addresses of those that are not in service."""
        return {each.endpoint for each in self.all if not each.health.in_service}

    def update_health(self) -> None:
        """Update the health of all; called once a `health_interval`."""
        for upstream in self.all:
            upstream.update_health()

    def housekeeping(self) -> None:
        """Rotate ports, and age what is known; called about once a second."""
        now = self._clock.seconds()
        renew = now >= self._next_renewal
        if renew:
            self._next_renewal = now + self._renewal()
        for upstream in self.all:
            upstream.housekeeping()
            upstream.follow_source_address(self._resend)
            upstream.replace_known_ports()
            if renew:
                upstream.rotate_one_port(self._settings.sockets, self._settings.source_port_lifetime)

    def _renewal(self) -> float:
        """Return the seconds after which one port of each upstream is given up."""
        return self._settings.source_port_lifetime / self._settings.sockets

    def close(self) -> None:
        """Give up all sockets and connections."""
        for upstream in self.all:
            upstream.close()
