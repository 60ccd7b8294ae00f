"""Know the table of answers that the kernel gives by itself: how it lies in memory, and what a query gets from it."""

import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from funkenshield.xdp import bpf
from support import frames

PASS, TX, REDIRECT = 2, 3, 4
V4, V6, CLIENT_6 = ("192.0.2.1", 53), ("2001:db8::1", 53), ("2001:db8::9", 5353)
AF_XDP, SOL_XDP, RX_RING = 44, 283, 2
IN_KERNEL = 1
VLAN = 5  # that has an interface
PLACE, ALL = 704, (1 << 64) - 1
PROGRAMS = Path(bpf.__file__).parent


def listener_key(address, port):
    """Return a listener as the programs' map has it."""
    ip = frames.packed(address)
    return (ip if len(ip) == 16 else bytes(10) + b"\xff\xff" + ip) + struct.pack("!HH", port, 0)


class InKernel:
    """A program with maps of its own and two listeners; everything is closed with the stack."""

    def __init__(self, stack: ExitStack, path=PROGRAMS / "answers.bpf.o", program="answer_queries"):
        made = bpf.Object.read(path)
        maps = {name: bpf.create_map(name, kind) for name, kind in made.maps.items()}
        for each in maps.values():
            stack.callback(os.close, each)
        self.program = made.load(program, maps)
        stack.callback(os.close, self.program)
        for number, listener in enumerate((V4, V6)):
            value = frames.SHIELD + struct.pack("=BB", number, IN_KERNEL)
            bpf.update(maps["listeners"], listener_key(*listener), value)
        taking = stack.enter_context(socket.socket(AF_XDP, socket.SOCK_RAW))
        taking.setsockopt(SOL_XDP, RX_RING, 64)
        bpf.update(maps["sockets"], struct.pack("=I", 0), struct.pack("=I", taking.fileno()))
        bpf.update(maps["vlans"], struct.pack("=I", VLAN), b"\1")
        mapped = {name: kind for name, kind in made.maps.items() if kind.flags & bpf.MMAPABLE}
        self.memory = SimpleNamespace(**{name: bpf.map_into_memory(maps[name], mapped[name]) for name in mapped})
        self.memory.state[:4] = struct.pack("=I", 1)

    def attach(self, interface):
        """Attach the program to an interface; return what keeps it there."""
        return bpf.attach(self.program, socket.if_nametoindex(interface), bpf.NATIVE)

    def run(self, frame, repeat=1):
        return bpf.try_out(self.program, frame, repeat)

    def ask(self, query, **ways):
        """Return what a query gets by IPv4, b"" where it is left to a worker."""
        left = self.run(frames.query(query, **ways))
        assert left.action in (TX, REDIRECT)
        if left.action == REDIRECT:
            return b""
        sent = frames.read(left.frame)
        assert sent.checked
        return sent.payload


def folded(name):
    """Return a name in lower case: ASCII alone, whatever an octet's place (lengths are below 64)."""
    return bytes(each + 32 if 65 <= each <= 90 else each for each in name)


@dataclass
class Entry:
    """An answer to a plain question of class IN: all that stands behind it, with an OPT where the query has one."""

    name: bytes
    rdtype: int
    behind: bytes
    counts: tuple = (1, 1, 0, 0)
    flags: int = 0x0100
    opt: int | None = None  # EDNS flags of the query
    answer_flags: int = 0x8580
    generation: int = 5
    dies: int = ALL
    sequence: int = 2

    @property
    def asked(self):
        """Type, class, flags and OPT, as the program compares them."""
        opt = 0 if self.opt is None else 1 | int.from_bytes(struct.pack("!H", self.opt), "little")
        return struct.pack("!HHH", self.rdtype, 1, self.flags) + struct.pack("=H", opt)

    @property
    def key(self):
        return self.name, self.rdtype, self.flags, self.opt

    def packed(self):
        """Return the octets of its place."""
        fixed = struct.pack("!5H", self.answer_flags, *self.counts)
        message = bytes(2) + fixed + bytes(len(self.name)) + self.asked[:4] + self.behind
        words = struct.unpack(f"={len(message + b'x') // 2}H", message + bytes(len(message) % 2))
        return (
            struct.pack("=3Q8s", self.sequence, self.generation, self.dies, self.asked)
            + struct.pack("=2H2s2x8s8s", len(self.name), len(self.behind), fixed[:2], fixed[2:], self.behind[-8:])
            + struct.pack("=Q128s512s", sum(words), self.name, self.behind)
        )


@dataclass
class Model:
    """What the program should do, told in another way."""

    memory: SimpleNamespace
    generation: int = 5
    secret: tuple = (0x1234567890ABCDEF, 0x9E3779B97F4A7C15)
    entries: dict = field(default_factory=dict)

    def __post_init__(self):
        self.set_table()

    def set_table(self, recorded=0):
        self.memory.table[:32] = struct.pack("=4Q", self.generation, recorded, *self.secret)

    def place_of(self, entry):
        padded = entry.name.ljust(-(-len(entry.name) // 8) * 8, b"\0")
        hashed = self.secret[0]
        for word in struct.unpack(f"={1 + len(padded) // 8}Q", entry.asked + padded):
            hashed = (hashed ^ word) * self.secret[1] & ALL
            hashed = (hashed ^ hashed >> 32) * self.secret[1] & ALL
        return hashed >> 50

    def put(self, entry):
        """Have an answer in the table, in place of whatever was where it goes."""
        place = self.place_of(entry)
        self.memory.answers[place * PLACE : (place + 1) * PLACE] = entry.packed()
        self.entries[place] = entry

    def reply_to(self, query):
        """Return the answer to a query, None where a worker must answer."""
        end = 12
        while end < len(query) and 0 < query[end] < 64:
            end += 1 + query[end]
        name, fixed, rest = query[12 : end + 1], query[end + 1 : end + 5], query[end + 5 :]
        if name[-1:] != b"\0" or len(fixed) < 4:
            return None
        _, flags, *counts = struct.unpack_from("!6H", query)
        is_plain = len(rest) == 11 and rest[:3] == b"\0\0\x29" and rest[5:7] == rest[9:] == b"\0\0"
        opt = int.from_bytes(rest[7:9]) if is_plain else None
        if counts != [1, 0, 0, is_plain] or (not is_plain and rest):
            return None
        rdtype, rdclass = struct.unpack("!2H", fixed)
        for entry in self.entries.values():
            if (*entry.key, 1, self.generation, False) == (
                folded(name), rdtype, flags, opt, rdclass, entry.generation, entry.sequence % 2 == 1
            ):  # fmt: skip
                head = struct.pack("!5H", entry.answer_flags, *entry.counts)
                return query[:2] + head + query[12 : end + 5] + entry.behind
        return None
