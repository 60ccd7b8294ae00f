from typing import NamedTuple, final

from ._connection_limits import ConnectionLimits

class Latest(NamedTuple):
    times: int
    at: int
    address: bytes
    held: int
    share: int

@final
class Connections:
    def __new__(cls, limits: ConnectionLimits, epoll_fd: int = -1) -> Connections: ...
    def hand_over(self, begin: bool) -> None: ...
    def ended(self) -> list[Latest]: ...
    def counters(self) -> dict[str, int]: ...
