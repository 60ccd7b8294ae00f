"""Every option: its type, default, unit and bounds, in this one place.

TOML in, a frozen `Config` out, or a ConfigError that names file, key, what is wrong and what is
allowed. Nobody else reads files or flags.
"""

import base64
import os
import tomllib
from collections import Counter
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..core.files import named_in, read_text
from ..errors import ConfigError
from .action import Action, check
from .guard import AllowSection, GuardSection
from .match import Match, Option
from .mistakes import not_toml, told
from .mistakes import section_at as below
from .types import (
    AddressField,
    Endpoint,
    EndpointField,
    GroupName,
    PathField,
    PortsField,
    PrefixField,
    Section,
    ZoneName,
    parse_endpoint,
    parse_rcode,
    parse_type,
    wildcard_of,
)

UPSTREAMS_MAX = 256  # that the compiled part tells apart
MEANINGFUL = {5, 6, 7, 8, 10, 11, 12}  # EDNS options that the compiled part deals with
SOCKETS_MAX = 6144  # of the 8,192 that it has: those that are given up still wait for answers


class CacheSection(Section):
    """What is kept."""

    memory: int = Field(
        64 << 20, ge=4 << 20, le=1 << 40,
        description="Memory for answers and denials, index included. What cannot fit into the machine, or the control"
                    " group, is a mistake; where the default does not fit, there is less. From 1 GiB on, an eleventh of"
                    " it, the index, is resident from the start. Restart to change.",
        json_schema_extra={"unit": "octets"},
    )  # fmt: skip
    snapshot: PathField = Field(
        "", description="File that the cache is kept in while the daemon is down. Restart to change."
    )
    snapshot_interval: float = Field(300.0, ge=1, le=86400, json_schema_extra={"unit": "s"},
                                     description="The file is written so often, and at the end."
                                                 " Restart to change.")  # fmt: skip
    prefetch: bool = Field(True, description="Ask again for what is in use, in the last tenth of its life.")
    nxdomain_cut: bool = Field(False, description="A name that does not exist has none below it (RFC 8020).")
    skip_options: tuple[Option, ...] = Field(
        (), max_length=16, strict=False,
        description="EDNS options, by number, that tell no questions apart, such as marks of clients (65001, 20292):"
                    " answers are the same whatever they say, and upstreams do not get them.",
    )  # fmt: skip

    @field_validator("skip_options")
    @classmethod
    def _mean_nothing_here(cls, options: tuple[int, ...]) -> tuple[int, ...]:
        for option in options:
            if option in MEANINGFUL:
                raise ValueError(f"{option} means something to the shield itself")
        return options


class TtlSection(Section):
    """How long answers are held. The TTL on the wire stays the origin's, and counts down."""

    min: int = Field(0, ge=0, le=86400, description="Hold answers at least so long; TTL 0 is never held.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    max: int = Field(86400, ge=1, le=604800, description="Hold answers at most so long.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    negative_max: int = Field(3600, ge=1, le=604800, description="Hold NXDOMAIN and NODATA at most so long.",
                              json_schema_extra={"unit": "s"})  # fmt: skip
    failure: int = Field(5, ge=1, le=300, description="Hold SERVFAIL, REFUSED and silence so long (RFC 9520).",
                         json_schema_extra={"unit": "s"})  # fmt: skip
    serve_original: bool = Field(
        False, description="Send TTLs as the authoritative server set them, in place of counting down."
    )


class StaleSection(Section):
    """Answers past their time (RFC 8767)."""

    mode: Literal["off", "on-failure", "immediate"] = Field(
        "on-failure",
        description='`"on-failure"` serves them where a refresh fails or takes too long, `"immediate"` at once, with'
                    " the refresh behind it.",
    )  # fmt: skip
    max: int = Field(86400, ge=1, le=604800, description="How long past its time an answer may serve.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    ttl: int = Field(30, ge=1, le=3600, description="The TTL that they are served with.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    client_timeout: float = Field(1.8, ge=0.01, le=30, json_schema_extra={"unit": "s"},
                                description="So long a client waits for a refresh.")  # fmt: skip
    recheck: float = Field(30.0, ge=1, le=3600, json_schema_extra={"unit": "s"},
                           description="So long a failed refresh is not tried again.")  # fmt: skip


def default_secrets() -> str:
    """Return where the secret of cookies is kept unless configured: in a folder of state; "": there is none."""
    if folder := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:  # the service manager's
        return f"{folder}/cookies"
    if os.geteuid() == 0:
        return "/var/lib/funkenshield/cookies"
    folder = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return f"{folder}/funkenshield/cookies" if os.path.isabs(folder) else ""


class CookiesSection(Section):
    """DNS cookies (RFC 7873, 9018)."""

    mode: Literal["serve", "off"] = Field(
        "serve", description='`"serve"` makes the shield the server; with `"off"`, no client gets one from anybody.'
    )
    secret_file: PathField = Field(
        default_factory=default_secrets,
        description="File with a secret of 32 hexadecimal digits a line; the first makes cookies, all are known."
                    " Read again when it changes. By default `cookies` in the service's state directory,"
                    " `/var/lib/funkenshield`, or `~/.local/state/funkenshield` of a user who is not root: it is made"
                    ' where it is missing. `""`: a random secret for each start.',
    )  # fmt: skip
    require: bool = Field(False, description="Over UDP, answer BADCOOKIE to a cookie that is not ours.")


class ChaosSection(Section):
    """Answers of class CHAOS about the shield itself; an empty one leaves the question to the upstream."""

    identity: str = Field("", max_length=100, description="TXT of `id.server` and `hostname.bind`.")
    version: str = Field("", max_length=100, description="TXT of `version.server` and `version.bind`.")


class UdpSection(Section):
    """How clients are served over UDP."""

    edns_udp_size: int = Field(1232, ge=512, le=4096, description="Largest answer, and the EDNS payload size we tell.",
                         json_schema_extra={"unit": "octets"})  # fmt: skip
    receive_buffer: int = Field(4 << 20, ge=4096, le=1 << 30, json_schema_extra={"unit": "octets"},
                                 description="Kernel's buffer of each socket. Restart to change.")  # fmt: skip


class TcpSection(Section):
    """How clients are served over TCP."""

    max_connections: int = Field(
        1000, ge=0, le=1_000_000,
        description="Connections at once; 0 turns TCP off. One /24 or /56 has its share of them. Where all are"
                    " taken, who is silent the longest gives way.",
    )  # fmt: skip
    max_connections_per_client: int = Field(
        100, ge=1, le=1_000_000, description="Connections at once from one IPv4 address, or one IPv6 /64."
    )
    memory: int = Field(
        64 << 20, ge=8 << 20, le=1 << 40, json_schema_extra={"unit": "octets"},
        description="What may wait in all connections: queries that came and were not taken, and answers that do not go"
                    " out. One /24 or /56 has its share of it.",
    )  # fmt: skip
    max_in_flight: int = Field(100, ge=1, le=65535, description="Queries that wait for an answer, each connection.")
    idle_timeout: float = Field(10.0, ge=0.1, le=3600, description="A connection without traffic is closed after this.",
                        json_schema_extra={"unit": "s"})  # fmt: skip
    write_buffer: int = Field(
        256 << 10, ge=1 << 10, le=1 << 30, json_schema_extra={"unit": "octets"},
        description="A client that leaves more unread is read no further, and closed when idle.",
    )  # fmt: skip


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


class HealthSection(Section):
    """Which upstreams are left alone. `[upstreams.health]` takes the same keys; what it leaves out is as it is here.

    An upstream that is left alone is asked only where no other can be; when it is well again, its share comes back
    little by little.
    """

    check: Literal["off", "lazy", "always"] = Field(
        "lazy", description='Ask it something of our own: `"lazy"` only while it is left alone.'
    )
    name: ZoneName = Field(".", description="Name that a check asks for.")
    type: str = Field("SOA", description="Type that a check asks for.")
    rcodes: tuple[str, ...] = Field(
        ("NOERROR", "NXDOMAIN", "REFUSED"), min_length=1, strict=False, description="Responses that prove it well."
    )
    interval: float = Field(1.0, ge=0.1, le=3600, description="Between two checks.", json_schema_extra={"unit": "s"})
    max_backoff: float = Field(30.0, ge=0.1, le=3600, json_schema_extra={"unit": "s"},
                           description="While checks fail, the interval doubles up to this.")  # fmt: skip
    timeout: float = Field(1.0, ge=0.05, le=30, description="For a check.", json_schema_extra={"unit": "s"})
    rise: int = Field(2, ge=1, le=100, description="Checks in a row that bring it back.")
    fall: int = Field(3, ge=1, le=100, description="Checks, or queries, unanswered in a row: it is left alone.")
    window: float = Field(10.0, ge=1, le=300, description="Time over which shares are taken.",
                          json_schema_extra={"unit": "s"})  # fmt: skip
    min_samples: int = Field(20, ge=1, le=1_000_000, description="Queries in a window, or else shares say nothing.")
    timeout_ratio: float = Field(0.5, gt=0, le=1, description="Share of unanswered queries: it is left alone.")
    servfail_ratio: float = Field(0.9, gt=0, le=1, description="Share of SERVFAIL among responses: it is left alone.")
    slow_start: float = Field(10.0, ge=0, le=3600, description="Within this its whole share comes back.",
                              json_schema_extra={"unit": "s"})  # fmt: skip

    @field_validator("type")
    @classmethod
    def _is_type(cls, text: str) -> str:
        return parse_type(text)

    @field_validator("rcodes")
    @classmethod
    def _are_rcodes(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_rcode(text) for text in texts)


class TlsSection(Section):
    """DNS over TLS to an upstream (RFC 7858), for `transport = "tls"`."""

    server_name: str = Field("", max_length=253, description="Name that its certificate must be for (RFC 8310).")
    pin_sha256: tuple[str, ...] = Field(
        (), max_length=16, strict=False,
        description="SHA-256 digests, in base64, of public keys; its certificate must hold one of them.",
    )  # fmt: skip
    ca_file: PathField = Field("", description="File of certificates to trust, in place of the system's.")
    profile: Literal["strict", "opportunistic"] = Field(
        "strict",
        description='`"strict"` wants a name or a pin, and holds to it; `"opportunistic"` takes any certificate.',
    )

    @field_validator("pin_sha256")
    @classmethod
    def _are_digests(cls, pins: tuple[str, ...]) -> tuple[str, ...]:
        for pin in pins:
            try:
                digest = base64.b64decode(pin, validate=True)
            except ValueError:
                digest = b""
            if len(digest) != 32:
                raise ValueError(f"{pin} is not a SHA-256 digest in base64")
        return pins


DEFAULT_GROUP = "default"
GROUP_MAX = 64  # upstreams in a group


class UpstreamSection(Section):
    """A nameserver behind the shield. Where its address says enough, `upstreams = ["ADDR:PORT", ...]` does."""

    address: tuple[EndpointField, ...] = Field(
        min_length=1, max_length=GROUP_MAX, strict=False,
        description="`ADDR:PORT`, or a list: each is an upstream of its own, and all else is the same.",
    )  # fmt: skip
    name: str = Field(
        "", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$",
        description="What it is called in logs and counters; without one, as it is asked: `tcp://192.0.2.1:53`, say.",
    )  # fmt: skip
    groups: tuple[GroupName, ...] = Field(
        (DEFAULT_GROUP,), min_length=1, max_length=16, strict=False, description="Groups that it belongs to."
    )
    order: int = Field(1, ge=0, le=1000, description='With the policy `"order"`, the lowest are asked first.')
    weight: int = Field(1, ge=1, le=1000, description="Its share, beside the weights of the others.")
    state: Literal["auto", "up", "down"] = Field("auto", description="Whether it is asked, whatever its health.")
    max_outstanding: int = Field(16384, ge=1, le=1 << 22, description="Queries that wait for it at once.")
    transport: Literal["udp", "tcp", "tls"] = Field("udp", description="How it is asked.")
    source: AddressField | None = Field(None, description="Our address that it is asked from.")
    random_case: bool = Field(False, description="Spell names at random, for forgers to guess (0x20); over UDP.")
    proxy_protocol: bool = Field(False, description="Tell it whose query it is, by PROXY protocol version 2.")
    tls: TlsSection = Field(TlsSection(), description='For `transport = "tls"`.')
    health: HealthSection = Field(HealthSection(), description="What differs from `[health]`.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Take `ADDR:PORT` for an upstream that has nothing but an address."""
        if isinstance(value, str):
            return {"address": (parse_endpoint(value),)}
        if not isinstance(value, dict | UpstreamSection):
            raise ValueError("not an upstream; write ADDR:PORT, or a table")  # noqa: TRY004 - what pydantic turns into a line
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "UpstreamSection":
        if (
            self.transport == "tls"
            and self.tls.profile == "strict"
            and not (self.tls.server_name or self.tls.pin_sha256)
        ):
            raise ValueError("tls: the strict profile wants tls.server_name or tls.pin_sha256")
        if self.transport != "tls" and self.tls != TlsSection():
            raise ValueError('tls: that takes transport = "tls"')
        if self.transport != "udp" and self.random_case:
            raise ValueError("random_case: that is for UDP")
        if self.source and any((":" in each.host) != (self.source.version == 6) for each in self.address):
            raise ValueError(f"source: {self.source} is of another family than the address")
        return self

    @property
    def way(self) -> tuple[object, ...]:
        """Return the way to it: what makes it another upstream at the same address."""
        return self.transport, self.tls, self.source


class Member(NamedTuple):
    """One upstream: an address, and what was said of it. As text, it is what tells it from all others."""

    endpoint: Endpoint
    section: UpstreamSection

    @property
    def asked(self) -> str:
        """Return where and how it is asked, whoever asks; UDP goes without saying."""
        scheme = "" if self.section.transport == "udp" else f"{self.section.transport}://"
        return f"{scheme}{self.endpoint}{'#' * bool(self.section.tls.server_name)}{self.section.tls.server_name}"

    @property
    def title(self) -> str:
        """Return what it is called: its name, or else how we ask it."""
        source = f" from {self.section.source}" if self.section.source else ""
        return self.section.name or f"{self.asked}{source}"

    def __str__(self) -> str:
        return f"{self.section.name} ({self.endpoint})" if self.section.name else self.title


class GroupSection(Section):
    """A group of upstreams with a policy of its own; the group `default` is asked unless a zone says otherwise."""

    name: GroupName = Field(description="Its name, as in `upstreams.groups` and `zones.group`.")
    policy: Policy = Field("round-robin", description="In place of `forward.policy`.")


class ClientSubnetSection(Section):
    """Telling upstreams which network a client is in (RFC 7871), where the client did not say so itself."""

    add: bool = Field(False, description="Tell them.")
    ipv4_prefix_length: int = Field(24, ge=1, le=32, description="Bits of an IPv4 address that are told.")
    ipv6_prefix_length: int = Field(56, ge=1, le=128, description="Bits of an IPv6 address that are told.")
    private: bool = Field(False, description="Tell of private addresses too.")


class LogSection(Section):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is told.")
    format: Literal["text", "json"] = Field("text", description="Readable lines, or one JSON object a line.")


class MetricsSection(Section):
    """Counters for Prometheus."""

    listen: EndpointField | None = Field(
        None, description="HTTP endpoint of `/metrics`; none unless given. Restart to change."
    )


def default_socket() -> str:
    """Return where the control socket is unless configured: a folder that is this user's own."""
    if os.geteuid() == 0:
        return "/run/funkenshield/control.sock"
    return f"{os.environ.get('XDG_RUNTIME_DIR', f'/tmp/funkenshield-{os.geteuid()}')}/funkenshield.sock"


class ControlSection(Section):
    """The socket of `funkenshield stats` and `purge`."""

    socket: PathField = Field(
        default_factory=default_socket, max_length=107,
        description='Path of a UNIX socket, made with mode 0600; `""`: none. By default'
                    " `/run/funkenshield/control.sock`, or `funkenshield.sock` in the runtime directory of a user who"
                    " is not root; where that one cannot be made, there is none. Restart to change.",
    )  # fmt: skip


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


class RuleSection(Section):
    """What is done with which queries: of those in a chain, the first that matches decides, but for actions that only
    change something and go on.

    [Rules](guide/rules.md) tells it all.
    """

    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$", description="What it is called in counters.")
    chain: Literal["queries", "responses", "cache-hits"] = Field(
        "queries",
        description="Asked of queries, of upstreams' responses, or of answers from the cache.",
    )
    match: Match = Field(Match(), description="Which queries: a table of conditions.")
    action: Action = Field(description="What is done with them.")
    on_error: Literal["servfail", "refused", "drop", "allow"] = Field(
        "servfail", description="What a query gets where a Python function fails."
    )
    cache: bool = Field(False, description="Results of a Python function are kept, as if an upstream had given them.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RuleSection":
        check(self.chain, self.match, self.action)
        return self


class Config(Section):
    """Everything an operator can say."""

    listen: tuple[EndpointField, ...] = Field(
        (Endpoint("127.0.0.1", 8054),), min_length=1, max_length=64, strict=False,
        description="Where queries are taken, UDP and TCP; a wildcard may stand beside one of its addresses. Restart to"
                    " change.",
    )  # fmt: skip
    upstreams: tuple[UpstreamSection, ...] = Field(
        (UpstreamSection(address=(Endpoint("127.0.0.1", 8053),)),), min_length=1, max_length=UPSTREAMS_MAX,
        strict=False,
        description="The nameservers behind the shield: addresses, or tables (below).",
    )  # fmt: skip
    groups: tuple[GroupSection, ...] = Field((), max_length=1000, strict=False)
    proxy_protocol_from: tuple[PrefixField, ...] = Field(
        (), max_length=64, strict=False,
        description="Addresses or prefixes of front proxies, whose queries come by PROXY protocol version 2 (and from"
                    " nobody else).",
    )  # fmt: skip
    workers: int = Field(
        0, ge=0, le=255, description="Threads that answer; 0: one for each core that we may have. Restart to change."
    )
    user: str = Field("", description="Become this user once the sockets are bound. Restart to change.")
    drain_timeout: float = Field(3.0, ge=0, le=300, json_schema_extra={"unit": "s"},
                         description="At the end, clients that wait for an upstream are given so long.")  # fmt: skip
    minimal_any: bool = Field(False, description="Answer questions for ANY here, with one HINFO record (RFC 8482).")
    allow_notify_from: tuple[PrefixField, ...] = Field(
        (), strict=False,
        description="Addresses or prefixes whose NOTIFY for a zone with a section has its serial looked at.",
    )  # fmt: skip
    rrset_roundrobin: bool = Field(False, description="Rotate the addresses of an answer, from answer to answer.")
    cache: CacheSection = CacheSection()
    ttl: TtlSection = TtlSection()
    stale: StaleSection = StaleSection()
    cookies: CookiesSection = CookiesSection()
    chaos: ChaosSection = ChaosSection()
    udp: UdpSection = UdpSection()
    tcp: TcpSection = TcpSection()
    forward: ForwardSection = ForwardSection()
    health: HealthSection = HealthSection()
    client_subnet: ClientSubnetSection = ClientSubnetSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    control: ControlSection = Field(default_factory=ControlSection)
    zones: tuple[ZoneSection, ...] = Field((), max_length=4000, strict=False)
    guard: GuardSection = GuardSection()
    rules: tuple[RuleSection, ...] = Field((), max_length=4096, strict=False)
    rules_file: PathField = Field(
        "", description="File of rules in Python, which come behind those of `[[rules]]`; without any of those,"
                        ' `rules = "FILE.py"` says the same.',
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _rules_may_be_a_file(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("rules"), str) and "rules_file" not in values:
            return {**{key: value for key, value in values.items() if key != "rules"}, "rules_file": values["rules"]}
        return values

    @field_validator("zones")
    @classmethod
    def _names_once(cls, zones: tuple[ZoneSection, ...]) -> tuple[ZoneSection, ...]:
        names = [zone.name for zone in zones]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than once: {', '.join(twice)}")
        return zones

    @model_validator(mode="after")
    def _addresses_are_listened_on_once(self) -> "Config":
        twice = sorted({str(each) for each in self.listen if self.listen.count(each) > 1})
        if twice:
            raise ValueError(f"listen: more than once: {', '.join(twice)}")
        scraped = self.metrics.listen
        if (
            scraped
            and self.tcp.max_connections
            and any(scraped in (each, wildcard_of(each)) or each == wildcard_of(scraped) for each in self.listen)
        ):
            raise ValueError(f"metrics.listen: {scraped} is where queries are taken, over TCP; take another port")
        return self

    @model_validator(mode="after")
    def _upstreams_can_be_told_apart(self) -> "Config":
        ways = Counter((each.endpoint, each.section.way) for each in self.all_upstreams)
        if twice := sorted({each.asked for each in self.all_upstreams if ways[each.endpoint, each.section.way] > 1}):
            raise ValueError(f"upstreams: more than once: {', '.join(twice)}")
        names = Counter((each.title, each.endpoint) for each in self.all_upstreams)
        if alike := sorted({str(each) for each in self.all_upstreams if names[each.title, each.endpoint] > 1}):
            raise ValueError(f"upstreams: asked in several ways: {', '.join(alike)}; give each a name of its own")
        for zone in self.zones:
            for endpoint in zone.upstreams or ():
                if len(meant := self._places[endpoint]) > 1:
                    raise ValueError(
                        f"zones: {zone.name}: {endpoint} is more than one upstream: {', '.join(map(str, meant))};"
                        " put the one that is meant into a group, and name that"
                    )
        count = len(self.all_upstreams)
        if count > UPSTREAMS_MAX:
            raise ValueError(f"upstreams: at most {UPSTREAMS_MAX} in all, not {count}")
        if count * self.forward.sockets > SOCKETS_MAX:
            raise ValueError(f"forward.sockets: {count} upstreams can have {SOCKETS_MAX // count} sockets each")
        return self

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> "Config":
        for at, bounds in (
            ("ttl", self.ttl),
            *((f"zones: {zone.name}: ttl", self.ttl_of(zone)) for zone in self.zones),
        ):
            if bounds.min > bounds.max:
                raise ValueError(f"{at}: min is {bounds.min}, and max only {bounds.max}")
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
            if not 1 <= len(self.members(name)) <= GROUP_MAX:
                raise ValueError(f"{key}: group {name} has {len(self.members(name))} upstreams, not 1 to {GROUP_MAX}")
            if names.count(name) > 1:
                raise ValueError(f"groups: more than once: {name}")
        return self

    def members(self, group: str) -> tuple[Member, ...]:
        """Return the upstreams of a group."""
        return tuple(
            Member(each, upstream)
            for upstream in self.upstreams
            if group in upstream.groups
            for each in upstream.address
        )

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
            if endpoint not in places:
                places[endpoint] = [Member(endpoint, UpstreamSection(address=(endpoint,)))]
        return places

    def policy_of(self, group: str) -> Policy:
        """Return how one upstream of a group is chosen."""
        own = next((each for each in self.groups if each.name == group), None)
        return own.policy if own and "policy" in own.model_fields_set else self.forward.policy

    def health_of(self, upstream: UpstreamSection) -> HealthSection:
        """Return when an upstream is left alone."""
        return self.health.model_copy(update=_given(upstream.health))

    def ttl_of(self, zone: ZoneSection) -> TtlSection:
        """Return how long the answers of a zone are held."""
        return self.ttl.model_copy(update=_given(zone.ttl))

    def stale_of(self, zone: ZoneSection) -> StaleSection:
        """Return when the answers of a zone serve past their time."""
        return self.stale.model_copy(update=_given(zone.stale))


def _given(section: Section) -> dict[str, Any]:
    """Return what was said in a section, without its defaults."""
    return {key: getattr(section, key) for key in section.model_fields_set}


RESTART = (
    "listen",
    "workers",
    "user",
    "cache.memory",
    "cache.snapshot",
    "cache.snapshot_interval",
    "control",
    "metrics",
    "forward.max_outstanding",
    "udp.receive_buffer",
    "guard.memory",
)


def load(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """Return the configuration of a file (None: the defaults), with flags laid over it.

    `overrides` maps keys, dotted for tables, to values. Raises ConfigError with a line for each mistake.
    """
    values = read(path) if path is not None else {}
    for key, value in (overrides or {}).items():
        *tables, name = key.split(".")
        table = values
        for inner in tables:
            below = table.setdefault(inner, {})
            if not isinstance(below, dict):
                break  # the model names the mistake
            table = below
        else:
            table[name] = value
    try:
        with named_in(path) if path else nullcontext():
            return Config.model_validate(values)
    except ValidationError as mistakes:
        lines = [
            f"{path if path and key not in (overrides or {}) else 'command line'}: {line}"
            for key, line in told(mistakes, Config, values)
        ]
        raise ConfigError("\n".join(lines)) from None


def read(path: Path) -> dict[str, Any]:
    """Return what stands in a file; ConfigError where it cannot be read, or is not TOML."""
    try:
        text = read_text(path).removeprefix("\ufeff")
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML that we read: it is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        at, why = not_toml(error, text)
        raise ConfigError(f"{path}:{at}: {why}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not text in UTF-8") from None


def section_at(keys: list[str]) -> type[BaseModel] | None:
    """Return the section that a path of keys leads to."""
    return below(Config, keys)
