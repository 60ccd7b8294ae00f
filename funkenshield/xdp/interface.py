"""An interface that gives us the queries for our listeners as frames: the program there, its maps, a socket a queue.

    Interface(name): sockets, maps, program, link -> listen: to which addresses -> take: from now on -> close

The program is attached last, and leaves first: meanwhile, as ever when nothing is taken, the kernel's network stack has
all that comes. What is wrong is told in words of this machine's.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from ..errors import FunkenShieldError
from . import bpf
from ._queue import QueueSocket

PROGRAMS = {name: Path(__file__).with_name(f"{name}.bpf.o") for name in ("queries", "answers")}
QUEUES_MAX = 64
MTU_MIN = 600  # whose packets hold the least that a client may ask for (RFC 1035: 512 octets)
GET_FLAGS, GET_MAC, GET_MTU, ETHTOOL = 0x8913, 0x8927, 0x8921, 0x8946  # <linux/sockios.h>
GET_DRIVER, GET_CHANNELS, GET_OFFLOADS, TAKES_TAGS_OFF = 0x03, 0x3C, 0x25, 1 << 8  # <linux/ethtool.h>
LOOPBACK = 8  # <linux/if.h>
VLANS = Path("/proc/net/vlan/config")
IN_KERNEL, AT_HOME = 1, 2  # flags of a listener: the program may answer itself; its clients are processes here
TAKEN = (errno.EBUSY, errno.EEXIST)
PRIVILEGES = {
    "map": "CAP_BPF and CAP_NET_ADMIN", "program": "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", "link": "CAP_NET_ADMIN",
    "socket": "CAP_NET_RAW",
}  # fmt: skip


class XdpError(FunkenShieldError):
    """An interface gives us no frames; `may_pass`: it may be otherwise soon, without a change of the interface."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class Link(NamedTuple):
    """What an interface is now; where that changes, all is made anew."""

    number: int
    mac: bytes
    mtu: int
    is_loopback: bool
    channels: tuple[int, ...]  # queues for what comes, goes, or does both; nothing where the driver does not tell
    vlans: tuple[int, ...]  # that have interfaces on it, by number
    takes_tags_off: bool  # before a program sees them

    @property
    def queues(self) -> int:
        """How many queues frames come by; 0 where the driver does not tell."""
        return self.channels[0] + self.channels[2] if self.channels else 0

    @classmethod
    def of(cls, name: str) -> "Link":
        """Return what an interface of this name is; XdpError where there is none."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                mac = _ask(asking, GET_MAC, name)[2:8]
                (mtu,) = struct.unpack_from("=i", _ask(asking, GET_MTU, name))
                (flags,) = struct.unpack_from("=H", _ask(asking, GET_FLAGS, name))
                return cls(
                    socket.if_nametoindex(name), mac, mtu, bool(flags & LOOPBACK), _channels(asking, name),
                    _vlans(name), _takes_tags_off(asking, name),
                )  # fmt: skip
        except OSError:
            raise XdpError(f"{name}: there is no such interface") from None


@contextlib.contextmanager
def explained(name: str, step: str) -> Iterator[None]:
    """Turn the OSError of a step for an interface into one line that a person can act on.

    It leaves no cycle of references, or sockets that a caller knew would be open, and busy, until that is collected.
    """
    try:
        yield
    except bpf.ProgramError as error:
        raise XdpError(f"{name}: {error}") from None
    except OSError as error:
        number = error.errno or 0
        raise XdpError(f"{name}: {_reason(step, number)}", may_pass=number in (*TAKEN, errno.ENETDOWN)) from None


class Interface:
    """The queues of one interface. Memory ownership: what it has is closed by `close`, but for sockets in use."""

    def __init__(
        self, name: str, *, generic: bool = False, answers: "Answers | None" = None, queues_max: int = QUEUES_MAX
    ) -> None:
        """Attach a program that takes nothing yet; XdpError tells why it cannot be.

        With `answers`, it is the one that answers from these.
        """
        self.name, self.link = name, Link.of(name)
        self._listeners: dict[bytes, bytes] = {}
        if self.link.mtu < MTU_MIN:
            raise XdpError(f"{name}: its MTU of {self.link.mtu} is below {MTU_MIN}")
        if self.link.vlans and self.link.takes_tags_off:
            raise XdpError(f"{name}: it takes tags of VLANs off (ethtool -K {name} rxvlan off)")
        with ExitStack() as made:
            self.queues = self._open_queues(generic, queues_max)
            self._load(made, answers)
            self.is_native = self._attach(made, generic)
            self._made = made.pop_all()

    def _open_queues(self, generic: bool, queues_max: int) -> list[QueueSocket]:
        """Return a socket for each queue; where the driver does not tell how many there are, as many as can be had."""
        with contextlib.suppress(OSError, ValueError):  # for frames that the kernel writes to
            most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
        opened: list[QueueSocket] = []
        with explained(self.name, "socket"):
            for number in range(min(self.link.queues or queues_max, queues_max)):
                try:
                    opened.append(QueueSocket(self.link.number, number, self.link.mtu, copy=generic))
                except OSError as error:
                    if opened and not self.link.queues and error.errno in (errno.EINVAL, errno.ENOBUFS, errno.ENOMEM):
                        break  # it has no such queue; or no memory may be locked to find that out
                    raise
        return opened

    def _load(self, made: ExitStack, answers: "Answers | None") -> None:
        """Make the program, and its maps."""
        self.maps: dict[str, int] = {}
        with explained(self.name, "map"):
            self.object = bpf.Object.read(PROGRAMS["queries" if answers is None else "answers"])
            if answers is not None:
                self.maps |= answers.maps_of(self.object)
            for name, kind in self.object.maps.items():
                if name in self.maps:
                    continue
                self.maps[name] = bpf.create_map(name, kind)
                made.callback(os.close, self.maps[name])
            for number in self.link.vlans:
                bpf.update(self.maps["vlans"], struct.pack("=I", number), b"\1")
            self._state = made.enter_context(self.mapped("state"))
            for number, queue in enumerate(self.queues):
                bpf.update(self.maps["sockets"], struct.pack("=I", number), struct.pack("=I", queue.fileno()))
        with explained(self.name, "program"):
            (entry,) = self.object.programs
            self.program = self.object.load(entry, self.maps)
            made.callback(os.close, self.program)

    def mapped(self, name: str) -> mmap.mmap:
        """Return the values of an array, as they are in the program's memory."""
        return bpf.map_into_memory(self.maps[name], self.object.maps[name])

    def _attach(self, made: ExitStack, generic: bool) -> bool:
        """Attach the program; return whether the driver runs it, and not the kernel in its stead."""
        for mode in (bpf.NATIVE, bpf.GENERIC) if generic else (bpf.NATIVE,):
            with explained(self.name, "link"):
                try:
                    made.callback(os.close, bpf.attach(self.program, self.link.number, mode))
                except OSError as error:
                    if generic and mode == bpf.NATIVE and error.errno not in (*TAKEN, errno.EPERM):
                        continue
                    raise
                return mode == bpf.NATIVE
        raise AssertionError("the kernel runs any program")

    @property
    def is_zero_copy(self) -> bool:
        """Whether the driver itself writes frames into our memory, for all queues."""
        return all(each.zero_copy for each in self.queues)

    def listen(self, addresses: Iterable[tuple[str, int, int, bool]]) -> None:
        """Say whose queries are ours: (address, port, number, whether the program may answer); or XdpError.

        Those of the loopback come by that alone: on a wire, anybody could write them.
        """
        home = AT_HOME if self.link.is_loopback else 0
        wanted = {
            _key(address, port): self.link.mac + struct.pack("=BB", number, home | (IN_KERNEL if in_kernel else 0))
            for address, port, number, in_kernel in addresses
            if home or not _is_loopback(address)
        }
        with explained(self.name, "map"):
            for key in self._listeners.keys() - wanted.keys():
                bpf.delete(self.maps["listeners"], key)
                del self._listeners[key]
            for key, value in wanted.items():
                if self._listeners.get(key) != value:
                    bpf.update(self.maps["listeners"], key, value)
                    self._listeners[key] = value

    def take(self, taking: bool) -> None:
        """Have queries taken from now on, or left to the kernel's network stack; it costs no call of the kernel's."""
        self._state[:4] = struct.pack("=I", taking)

    def close(self) -> None:
        """Detach the program. What was taken by now waits in the sockets, which end with the last who has them."""
        self.take(False)
        self._made.close()


class Answers:
    """The maps of the table of answers, which all interfaces share. Memory ownership: it has them until `close`."""

    NAMES = ("answers", "table", "answered")

    def __init__(self) -> None:
        self._maps: dict[str, int] = {}
        self.memory: dict[str, mmap.mmap] = {}  # of each, once it is there

    def maps_of(self, program: bpf.Object) -> Mapping[str, int]:
        """Return them, and make them for the first time; OSError where that cannot be."""
        for name in self.NAMES:
            if name not in self.memory:
                if name not in self._maps:
                    self._maps[name] = bpf.create_map(name, program.maps[name])
                self.memory[name] = bpf.map_into_memory(self._maps[name], program.maps[name])
        return self._maps

    def close(self) -> None:
        """Let go of the maps; what is in memory stays as long as somebody has it."""
        for each in self._maps.values():
            os.close(each)
        self._maps = {}


def _key(address: str, port: int) -> bytes:
    """Return an address and port as `struct address` in `frame.bpf.h`."""
    six = ":" in address
    ip = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address)
    return (ip if six else bytes(10) + b"\xff\xff" + ip) + struct.pack("!HH", port, 0)


def _is_loopback(address: str) -> bool:
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _reason(step: str, number: int) -> str:
    """Return what it means where the kernel refuses a step."""
    known = {
        (step, errno.EPERM): f"that takes {PRIVILEGES[step]}, which this process does not have",
        (step, errno.EACCES): f"that takes {PRIVILEGES[step]}, which this process does not have",
        ("socket", errno.EAFNOSUPPORT): "no AF_XDP in this kernel (CONFIG_XDP_SOCKETS), or for this service (its unit)",
        ("socket", errno.ENOBUFS): "too little memory may be locked (LimitMEMLOCK=)",
        ("socket", errno.ENOMEM): "too little memory may be locked (LimitMEMLOCK=)",
        ("socket", errno.ENETDOWN): "it is down",
        ("socket", errno.EBUSY): "another program has its queues",
        ("link", errno.EBUSY): "another program is attached to it",
        ("link", errno.EEXIST): "another program is attached to it",
        ("link", errno.EOPNOTSUPP): "its driver runs no programs (generic_xdp = true has the kernel do it)",
        ("link", errno.EINVAL): "this kernel attaches no programs by links (Linux 5.15 does), or not to it",
        ("link", errno.ERANGE): "its MTU, or its peer's, is too large for programs",
        ("map", errno.E2BIG): "too many listeners",
    }
    told = known.get((step, number), os.strerror(number))
    return told if (step, number) in known else f"{step}: {told}"


def _ask(asking: socket.socket, what: int, name: str) -> bytes:
    """Return what the kernel says of an interface (netdevice(7))."""
    return fcntl.ioctl(asking, what, struct.pack("16s24x", name.encode()[:15]))[16:]


def driver_of(name: str) -> str:
    """Return the name of an interface's driver; "": it has none, or does not tell."""
    buffer = ctypes.create_string_buffer(struct.pack("=I", GET_DRIVER), 196)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, ETHTOOL, struct.pack("16sQ16x", name.encode()[:15], ctypes.addressof(buffer)))
    return buffer.raw[4:36].split(b"\0")[0].decode(errors="replace")


def _ethtool(asking: socket.socket, name: str, request: bytes) -> tuple[int, ...]:
    """Return what a driver says, in words of four octets; OSError where it does not."""
    buffer = ctypes.create_string_buffer(request, len(request))
    fcntl.ioctl(asking, ETHTOOL, struct.pack("16sQ16x", name.encode()[:15], ctypes.addressof(buffer)))
    return struct.unpack(f"={len(request) // 4}I", buffer.raw)


def _channels(asking: socket.socket, name: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        _, *_most, receiving, sending, _, both = _ethtool(asking, name, struct.pack("=9I", GET_CHANNELS, *[0] * 8))
        return receiving, sending, both
    return ()


def _takes_tags_off(asking: socket.socket, name: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(_ethtool(asking, name, struct.pack("=II", GET_OFFLOADS, 0))[1] & TAKES_TAGS_OFF)
    return False


def _vlans(name: str) -> tuple[int, ...]:
    """Return the VLANs that have interfaces on another one; the kernel tells `interface | number | that one`."""
    with contextlib.suppress(OSError):
        told = (line.split("|") for line in VLANS.read_text().splitlines()[2:])
        return tuple(sorted(int(number) for _, number, below in told if below.strip() == name))
    return ()
