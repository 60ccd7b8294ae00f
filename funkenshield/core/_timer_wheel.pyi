from typing import final

@final
class Wheel:
    def __new__(cls, capacity: int) -> Wheel: ...
