from collections.abc import Iterable, Sequence
from typing import final

from ..cache._store import Cache
from ._http import ListenerHttp

NGHTTP2_VERSION: str

@final
class HttpManner:
    def __new__(cls, paths: Sequence[str], proxies: Iterable[tuple[bytes, int]] = ...) -> HttpManner: ...

@final
class Http2Listener(ListenerHttp):
    def __new__(cls, cache: Cache) -> Http2Listener: ...
    def use(self, manner: HttpManner) -> None: ...
