from typing import final

from ._http import ListenerHttp

QUERY_HEADER: int
RESPONSE_HEADER: int

@final
class RelayedListener(ListenerHttp):
    transport: int
    def __init__(self, transport: str) -> None: ...

@final
class Relays:
    def __new__(cls, epoll_fd: int, told_fd: int) -> Relays: ...
    def offer(self, fd: int, number: int, listener: RelayedListener) -> None: ...
