"""BIND, as a forwarder on one thread."""

from pathlib import Path

PROGRAM = "named"
VERSION = ["named", "-v"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "named.conf"
    file.write_text(f"""
options {{
    directory "{folder}";
    pid-file none;
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    forward only;
    forwarders port {upstream} {{ 127.0.0.1; }};
    recursion yes;
    recursive-clients 10000;
    dnssec-validation no;
    empty-zones-enable no;
    minimal-responses yes;
    max-cache-size 2g;
}};
controls {{ }};
""")
    return ["named", "-f", "-n", "1", "-L", str(folder / "named.log"), "-c", str(file)]
