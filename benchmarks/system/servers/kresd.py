"""Knot Resolver, as a forwarder in one process."""

from pathlib import Path

PROGRAM = "kresd"
VERSION = ["kresd", "--version"]


def command(folder: Path, port: int, upstream: int) -> list[str]:
    file = folder / "kresd.conf"
    file.write_text(f"""
net.listen("127.0.0.1", {port}, {{ kind = "dns" }})
log_level("crit")
trust_anchors.remove(".")
modules.unload("ta_update")
modules.unload("ta_signal_query")
modules.unload("priming")
modules.unload("detect_time_skew")
cache.size = 2 * GB
policy.add(policy.all(policy.FORWARD({{ "127.0.0.1@{upstream}" }})))
""")
    return ["kresd", "--noninteractive", "--config", str(file), str(folder)]
