from typing import final

@final
class ListeningSockets:
    def __new__(cls, epoll_fd: int, first: int) -> ListeningSockets: ...
    @property
    def unheard_listeners(self) -> int: ...
