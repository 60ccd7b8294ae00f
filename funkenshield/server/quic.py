"""What listeners with QUIC show their clients, as qh3 takes it; and as it is told to the process that they come to.

qh3 is an extra (`funkenshield[quic]`), and nothing here loads it before a listener wants it.
"""

import base64
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .certificate import Certificate

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration
    from qh3.tls import Context

ALPN = {"quic": "doq", "h3": "h3"}  # what each transport is called in a handshake
STREAM_MAX = 1 << 18  # octets that a client may send before they are taken; more than the longest query
WANTED = "transport " + " or ".join(f'"{each}"' for each in ALPN)
GET_IT = "pip install 'funkenshield[quic]'"
PEM = "-----BEGIN {0}-----\n{1}-----END {0}-----\n"


def installed() -> str:
    """Return qh3's version without loading it; ConfigError, with what to do, where it is not installed, or unknown."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("qh3")
    except PackageNotFoundError:
        raise ConfigError(f"{WANTED}: qh3 is not installed: {GET_IT}") from None
    if not found.startswith("2.1."):
        raise ConfigError(f"{WANTED}: qh3 {found} is not known here: {GET_IT}")
    return found


def load() -> None:
    """Load qh3; ConfigError, with what to do, where that is not possible."""
    installed()
    try:
        import qh3.quic.connection  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{WANTED}: qh3 cannot be loaded: {error}") from None


class QuicContexts:
    """What new connections to a listener show: certificates, of which each client gets the one that it names.

    Tickets of sessions are sealed by keys that follow from `ticket_secret`, and change every `ticket_lifetime` seconds.
    Raises ValueError for a key that qh3 does not know.
    """

    def __init__(
        self, certificates: Sequence[Certificate], alpn: str, *, ticket_secret: bytes, ticket_lifetime: float,
        idle_timeout: float = 30.0,
    ) -> None:  # fmt: skip
        load()
        self.certificates, self.alpn = tuple(certificates), alpn
        self.ticket_secret, self.ticket_lifetime = ticket_secret, ticket_lifetime
        self._all = [self._made(each, idle_timeout) for each in certificates]
        self.configuration = self._all[0]

    def _made(self, certificate: Certificate, idle_timeout: float) -> "QuicConfiguration":
        from qh3.quic.configuration import QuicConfiguration

        made = QuicConfiguration(
            is_client=False, alpn_protocols=[self.alpn], idle_timeout=idle_timeout, max_data=STREAM_MAX,
            max_stream_data=STREAM_MAX,
        )  # fmt: skip
        try:
            made.load_cert_chain(
                "".join(_pem("CERTIFICATE", each) for each in certificate.chain), _pem("PRIVATE KEY", certificate.key)
            )
        except Exception as error:  # qh3 has several kinds
            raise ValueError(f"certificate for {certificate.title}: qh3 cannot use its key: {error}") from None
        return made

    def as_told(self) -> dict[str, Any]:
        """Return all of that as JSON can have it; `as_read` reads it."""
        secret = base64.b64encode(self.ticket_secret).decode()
        return {
            "certificates": as_told(self.certificates), "ticket_secret": secret, "ticket_lifetime": self.ticket_lifetime
        }  # fmt: skip

    @classmethod
    def as_read(cls, told: dict[str, Any], alpn: str, idle_timeout: float) -> "QuicContexts":
        """Return contexts that were told so."""
        return cls(
            as_read(told["certificates"]), alpn, ticket_secret=base64.b64decode(told["ticket_secret"]),
            ticket_lifetime=told["ticket_lifetime"], idle_timeout=idle_timeout,
        )  # fmt: skip

    def choose(self, context: "Context", name: str | None) -> None:
        """Let a handshake show the certificate for the name that a client asks for, or else the first (RFC 6066 3)."""
        chosen = self._all[named([each.names for each in self.certificates], name)]
        context.certificate, context.certificate_chain = chosen.certificate, chosen.certificate_chain
        context.certificate_private_key = chosen.private_key


def named(certificates: Sequence[Sequence[str]], name: str | None) -> int:
    """Return the number of the certificate for a name: one that has it, or else its wildcard, or else the first."""
    asked = (name or "").lower().rstrip(".")
    for wanted in (asked, f"*.{asked.partition('.')[2]}"):
        for number, names in enumerate(certificates):
            if wanted in names:
                return number
    return 0


def _pem(what: str, der: bytes) -> str:
    return PEM.format(what, "".join(f"{line}\n" for line in wrap(base64.b64encode(der).decode(), 64)))


class QuicListener:
    """A listener whose clients come to another process, and what it is to show them."""

    def __init__(self) -> None:
        self.contexts: QuicContexts | None = None

    def use(self, contexts: QuicContexts) -> None:
        """Show this from now on."""
        self.contexts = contexts


def as_told(certificates: Sequence[Certificate]) -> list[dict[str, Any]]:
    """Return certificates as JSON can have them."""
    return [
        {
            "names": each.names,
            "chain": [base64.b64encode(der).decode() for der in each.chain],
            "key": base64.b64encode(each.key).decode(),
        }
        for each in certificates
    ]


def as_read(told: Sequence[dict[str, Any]]) -> list[Certificate]:
    """Return certificates that were told as above."""
    return [
        Certificate(
            tuple(each["names"]), tuple(base64.b64decode(der) for der in each["chain"]), base64.b64decode(each["key"])
        )
        for each in told
    ]
