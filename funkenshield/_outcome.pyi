from typing import final

from ._cache import Cache

@final
class Reception:
    cache: Cache
    def __new__(cls, cache: Cache) -> Reception: ...
    def set_any(self, minimal: bool) -> None: ...
    def set_cookies(self, secrets: tuple[bytes, ...], *, serve: bool, require: bool) -> None: ...
