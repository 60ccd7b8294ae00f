"""Who is measured: one module for each server, with its configuration in sight.

A module has a `PROGRAM`, how it tells its `VERSION`, and `command(folder, port, upstream)`, which writes what the
server reads into a folder of its own and returns the command that runs it in the foreground: one thread where that can
be said, a cache for 1,200,000 answers, forwarding to 127.0.0.1, no validation. Those of `ENCRYPTED` also listen for
DNS over TLS, and over HTTPS if they are no floor, with the certificate in the folder above.
Its first line says what it is.
"""

from importlib import import_module
from types import ModuleType

ENTRIES = 1_200_000
FLOORS = ("reflect", "relay", "streams")
NAMES = ("funkenshield", "dnsdist", "unbound", "dnsmasq", "bind", "recursor", "kresd", "smartdns", "nsd")
ENCRYPTED = ("streams", "funkenshield", "dnsdist")


def servers() -> dict[str, ModuleType]:
    """Return all servers and floors by name, installed or not."""
    return {name: import_module(f".{name}", __name__) for name in (*FLOORS, *NAMES)}
