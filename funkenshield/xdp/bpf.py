"""Programs that run in the kernel: read from a file that the compiler made, loaded, attached, and tried (bpf(2)).

    Object.read -> create the maps that it names -> load a program with these -> attach it to an interface

It knows the compiler's files (ELF) and the kernel's calls, and nothing of what programs do. All that is made is a
descriptor, and ends with the last of it: a program runs as long as somebody has its link, so none outlives us.
"""

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import FunkenShieldError

CALL = {"x86_64": 321, "i686": 357, "armv7l": 386, "ppc64le": 361, "s390x": 351}.get(platform.machine(), 280)
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, PROGRAM_LOAD, TEST_RUN, INFO, LINK_CREATE, ENABLE_STATS = (
    0, 1, 2, 3, 5, 10, 15, 28, 32,
)  # fmt: skip
PROGRAM_XDP, ATTACH_XDP = 6, 37
GENERIC, NATIVE = 2, 4  # who runs a program: the kernel, or the interface's driver
LIVE_FRAMES = 1 << 1
MMAPABLE = 1 << 10  # a map that can be mapped into memory
BY_DESCRIPTOR = 0x10  # an instruction's second octet, where it loads the map of a descriptor
LOG = 1 << 20  # octets of what the kernel says against a program
RUN_TIMES = 192  # where in bpf_prog_info there are nanoseconds that a program ran, and behind that how often it did
RELOCATIONS, SYMBOLS, OBJECT, FUNCTION = 9, 2, 1, 2  # kinds of sections, and of symbols

_libc = ctypes.CDLL(None, use_errno=True)


class ProgramError(FunkenShieldError):
    """There is no program, or the kernel takes none."""


# ---------------------------------------------------------------- what the compiler made


class MapKind(NamedTuple):
    """What a map is, as `struct map` in `kernel.bpf.h`."""

    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    @property
    def stride(self) -> int:
        """Octets from one value of an array to the next, where it is mapped into memory."""
        return (self.value_size + 7) & ~7


class Program(NamedTuple):
    """Instructions, and which of them load a map, by their offsets."""

    instructions: bytes
    loads: Mapping[int, str]


class _Symbol(NamedTuple):
    name: str
    kind: int
    section: int
    begin: int
    end: int


class Object(NamedTuple):
    """What a file has: programs and maps, by their names, and the licence that the kernel asks for."""

    programs: Mapping[str, Program]
    maps: Mapping[str, MapKind]
    license: bytes

    @classmethod
    def read(cls, path: Path) -> "Object":
        """Return what a file has; ProgramError where it was left out of the build."""
        try:
            return cls.parse(path.read_bytes())
        except FileNotFoundError:
            raise ProgramError("this build has no programs for the kernel, for want of clang") from None

    @classmethod
    def parse(cls, elf: bytes) -> "Object":
        """Return what is in octets of ELF for 64 bits."""
        (at,), (count,) = struct.unpack_from("=Q", elf, 40), struct.unpack_from("=H", elf, 60)
        headers = [struct.unpack_from("=IIQQQQIIQQ", elf, at + 64 * k) for k in range(count)]
        contents = [elf[each[4] : each[4] + each[5]] for each in headers]
        (table,) = (number for number, each in enumerate(headers) if each[1] == SYMBOLS)
        symbols = list(_symbols(contents[table], contents[headers[table][6]]))
        loads = {
            each[7]: {at: symbols[info >> 32].name for at, info in struct.iter_unpack("=QQ", contents[number])}
            for number, each in enumerate(headers)
            if each[1] == RELOCATIONS
        }
        programs, maps, license = {}, {}, b""
        for name, kind, section, begin, end in symbols:
            octets = contents[section][begin:end] if kind in (OBJECT, FUNCTION) else b""
            if kind == FUNCTION:
                there = loads.get(section, {})
                programs[name] = Program(octets, {at - begin: there[at] for at in there if begin <= at < end})
            elif name == "_license":
                license = octets.rstrip(b"\0")
            elif kind == OBJECT:
                maps[name] = MapKind(*struct.unpack("=5I", octets))
        return cls(programs, maps, license)

    def load(self, name: str, maps: Mapping[str, int]) -> int:
        """Return the descriptor of a program, which uses maps with these descriptors; ProgramError, or OSError."""
        instructions = bytearray(self.programs[name].instructions)
        for at, which in self.programs[name].loads.items():
            instructions[at + 1] |= BY_DESCRIPTOR
            struct.pack_into("=i", instructions, at + 4, maps[which])
        return _load(name, bytes(instructions), self.license)


def _symbols(table: bytes, names: bytes) -> Iterator[_Symbol]:
    for name, info, _, section, value, size in struct.iter_unpack("=IBBHQQ", table):
        yield _Symbol(names[name : names.index(0, name)].decode(), info & 15, section, value, value + size)


# ---------------------------------------------------------------- the kernel's calls


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Return what the kernel returns, and the attributes as it leaves them; OSError where it refuses."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(CALL, command, buffer, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


def create_map(name: str, kind: MapKind) -> int:
    """Return the descriptor of a new map."""
    return _bpf(MAP_CREATE, struct.pack("=5I8x16s", *kind, name.encode()[:15]))[0]


def update(table: int, key: bytes, value: bytes) -> None:
    """Have a map hold a value for a key."""
    octets = ctypes.create_string_buffer(value, len(value))
    _entry(MAP_UPDATE, table, key, ctypes.addressof(octets))


def delete(table: int, key: bytes) -> None:
    """Have a map hold nothing for a key; OSError (ENOENT) where it held nothing."""
    _entry(MAP_DELETE, table, key, 0)


def look_up(table: int, key: bytes, size: int) -> bytes:
    """Return what a map holds for a key, `size` octets for each CPU where it has values by CPU; OSError for nothing."""
    value = ctypes.create_string_buffer(size)
    _entry(MAP_LOOKUP, table, key, ctypes.addressof(value))
    return value.raw


def _entry(command: int, table: int, key: bytes, value: int) -> None:
    octets = ctypes.create_string_buffer(key, len(key))
    _bpf(command, struct.pack("=I4xQQQ", table, ctypes.addressof(octets), value, 0))


def map_into_memory(table: int, kind: MapKind) -> mmap.mmap:
    """Return the values of an array that is MMAPABLE, `stride` octets for each."""
    return mmap.mmap(table, kind.stride * kind.max_entries)


def _load(name: str, instructions: bytes, license: bytes) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    terms, said = ctypes.create_string_buffer(license), ctypes.create_string_buffer(LOG)

    def attributes(log: int) -> bytes:
        where = (log, LOG if log else 0, ctypes.addressof(said) if log else 0)
        return struct.pack(
            "=IIQQIIQ8x16sII", PROGRAM_XDP, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(terms),
            *where, name.encode()[:15], 0, ATTACH_XDP,
        )  # fmt: skip

    try:
        return _bpf(PROGRAM_LOAD, attributes(0))[0]
    except OSError as refused:
        if refused.errno == errno.EPERM:  # EACCES is the verifier's word, too
            raise
        try:
            return _bpf(PROGRAM_LOAD, attributes(1))[0]
        except OSError as error:
            lines = said.value.decode(errors="replace").strip().splitlines()
            raise ProgramError(f"the kernel refuses {name}: {error.strerror}: {' / '.join(lines[-3:])}") from None


def attach(program: int, interface: int, mode: int) -> int:
    """Return the link of a program to an interface (by its index), NATIVE or GENERIC; OSError where there can be none.

    EBUSY or EEXIST: another program is there. EOPNOTSUPP: the driver runs none.
    """
    return _bpf(LINK_CREATE, struct.pack("=IIII", program, interface, ATTACH_XDP, mode))[0]


class Run(NamedTuple):
    """What a program did with a frame."""

    action: int  # XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT
    frame: bytes
    nanoseconds: int  # for one run, on the average


def try_out(program: int, frame: bytes, repeat: int = 1) -> Run:
    """Run a program on a frame that no interface has received."""
    given, left = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(4096)
    attributes = struct.pack(
        "=4I2Q2I", program, 0, len(frame), len(left), ctypes.addressof(given), ctypes.addressof(left), repeat, 0
    )
    _, attributes = _bpf(TEST_RUN, attributes)
    _, action, _, size, _, _, _, nanoseconds = struct.unpack("=4I2Q2I", attributes)
    return Run(action, left.raw[:size], nanoseconds)


def send(program: int, interface: int, size: int, count: int, burst: int) -> None:
    """Run a program on so many new frames, as if an interface (its index) had received them; what it returns is done.

    Frames of `size` octets, which may be those of one before, go in bursts (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18).
    """
    frame, context = ctypes.create_string_buffer(size), ctypes.create_string_buffer(24)
    struct.pack_into("=6I", context, 0, 0, size, 0, interface, 0, 0)
    given, where = ctypes.addressof(frame), ctypes.addressof(context)
    _bpf(
        TEST_RUN,
        struct.pack("=4I2Q4I2Q4I", program, 0, size, 0, given, 0, count, 0, 24, 0, where, 0, LIVE_FRAMES, 0, burst, 0),
    )


def measure() -> int:
    """Have the kernel measure how long programs run, until the descriptor that is returned is closed."""
    return _bpf(ENABLE_STATS, struct.pack("=I", 0))[0]


def run_times(program: int) -> tuple[int, int]:
    """Return for how many nanoseconds a program has run, and how often, while somebody had that measured."""
    info = ctypes.create_string_buffer(RUN_TIMES + 16)
    _bpf(INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    nanoseconds, count = struct.unpack_from("=QQ", info, RUN_TIMES)
    return nanoseconds, count
