"""Files as they are opened for reading: nothing but a file is one, and nobody waits for what lies in its place.

It knows kinds, owners and modes, which version of a file was read, and where a path leads that another file names. What
stands in a file is for those who read it.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO


class UnfitError(OSError):
    """What lies at a path is not a file that may be read; `strerror` says why."""


# What differs between two versions of a file: device, inode, size, times of the last change of content and of status;
# nobody can set the latter.
Version = tuple[int, int, int, int, int]

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_read: ContextVar[dict[Path, Version] | None] = ContextVar("read", default=None)


@contextlib.contextmanager
def named_in(file: Path) -> Iterator[None]:
    """Let paths that are read meanwhile be relative to the folder of the file that names them."""
    token = _folder.set(file.parent)
    try:
        yield
    finally:
        _folder.reset(token)


def resolve(path: str) -> str:
    """Return where a path leads from here, which a file, or nobody in particular, has named; "" is none."""
    folder = _folder.get()
    return str(folder / path) if path and folder is not None else path


@contextlib.contextmanager
def noted() -> Iterator[dict[Path, Version]]:
    """Note which files are read meanwhile, each in the version that was read."""
    notes: dict[Path, Version] = {}
    token = _read.set(notes)
    try:
        yield notes
    finally:
        _read.reset(token)


def version_of(path: Path) -> Version | None:
    """Return the version of a file that is there now, if any."""
    try:
        return _version(path.stat())
    except OSError:
        return None


class Watched:
    """A file that is read again once it is another: replaced, or written to and left alone for a look.

    A file that is away, as between two links, is waited for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._seen = version_of(path)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Take the version that is read meanwhile for the one that is known, whatever comes of it."""
        with noted() as read:
            try:
                yield
            finally:
                self._read = read.get(self._path) or version_of(self._path)  # what cannot be read is tried once

    def has_changed(self) -> bool:
        """Tell whether another version is there, and was when this was asked before."""
        before, self._seen = self._seen, version_of(self._path)
        return self._seen is not None and self._seen == before != self._read


def _version(found: os.stat_result) -> Version:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
            why = "owned by another user"
        elif own and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            why = "writable by others"
        if why:
            raise UnfitError(errno.EINVAL, why, str(path))
        notes = _read.get()
        if notes is not None:
            notes[path] = _version(found)
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


def exposed(key: str, path: str) -> Iterator[str]:
    """Yield a line where anybody on this machine may read what is secret; `key` says where it was named."""
    with contextlib.suppress(OSError):
        if Path(path).stat().st_mode & stat.S_IROTH:
            yield f"{key}: {path}: everybody on this machine may read it (chmod o-r)"
