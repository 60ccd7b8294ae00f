"""Addresses that clients come to, each with its transport; and what connections to them are encrypted with.

Addresses that need no more than UDP and TCP are in `listen`.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, StringConstraints, field_validator, model_validator

from ..core._limits import LISTENERS_MAX, PROXIES_MAX
from .types import Endpoint, EndpointField, ListOf, PathField, PrefixField, Seconds, Section

INTERFACE = r"^[^\x00-\x20/:\x7f]*$"
OPENSSL_LIST = r"^[^\x00-\x1f\x7f]*$"
REQUEST_PATH = r"^/[!$-;=@-Z_a-z~]*$"  # what a target can have before its parameters (RFC 3986 3.3)
QUIC_TRANSPORTS = ("quic", "h3")
UDP_TRANSPORTS = ("udp+tcp", "xdp")  # queries come over UDP, and over TCP
OTHERWISE = {  # as others say
    "doh": "https", "h2": "https", "h2c": "http", "dot": "tls", "doq": "quic", "doh3": "h3", "udp": "udp+tcp",
    "af_xdp": "xdp",
}  # fmt: skip
ENCRYPTED = ("tls", "https", *QUIC_TRANSPORTS)
ONLY_WITH = {  # which transports a key is for
    **dict.fromkeys(("certificates", "discovery"), ENCRYPTED),
    **dict.fromkeys(("min_version", "ciphers", "ciphersuites"), ("tls", "https")),
    "paths": ("https", "http", "h3"),
    "forwarded_for_from": ("https", "http"),
    **dict.fromkeys(("interface", "generic_xdp", "kernel_answers"), ("xdp",)),
}
NAMES = {"xdp": "XDP", "tls": "TLS", "https": "HTTPS", "http": "HTTP", "quic": "QUIC", "h3": "HTTP/3"}


class CertificateSection(Section):
    """A certificate of a listener with TLS. Its files are read again when they change, and no connection ends for it.

    Of several, a client gets one for the name that it asks for, or else the first.
    """

    certificate: PathField = Field(min_length=1)
    """File in PEM format: the certificate, and behind it those of its issuers, as in `fullchain.pem`."""
    key: PathField = Field("", description="File of its private key in PEM format; by default, the same file.")
    ocsp_response: PathField = Field("", description="File of an OCSP response in DER format, which clients get, too.")

    @property
    def key_file(self) -> str:
        """The path of the file that the private key is in."""
        return self.key or self.certificate


class ListenerSection(Section):
    """Addresses that queries are received on, with their transport."""

    address: ListOf[EndpointField] = Field(min_length=1, max_length=LISTENERS_MAX)
    """`ADDR:PORT`, or a list: each is a listener of its own with the same settings."""
    transport: Literal["udp+tcp", "xdp", "tls", "https", "http", "quic", "h3"] = "udp+tcp"
    """`"udp+tcp"`, like an address of `listen`; `"xdp"`: the same, and queries over UDP are taken from an interface
    before the kernel's network stack has them; `"tls"`: DNS over TLS (RFC 7858), usually on port 853; `"https"`: DNS
    over HTTPS (RFC 8484) with HTTP/2, usually on port 443; `"http"`: the same without TLS, behind a proxy that has
    it; `"quic"`: DNS over QUIC (RFC 9250), usually on port 853; or `"h3"`: DNS over HTTPS with HTTP/3, usually on port
    443. The last two take the extra `funkenshield[quic]`."""
    certificates: ListOf[CertificateSection] = Field((), max_length=64)
    """For all that is encrypted, which needs one at least; `{ certificate = "FILE", key = "FILE" }`."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """For `"tls"` and `"https"`: lowest version of TLS that clients may use; with QUIC, it is 1.3."""
    ciphers: str = Field("", max_length=4096, pattern=OPENSSL_LIST)
    """Ciphers of TLS 1.2, as OpenSSL lists them (`openssl ciphers`); `""`: OpenSSL's own choice."""
    ciphersuites: str = Field("", max_length=4096, pattern=OPENSSL_LIST)
    """Cipher suites of TLS 1.3, joined by colons; `""`: OpenSSL's own choice."""
    discovery: bool = True
    """Tell clients of this listener that ask for encrypted ones (`_dns.resolver.arpa`, RFC 9462): by the first name of
    its first certificate, its port, and its address where that is one."""
    paths: ListOf[Annotated[str, StringConstraints(max_length=1024, pattern=REQUEST_PATH)]] = Field(
        ("/dns-query",), min_length=1, max_length=64
    )
    """For `"https"`, `"http"` and `"h3"`: paths of requests that are queries."""
    forwarded_for_from: ListOf[PrefixField] = Field((), max_length=PROXIES_MAX)
    """For `"https"` and `"http"`: addresses or prefixes of proxies whose `X-Forwarded-For` is believed: its last
    address is the client's. From anybody else, it means nothing."""
    interface: str = Field("", max_length=15, pattern=INTERFACE)
    """For `"xdp"`, which needs it: the network interface that queries for this address come by, such as `eth0`. Those
    that come by another one, and all of them where the interface, the kernel or our privileges do not allow it, come
    by sockets."""
    generic_xdp: bool = False
    """Where the interface's driver runs no XDP programs, have the kernel run them: it works with any driver, and gains
    little."""
    kernel_answers: bool = False
    """Have the program on the interface answer what is asked for most, inside the kernel: plain questions for entries
    that are fresh, with at most 512 octets, as long as nobody limits, blocks or looks at who asks, and no rule could
    concern them. Listeners of one interface share its program."""

    @field_validator("transport", mode="before")
    @classmethod
    def _is_there(cls, value: object) -> object:
        if isinstance(value, str) and value in OTHERWISE:
            raise ValueError(f'write "{OTHERWISE[value]}"')
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "ListenerSection":
        if self.transport == "xdp":
            self._names_where_queries_come_by()
        if self.encrypts and not self.certificates:
            raise ValueError(
                f'certificates: needed with transport = "{self.transport}"; write {{ certificate = "FILE",'
                ' key = "FILE" }'
            )
        for name in sorted(self.model_fields_set):
            if self.transport not in (transports := ONLY_WITH.get(name, (self.transport,))):
                *others, last = (f'"{each}"' for each in transports)
                either = f"{', '.join(others)} or " if others else ""
                raise ValueError(f"{name}: only with transport = {either}{last}")
        return self

    def _names_where_queries_come_by(self) -> None:
        if not self.interface:
            raise ValueError('interface: needed with transport = "xdp"; write interface = "eth0"')
        for each in self.address:
            if each.host in ("0.0.0.0", "::"):
                raise ValueError(f'address: with transport = "xdp", name an address of this machine\'s, not {each}')

    @property
    def encrypts(self) -> bool:
        """Whether its connections are encrypted."""
        return self.transport in ENCRYPTED

    @property
    def is_quic(self) -> bool:
        """Whether they are connections of QUIC, over UDP."""
        return self.transport in QUIC_TRANSPORTS

    @property
    def speaks_http(self) -> bool:
        """Whether queries come as requests of HTTP over TCP."""
        return self.transport in ("https", "http")


class Listener(NamedTuple):
    """One address that clients come to, and what was said of it."""

    endpoint: Endpoint
    section: ListenerSection

    @property
    def encrypts(self) -> bool:
        """Whether its connections are encrypted."""
        return self.section.encrypts

    @property
    def is_quic(self) -> bool:
        """Whether its connections are those of QUIC, over UDP."""
        return self.section.is_quic

    @property
    def bound_over(self) -> tuple[str, ...]:
        """What it is bound to: at one address, one listener over UDP and one over TCP can stand side by side."""
        return ("udp", "tcp") if self.has_udp else ("udp",) if self.is_quic else ("tcp",)

    @property
    def needs_tcp(self) -> bool:
        """Whether queries come over TCP alone."""
        return not self.has_udp and not self.is_quic

    @property
    def has_udp(self) -> bool:
        """Whether queries come over UDP, too."""
        return self.section.transport in UDP_TRANSPORTS

    def __str__(self) -> str:
        name = NAMES.get(self.section.transport)
        return f"{self.endpoint} ({name})" if name else str(self.endpoint)


class ClientTlsSection(Section):
    """TLS with clients, for all listeners with `transport = "tls"` or `"https"`. Sessions, and limits of handshakes,
    hold for QUIC, too."""

    ticket_secret_file: PathField = ""
    """File with 64 hexadecimal digits: of nodes with the same secret, each resumes the sessions of all. It is read
    again when it changes. `""`: a random secret for each start."""
    ticket_lifetime: Seconds = Field(21600.0, ge=60, le=604800)
    """How long a key that session tickets are encrypted with is in use. The next one is derived from the secret and
    the time; tickets of the one before are still accepted."""
    handshakes_per_second_per_client: float = Field(100.0, ge=0, le=1_000_000)
    """Handshakes per second from one IPv4 address or one IPv6 /64; connections beyond that are closed at once. 0: any
    number."""
    handshake_timeout: Seconds = Field(5.0, ge=0.1, le=60)
    """A connection whose handshake takes longer is closed."""


class QuicSection(Section):
    """QUIC with clients, for all listeners with `transport = "quic"` or `"h3"`. Other limits are those of `[tcp]`."""

    max_connections: int = Field(4_000, ge=1, le=1_000_000)
    """Connections at once, each of which takes about 50 KiB. A client prefix (/24 or /56) gets a fair share of them;
    when all are in use, the one that has been idle longest is closed."""
    idle_timeout: Seconds = Field(30.0, ge=1, le=600)
    """A connection without traffic is closed after this time."""
