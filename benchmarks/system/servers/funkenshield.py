"""FunkenShield, with one worker, and no other setting than memory."""

import sys
from pathlib import Path

PROGRAM = sys.executable
VERSION = [sys.executable, "-m", "funkenshield", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "funkenshield.toml"
    file.write_text(f"""
listen = ["127.0.0.1:{port}"]
upstreams = ["127.0.0.1:{upstream}"]
workers = 1

[cache]
memory = "256MiB"

[control]
socket = "{folder}/control"
""")
    return [sys.executable, "-m", "funkenshield", "run", "-c", str(file)]
