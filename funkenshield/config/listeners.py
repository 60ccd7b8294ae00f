"""Addresses that clients come to, each with its transport; and what connections to them are encrypted with.

Addresses that need no more than UDP and TCP are in `listen`.
"""

from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from ..core._limits import LISTENERS_MAX
from .types import Endpoint, EndpointField, ListOf, PathField, Seconds, Section

OPENSSL_LIST = r"^[^\x00-\x1f\x7f]*$"
NOT_YET = {
    "https": "DNS over HTTPS", "h2": "DNS over HTTPS", "h3": "DNS over HTTP/3", "doh": "DNS over HTTPS",
    "quic": "DNS over QUIC", "doq": "DNS over QUIC",
}  # fmt: skip


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
    """`ADDR:PORT`, or a list: each is a listener of its own with the same settings. Takes effect at restart."""
    transport: Literal["udp+tcp", "tls"] = "udp+tcp"
    """`"udp+tcp"`, like an address of `listen`; or `"tls"`: DNS over TLS (RFC 7858), usually on port 853. Takes effect
    at restart."""
    certificates: ListOf[CertificateSection] = Field((), max_length=64)
    """For `transport = "tls"`, which needs one at least; `{ certificate = "FILE", key = "FILE" }`."""
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="Lowest version of TLS that clients may use.")
    ciphers: str = Field("", max_length=4096, pattern=OPENSSL_LIST)
    """Ciphers of TLS 1.2, as OpenSSL lists them (`openssl ciphers`); `""`: OpenSSL's own choice."""
    ciphersuites: str = Field("", max_length=4096, pattern=OPENSSL_LIST)
    """Cipher suites of TLS 1.3, joined by colons; `""`: OpenSSL's own choice."""
    discovery: bool = True
    """Tell clients of this listener that ask for encrypted ones (`_dns.resolver.arpa`, RFC 9462): by the first name of
    its first certificate, its port, and its address where that is one."""

    @field_validator("transport", mode="before")
    @classmethod
    def _is_there(cls, value: object) -> object:
        if isinstance(value, str) and value in NOT_YET:
            raise ValueError(f'{NOT_YET[value]} is not available yet; transports are "udp+tcp" and "tls"')
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "ListenerSection":
        if self.transport == "tls" and not self.certificates:
            raise ValueError(
                'certificates: needed with transport = "tls"; write { certificate = "FILE", key = "FILE" }'
            )
        for name in ("certificates", "min_version", "ciphers", "ciphersuites", "discovery"):
            if self.transport != "tls" and name in self.model_fields_set:
                raise ValueError(f'{name}: only with transport = "tls"')
        return self


class Listener(NamedTuple):
    """One address that clients come to, and what was said of it."""

    endpoint: Endpoint
    section: ListenerSection

    @property
    def encrypts(self) -> bool:
        """Whether its connections are encrypted."""
        return self.section.transport == "tls"

    def __str__(self) -> str:
        return f"{self.endpoint} (TLS)" if self.encrypts else str(self.endpoint)


class ClientTlsSection(Section):
    """TLS with clients, for all listeners with `transport = "tls"`."""

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
