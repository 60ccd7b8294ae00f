from typing import final

@final
class Asked:
    def __new__(cls, capacity: int) -> Asked: ...
