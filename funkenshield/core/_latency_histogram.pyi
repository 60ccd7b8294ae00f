from typing import Final

LATENCY_BOUNDS: Final[tuple[float, ...]]
