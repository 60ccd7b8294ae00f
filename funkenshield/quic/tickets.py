"""Session tickets (RFC 8446 4.6.1): what a session is resumed by, sealed, and kept by its client; nothing is kept here.

Keys follow from a secret and the time, as those of TLS do (`server/_tls`): another process with the same secret, after
this one or on another node, opens them, too. It knows octets; what they say is decided elsewhere.
"""

import contextlib
import hmac
import os
import time
from collections.abc import Callable
from struct import pack

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE, KEY = 12, 16  # octets
LIFETIME_MAX = 604800  # seconds that a client may keep a ticket (RFC 8446 4.6.1)


class Tickets:
    """Tickets for one purpose, by keys that change every `lifetime` seconds; those of the one before are opened, too.

    `wall` is the clock that all who have the secret go by, in seconds since the epoch.
    """

    def __init__(self, secret: bytes, lifetime: float, purpose: str, wall: Callable[[], float] = time.time) -> None:
        self._secret, self._period, self._purpose, self._wall = secret, int(lifetime), purpose.encode(), wall
        self.lifetime = min(2 * self._period, LIFETIME_MAX)

    def seal(self, session: bytes) -> bytes:
        """Return the ticket for a session."""
        nonce = os.urandom(NONCE)
        return nonce + self._cipher(self._now()).encrypt(nonce, session, self._purpose)

    def open(self, ticket: bytes) -> bytes | None:
        """Return the session of a ticket; None: it is too old, for another purpose, or none of ours."""
        now = self._now()
        for period in (now, now - 1, now + 1):  # the next one's is of a node whose clock is ahead
            with contextlib.suppress(InvalidTag, ValueError):
                return self._cipher(period).decrypt(ticket[:NONCE], ticket[NONCE:], self._purpose)
        return None

    def _now(self) -> int:
        return int(self._wall()) // self._period

    def _cipher(self, period: int) -> AESGCM:
        return AESGCM(hmac.digest(self._secret, b"QUIC" + pack("!q", period), "sha256")[:KEY])
