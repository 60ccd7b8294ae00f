from typing_extensions import disjoint_base

from ..cache._store import Cache
from ..upstream._selection import UpstreamTable
from ..upstream._sockets import Sockets
from ._client_replies import ClientReplies

@disjoint_base
class Attempts(ClientReplies):
    sockets: Sockets
    upstreams: UpstreamTable
    def __new__(cls, cache: Cache, capacity: int, guarded: int = ...) -> Attempts: ...
