"""Tokens by which a client proves that it receives at its address (RFC 9000 8.1.2); nothing is kept of them.

It knows what is in a token, and when it is too old. When clients have to bring one, is decided elsewhere.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b
from struct import pack, unpack_from

LIFETIME = 10  # seconds in which a client comes back
PERIOD = 3600  # seconds for which a key is used
MAC = 16  # octets
CID, CID_MAX = 8, 20  # octets of the connection IDs that are ours, and of any (RFC 9000 17.2)


class RetryTokens:
    """Tokens of one listener, with keys that follow from a secret and the time; the next process knows them, too.

    `seconds` is a clock that never goes back.
    """

    def __init__(self, secret: bytes, listener: str, seconds: Callable[[], float]) -> None:
        self._seconds, self._secret = seconds, hmac.digest(secret, b"retry " + listener.encode(), "sha256")

    def make(self, address: tuple[str, int], original: bytes, ours: bytes) -> bytes:
        """Return a token for a client whose first packet was for `original`, and whose next one will be for `ours`."""
        told = pack("!I", int(self._seconds())) + ours + original
        return told + self._mac(told, address)

    def original(self, address: tuple[str, int], ours: bytes, token: bytes) -> bytes | None:
        """Return whom a client's first packet was for; None: the token is not its own, too old, or none of ours."""
        told, mac = token[:-MAC], token[-MAC:]
        if not 4 + CID <= len(told) <= 4 + CID + CID_MAX or told[4 : 4 + CID] != ours:
            return None
        if not hmac.compare_digest(mac, self._mac(told, address)):
            return None
        age = int(self._seconds()) - unpack_from("!I", told)[0]
        return told[4 + CID :] if 0 <= age <= LIFETIME else None

    def _mac(self, told: bytes, address: tuple[str, int]) -> bytes:
        """Return the MAC of what is told to an address, by the key of the hour: it is for anybody to have it made.

        The address ends where no address goes on: nothing of it is taken for what is told, nor the other way round.
        """
        hour = pack("!Q", unpack_from("!I", told)[0] // PERIOD)
        text = f"{address[0]} {address[1]}\0".encode() + told
        return blake2b(text, digest_size=MAC, key=self._secret, person=hour).digest()
