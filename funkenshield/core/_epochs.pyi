from typing import final

@final
class Epochs:
    def reclaim(self) -> int: ...

@final
class Visitor:
    def __enter__(self) -> Visitor: ...
    def __exit__(self, *_: object) -> None: ...
