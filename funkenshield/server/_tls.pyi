from collections.abc import Sequence
from typing import final

from ..cache._store import Cache
from ._encryption import ListenerEncryption
from .certificate import Certificate

OPENSSL_VERSION: str

@final
class TlsContexts:
    def __new__(
        cls,
        certificates: Sequence[Certificate],
        *,
        min_version: str,
        ciphers: str,
        ciphersuites: str,
        ticket_secret: bytes,
        ticket_lifetime: float,
        http: bool = ...,
    ) -> TlsContexts: ...

@final
class TlsListener(ListenerEncryption):
    def __new__(cls, cache: Cache) -> TlsListener: ...
    def use(self, contexts: TlsContexts) -> None: ...
