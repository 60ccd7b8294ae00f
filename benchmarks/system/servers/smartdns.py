"""SmartDNS, with its speed checks off."""

from pathlib import Path

from . import ENTRIES

PROGRAM = "smartdns"
VERSION = ["smartdns", "-v"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "smartdns.conf"
    file.write_text(f"""
bind 127.0.0.1:{port}
bind-tcp 127.0.0.1:{port}
server 127.0.0.1:{upstream}
cache-size {ENTRIES}
cache-persist no
speed-check-mode none
response-mode fastest-response
dualstack-ip-selection no
prefetch-domain no
log-level fatal
log-file {folder}/smartdns.log
""")
    return ["smartdns", "-f", "-c", str(file), "-p", str(folder / "pid")]
