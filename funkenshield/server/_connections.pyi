from typing import NamedTuple, final

from ..cache._store import Cache

class Latest(NamedTuple):
    times: int
    at: int
    address: bytes
    held: int
    share: int

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
    @property
    def encrypted(self) -> int: ...
    @property
    def memory_limit(self) -> int: ...

@final
class Connections:
    def __new__(cls, limits: ConnectionLimits) -> Connections: ...
    def ended(self) -> list[Latest]: ...
    def counters(self) -> dict[str, int]: ...
