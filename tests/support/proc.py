"""Know what the kernel tells about a process: its open descriptors, its memory, whom its threads run as."""

import os
from pathlib import Path


def descriptors(process):
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def resident(process):
    """Return the resident memory of a process, in octets."""
    return int(_status(f"/proc/{process.pid}")["VmRSS"].split()[0]) * 1024


def credentials(process):
    """Return (uids, gids, supplementary groups, effective capabilities) of each thread, as /proc shows them."""
    threads = [_status(thread) for thread in Path(f"/proc/{process.pid}/task").iterdir()]
    return [
        (thread["Uid"].split(), thread["Gid"].split(), thread["Groups"].split(), int(thread["CapEff"], 16))
        for thread in threads
    ]


def _status(folder):
    lines = (Path(folder) / "status").read_text().splitlines()
    return dict(line.replace("\t", " ").split(":", 1) for line in lines)
