from collections.abc import Sequence

SPARE_MAX: int

def use(sizes: Sequence[int]) -> tuple[int, int, int]: ...
