"""Floor of a miss: a relay in C that changes IDs."""

from pathlib import Path

from .reflect import PROGRAM, VERSION, built

__all__ = ["PROGRAM", "VERSION", "command"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    return [built(folder, "relay"), str(port), str(upstream)]
