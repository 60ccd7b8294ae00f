"""Show that an upgrade which cannot be is told and logged, and leaves nothing behind: no descriptor, no process."""

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.proc import nothing_opened

from funkenshield import upgrade
from funkenshield.admin.process import ends_with_us
from funkenshield.upgrade import Successors, UpgradeError


def full(*_, **__):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def parts(**other):
    async def converse(connected):
        connected.close()

    own = {
        "config": lambda: SimpleNamespace(control=SimpleNamespace(socket="")), "serves": lambda: True,
        "is_stopping": lambda: False, "priority": SimpleNamespace(), "converse": converse,
    }  # fmt: skip
    return SimpleNamespace(**own | other)


def fails(successors):
    """Have an upgrade fail; return why."""

    async def story():
        await asyncio.to_thread(int)  # what a thread takes is open before
        with nothing_opened():
            with pytest.raises(UpgradeError, match=rf"upgrade failed, process {os.getpid()} serves on: ") as told:
                await successors.upgrade()
            await asyncio.sleep(0)
        assert not successors.in_progress
        return str(told.value).partition("serves on: ")[2]

    return asyncio.run(story())


@pytest.mark.parametrize("where", ["os.pipe2", "socket.socketpair"])
def test_too_many_open_files_are_told_and_logged_and_nothing_stays_open(where, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        successors = Successors(parts())

        async def story():
            await asyncio.to_thread(int)
            patched.setattr(where, full)
            with nothing_opened(), pytest.raises(UpgradeError, match=r"serves on: .*Too many open files"):
                await successors.upgrade()

        asyncio.run(story())
    assert not successors.in_progress
    assert "upgrade failed, this daemon serves on: [Errno 24] Too many open files" in caplog.messages


def test_a_new_process_that_cannot_be_started_leaves_nothing_open(monkeypatch):
    def fail(*_):
        raise UpgradeError("python cannot be started")

    monkeypatch.setattr(Successors, "_start", fail)
    assert fails(Successors(parts())) == "python cannot be started"


def test_a_new_process_that_cannot_be_followed_is_killed(monkeypatch):
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with started:
        monkeypatch.setattr(Successors, "_start", lambda *_: started.pid)
        monkeypatch.setattr("funkenshield.core.system_calls.open_process", full)
        assert fails(Successors(parts())) == "the new process cannot be followed: Too many open files"
        assert started.wait(5) == -9


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"serves": lambda: False}, "it does not serve by itself yet: ask again"),
        ({"is_stopping": lambda: True}, "this one ends"),
    ],
)
def test_who_takes_over_still_or_ends_is_not_taken_over(state, why, monkeypatch, caplog):
    monkeypatch.setattr(Successors, "_start", full)
    successors = Successors(parts(**state))
    successors._pid = os.getpid()
    assert fails(successors) == why

    async def story():
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.settimeout(5)
            reader, writer = await asyncio.open_connection(sock=ours)
            with nothing_opened():
                await successors.hand_over(reader, writer, upgrade.VERSION)
                assert upgrade._receive(theirs)[0] == {"refused": f"the running daemon, process {os.getpid()}: {why}"}
            writer.close()
            await writer.wait_closed()

    asyncio.run(story())
    assert f"process {os.getpid()} may not take over, this one serves on: {why}" in caplog.messages


def test_descriptors_that_did_not_all_arrive_are_an_error_and_none_stays_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        upgrade._send(theirs, {}, fds=[0, 0, 0])
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
        try:
            with nothing_opened(), pytest.raises(UpgradeError, match="too many files are open here"):
                upgrade._receive(ours)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_half_an_answer_is_not_waited_for():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        theirs.sendall(b"{")
        with pytest.raises(UpgradeError, match="cannot be understood"):
            upgrade._receive(ours)


@pytest.mark.parametrize(
    ("inits", "ends"),
    [
        ({"1": ("tini", "{pid} 1000000 ")}, True),
        ({"1": ("catatonit", "2 "), "2": ("tini", "{pid} ")}, True),
        ({"1": ("catatonit", "2 {pid} "), "2": ("tini", "")}, False),  # an orphan
        ({"1": ("tini", "1000000 {pid} ")}, False),
        ({"1": ("tini", "")}, False),
        ({"1": ("systemd", "{pid} ")}, False),
        ({"1": ("catatonit", "2 "), "2": ("runsv", "{pid} ")}, False),
    ],
)
def test_who_is_an_inits_only_child_knows_that_its_container_ends_with_it(inits, ends, tmp_path):
    for process, (comm, children) in inits.items():
        tasks = tmp_path / process / "task" / process
        tasks.mkdir(parents=True)
        (tmp_path / process / "comm").write_text(comm + "\n")
        (tasks / "children").write_text(children.format(pid=os.getpid()))
    assert ends_with_us(tmp_path) == ends


def test_where_processes_are_hidden_none_is_an_init(tmp_path):
    assert not ends_with_us(tmp_path / "none")
