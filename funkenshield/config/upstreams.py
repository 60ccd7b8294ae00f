"""The nameservers behind the shield: where they are, how they are asked, who is healthy, which belong together."""

import base64
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from ..core._limits import MEMBERS_MAX
from .forward import Policy
from .types import (
    AddressField,
    Endpoint,
    GroupName,
    ListOf,
    PathField,
    PlaceField,
    RcodeName,
    Seconds,
    Section,
    TypeName,
    ZoneName,
    parse_place,
)

DEFAULT_GROUP = "default"


class HealthSection(Section):
    """Health of upstreams. `[upstreams.health]` takes the same keys; keys left out there are as they are here.

    An upstream that is marked down is queried only where no other can be; once it is marked up, its share of the
    queries grows back over `slow_start`.
    """

    check: Literal["off", "lazy", "always"] = "lazy"
    """Health checks: `"lazy"`: only while the upstream is marked down; `"always"`; `"off"`."""
    name: ZoneName = Field(".", description="Name that a health check queries.")
    type: TypeName = Field("SOA", description="Type that a health check queries.")
    rcodes: ListOf[RcodeName] = Field(("NOERROR", "NXDOMAIN", "REFUSED"), min_length=1)
    """Response codes with which a health check succeeds."""
    interval: Seconds = Field(1.0, ge=0.1, le=3600, description="Time between two health checks.")
    max_backoff: Seconds = Field(30.0, ge=0.1, le=3600)
    """While health checks fail, the interval doubles up to this."""
    timeout: Seconds = Field(1.0, ge=0.05, le=30, description="Timeout of a health check.")
    rise: int = Field(2, ge=1, le=100, description="Successful health checks in a row that mark an upstream up.")
    fall: int = Field(3, ge=1, le=100)
    """Failed health checks, or unanswered queries, in a row that mark an upstream down."""
    window: Seconds = Field(10.0, ge=1, le=300, description="Time over which the two ratios are measured.")
    min_samples: int = Field(20, ge=1, le=1_000_000)
    """With fewer queries than this in a window, the ratios are ignored."""
    timeout_ratio: float = Field(0.5, gt=0, le=1)
    """Ratio of unanswered queries that marks an upstream down."""
    servfail_ratio: float = Field(0.9, gt=0, le=1)
    """Ratio of SERVFAIL among responses that marks an upstream down."""
    slow_start: Seconds = Field(10.0, ge=0, le=3600)
    """After it is marked up, the time in which an upstream gets back its full share of queries."""


def _is_digest(text: str) -> str:
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ValueError("not a SHA-256 digest in base64")
    return text


class TlsSection(Section):
    """DNS over TLS to an upstream (RFC 7858), for `transport = "tls"`."""

    server_name: str = Field("", max_length=253, description="Name that the certificate must be valid for (RFC 8310).")
    pin_sha256: ListOf[Annotated[str, AfterValidator(_is_digest)]] = Field((), max_length=16)
    """SHA-256 digests of public keys, in base64; the certificate must have one of them."""
    ca_file: PathField = Field("", description="File of CA certificates in PEM format, in place of the system's.")
    profile: Literal["strict", "opportunistic"] = "strict"
    """`"strict"` requires a name or a pin, and verifies it; `"opportunistic"` accepts any certificate."""


class UpstreamSection(Section):
    """A nameserver behind the shield. Where its address says enough, `upstreams = ["ADDR:PORT", ...]` does."""

    address: ListOf[PlaceField] = Field(min_length=1, max_length=MEMBERS_MAX)
    """`ADDR:PORT`, or a list: each is an upstream of its own with the same settings. `HOST:PORT` stands for all
    addresses of a host, and `resolv.conf` for the nameservers in `/etc/resolv.conf`, on port 53: both are followed as
    they change."""
    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")
    """Name in logs and metrics; by default, the address with its transport, such as `tcp://192.0.2.1:53`."""
    groups: ListOf[GroupName] = Field((DEFAULT_GROUP,), min_length=1, max_length=16)
    """Groups that it belongs to."""
    order: int = Field(1, ge=0, le=1000, description='With the policy `"order"`, the lowest are queried first.')
    weight: int = Field(1, ge=1, le=1000)
    """Its share of the queries, relative to the weights of the others."""
    state: Literal["auto", "up", "down"] = "auto"
    """`"up"` and `"down"` override its measured health."""
    max_outstanding: int = Field(16384, ge=1, le=1 << 22, description="Outstanding queries at once.")
    transport: Literal["udp", "tcp", "tls"] = Field("udp", description="Transport of queries.")
    source: AddressField | None = Field(None, description="Local address that queries are sent from.")
    random_case: bool = False
    """Randomize the case of query names (0x20), over UDP, against spoofing."""
    proxy_protocol: bool = False
    """Send a PROXY protocol (version 2) header with the address of the client."""
    tls: TlsSection = Field(TlsSection(), description='For `transport = "tls"`.')
    health: HealthSection = Field(HealthSection(), description="What differs from `[health]`.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Take `ADDR:PORT` for an upstream that has nothing but an address."""
        if isinstance(value, str):
            return {"address": (parse_place(value),)}
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
            raise ValueError("tls: the strict profile needs tls.server_name or tls.pin_sha256")
        if self.transport != "tls" and self.tls != TlsSection():
            raise ValueError('tls: only with transport = "tls"')
        if self.transport != "udp" and self.random_case:
            raise ValueError('random_case: only with transport = "udp"')
        if not all(map(self.is_reachable, (each for each in self.address if not each.is_name))):
            raise ValueError(f"source: {self.source} is of another address family than the upstream")
        return self

    def is_reachable(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint is of the family of the address that queries are sent from."""
        return self.source is None or (":" in endpoint.host) == (self.source.version == 6)

    @property
    def connection_key(self) -> tuple[object, ...]:
        """Return what makes it another upstream at the same address: how connections to it are made."""
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
    """A group of upstreams with its own policy; the group `default` is used unless a zone or rule names another."""

    name: GroupName = Field(description="Name, as in `upstreams.groups` and `zones.group`.")
    policy: Policy = Field("round-robin", description="In place of `forward.policy`.")
