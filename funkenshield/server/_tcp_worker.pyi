from typing import final

from ..cache._store import Cache
from ..forward._miss_path import MissPath
from ._connections import ConnectionLimits, Connections
from ._encryption import ListenerEncryption
from ._http import ListenerHttp

@final
class TcpWorker:
    cache: Cache
    miss_path: MissPath
    connections: Connections
    def __new__(cls, cache: Cache, miss_path: MissPath, limits: ConnectionLimits) -> TcpWorker: ...
    def listen(
        self,
        fd: int,
        number: int = 0,
        encryption: ListenerEncryption | None = None,
        http: ListenerHttp | None = None,
    ) -> None: ...
    def run(self) -> None: ...
    def stop_accepting(self) -> None: ...
    def stop(self) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def messages_by_listener(self) -> list[int]: ...
    def rcodes(self) -> list[int]: ...
