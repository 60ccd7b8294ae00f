from typing import final

@final
class NsecCache:
    limit: int
    octets: int
    def __new__(cls, limit: int = 8388608) -> NsecCache: ...
    def __len__(self) -> int: ...
    def learn(
        self,
        query: bytes,
        response: bytes,
        zone: bytes,
        *,
        nxdomain_cut: bool,
        nsec: bool,
        now: float,
        wall: float,
        longest: float,
    ) -> None: ...
    def response_to(self, query: bytes, zone: bytes, *, nxdomain_cut: bool, nsec: bool, now: float) -> bytes | None: ...
    def forget(self, name: bytes) -> None: ...
