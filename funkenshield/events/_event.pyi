from typing import final

@final
class Tap:
    def __new__(cls) -> Tap: ...
