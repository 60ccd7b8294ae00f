"""Show that a snapshot gives back what was kept, that no damage goes unnoticed, and that a failure costs nothing."""

import asyncio
import contextlib
import errno
import hashlib
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from funkenshield.cache import snapshot

NOW = 1_700_000_000.0
ORIGINS = snapshot.Origins(["example.com."], {"example.com. 192.0.2.1:53": 2**32 - 1})
NOWHERE = snapshot.Origins([], {})
NO_ORIGINS = b'{"zones": [], "serials": {}}\n'
MIB = 1 << 20


class Answers:
    """A store whose answers are single octets in segments; an X is malformed."""

    layout = b"\x40\0little"
    purges_total = 0

    def __init__(self, *segments):
        self.segments = segments
        self.restored = []

    @property
    def segments_total(self):
        return len(self.segments)

    def export(self, segment):
        return self.segments[segment]

    def restore(self, answers, age):
        if b"X" in answers:
            raise ValueError("an entry is malformed")
        self.restored.append((answers, age))
        return len(answers)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache"


def write(store, path, wall=lambda: NOW):
    return asyncio.run(snapshot.write(store, path, ORIGINS, wall))


def read(path, wall=lambda: NOW):
    """Return what is stored after a reading, and how many answers that claims to have restored."""
    store = Answers()
    restored, origins = snapshot.read(store, path, wall)
    assert origins in (ORIGINS, NOWHERE)
    return store.restored, restored


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


# ---------------------------------------------------------------- there and back


def test_what_was_written_is_read_and_as_much_older_as_it_is(path, caplog):
    times = iter([NOW, NOW + 1, NOW + 2, NOW + 3.5])
    octets = write(Answers(b"abc", b"", bytes(MIB)), path, wall=times.__next__)
    assert octets == path.stat().st_size
    caplog.set_level("INFO")
    assert read(path, lambda: NOW + 10) == ([(b"abc", 9.0), (bytes(MIB), 6.5)], 3 + MIB)
    assert caplog.messages == [f"{path}: snapshot restored, {3 + MIB} cache entries"]
    assert names(path) == ["cache"]


def test_the_file_is_as_described_and_for_our_own_user(path):
    write(Answers(b"abc"), path)
    first = b"FunkenShield snapshot 1 40006c6974746c65 2023-11-14T22:13:20+00:00\n"
    second = b'{"zones": ["example.com."], "serials": {"example.com. 192.0.2.1:53": 4294967295}}\n'
    body = first + second + (1_700_000_000_000).to_bytes(8) + b"\0\0\3abc" + bytes(11)
    assert path.read_bytes() == body + hashlib.blake2b(body, digest_size=32).digest()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_clock_that_was_set_back_makes_nothing_younger_than_new(path):
    write(Answers(b"abc"), path)
    assert read(path, lambda: NOW - 1000) == ([(b"abc", 0.0)], 3)


def test_an_empty_store_and_no_file_restore_nothing_and_say_nothing(path, caplog):
    assert read(path) == ([], 0)
    assert write(Answers(), path)
    assert read(path) == ([], 0)
    assert not caplog.records


def test_it_is_written_again_and_again(path):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) > 1:
            assert path.exists()
            path.unlink()
        if len(pauses) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(snapshot.keep(Answers(b"abc"), path, 300.0, lambda: ORIGINS, sleep))
    assert pauses == [300.0] * 3


def test_what_was_purged_while_it_was_written_is_in_no_snapshot(path):
    store = Answers(b"abc", b"def")
    write(store, path)
    export = store.export

    def purge_and_export(segment):
        store.purges_total += segment
        return export(segment)

    store.export = purge_and_export
    assert write(store, path) == 0
    assert names(path) == []


@pytest.mark.parametrize("when", ["export", "fsync"])
def test_what_was_purged_while_it_was_written_is_not_even_in_place_for_a_moment(when, path, monkeypatch):
    """Who is killed in that moment would have it again after the next start."""
    store, replaced = Answers(b"abc"), []
    owner, original = (store, store.export) if when == "export" else (snapshot.os, snapshot.os.fsync)

    def purge(argument):
        store.purges_total += 1
        return original(argument)

    monkeypatch.setattr(owner, when, purge)
    monkeypatch.setattr(type(path), "replace", lambda *paths: replaced.append(paths))
    assert write(store, path) == 0
    assert replaced == []
    assert names(path) == []


def test_what_was_purged_while_it_took_its_place_is_in_no_snapshot_even_if_that_is_cancelled(path, monkeypatch):
    store, fsync = Answers(b"abc"), os.fsync
    in_place, purged = threading.Event(), threading.Event()

    def slow(number):
        if path.exists():
            in_place.set()
            assert purged.wait(10)
        fsync(number)

    async def cancel():
        writing = asyncio.create_task(snapshot.write(store, path, ORIGINS))
        await asyncio.to_thread(in_place.wait, 10)
        store.purges_total += 1
        writing.cancel()
        await asyncio.sleep(0)
        purged.set()
        with pytest.raises(asyncio.CancelledError):
            await writing

    monkeypatch.setattr("os.fsync", slow)
    asyncio.run(cancel())
    assert names(path) == []


def test_what_was_removed_is_gone_for_good(path, monkeypatch, caplog):
    synced = []
    write(Answers(b"abc"), path)
    monkeypatch.setattr("os.fsync", lambda number: synced.append((os.fstat(number).st_ino, path.exists())))
    snapshot.remove(path)
    assert synced == [(path.parent.stat().st_ino, False)]
    snapshot.remove(path)
    assert len(synced) == 1, "there was nothing"
    assert not caplog.messages


def test_what_cannot_be_removed_is_told_once(path, caplog):
    path.mkdir()
    for _ in range(3):
        snapshot.remove(path)
    assert caplog.messages == [f"{path}: snapshot cannot be removed: Is a directory"]


def test_what_is_written_after_a_removal_stays_however_slow_that_is(path, monkeypatch):
    begun, go_on, unlink = threading.Event(), threading.Event(), type(path).unlink

    def slow_unlink(path, **how):
        begun.set()
        assert go_on.wait(10)
        unlink(path, **how)

    async def story():
        monkeypatch.setattr(type(path), "unlink", slow_unlink)
        removal = snapshot.begin_removal(path)
        assert begun.wait(10)
        writing = asyncio.create_task(snapshot.write(Answers(b"new"), path, ORIGINS))
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.wrap_future(removal)
        assert await writing

    write(Answers(b"old"), path)
    asyncio.run(story())
    assert read(path)[0][0][0] == b"new"


def test_without_a_thread_what_is_removed_is_gone_at_once(path, monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    write(Answers(b"abc"), path)
    monkeypatch.setattr(snapshot, "_thread", ThreadPoolExecutor(1))
    monkeypatch.setattr("threading.Thread.start", fail)
    assert snapshot.begin_removal(path) is None
    assert names(path) == []


# ---------------------------------------------------------------- nobody waits


def test_the_loop_gets_its_turn_between_segments_and_never_waits_for_the_disk(path, monkeypatch):
    store = Answers(*[b"abc", b""] * 10)
    synced, turns, turns_at_export = [], 0, []
    export, fsync = store.export, snapshot.os.fsync
    store.export = lambda segment: (turns_at_export.append(turns), export(segment))[1]
    monkeypatch.setattr("os.fsync", lambda number: (synced.append(threading.current_thread()), fsync(number)))

    async def count_turns():
        nonlocal turns
        writing = asyncio.create_task(snapshot.write(store, path, ORIGINS))
        while not writing.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(count_turns())
    assert len(set(turns_at_export)) == store.segments_total
    assert len(synced) == 2, "the file and its folder"
    assert threading.main_thread() not in synced


# ---------------------------------------------------------------- damage


def noticed(path, caplog, why=""):
    """Read a file that must not be used; tell whether it was put aside, with one line in the log."""
    caplog.clear()
    octets = path.read_bytes()
    assert read(path) == ([], 0)
    aside = path.with_name("cache.damaged")
    assert aside.read_bytes() == octets
    assert names(path) == ["cache.damaged"]
    aside.unlink()
    (message,) = caplog.messages
    return message.startswith(f"{path}: snapshot rejected: {why}")


def test_every_bit_counts(path, caplog):
    write(Answers(b"abc", b"defg"), path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert noticed(path, caplog)


def test_every_octet_counts(path, caplog):
    write(Answers(b"abc", b"defg"), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert noticed(path, caplog)
    path.write_bytes(whole + b"\0")
    assert noticed(path, caplog, "its checksum does not match")


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "it is not a snapshot"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "it is not a snapshot"),
        (b"\0" * 10000, "it is not a snapshot"),
        (b"A FunkenShield snapshot 1 40006c6974746c65 \n", "it is not a snapshot"),
        (b"FunkenShield snapshot 2 40006c6974746c65 \n", "its format version is unknown"),
        (b"FunkenShield snapshot 1 40006c6974746c \n", "another build of funkenshield wrote it"),
        (b"FunkenShield snapshot 1 40006c6974746c65 \n" + b"\xff" * 1000, "its header is malformed"),
        (b"FunkenShield snapshot 1 40006c6974746c65 \n[1]\n", "its header is malformed"),
        (
            b'FunkenShield snapshot 1 40006c6974746c65 \n{"zones": [], "serials": {}}\n' + b"\xff" * 1000,
            "it is truncated",
        ),
    ],
)
def test_a_foreign_file_is_put_aside(octets, why, path, caplog):
    path.write_bytes(octets)
    assert noticed(path, caplog, why)


def test_answers_of_another_layout_are_put_aside(path, caplog):
    store = Answers(b"abc")
    store.layout = b"\x48\0little"
    write(store, path)
    assert noticed(path, caplog, "another build of funkenshield wrote it")


def test_answers_that_the_store_refuses_are_put_aside_and_those_before_stay(path, caplog):
    write(Answers(b"abc", b"dXf", b"ghi"), path)
    assert read(path) == ([(b"abc", 0.0)], 3)
    assert caplog.messages == [f"{path}: snapshot rejected: an entry is malformed; renamed to cache.damaged"]
    assert names(path) == ["cache.damaged"]


def test_a_damaged_file_that_cannot_be_put_aside_is_told_and_stays(path, caplog):
    path.write_bytes(b"nonsense")
    path.with_name("cache.damaged").mkdir()
    assert read(path) == ([], 0)
    assert caplog.messages == [
        f"{path}: snapshot rejected: it is not a snapshot; cannot be renamed to cache.damaged: Is a directory"
    ]
    assert path.read_bytes() == b"nonsense"


def test_a_file_that_cannot_be_read_is_told_and_stays(path, caplog, monkeypatch):
    def failing(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write(Answers(b"abc"), path)
    monkeypatch.setattr(snapshot, "open_file", failing)
    assert read(path) == ([], 0)
    assert caplog.messages == [f"{path}: snapshot cannot be read: Input/output error"]
    assert names(path) == ["cache"]


def hostile(line):
    """Return what writes a snapshot whose second line is this, with the right digest."""

    def make(path):
        first = b"FunkenShield snapshot 1 40006c6974746c65 now\n"
        body = first + line + b"\n" + bytes(11)
        path.write_bytes(body + hashlib.blake2b(body, digest_size=32).digest())

    return make


SECOND_LINES = {
    "deep": b"[" * 100_000,
    "deep, and closed": b'{"zones": ' + b"[" * 100_000 + b"]" * 100_000 + b', "serials": {}}',
    "a label of 70 octets": b'{"zones": ["' + b"a" * 70 + b'.test."], "serials": {}}',
    "a name that is too long": b'{"zones": ["' + b"a." * 200 + b'"], "serials": {}}',
    "no name": b'{"zones": [""], "serials": {}}',
    "no text": b'{"zones": [5], "serials": {}}',
    "a text for a list": b'{"zones": "test.", "serials": {}}',
    "too many": b'{"zones": [' + b", ".join([b'"a."'] * 4096) + b'], "serials": {}}',
    "a serial too large": b'{"zones": [], "serials": {"a": 4294967296}}',
    "a serial below 0": b'{"zones": [], "serials": {"a": -1}}',
    "no serial": b'{"zones": [], "serials": {"a": true}}',
    "a number without end": b'{"zones": [], "serials": {"a": ' + b"9" * 10_000 + b"}}",
    "no serials": b'{"zones": []}',
    "more": b'{"zones": [], "serials": {}, "more": 1}',
    "lone surrogates": b'{"zones": ["\\ud800."], "serials": {}}',
}


@pytest.mark.parametrize("line", SECOND_LINES.values(), ids=SECOND_LINES)
def test_whatever_the_second_line_says_the_file_is_put_aside(line, path, caplog):
    hostile(line)(path)
    assert read(path) == ([], 0)
    assert caplog.messages == [f"{path}: snapshot rejected: its header is malformed; renamed to cache.damaged"]
    assert names(path) == ["cache.damaged"]


# ---------------------------------------------------------------- failure


@contextlib.contextmanager
def no_room_beyond(octets):
    """Let no file of this process grow any further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 50, 100, MIB])
def test_no_room_leaves_the_old_snapshot_and_one_line(room, path, caplog):
    write(Answers(b"old"), path)
    store = Answers(bytes(MIB), bytes(MIB)) if room == MIB else Answers(b"new")
    with no_room_beyond(room):
        assert write(store, path) == 0
    assert caplog.messages == [f"{path}: snapshot not written: File too large"]
    assert names(path) == ["cache"]
    assert read(path) == ([(b"old", 0.0)], 3)


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_takes_nothing_is_told(folder, tmp_path, caplog):
    (tmp_path / "file").touch()
    path = tmp_path / folder / "cache"
    assert write(Answers(b"abc"), path) == 0
    (message,) = caplog.messages
    assert message.startswith(f"{path}: snapshot not written: No")
    assert names(tmp_path / "file") == ["file"]


def test_a_place_that_cannot_be_taken_is_told(path, caplog):
    path.mkdir()
    assert write(Answers(b"abc"), path) == 0
    assert caplog.messages == [f"{path}: snapshot not written: Is a directory"]
    assert names(path) == ["cache"]


@pytest.mark.parametrize("failures", [1, 9])
@pytest.mark.parametrize(
    ("error", "why"),
    [(RuntimeError("can't start new thread"), "can't start new thread"), (MemoryError(), "MemoryError")],
)
def test_without_a_thread_nothing_is_written_and_the_next_time_it_is(failures, error, why, path, monkeypatch, caplog):
    write(Answers(b"old"), path)
    left, start = iter(range(failures)), threading.Thread.start
    monkeypatch.setattr(snapshot, "_thread", ThreadPoolExecutor(1))

    def failing(thread):
        if next(left, None) is not None:
            raise error
        start(thread)

    monkeypatch.setattr("threading.Thread.start", failing)
    assert write(Answers(b"new"), path) == 0
    assert caplog.messages == [f"{path}: snapshot not written: {why}"]
    assert names(path) == ["cache"]
    assert read(path) == ([(b"old", 0.0)], 3)
    monkeypatch.setattr("threading.Thread.start", start)
    assert write(Answers(b"new"), path)


@pytest.mark.parametrize("error", [asyncio.CancelledError, ZeroDivisionError])
def test_an_interruption_leaves_the_old_snapshot_alone(error, path):
    write(Answers(b"old"), path)
    store = Answers(b"new", b"new")

    def export(segment):
        if segment:
            assert names(path) == ["cache", "cache.new"]
            raise error
        return b"new"

    store.export = export
    with pytest.raises(error):
        write(store, path)
    assert names(path) == ["cache"]
    assert read(path) == ([(b"old", 0.0)], 3)


def test_a_cancellation_while_the_disk_is_slow_leaves_nothing_behind(path, monkeypatch):
    write(Answers(b"old"), path)
    syncing, synced = threading.Event(), threading.Event()

    def fsync(_number):
        syncing.set()
        assert synced.wait(10)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fsync)

    async def cancel():
        writing = asyncio.create_task(snapshot.write(Answers(b"new"), path, ORIGINS))
        await asyncio.to_thread(syncing.wait, 10)
        writing.cancel()
        await asyncio.sleep(0)
        synced.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert names(path) == ["cache"]

    asyncio.run(cancel())
    assert read(path) == ([(b"old", 0.0)], 3)


def test_what_a_crash_left_is_written_over_and_a_link_is_not_followed(path, tmp_path):
    path.with_name("cache.new").write_bytes(b"half a snaps")
    assert write(Answers(b"one"), path)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    path.with_name("cache.new").symlink_to(precious)
    assert write(Answers(b"two"), path)
    assert names(path) == ["cache", "precious"]
    assert precious.read_bytes() == b"precious"
    assert read(path) == ([(b"two", 0.0)], 3)
