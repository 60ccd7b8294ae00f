from typing import final

from ._resolution import Resolution

@final
class Transport:
    def __new__(cls, resolution: Resolution) -> Transport: ...
