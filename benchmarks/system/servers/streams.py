"""Floor of a hit over connections: a reflector in C that looks at lengths alone, with epoll and OpenSSL."""

from pathlib import Path

from ..processes import PORTS
from ..streams import CERTIFICATE, KEY, LIBRARIES
from .reflect import PROGRAM, VERSION, built

__all__ = ["PROGRAM", "VERSION", "command"]


def command(folder: Path, port: int, _upstream: int) -> list[str]:
    files = [str(folder.parent / name) for name in (CERTIFICATE, KEY)]
    return [built(folder, "streams", *LIBRARIES), str(port), str(port + PORTS["tls"]), *files]
