from collections.abc import Mapping
from typing import final

@final
class ServerNameTable:
    def __new__(cls, names: Mapping[str, int]) -> ServerNameTable: ...
    def lists_with(self, name: bytes) -> int: ...
