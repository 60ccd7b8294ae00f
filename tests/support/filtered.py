"""Know how to run a program under the filters of a unit, as the service manager would, without one.

They are those of system calls, and of the address families that a socket can have.
"""

import ctypes
import ctypes.util
import errno
import re
import shutil
import socket
import subprocess

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # of seccomp(2)
EQUAL = 4  # of libseccomp's comparisons
AF_MAX = 46  # Linux has no address family from here on


class Compared(ctypes.Structure):
    """What an argument of a system call is compared with (scmp_arg_cmp)."""

    _fields_ = [
        ("argument", ctypes.c_uint), ("comparison", ctypes.c_int), ("datum", ctypes.c_uint64), ("_", ctypes.c_uint64),
    ]  # fmt: skip


def why_not():
    """Return what is missing for that, if anything."""
    if shutil.which("systemd-analyze") is None:
        return "takes systemd-analyze"
    return "" if ctypes.util.find_library("seccomp") else "takes libseccomp"


def load_filter(unit):
    """Return a function that puts a unit's filters into force, for a child before it becomes the program."""
    text = unit.read_text()
    lines = re.findall(r"^(SystemCall\w+)=(.*)$", text, re.M)
    families = {getattr(socket, name) for name in re.search(r"^RestrictAddressFamilies=(.*)$", text, re.M)[1].split()}
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
    for family in range(AF_MAX):
        which, action = Compared(0, EQUAL, family), ALLOW if family in families else FAIL | errno.EAFNOSUPPORT
        call = library.seccomp_syscall_resolve_name(b"socket")
        assert library.seccomp_rule_add_array(made, action, call, 1, ctypes.byref(which)) == 0, family
    for name in allowed - {"socket"}:
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
