KINDS: tuple[str, ...]
TRANSPORTS: tuple[str, ...]
ASKED: int
EXCHANGE: int
