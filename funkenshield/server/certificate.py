"""A certificate with its key, as all know it that show one; where it comes from, `certificates` knows."""

from typing import NamedTuple


class Certificate(NamedTuple):
    """What a client is shown, and proven to with a key."""

    names: tuple[str, ...]  # in lower case, A-labels, wildcards as they stand; none: for clients that name no server
    chain: tuple[bytes, ...]  # DER, the server's own first
    key: bytes  # PKCS#8 in DER, not encrypted
    ocsp_response: bytes = b""  # DER

    @property
    def title(self) -> str:
        """Return what it is for."""
        return ", ".join(self.names) or "no name"

    def __repr__(self) -> str:
        return f"<Certificate for {self.title}>"
