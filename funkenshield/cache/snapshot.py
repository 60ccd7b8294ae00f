"""The cache on disk, so that a daemon that starts again starts warm.

It knows the file and how it is written without anybody waiting. What an answer looks like inside is the
store's business; to this module answers are octets. With them goes where they are from: the zones that had
settings of their own, and the serials of those that were watched. What was purged since is in no snapshot.

    FunkenShield snapshot 1 LAYOUT TIME\\n     layout in hexadecimal, time in UTC for people who look
    {"zones": [...], "serials": {...}}\\n      where the answers are from, as known when the writing began
    taken (8), length (3), answers            big-endian; taken in milliseconds since the epoch; again and again
    0 (8), 0 (3)                              the end
    digest (32)                               BLAKE2b (RFC 7693) of everything before it
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from ..config.types import ZoneName
from ..core.files import UnfitError, open_file
from ..core.logs import RateLimited
from ._store import Cache

log = logging.getLogger(__name__)
limited = RateLimited(log)
# It waits for the disk, so that nobody else does. One, so that what it is told happens in that order.
_thread = ThreadPoolExecutor(1, "snapshot")

MAGIC, VERSION = b"FunkenShield snapshot", b"1"
LINE_MAX = 4096
ORIGINS_MAX = 16 << 20
ZONES_MAX = 4095  # more cannot be configured
TAKEN, LENGTH, DIGEST = 8, 3, 32  # octets; so no chunk, and no damaged length, is over 16 MiB
END = bytes(TAKEN + LENGTH)


class Origins(NamedTuple):
    """Where answers are from."""

    zones: Annotated[list[ZoneName], Field(max_length=ZONES_MAX)]
    serials: dict[str, Annotated[int, Field(strict=True, ge=0, lt=2**32)]]
    purges: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], dict[str, int]] | None = None
    """Until when, in seconds since the epoch, and up to which number of each node, a cluster's purges are carried out;
    None: that is not known."""


ORIGINS = TypeAdapter(Origins)


class DamagedError(ValueError):
    """A file is not what `write` has made for this cache."""


# ---------------------------------------------------------------- writing


async def keep(
    cache: Cache,
    path: Path,
    interval: float,
    origins: Callable[[], Origins],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Write for ever, with `interval` seconds between."""
    while True:
        await sleep(interval)
        await write(cache, path, origins())


async def write(cache: Cache, path: Path, origins: Origins, wall: Callable[[], float] = time.time) -> int:
    """Write all answers in place of the file at a path; return how many octets, 0 where it went wrong.

    `origins` is where all answers are from at the earliest. Where something is purged meanwhile, nothing is written.

    The old file stays until the new one is complete. The loop gets its turn after each segment, and only a
    thread waits for the disk. One at a time for each path; who cancels it must wait for its end.
    """
    run = functools.partial(asyncio.get_running_loop().run_in_executor, _thread)
    draft = _Draft(path)
    purges = cache.purges_total

    def is_outdated() -> bool:
        return cache.purges_total != purges

    try:
        try:
            await run(draft.begin, cache.layout, wall(), origins)
            for segment in range(cache.segments_total):
                taken = wall()
                if answers := cache.export(segment):
                    await run(draft.add, taken, answers)
                else:
                    await asyncio.sleep(0)
            await run(draft.publish, is_outdated)
        finally:
            await run(draft.discard)
            if is_outdated():  # it may have been published just before, by the thread, even if the task was cancelled
                await run(remove, path)
    except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        log.warning("%s: snapshot not written: %s", path, why)
        return 0
    return 0 if is_outdated() else draft.octets


class _Draft:
    """A file that takes the place of another when it is complete."""

    def __init__(self, path: Path) -> None:
        self.octets = 0
        self._path = path
        self._draft = path.with_name(path.name + ".new")  # always the same: what a crash left is written over
        self._digest = hashlib.blake2b(digest_size=DIGEST)
        self._file: BinaryIO | None = None

    def begin(self, layout: bytes, now: float, origins: Origins) -> None:
        """Make the file, for our own user only, and write its first lines."""
        self._draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # no link that somebody has laid there is followed
        self._file = os.fdopen(os.open(self._draft, flags, 0o600), "wb")
        written = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        self._append(b"%s %s %s %s\n" % (MAGIC, VERSION, layout.hex().encode(), written.encode()))
        known = {key: value for key, value in origins._asdict().items() if value is not None}
        self._append(json.dumps(known).encode() + b"\n")

    def add(self, taken: float, answers: bytes) -> None:
        """Write a chunk."""
        self._append(int(taken * 1000).to_bytes(TAKEN) + len(answers).to_bytes(LENGTH))
        self._append(answers)

    def publish(self, is_outdated: Callable[[], bool]) -> None:
        """Write the end, and let the file take its place once it is safe on disk, unless it is not true any more."""
        self._append(END)
        self._append(self._digest.digest())
        assert self._file
        self._file.flush()
        os.fsync(self._file.fileno())
        if not is_outdated():
            self._draft.replace(self._path)
            _sync_folder(self._path)

    def discard(self) -> None:
        """Close the file, and remove it unless it has taken its place; what went wrong has been told."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._draft.unlink()

    def _append(self, octets: bytes) -> None:
        assert self._file
        self._digest.update(octets)
        self._file.write(octets)
        self.octets += len(octets)


# ---------------------------------------------------------------- reading


def read(cache: Cache, path: Path, wall: Callable[[], float] = time.time) -> tuple[int, Origins]:
    """Restore the answers in a file; return how many, and where they are from; none where there is no file.

    The whole file is seen to be right before the first answer is stored. One that is not, or is not a file of ours
    alone, is put aside as PATH.damaged. Answers from the future, after a clock was set back, count as taken now.
    """
    restored, origins = 0, Origins([], {})
    try:
        with open_file(path, own=True) as file:
            for _ in _chunks(file, _head(file, cache.layout)[0]):
                pass
            file.seek(0)
            digest, found = _head(file, cache.layout)
            for taken, answers in _chunks(file, digest):
                restored += cache.restore(answers, max(0.0, wall() - taken))
    except FileNotFoundError:
        return 0, origins
    except UnfitError as error:
        _reject(path, str(error.strerror))
    except OSError as error:
        log.warning("%s: snapshot cannot be read: %s", path, error.strerror or error)
    except (ValueError, OverflowError, MemoryError) as error:
        # From the cache too: then what came before this chunk has been stored.
        _reject(path, str(error) or type(error).__name__)
    else:
        log.info("%s: snapshot restored, %d cache entries", path, restored)
        origins = found
    return restored, origins


def begin_removal(path: Path) -> Future[None] | None:
    """Have a snapshot removed, and return what ends then; None: it is gone, for there is no thread to be had."""
    try:
        return _thread.submit(remove, path)
    except RuntimeError:
        remove(path)
        return None


def remove(path: Path) -> None:
    """Remove a snapshot, for good: what is in it is not true any more."""
    try:
        path.unlink()
        _sync_folder(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # a restart would bring back what was purged
        limited.warning(f"remove {path}", "%s: snapshot cannot be removed: %s", path, error.strerror or error)


def _sync_folder(path: Path) -> None:
    """Have it safe on disk which file lies at a path."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _head(file: BinaryIO, layout: bytes) -> tuple["hashlib.blake2b", Origins]:
    """Return the digest of the first two lines, and where they say that the answers are from; DamagedError if none."""
    line = file.readline(LINE_MAX)
    _check_line(line, layout)
    origins = file.readline(ORIGINS_MAX)
    return hashlib.blake2b(line + origins, digest_size=DIGEST), _read_origins(origins)


def _chunks(file: BinaryIO, digest: "hashlib.blake2b") -> Iterator[tuple[float, bytes]]:
    """Yield when each chunk was taken, in seconds since the epoch, and its answers; DamagedError where that ends."""

    def take(count: int) -> bytes:
        octets = file.read(count)
        if len(octets) < count:
            raise DamagedError("it is truncated")
        digest.update(octets)
        return octets

    while (head := take(TAKEN + LENGTH))[TAKEN:] != END[TAKEN:]:
        yield int.from_bytes(head[:TAKEN]) / 1000, take(int.from_bytes(head[TAKEN:]))
    if file.read(DIGEST + 1) != digest.digest():
        raise DamagedError("its checksum does not match")


def _check_line(line: bytes, layout: bytes) -> None:
    """Raise DamagedError unless a first line promises answers that this cache can read."""
    magic, _, rest = line.partition(MAGIC + b" ")
    if magic or not rest:
        raise DamagedError("it is not a snapshot")
    version, _, rest = rest.partition(b" ")
    if version != VERSION:
        raise DamagedError("its format version is unknown")
    if rest.partition(b" ")[0] != layout.hex().encode():
        raise DamagedError("another build of funkenshield wrote it")


def _read_origins(line: bytes) -> Origins:
    """Return what a second line says; DamagedError where it is none."""
    try:
        return ORIGINS.validate_json(line)
    except ValidationError:
        raise DamagedError("its header is malformed") from None


def _reject(path: Path, why: str) -> None:
    """Rename a snapshot that cannot be used, so that it can be examined and is not read again."""
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
        then = f"renamed to {aside.name}"
    except OSError as error:
        then = f"cannot be renamed to {aside.name}: {error.strerror or error}"
    log.warning("%s: snapshot rejected: %s; %s", path, why, then)
