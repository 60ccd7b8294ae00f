from typing import final

from ._cache import Cache

@final
class OpenQueries:
    def __new__(cls, cache: Cache, capacity: int) -> OpenQueries: ...
