from typing_extensions import disjoint_base

from ._answering import Answering
from ._cache import Cache
from ._sockets import Sockets
from ._upstreams import UpstreamTable

@disjoint_base
class Trying(Answering):
    sockets: Sockets
    upstreams: UpstreamTable
    def __new__(cls, cache: Cache, capacity: int, guarded: int = ...) -> Trying: ...
