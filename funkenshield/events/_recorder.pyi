from collections.abc import Iterable
from typing import Any, final

from ..core._clock import Clock

FORMS: dict[str, int]
PLACES: dict[str, int]
ENDING_MAX: int

@final
class Output:
    def __new__(
        cls,
        *,
        form: str,
        place: str,
        address: bytes = b"",
        fd: int = -1,
        is_socket: bool = False,
        kinds: Iterable[int] = (),
        sample: float = 1.0,
        types: Iterable[int] = (),
        ipv4: int = 32,
        ipv6: int = 128,
        zones: bytes = b"",
        identity: bytes = b"",
    ) -> Output: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def error(self) -> int: ...
    @property
    def is_over(self) -> bool: ...
    def counters(self) -> dict[str, int]: ...

@final
class Recorder:
    def __new__(cls, clock: Clock) -> Recorder: ...
    def configure(
        self,
        outputs: tuple[Output, ...],
        *,
        listeners: dict[int, tuple[bytes, int, int, bytes]] | None = None,
        upstreams: dict[int, tuple[bytes, int, int, bytes]] | None = None,
        generation: int = 0,
        rules: tuple[Iterable[bytes], ...] = (),
    ) -> None: ...
    def record(
        self,
        kind: int,
        query: bytes,
        response: bytes,
        *,
        address: bytes,
        port: int = 0,
        transport: int = 0,
        listener: int = 0,
        upstream: int = -1,
        took: float = 0.0,
        draw: int = 1,
    ) -> bool: ...
    def watch(self, seconds: float) -> None: ...
    def top(self, most: int) -> dict[str, Any]: ...
    def reopen(self) -> None: ...
    def reclaim(self) -> None: ...
    @property
    def ending(self) -> tuple[Output, ...]: ...
    @property
    def memory_limit(self) -> int: ...
    @property
    def lost(self) -> int: ...
    def stop(self) -> None: ...
    def run(self) -> None: ...
