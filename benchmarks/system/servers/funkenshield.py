"""FunkenShield, with one worker; set are its memory, and that a client may shake hands as often as it likes."""

import sys
from pathlib import Path

from ..processes import PORTS
from ..streams import CERTIFICATE, KEY

PROGRAM = sys.executable
VERSION = [sys.executable, "-m", "funkenshield", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "funkenshield.toml"
    certificate = f'{{ certificate = "{folder.parent / CERTIFICATE}", key = "{folder.parent / KEY}" }}'
    file.write_text(f"""
listen = ["127.0.0.1:{port}"]
upstreams = ["127.0.0.1:{upstream}"]
workers = 1

[cache]
memory = "256MiB"

[control]
socket = "{folder}/control"

[[listeners]]
address = "127.0.0.1:{port + PORTS["tls"]}"
transport = "tls"
certificates = {certificate}

[[listeners]]
address = "127.0.0.1:{port + PORTS["https"]}"
transport = "https"
certificates = {certificate}

[tls]
handshakes_per_second_per_client = 0
""")
    return [sys.executable, "-m", "funkenshield", "run", "-c", str(file)]
