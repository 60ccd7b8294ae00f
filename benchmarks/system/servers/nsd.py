"""NSD by itself: the nameserver that all others stand before, asked by clients."""

from pathlib import Path

PROGRAM = "nsd"
VERSION = ["nsd", "-v"]


def command(folder: Path, port: int, _upstream: int) -> list[str]:
    file = folder / "nsd.conf"
    file.write_text(f"""
server:
    ip-address: 127.0.0.1@{port}
    server-count: 1
    username: ""
    database: ""
    rrl-ratelimit: 0
    zonesdir: "{folder}"
    pidfile: "{folder}/nsd.pid"
    xfrdfile: "{folder}/xfrd.state"
    zonelistfile: "{folder}/zone.list"
    xfrdir: "{folder}"
remote-control:
    control-enable: no
zone:
    name: bench.example
    zonefile: {folder.parent}/zone
""")
    return ["nsd", "-d", "-c", str(file)]
