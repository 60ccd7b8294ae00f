from typing import final

from ._encryption import ListenerEncryption
from ._http import ListenerHttp

@final
class ListeningSockets:
    def __new__(cls, epoll_fd: int, first: int) -> ListeningSockets: ...
    def add(self, fd: int, number: int, encryption: ListenerEncryption | None, http: ListenerHttp | None) -> None: ...
