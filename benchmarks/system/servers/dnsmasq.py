"""dnsmasq, with as many entries as the others."""

from pathlib import Path

from . import ENTRIES

PROGRAM = "dnsmasq"
VERSION = ["dnsmasq", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    return [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--pid-file={folder}/pid", "--user=root",
        "--log-facility=-", "--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces",
        f"--port={port}", f"--server=127.0.0.1#{upstream}", f"--cache-size={ENTRIES}", "--dns-forward-max=10000",
    ]  # fmt: skip
