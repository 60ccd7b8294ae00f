from typing import final

@final
class ListeningSockets:
    unheard: int
    def __new__(cls, epoll_fd: int, first: int) -> ListeningSockets: ...
