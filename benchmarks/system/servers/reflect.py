"""Floor of a hit: a reflector in C that looks at nothing."""

from pathlib import Path

from ..streams import build

PROGRAM = "gcc"
VERSION = ["gcc", "-dumpfullversion"]
FLOORS = Path(__file__).parent.parent / "floors"


def built(folder: Path, name: str, *libraries: str) -> str:
    """Build a floor; return its path."""
    return str(build(FLOORS / f"{name}.c", folder / name, *libraries))


def command(folder: Path, port: int, _upstream: int) -> list[str]:
    return [built(folder, "reflect"), str(port)]
