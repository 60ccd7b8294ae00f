"""Which local ports queries leave from: those of the kernel's own range, but for what others need.

It knows the kernel's settings and the operator's. How ports are used is for those above.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..config.types import parse_ports
from ..errors import ConfigError

SETTINGS = Path("/proc/sys/net/ipv4")  # which hold for IPv6, too
DEFAULT_RANGE = "32768 60999"
LOWEST = 1024  # that needs no privilege
FEW = 4096  # that are little for a forger to guess, and for sockets to turn over


def usable(avoided: Sequence[tuple[int, int]] = ()) -> tuple[int, ...]:
    """Return the ports of the kernel's range that are neither reserved (ip_local_reserved_ports) nor avoided.

    Raises ConfigError where none is left.
    """
    ports = ports_of(_read("ip_local_port_range") or DEFAULT_RANGE, _read("ip_local_reserved_ports"), tuple(avoided))
    if not ports:
        raise ConfigError("forward.source_port_avoid: no source port is left of net.ipv4.ip_local_port_range")
    return ports


@lru_cache(4)
def ports_of(span: str, reserved: str, avoided: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Return what is left of a range as the kernel writes it, without the reserved and the avoided ones."""
    first, last = map(int, span.split())
    left = bytearray(b"\1" * 65536)
    for low, high in (*map(parse_ports, filter(None, reserved.split(","))), *avoided):
        left[low : high + 1] = bytes(high + 1 - low)
    return tuple(port for port in range(max(first, LOWEST), last + 1) if left[port])


def _read(name: str) -> str:
    try:
        return (SETTINGS / name).read_text(encoding="ascii").strip()
    except OSError:  # a container may hide them
        return ""
