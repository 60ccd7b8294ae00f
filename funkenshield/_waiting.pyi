from collections.abc import Callable

from typing_extensions import disjoint_base

from ._cache import Cache
from ._denial import Denials
from ._outbox import Outbox
from ._outcome import Reception
from ._sockets import Sockets

@disjoint_base
class Waiting:
    cache: Cache
    reception: Reception
    outbox: Outbox
    sockets: Sockets
    def __new__(cls, cache: Cache, capacity: int) -> Waiting: ...
    def set_limits(
        self,
        *,
        timeout: float = 1.0,
        deadline: float = 2.5,
        tries: int = 2,
        refuse_overload: bool = True,
        retry_truncated: bool = True,
    ) -> None: ...
    def consult(
        self,
        *,
        identity: Callable[[bytes], bytes | None] | None = None,
        denials: Denials | None = None,
    ) -> None: ...
