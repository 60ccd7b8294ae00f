"""What answers on the interface, each in its own way; all is attached to one end of a wire, and ends with its context.

It knows how each is started. What they are asked, and what it costs, is in `run`.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import funkenshield.xdp
from funkenshield.xdp import bpf

HERE = Path(__file__).parent
UPSTREAM = 5399  # a port
ZONE = """$ORIGIN bench.example.
@ 3600 SOA ns hostmaster 1 3600 600 86400 300
@ 3600 NS ns
* 3600 A 192.0.2.77
"""


class Place(NamedTuple):
    """Where a contender answers: an end of a wire, its address, a folder of its own, and the core that it has."""

    interface: str
    address: str
    folder: Path
    core: int


class Running(NamedTuple):
    """A contender that answers: its processes, and the program that the kernel runs for it, where we have it."""

    processes: tuple[int, ...] = ()
    program: int | None = None


@contextlib.contextmanager
def started(place: Place, command: list[str | Path], ready: str) -> Iterator[int]:
    """Run a command on the core, until it has said that it is ready; yield its process."""
    log = place.folder / f"{len([*place.folder.iterdir()])}.log"
    deadline = time.monotonic() + 10
    with log.open("wb") as out:
        process = subprocess.Popen(["taskset", "-c", str(place.core), *command], stdout=out, stderr=out)
    try:
        while ready not in (told := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} is not ready: {told}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def compile_program(source: str, folder: Path) -> Path:
    """Return what clang makes for the kernel of a source here, in a folder."""
    made = folder / f"{source}.o"
    headers = [
        "-I",
        Path(funkenshield.xdp.__file__).parent,
        "-idirafter",
        f"/usr/include/{os.uname().machine}-linux-gnu",
    ]
    subprocess.run(
        ["clang", "-target", "bpf", "-mcpu=v3", "-O2", *headers, "-c", HERE / source, "-o", made], check=True
    )
    return made


@contextlib.contextmanager
def bounce(place: Place) -> Iterator[Running]:
    """The floor of what the kernel answers: each frame goes back, and nothing is looked at."""
    program = bpf.Object.read(compile_program("bounce.bpf.c", place.folder)).load("bounce", {})
    link = bpf.attach(program, _index(place.interface), bpf.NATIVE)
    try:
        yield Running(program=program)
    finally:
        os.close(link)
        os.close(program)


@contextlib.contextmanager
def reflector(place: Place) -> Iterator[Running]:
    """The floor of what a process answers by AF_XDP."""
    made = place.folder / "reflect"
    subprocess.run(["cc", "-O2", "-o", made, HERE / "reflect.c"], check=True)
    with started(place, [made, place.interface], "ready") as process:
        yield Running((process,))


def _nameserver(place: Place) -> contextlib.AbstractContextManager[int]:
    zone = place.folder / "bench.example.zone"
    zone.write_text(ZONE)
    listen = ["nameserver", "--listen", f"127.0.0.1:{UPSTREAM}", "--zone", zone]
    return started(place, [sys.executable, "-m", "funkenshield", *listen], "ready")


@contextlib.contextmanager
def _shield(place: Place, listener: str) -> Iterator[Running]:
    config = place.folder / "funkenshield.toml"
    config.write_text(f'workers = 1\nupstreams = ["127.0.0.1:{UPSTREAM}"]\n{listener}\n')
    run = [sys.executable, "-m", "funkenshield", "run", "-c", config, "--control", place.folder / "control"]
    with _nameserver(place), started(place, run, "ready") as process:
        yield Running((process,))


def shield_xdp(place: Place, kernel_answers: str = "false") -> contextlib.AbstractContextManager[Running]:
    """The shield, whose worker has frames."""
    listener = f'''[[listeners]]
address = "{place.address}:53"
transport = "xdp"
interface = "{place.interface}"
kernel_answers = {kernel_answers}'''
    return _shield(place, listener)


def shield_kernel(place: Place) -> contextlib.AbstractContextManager[Running]:
    """The shield, whose program in the kernel answers."""
    return shield_xdp(place, "true")


def shield_sockets(place: Place) -> contextlib.AbstractContextManager[Running]:
    """The shield over sockets of the kernel's network stack."""
    return _shield(place, f'listen = ["{place.address}:53"]')


@contextlib.contextmanager
def _knot(place: Place, listener: str) -> Iterator[Running]:
    (place.folder / "zone").write_text(ZONE)
    config = place.folder / "knot.conf"
    config.write_text(
        f"server:\n  rundir: {place.folder}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n{listener}\n"
        f"database:\n  storage: {place.folder}\nlog:\n  - target: stdout\n    any: info\n"
        f"zone:\n  - domain: bench.example\n    file: {place.folder / 'zone'}\n"
    )
    with started(place, ["knotd", "-c", config], "server started") as process:
        yield Running((process,))


def knot_xdp(place: Place) -> contextlib.AbstractContextManager[Running]:
    """Knot DNS, whose workers have frames; it is authoritative for what is asked."""
    return _knot(place, f"  listen: {place.address}@5300\nxdp:\n  listen: {place.interface}@53\n  udp: on")


def knot_sockets(place: Place) -> contextlib.AbstractContextManager[Running]:
    """Knot DNS over sockets."""
    return _knot(place, f"  listen: {place.address}@53")


@contextlib.contextmanager
def dnsdist_sockets(place: Place) -> Iterator[Running]:
    """dnsdist over sockets, with a packet cache, and the same nameserver behind it."""
    config = place.folder / "dnsdist.conf"
    config.write_text(
        f'setSecurityPollSuffix("")\nsetLocal("{place.address}:53")\nsetRingBuffersSize(100)\n'
        f"setUDPSocketBufferSizes(4194304, 4194304)\nsetUDPMultipleMessagesVectorSize(64)\nsetMaxTCPClientThreads(1)\n"
        f'newServer({{address="127.0.0.1:{UPSTREAM}"}}):setUp()\ngetPool(""):setCache(newPacketCache(10000))\n'
        'setACL("0.0.0.0/0")\n'
    )
    command: list[str | Path] = ["dnsdist", "--supervised", "--disable-syslog", "-C", config]
    with _nameserver(place), started(place, command, "Listening on") as process:
        yield Running((process,))


ALL = {
    "bounce (XDP_TX)": bounce,
    "reflector (AF_XDP)": reflector,
    "FunkenShield, kernel_answers": shield_kernel,
    "FunkenShield, AF_XDP": shield_xdp,
    "FunkenShield, sockets": shield_sockets,
    "dnsdist, sockets": dnsdist_sockets,
    "Knot DNS, AF_XDP": knot_xdp,
    "Knot DNS, sockets": knot_sockets,
}


def _index(interface: str) -> int:
    return socket.if_nametoindex(interface)
