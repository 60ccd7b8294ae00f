from collections.abc import Iterable
from typing import final

def longest(prefixes: Iterable[tuple[bytes, int, int]], addresses: Iterable[bytes]) -> list[int]: ...

@final
class PrefixTable:
    def __new__(cls, prefixes: Iterable[tuple[bytes, int, int]]) -> PrefixTable: ...
