from typing import Any

from ._store import Cache

def entries(
    cache: Cache,
    segment: int,
    skipped: int,
    name: bytes,
    *,
    below: bool,
    qtype: int = -1,
    most: int = 1000,
    looked_at: int = 10000,
    messages: bool = False,
) -> tuple[list[dict[str, Any]], tuple[int, int] | None]: ...
