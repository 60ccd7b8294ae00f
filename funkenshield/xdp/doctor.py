"""What this machine, and we here, can do with an interface: looked at one after the other, each told in one line."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import bpf
from ._queue import QueueSocket
from .interface import MTU_MIN, PROGRAMS, Interface, Link, XdpError, driver_of, explained

KERNEL_MIN = (5, 15)
REPLY_ROOM = 1920  # octets, as `_queue` has it
ATTEMPTS, PAUSE = 40, 0.05  # seconds


class Finding(NamedTuple):
    """What was looked at, and what was found; `is_right`: it is as it must be."""

    subject: str
    is_right: bool
    found: str


def examine(name: str, *, attach: bool = False) -> Iterator[Finding]:
    """Yield what is found of an interface; with `attach`, whether a program can be attached, which is tried."""
    looks: dict[str, Callable[[str], str]] = {
        "interface": _interface, "MTU": _mtu, "VLANs": _vlans, "kernel": _kernel, "program": _program,
        "queue": _queue, **({"attached": _attached} if attach else {}),
    }  # fmt: skip
    for subject, look in looks.items():
        try:
            yield Finding(subject, True, look(name))
        except XdpError as error:
            yield Finding(subject, False, str(error).removeprefix(f"{name}: "))
            if subject == "interface":
                return


def _interface(name: str) -> str:
    count = Link.of(name).queues
    queues = f"{count} queues" if count else "queues are not told"
    return f"{name}, driver {driver_of(name) or 'unknown'}, {queues}"


def _mtu(name: str) -> str:
    mtu = Link.of(name).mtu
    if mtu < MTU_MIN:
        raise XdpError(f"{mtu} is below {MTU_MIN}")
    return f"{mtu}: answers of up to {min(mtu - 48, REPLY_ROOM)} octets; longer ones by TCP"


def _vlans(name: str) -> str:
    link = Link.of(name)
    if not link.vlans:
        return "none on it: what has a tag is left alone"
    if link.takes_tags_off:
        raise XdpError(f"tags are taken off too early: ethtool -K {name} rxvlan off")
    return f"of {', '.join(map(str, link.vlans))}; tags are kept"


def _kernel(_: str) -> str:
    release = platform.release()
    version = tuple(int(each) for each in re.findall(r"\d+", release)[:2])
    if version < KERNEL_MIN:
        raise XdpError(f"Linux {release} is older than {KERNEL_MIN[0]}.{KERNEL_MIN[1]}")
    return f"Linux {release}"


def _program(name: str) -> str:
    """Load both programs, and attach them to nothing."""
    for path in PROGRAMS.values():
        made: list[int] = []
        try:
            with explained(name, "map"):
                found = bpf.Object.read(path)
                maps = {each: bpf.create_map(each, kind) for each, kind in found.maps.items()}
                made += maps.values()
            with explained(name, "program"):
                (entry,) = found.programs
                made.append(found.load(entry, maps))
        finally:
            for each in made:
                os.close(each)
    return "loaded"


def _queue(name: str) -> str:
    link = Link.of(name)
    with explained(name, "socket"):
        QueueSocket(link.number, 0, link.mtu, copy=True).close()
    return "the first can be taken, at least with copies"


def _attach(name: str) -> Interface:
    """Attach the program. The queue that was tried is the kernel's for a moment yet."""
    for _ in range(ATTEMPTS):
        try:
            return Interface(name, generic=True)
        except XdpError as error:
            if not error.may_pass:
                raise
            time.sleep(PAUSE)
    return Interface(name, generic=True)


def _attached(name: str) -> str:
    interface = _attach(name)
    zero_copy = interface.is_zero_copy
    interface.close()
    for each in interface.queues:
        each.close()
    if not interface.is_native:
        raise XdpError("by the kernel alone: its driver runs no programs; generic_xdp = true gains little")
    return f"by its driver, {'zero-copy' if zero_copy else 'with copies'}"
