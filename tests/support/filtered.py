"""Know how to run a program under the system call filter of a unit, as the service manager would, without one."""

import ctypes
import ctypes.util
import errno
import re
import shutil
import subprocess

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # of seccomp(2)


def why_not():
    """Return what is missing for that, if anything."""
    if shutil.which("systemd-analyze") is None:
        return "takes systemd-analyze"
    return "" if ctypes.util.find_library("seccomp") else "takes libseccomp"


def load_filter(unit):
    """Return a function that puts a unit's filter into force, for a child before it becomes the program."""
    lines = re.findall(r"^(SystemCall\w+)=(.*)$", unit.read_text(), re.M)
    groups, allowed, refused = _groups(), set(), KILL
    for key, value in lines:
        if key == "SystemCallFilter":
            calls = _resolve(value.removeprefix("~").split(), groups)
            allowed = allowed - calls if value.startswith("~") else allowed | calls
        elif key == "SystemCallErrorNumber":
            refused = FAIL | getattr(errno, value)
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    library.seccomp_init.restype = ctypes.c_void_p
    made = ctypes.c_void_p(library.seccomp_init(refused))
    for name in allowed:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            assert library.seccomp_rule_add(made, ALLOW, number, 0) == 0, name

    def load():
        assert library.seccomp_load(made) == 0

    return load


def _groups():
    """Return the groups of system calls that the service manager knows."""
    text = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    groups, last = {}, []
    for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines():
        if line.startswith("@"):
            last = groups.setdefault(line.strip(), [])
        elif line.strip() and not line.strip().startswith("#"):
            last.append(line.strip())
    return groups


def _resolve(names, groups):
    return {call for name in names for call in (_resolve(groups[name], groups) if name in groups else [name])}
