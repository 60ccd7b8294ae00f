"""What this machine, and the control groups that we are in, let us have: memory, cores, descriptors.

It reads what the kernel says (cgroups(7), version 2 and 1), and decides nothing.
"""

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def memory(proc: Path = PROC, root: Path = CGROUPS) -> int:
    """Return the octets that we may take: what is built in, or the least that a control group allows."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(proc, root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            found = _read(group / name)
            if found and found[0].isdigit():
                limits.append(int(found[0]))
    return min(limits)


def cores(proc: Path = PROC, root: Path = CGROUPS) -> int:
    """Return how many threads can run at a time: cores that we may be on, or the least quota of a control group."""
    counts = [float(len(os.sched_getaffinity(0)))]
    for group in _groups(proc, root, "cpu"):
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        found = _read(group / "cpu.max") or [*quota, *period]
        if len(found) == 2 and found[0].isdigit() and found[1].isdigit() and int(found[1]):
            counts.append(int(found[0]) / int(found[1]))
    return max(1, math.ceil(min(counts)))


def descriptors() -> int:
    """Let us have as many descriptors as we may, and return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most


def _groups(proc: Path, root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of our control group for a controller, and of all that it is in."""
    for line in (_text(proc / "self" / "cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        if not top.is_dir():
            top = root / controller
        folder = top / path.lstrip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _read(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
