from typing import final

from ..cache._store import Cache

@final
class OpenQueries:
    def __new__(cls, cache: Cache, capacity: int) -> OpenQueries: ...
