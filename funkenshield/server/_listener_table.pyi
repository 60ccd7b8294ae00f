from collections.abc import Iterable
from typing import final

from ..xdp._queue import QueueSocket
from ._encryption import ListenerEncryption
from ._http import ListenerHttp

@final
class ListenerTable:
    def __new__(
        cls,
        sockets: Iterable[tuple[int, int, int, ListenerEncryption | None, ListenerHttp | None]],
        queues: Iterable[tuple[int, QueueSocket]] = (),
    ) -> ListenerTable: ...

@final
class FollowedTable:
    def __new__(cls) -> FollowedTable: ...
    def publish(self, table: ListenerTable) -> None: ...
    @property
    def is_followed(self) -> bool: ...
