from typing import final

@final
class Datagrams:
    def __new__(cls, size: int) -> Datagrams: ...
