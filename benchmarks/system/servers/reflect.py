"""Floor of a hit: a reflector in C that looks at nothing."""

import subprocess
from pathlib import Path

PROGRAM = "gcc"
VERSION = ["gcc", "-dumpfullversion"]
FLOORS = Path(__file__).parent.parent / "floors"


def built(folder: Path, name: str) -> str:
    """Build a floor; return its path."""
    program = folder / name
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, FLOORS / f"{name}.c"], check=True)
    return str(program)


def command(folder: Path, port: int, _upstream: int) -> list[str]:
    return [built(folder, "reflect"), str(port)]
