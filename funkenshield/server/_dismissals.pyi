from typing import final

from ._connections import Connections
from ._listening import ListeningSockets

@final
class Dismissals:
    def __new__(cls, connections: Connections, listening: ListeningSockets) -> Dismissals: ...
    @property
    def has_newcomers(self) -> bool: ...
