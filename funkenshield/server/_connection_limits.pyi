from typing import final

from ..cache._store import Cache
from ..policy._server_names import ServerNameTable

@final
class ConnectionLimits:
    def __new__(cls, cache: Cache) -> ConnectionLimits: ...
    def configure(
        self,
        *,
        max_connections: int,
        max_per_client: int,
        memory: int,
        max_in_flight: int,
        write_buffer: int,
        idle_timeout: float,
        handshakes_per_client: float = 0,
        handshake_timeout: float = 5,
    ) -> None: ...
    @property
    def held(self) -> tuple[int, int]: ...
    def set_server_names(self, table: ServerNameTable | None) -> None: ...
    def held_at(self, listener: int) -> int: ...
    @property
    def encrypted(self) -> int: ...
    @property
    def memory_limit(self) -> int: ...
