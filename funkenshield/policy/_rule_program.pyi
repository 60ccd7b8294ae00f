from typing import final

from ..core._rate_limit import RateTable

@final
class Chain:
    def __new__(
        cls,
        generation: int,
        nodes: list[tuple[int, int, int, int, int, int]],
        starts: list[int],
        names: list[tuple[bytes, int, int]],
        types: dict[int, int],
        sources: list[tuple[bytes, int, int]],
        rules: list[list[int]],
        sets: list[list[int]],
        limits: list[RateTable],
    ) -> Chain: ...
    def set_offset(self, seconds: int) -> None: ...
    def enable(self, rule: int, enabled: bool) -> None: ...
    def matched(self) -> list[int]: ...
    def actions(
        self,
        query: bytes,
        address: bytes,
        *,
        now: int = ...,
        wall: int = ...,
        datagram: bool = ...,
        transport: int = ...,
        listener: int = ...,
        tags: int = ...,
        flags: int = ...,
        rcode: int = ...,
        at: int = ...,
        server_names: int = ...,
    ) -> list[tuple[int, int, int, int]]: ...

@final
class Trace:
    chain: Chain
    def __new__(cls, chain: Chain) -> Trace: ...
    def decided(self, node: int, holds: bool) -> None: ...
    def rules(self) -> list[tuple[bool, list[tuple[int, bool]], bool, list[str]]]: ...

TESTS: dict[str, int]
ACTIONS_OF: dict[str, int]
