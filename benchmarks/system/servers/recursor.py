"""PowerDNS Recursor, as a forwarder on one thread, with both of its caches."""

from pathlib import Path

from . import ENTRIES

PROGRAM = "pdns_recursor"
VERSION = ["pdns_recursor", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    (folder / "recursor.conf").write_text(f"""
daemon=no
disable-syslog=yes
loglevel=0
quiet=yes
write-pid=no
socket-dir={folder}
security-poll-suffix=
local-address=127.0.0.1
local-port={port}
forward-zones-recurse=.=127.0.0.1:{upstream}
dont-query=
dnssec=process-no-validate
threads=1
max-mthreads=10000
max-cache-entries={ENTRIES}
max-packetcache-entries={ENTRIES}
""")
    (folder / "recursor.yml").write_text(f"""
incoming: {{ listen: ["127.0.0.1"], port: {port} }}
logging: {{ disable_syslog: true, loglevel: 0, quiet: true }}
outgoing: {{ dont_query: [] }}
dnssec: {{ validation: "process-no-validate" }}
recordcache: {{ max_entries: {ENTRIES} }}
packetcache: {{ max_entries: {ENTRIES} }}
recursor:
    daemon: false
    write_pid: false
    socket_dir: "{folder}"
    security_poll_suffix: ""
    forward_zones_recurse: [ {{ zone: ".", forwarders: ["127.0.0.1:{upstream}"] }} ]
    threads: 1
    max_mthreads: 10000
""")  # which 5.0 and later read, where it is there
    return ["pdns_recursor", f"--config-dir={folder}"]
