"""Queries that the kernel sends for us, frame by frame, and the replies that it counts (`load.bpf.c`).

Who asks has to be in the network of the interface, with CAP_BPF and CAP_NET_ADMIN.
"""

import contextlib
import os
import socket
import statistics
import struct
import time
from typing import NamedTuple

import dns.message

from benchmarks.xdp.wire import FAR, LOAD_CORE, SERVER_CORE, entered
from funkenshield.xdp import bpf

BURST, ROOM = 32, 128  # frames sent together, and octets of each, as the kernel makes it
LOAD = struct.Struct(f"=3Q2I{ROOM}s")


class Asked(NamedTuple):
    """How many queries were asked, how many of them were answered without an error, and how many seconds that took."""

    queries: int
    replies: int
    seconds: float


class Load:
    """A question that is asked, from one MAC and IPv4 address to another one."""

    def __init__(self, interface: str, program: bpf.Object, frame: bytes, total: int) -> None:
        kinds = program.maps
        self._maps = {name: bpf.create_map(name, kind) for name, kind in kinds.items()}
        self._count = bpf.map_into_memory(self._maps["replies"], kinds["replies"])
        self._load = bpf.map_into_memory(self._maps["load"], kinds["load"])
        self._load[: LOAD.size] = LOAD.pack(0, 0, 0, total, len(frame), frame)
        self._index = socket.if_nametoindex(interface)
        self._ask, self._counting = program.load("ask", self._maps), program.load("count", self._maps)

    def run(self, rate: int, count: int) -> Asked:
        """Ask so many questions, so many a second or fewer, from the load's core."""
        os.sched_setaffinity(0, {LOAD_CORE})
        before, began = self._counted(), time.monotonic()
        struct.pack_into("=2Q", self._load, 8, time.clock_gettime_ns(time.CLOCK_BOOTTIME), 10**9 // rate)
        with entered(FAR):
            link = bpf.attach(self._counting, self._index, bpf.NATIVE)
            try:
                bpf.send(self._ask, self._index, ROOM, count, BURST)
                ended = time.monotonic()
                time.sleep(0.1)
            finally:
                os.close(link)
        asked, replies = (new - old for new, old in zip(self._counted(), before, strict=True))
        return Asked(asked, replies, ended - began)

    def _counted(self) -> tuple[int, int]:
        return int.from_bytes(self._load[:8], "little"), int.from_bytes(self._count[:8], "little")

    def close(self) -> None:
        self._load.close()
        self._count.close()
        for each in (self._ask, self._counting, *self._maps.values()):
            os.close(each)


def frame_of(question: dns.message.Message, ends: tuple[str, str], macs: tuple[str, str]) -> tuple[bytes, int]:
    """Return a query in a frame, from the second of two ends to the first, and the sum of what its checksum covers."""
    wire = question.to_wire()
    to, sender = (socket.inet_aton(each) for each in ends)
    length = 8 + len(wire)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, 17, 0) + sender + to
    ip = ip[:10] + struct.pack("=H", ~folded(ip) & 0xFFFF) + ip[12:]
    udp = struct.pack("!HHHH", 0, 53, length, 0)
    pseudo = sender + to + struct.pack("!HH", 17, length)
    ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + b"\x08\x00"
    return ethernet + ip + udp + wire, folded(pseudo + udp + b"\0\0" + wire[2:])


def folded(octets: bytes) -> int:
    """Return the sum of 16-bit words in memory's order, folded into one (RFC 1071)."""
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f"={len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def latency(address: str, seconds: float) -> float:
    """Return the 99th percentile of a client's waits by sockets, in microseconds; what is lost counts a second."""
    os.sched_setaffinity(0, {SERVER_CORE})
    waits, end = [], time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((address, 53))
        asking.settimeout(1)
        while (asked := time.monotonic()) < end:
            asking.send(dns.message.make_query("client.bench.example", "A").to_wire())
            with contextlib.suppress(TimeoutError):
                asking.recv(512)
            waits.append(time.monotonic() - asked)
            time.sleep(0.001)
    return statistics.quantiles(waits, n=100)[98] * 1e6
