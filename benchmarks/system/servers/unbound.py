"""Unbound, as a forwarder on one thread."""

from pathlib import Path

PROGRAM = "unbound"
VERSION = ["unbound", "-V"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "unbound.conf"
    file.write_text(f"""
server:
    directory: "{folder}"
    pidfile: ""
    chroot: ""
    username: ""
    use-syslog: no
    logfile: "{folder}/unbound.log"
    interface: 127.0.0.1@{port}
    num-threads: 1
    incoming-num-tcp: 100
    outgoing-range: 8192
    num-queries-per-thread: 4096
    so-rcvbuf: 4m
    so-sndbuf: 4m
    msg-cache-size: 512m
    rrset-cache-size: 1024m
    module-config: "iterator"
    do-not-query-localhost: no
remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{upstream}
""")
    return ["unbound", "-d", "-c", str(file)]
