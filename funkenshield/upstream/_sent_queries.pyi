from typing import final

@final
class SentQueries:
    def __new__(cls, capacity: int) -> SentQueries: ...
