from typing import final

from ..cache._store import Cache
from ..forward._miss_path import MissPath
from ._answering import Answering
from ._connection_limits import ConnectionLimits
from ._connections import Connections
from ._dismissals import Dismissals
from ._listener_table import FollowedTable, ListenerTable
from ._listening import ListeningSockets
from ._relayed import Relays

@final
class TcpWorker:
    cache: Cache
    miss_path: MissPath
    connections: Connections
    answering: Answering
    listeners: FollowedTable
    listening: ListeningSockets
    relays: Relays
    dismissals: Dismissals
    def __new__(cls, cache: Cache, miss_path: MissPath, limits: ConnectionLimits) -> TcpWorker: ...
    def follow(self, table: ListenerTable) -> None: ...
    def run(self) -> None: ...
    def stop_accepting(self) -> None: ...
    def pause(self) -> None: ...
    def stop(self) -> None: ...
