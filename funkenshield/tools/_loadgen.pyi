from collections.abc import Sequence
from typing import Self, TypedDict, final, type_check_only

@type_check_only
class Snapshot(TypedDict):
    sent: int
    answered: int
    lost: int
    open: int
    late: int
    mismatched: int
    refused: int
    truncated: int
    octets: int
    rcodes: list[int]
    began: int
    ended: int
    least: int
    most: int
    total: int

@final
class Load:
    def __new__(
        cls,
        queries: Sequence[bytes],
        host: str,
        port: int,
        *,
        window: int = 100,
        timeout: float = 5.0,
        sockets: int = 4,
        batch: int = 64,
        rate: float = 0.0,
        limit: int = 0,
    ) -> Self: ...
    def run(self, seconds: float) -> bool: ...
    def drain(self) -> None: ...
    def snapshot(self) -> Snapshot: ...
    def percentile(self, percent: float) -> int: ...
