from collections.abc import Sequence
from typing import Any, Self, final

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
    def snapshot(self) -> dict[str, Any]: ...
    def percentile(self, percent: float) -> int: ...
