from collections.abc import Iterable
from typing import final

from ._encryption import ListenerEncryption
from ._http import ListenerHttp

@final
class ListenerTable:
    def __new__(
        cls, sockets: Iterable[tuple[int, int, int, ListenerEncryption | None, ListenerHttp | None]]
    ) -> ListenerTable: ...

@final
class FollowedTable:
    def __new__(cls) -> FollowedTable: ...
    def publish(self, table: ListenerTable) -> None: ...
    @property
    def is_followed(self) -> bool: ...
