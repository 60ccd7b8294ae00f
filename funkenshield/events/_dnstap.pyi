MESSAGE_TYPES: dict[str, int]
