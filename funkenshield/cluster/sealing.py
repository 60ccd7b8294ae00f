"""What nodes tell each other is sealed with a secret that they share: whoever writes to the store has it not.

It knows secrets and octets. A seal covers what the octets are (`kind`) and where they lie (`place`), so that none is
believed elsewhere; that it is old, it cannot tell. It hides nothing.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path

from ..core.files import read_text
from ..errors import ConfigError

SEAL = 16  # octets of a seal, or a name: of 2**64 forgeries, one in 2**64 is believed
SECRETS_MAX = 4
NAME, VALUE, MESSAGE, STATE, COOKIES, TICKETS = b"name", b"value", b"message", b"state", b"cookies", b"tickets"


def load_secrets(path: Path) -> tuple[bytes, ...]:
    """Return the secrets of a file: 1 to 4 lines of 64 hex digits, with `#` before comments.

    Raises ConfigError with the first mistake, its line, and what is allowed.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; write secrets of 64 hex digits, one per line") from None
    for number, line in enumerate(lines, 1):
        if line and not re.fullmatch(r"[0-9A-Fa-f]{64}", line):
            raise ConfigError(f"{path}:{number}: not a secret; write 64 hex digits, one secret per line")
    secrets = tuple(bytes.fromhex(line) for line in lines if line)
    if not 1 <= len(secrets) <= SECRETS_MAX:
        raise ConfigError(f"{path}: {len(secrets)} secrets; write 1 to {SECRETS_MAX} of 64 hex digits, one per line")
    return secrets


class Sealer:
    """Seals with the first secret, and believes what any of them has sealed (BLAKE2b with a key, RFC 7693)."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)
        self._named = blake2b(key=self._secrets[0], person=NAME, digest_size=SEAL)

    def derive(self, kind: bytes, length: int) -> tuple[bytes, ...]:
        """Return secrets for another purpose, the same at every node, one of each; nobody learns these by them."""
        return tuple(blake2b(key=each, person=kind, digest_size=length).digest() for each in self._secrets)

    def name(self, *parts: bytes) -> bytes:
        """Return a name for what is told by these octets, which only nodes can work out."""
        hashed = self._named.copy()
        hashed.update(b"".join([*[len(part).to_bytes(4) for part in parts], *parts]))
        return hashed.digest()

    def seal(self, kind: bytes, place: bytes, octets: bytes) -> bytes:
        """Return octets with their seal before them."""
        return self._seal(self._secrets[0], kind, place, octets) + octets

    def open(self, kind: bytes, place: bytes, sealed: object) -> bytes | None:
        """Return what was sealed as this kind for this place; None where no node of ours has done that."""
        if not isinstance(sealed, bytes) or len(sealed) < SEAL:
            return None
        octets = sealed[SEAL:]
        for secret in self._secrets:
            if compare_digest(sealed[:SEAL], self._seal(secret, kind, place, octets)):
                return octets
        return None

    @staticmethod
    def _seal(secret: bytes, kind: bytes, place: bytes, octets: bytes) -> bytes:
        hashed = blake2b(len(place).to_bytes(4) + place, key=secret, person=kind, digest_size=SEAL)
        hashed.update(octets)
        return hashed.digest()
