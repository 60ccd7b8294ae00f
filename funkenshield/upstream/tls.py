"""DNS over TLS to an upstream: how an upstream is authenticated, and sessions resumed (RFC 7858, 8310).

It knows certificates, pins and sessions. What is said over a connection is not its business.
"""

import asyncio
import base64
import hashlib
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from ..config import TlsSection
from ..core.files import read_file
from ..errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SESSIONS = 16  # that are kept for the next connections
VERIFIED = 3600.0  # seconds that a chain of sessions may go on after its certificate was verified
NOT_FOR_NAME = {62, 64}  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH


class Tls:
    """What one upstream must prove, and the sessions that it has given us."""

    def __init__(self, section: TlsSection, ca_pem: str, wall: Callable[[], float] = time.time) -> None:
        """Trust these certificates, or the system's; ConfigError where they, or the name, are not what they should be.

        `ca_pem` is the text of the section's `ca_file`. `wall` is the clock that certificates go by.
        """
        strict = section.profile == "strict"
        self._name = section.server_name.removesuffix(".")
        self._pins = frozenset(section.pin_sha256) if strict else frozenset()
        self._context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        self._context.wall = wall
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_alpn_protocols(["dot"])
        if not (strict and self._name):
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        if not section.ca_file and self._context.verify_mode != ssl.CERT_NONE:
            self._context.load_default_certs()
        try:
            if section.ca_file:
                self._context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError):
            raise ConfigError(f"tls.ca_file: {section.ca_file}: no certificates in PEM format") from None
        try:
            self._context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=self._name or None)
        except (ValueError, TypeError):
            raise ConfigError(f"tls.server_name: {section.server_name!r} is not a host name") from None

    async def start(self, plain: asyncio.WriteTransport, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Return the encrypted transport over a plain one, which `protocol` gets.

        Raises ConnectionError, with a line that says why, where the upstream is not whom we want.
        """
        loop = asyncio.get_running_loop()
        try:
            started = await loop.start_tls(plain, protocol, self._context, server_hostname=self._name or None)
        except ssl.SSLError as error:
            raise ConnectionError(self._explain(error)) from None
        except ConnectionError:  # its end may overtake the alert that says why
            raise ConnectionError("TLS handshake failed: connection closed") from None
        transport = cast(asyncio.Transport, started)
        if self._pins and _pin_of(transport.get_extra_info("ssl_object")) not in self._pins:
            raise ConnectionError("public key matches none of tls.pin_sha256")
        return transport

    def keep_session(self, peer: ssl.SSLObject) -> bool:
        """Keep the session of a connection for another one; False: it cannot be resumed, or not yet."""
        session = peer.session
        if session is None or not (session.has_ticket or session.id):
            return False
        assert isinstance(peer, _Peer)
        self._context.sessions.append(_Session(session, *peer.verified()))
        return True

    def _explain(self, error: ssl.SSLError) -> str:
        """Return what an operator should know about a handshake that failed."""
        if not isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS handshake failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
        if error.verify_code in NOT_FOR_NAME:
            return f"certificate is not for {self._name}"
        return f"certificate is not trusted: {error.verify_message}"


class _Session(NamedTuple):
    """A session, when its certificate was verified, and until when that is valid, in seconds since the epoch."""

    session: ssl.SSLSession
    since: float
    until: float


class _Peer(ssl.SSLObject):
    """The state of a connection that knows which session it offered."""

    offered: _Session | None
    begun: float

    def verified(self) -> tuple[float, float]:
        """Return when the certificate was verified, and until when it is valid; what goes on keeps its first times."""
        if self.session_reused and self.offered is not None:
            return self.offered[1:]
        return self.begun, _end_of(self)


class _Context(ssl.SSLContext):
    """A context that offers the sessions it has, each once (RFC 8446 C.4); event loops offer none themselves.

    A resumed session proves no certificate again. So none is offered when a full handshake is an hour ago, or the
    certificate is not valid any more.
    """

    sslobject_class = _Peer
    wall: Callable[[], float]

    def __init__(self, *_: object) -> None:
        self.sessions: deque[_Session] = deque(maxlen=SESSIONS)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the state of a new connection, which resumes the latest session that is left."""
        now = self.wall()
        kept = None
        while self.sessions and kept is None:
            latest = self.sessions.pop()
            if latest.since <= now < min(latest.since + VERIFIED, latest.until):
                kept = latest
        session = kept.session if kept else None
        peer = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(peer, _Peer)
        peer.offered, peer.begun = kept, now
        return peer


def _end_of(peer: ssl.SSLObject) -> float:
    """Return until when a peer's certificate is valid, in seconds since the epoch; 0 for one that we cannot read."""
    certificate = _certificate_of(peer)
    try:
        return certificate.not_valid_after_utc.timestamp() if certificate else 0.0
    except ValueError:
        return 0.0


def _certificate_of(peer: ssl.SSLObject) -> "Certificate | None":
    """Return a peer's certificate; None where OpenSSL has taken one that we cannot read."""
    from cryptography import x509  # where no upstream speaks TLS, a start need not wait for it
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return x509.load_der_x509_certificate(peer.getpeercert(True) or b"")
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        return None


def read_ca_file(section: TlsSection) -> str:
    """Return the text of the section's `ca_file`, "" where none is named; ConfigError where it cannot be read."""
    try:
        # All that counts is ASCII; comments may be anything.
        return read_file(Path(section.ca_file)).decode("ascii", "ignore") if section.ca_file else ""
    except OSError as error:
        raise ConfigError(f"tls.ca_file: {section.ca_file}: {error.strerror}") from None


def _pin_of(peer: ssl.SSLObject) -> str:
    """Return the SHA-256 digest, in base64, of the key in a peer's certificate (RFC 7858 4.2); "" for none we know."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    certificate = _certificate_of(peer)
    if certificate is None:
        return ""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return ""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()
