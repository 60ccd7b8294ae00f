"""Values of any kind as JSON has them."""

from typing import Any


def plain(value: Any) -> Any:  # noqa: ANN401 - that is what it is for
    """Return numbers, truth, null and text as they are, several values as a list, and anything else as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in {tuple, list, set, frozenset}:  # and no named tuple, which has a text of its own
        return [plain(each) for each in value]
    return str(value)
