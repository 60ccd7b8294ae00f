from typing import final

from ..cache._store import Cache

@final
class PendingQueries:
    def __new__(cls, cache: Cache, capacity: int) -> PendingQueries: ...
