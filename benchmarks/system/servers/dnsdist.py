"""dnsdist, with a packet cache, several messages at a time, and nothing else."""

from pathlib import Path

from . import ENTRIES

PROGRAM = "dnsdist"
VERSION = ["dnsdist", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "dnsdist.conf"
    file.write_text(f"""
setSecurityPollSuffix("")
setLocal("127.0.0.1:{port}")
setRingBuffersSize(100)
setUDPSocketBufferSizes(4194304, 4194304)
setUDPMultipleMessagesVectorSize(64)
newServer({{address="127.0.0.1:{upstream}"}}):setUp()
getPool(""):setCache(newPacketCache({ENTRIES}, {{maxTTL=86400}}))
""")
    return ["dnsdist", "--supervised", "--disable-syslog", "-C", str(file)]
