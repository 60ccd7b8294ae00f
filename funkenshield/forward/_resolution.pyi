from collections.abc import Callable, Iterable

from typing_extensions import disjoint_base

from ..cache._nsec_cache import Denials
from ..cache._store import Cache
from ._attempts import Attempts

@disjoint_base
class Resolution(Attempts):
    def __new__(cls, cache: Cache, capacity: int, guarded: int = ...) -> Resolution: ...
    def set_way(self, number: int, *, group: int = 0, function: bool = False) -> None: ...
    def set_bounds(self, number: int, shortest: int, longest: int) -> None: ...
    def set_limits(
        self,
        *,
        timeout: float = 1.0,
        deadline: float = 2.5,
        patience: float = 0.1,
        update_timeout: float = 10.0,
        tries: int = 3,
        refuse_overload: bool = True,
        retry_truncated: bool = True,
        try_next: Iterable[int] = (),
        hedge: bool = False,
        mismatches: int = 3,
        long: int = 512,
        forgeable: int = 1000,
    ) -> None: ...
    def consult(
        self,
        *,
        identity: Callable[[bytes], bytes | None] | None = None,
        denials: Denials | None = None,
    ) -> None: ...
    def notice_loops(self, loops: Callable[[bytes, int], bool], /) -> None: ...
