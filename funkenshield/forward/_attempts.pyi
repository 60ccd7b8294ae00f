from typing import final

from ._pending import PendingQueries

@final
class Attempts:
    def __new__(cls, queries: PendingQueries) -> Attempts: ...
