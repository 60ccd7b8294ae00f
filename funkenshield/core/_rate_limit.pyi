from typing import final

@final
class RateTable:
    def exceeds(self, address: bytes, now: int, weight: int = ..., more: int = ...) -> bool: ...
