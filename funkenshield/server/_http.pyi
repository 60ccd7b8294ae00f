from collections.abc import Iterable

from typing_extensions import disjoint_base

@disjoint_base
class ListenerHttp: ...

def converse(
    listener: ListenerHttp, pieces: Iterable[bytes], answer: bytes, now: int = ...
) -> tuple[list[tuple[int, bytes]], bytes, bool]: ...
