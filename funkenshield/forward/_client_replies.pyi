from typing_extensions import disjoint_base

from .._fastpath import Reception
from ..cache._store import Cache
from ._outbox import Outbox

@disjoint_base
class Answering:
    cache: Cache
    reception: Reception
    outbox: Outbox
    def __new__(cls, cache: Cache, capacity: int, guarded: int = ...) -> Answering: ...
