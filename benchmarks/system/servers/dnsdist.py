"""dnsdist, with a packet cache, several messages at a time, one thread for connections, and nothing else."""

from pathlib import Path

from ..processes import PORTS
from ..streams import CERTIFICATE, KEY
from . import ENTRIES

PROGRAM = "dnsdist"
VERSION = ["dnsdist", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "dnsdist.conf"
    certificate, key = folder.parent / CERTIFICATE, folder.parent / KEY
    file.write_text(f"""
setSecurityPollSuffix("")
setLocal("127.0.0.1:{port}", {{maxInFlight=1000}})
addTLSLocal("127.0.0.1:{port + PORTS["tls"]}", "{certificate}", "{key}", {{maxInFlight=1000}})
addDOHLocal("127.0.0.1:{port + PORTS["https"]}", "{certificate}", "{key}", "/dns-query")
setMaxTCPClientThreads(1)
setRingBuffersSize(100)
setUDPSocketBufferSizes(4194304, 4194304)
setUDPMultipleMessagesVectorSize(64)
newServer({{address="127.0.0.1:{upstream}"}}):setUp()
getPool(""):setCache(newPacketCache({ENTRIES}, {{maxTTL=86400}}))
""")
    return ["dnsdist", "--supervised", "--disable-syslog", "-C", str(file)]
