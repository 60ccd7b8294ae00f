"""Files as they are opened for reading: nothing but a file is one, and nobody waits for what lies in its place.

It knows kinds, owners and modes. What stands in a file is for those who read it.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class UnfitError(OSError):
    """What lies at a path is not a file that may be read; `strerror` says why."""


def open_file(path: Path, *, own: bool = False) -> BinaryIO:
    """Open a regular file; OSError where there is none that can be read, UnfitError where something else is.

    With `own`, a link is not followed, and the file must be ours or root's, and not for others to write.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if own else 0))
    except OSError as error:
        if own and error.errno == errno.ELOOP:
            raise UnfitError(errno.ELOOP, "a symbolic link", str(path)) from None
        if error.errno == errno.ENXIO:
            raise UnfitError(errno.ENXIO, "not a regular file", str(path)) from None
        raise
    try:
        found = os.fstat(opened)
        why = ""
        if stat.S_ISDIR(found.st_mode):
            why = os.strerror(errno.EISDIR)
        elif not stat.S_ISREG(found.st_mode):
            why = "not a regular file"
        elif own and found.st_uid not in (0, os.geteuid()):
            why = "another user's file"
        elif own and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            why = "a file that others can write"
        if why:
            raise UnfitError(errno.EINVAL, why, str(path))
        return os.fdopen(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def read_file(path: Path) -> bytes:
    """Return what is in a regular file; OSError where there is none that can be read."""
    with open_file(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """Return the text in a regular file, in UTF-8, its lines ended as Python has them; UnicodeDecodeError if none."""
    return read_file(path).decode().replace("\r\n", "\n").replace("\r", "\n")
