from typing_extensions import disjoint_base

from ._cache import Cache
from ._outbox import Outbox
from ._outcome import Reception

@disjoint_base
class Answering:
    cache: Cache
    reception: Reception
    outbox: Outbox
    def __new__(cls, cache: Cache, capacity: int, guarded: int = ...) -> Answering: ...
