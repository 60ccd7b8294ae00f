from collections.abc import Iterable
from typing import final

@final
class Zones:
    def number(self, name: bytes, qtype: int = 0) -> int: ...
    def group(self, number: int) -> int: ...
    def name(self, number: int) -> bytes: ...
    @property
    def numbered(self) -> dict[int, bytes]: ...
    def resume(self, numbered: dict[int, bytes]) -> None: ...
    def assign(self, names: Iterable[bytes]) -> list[bytes]: ...
    def configure(
        self,
        zone: int,
        *,
        shortest: int = 0,
        longest: int = 86400,
        negative: int = 3600,
        failure: int = 5,
        payload: int = 1232,
        keep_ttl: bool = False,
        shuffle: bool = False,
        stale: str = "off",
        stale_longest: int = 86400,
        stale_ttl: int = 30,
        client_timer: float = 1.8,
        recheck: float = 30,
        prefetch: bool = False,
        nxdomain_cut: bool = False,
        trust_nsec: bool = False,
        group: int = 0,
        max_outstanding: int = 0xFFFFFFFF,
    ) -> None: ...
