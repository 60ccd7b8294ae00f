from typing import final

from ._clock import Clock

@final
class Outbox:
    def __new__(cls, clock: Clock) -> Outbox: ...
    def take_streams(self) -> list[tuple[int, bytes]]: ...
