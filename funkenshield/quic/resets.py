"""Stateless resets (RFC 9000 10.3): by what a client learns at once that nobody knows its connection any more.

A client is given a token when it connects. Where packets of its connection come to a process that does not know it,
because the one before has ended, they are answered by what only that client takes for anything: random octets, and its
token at their end. The token follows from a secret and the connection's ID, so that the next process knows it, too.
"""

import hmac
import os
from hashlib import blake2b

TOKEN = 16  # octets
RESET_MIN, RESET_MAX = 21, 43  # octets: to be taken for a packet, and not to be told from one (10.3)
SHORT_HEADER, RANDOM = 0x40, 0x3F  # of the first octet


class Resets:
    """Those of one listener: what another one answers must not end a connection of this one (10.3.2)."""

    def __init__(self, secret: bytes, listener: str) -> None:
        self._key = hmac.digest(secret, b"reset " + listener.encode(), "sha256")

    def token(self, cid: bytes) -> bytes:
        """Return the token of the connection that has an ID."""
        return blake2b(cid, digest_size=TOKEN, key=self._key).digest()

    def packet(self, cid: bytes, length: int) -> bytes:
        """Return what answers a packet of so many octets, and is shorter: so no two can answer each other for ever.

        b"": it is too short to be answered.
        """
        length = min(length - 1, RESET_MAX)
        if length < RESET_MIN:
            return b""
        octets = os.urandom(length - TOKEN)
        return bytes((SHORT_HEADER | octets[0] & RANDOM,)) + octets[1:] + self.token(cid)
