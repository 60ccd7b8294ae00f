from collections.abc import Sequence
from typing import Any, final

POLICIES: dict[str, int]
FAILURE_REASONS: tuple[str, ...]

@final
class UpstreamTable:
    def forget(self, upstream: int) -> None: ...
    def set_upstream(
        self,
        upstream: int,
        *,
        order: int = 1,
        weight: int = 1,
        max_outstanding: int = 0xFFFFFFFF,
        over_stream: bool = False,
        random_case: bool = False,
        proxied: bool = False,
        seed: int = 0,
    ) -> None: ...
    def set_health(
        self,
        upstream: int,
        *,
        in_service: bool = True,
        forced: bool = False,
        share: float = 1.0,
        fall: int = 0xFFFF,
        hedge_after: float = 0.0,
    ) -> None: ...
    def case_lost(self, upstream: int) -> int: ...
    def suspected_until(self, upstream: int) -> float: ...
    def last_failure(self, upstream: int) -> str: ...
    def signals(self, upstream: int) -> tuple[int, int, int, int, int]: ...
    def decay_latency(self, upstream: int) -> None: ...
    def set_group(self, group: int, policy: str, members: Sequence[int]) -> None: ...
    def next_of(self, group: int, tried: Sequence[int] = (), name: bytes = b"\0") -> int: ...
    def outlook(self, group: int, name: bytes = b"\0") -> tuple[int | str, list[tuple[int, str]]]: ...
    def counters(self, upstream: int) -> dict[str, Any]: ...
