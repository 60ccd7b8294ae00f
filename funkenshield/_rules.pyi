from typing import final

from ._guard import Guard

@final
class Chain:
    def __new__(
        cls,
        guard: Guard,
        generation: int,
        nodes: list[tuple[int, int, int, int, int, int]],
        starts: list[int],
        names: list[tuple[bytes, int, int]],
        types: dict[int, int],
        sources: list[tuple[bytes, int, int]],
        rules: list[list[int]],
        sets: list[list[int]],
        limits: list[tuple[float, float, int, int, int]],
    ) -> Chain: ...
    def set_offset(self, seconds: int) -> None: ...
    def matched(self) -> list[int]: ...
    def deeds(
        self,
        query: bytes,
        address: bytes,
        *,
        now: int = ...,
        wall: int = ...,
        datagram: bool = ...,
        listener: int = ...,
        tags: int = ...,
        flags: int = ...,
        rcode: int = ...,
        at: int = ...,
    ) -> list[tuple[int, int, int, int]]: ...

TESTS: dict[str, int]
DEEDS_OF: dict[str, int]
