"""Know that the shield serves on where the machine has nothing left, and after whatever has ended it.

Limits are put on the running process (prlimit(2)), as if the machine had no more; then they are lifted, and everything
goes as before. Its wall clock is set by a library that is loaded into it (`stepped.c`).
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import dns.rcode
import pytest
from faults.load import Load
from support.client import ask, frame
from support.control import stats
from support.edns import COOKIE
from support.proc import descriptors
from support.rig import NOERROR, after, ask_each, asked, behind, good, names, rcodes
from support.rig import ask as ask_with
from support.signed import rrset, rrsig
from support.until import until
from support.upstream import respond
from support.wires import ask_wire

from hostile.killing import kill_again_and_again

TICKS = os.sysconf("SC_CLK_TCK")
KILLS = 4
YEARS = 56 * 365 * 86400


def limited(shield, what, soft=None):
    """Put a limit on a running shield; None lifts it."""
    _, hard = resource.prlimit(shield.process.pid, what)
    resource.prlimit(shield.process.pid, what, (hard if soft is None else soft, hard))


def kept_in(path):
    return {"snapshot": str(path), "snapshot_interval": 1}


# ------------------------------------------------------------ no file descriptors


@contextlib.contextmanager
def no_descriptor_left(shield, room=0):
    """Leave the shield room for so many descriptors more, while the context is entered."""
    limited(shield, resource.RLIMIT_NOFILE, descriptors(shield.process) + room)
    try:
        yield
    finally:
        limited(shield, resource.RLIMIT_NOFILE)


def cpu(shield):
    """Return the seconds of CPU that the shield has used."""
    with open(f"/proc/{shield.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


TURNING = {"source_port_lifetime": 1.0, "sockets": 4}


def test_without_descriptors_all_is_served_but_new_connections_and_then_they_are(tmp_path):
    (warm,) = names(1)
    with (
        behind(good, forward=TURNING, cache=kept_in(tmp_path / "cache")) as (shield, upstream),
        socket.create_connection(shield.address, 5) as sock,
        sock.makefile("rb") as stream,
    ):

        def served():
            sock.sendall(frame(ask_wire(warm)))
            over_tcp = stream.read(int.from_bytes(stream.read(2)))
            return rcodes([over_tcp, *ask_each(shield, [warm, *names(3)])])

        assert served() == {NOERROR: 5}
        with no_descriptor_left(shield), socket.create_connection(shield.address, 5) as refused:
            used, end = cpu(shield), time.monotonic() + 2.5  # ports turn over, snapshots are written
            while time.monotonic() < end:
                assert served() == {NOERROR: 5}
                shield.process.send_signal(signal.SIGHUP)
                time.sleep(0.1)
            assert cpu(shield) - used < 1.0
            refused.settimeout(0.1)
            with contextlib.suppress(TimeoutError, ConnectionError):
                assert not refused.recv(1)
        until(lambda: "funkenshield.toml: Too many open files" in shield.log)
        until(lambda: f"{tmp_path}/cache: snapshot not written: Too many open files" in shield.log)
        assert ask(warm, server=shield, tcp=True).answer
        assert stats(shield)["reloads"] == 0
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: stats(shield)["reloads"] == 1)
        assert served() == {NOERROR: 5}
        until((tmp_path / "cache").exists)
    assert upstream.count(warm) == 1


def test_who_takes_all_descriptors_keeps_no_miss_from_its_answer():
    """An upstream that takes its time has a port in use when that is given up: its descriptor is free only later."""
    with behind(after(0.2, good), forward=TURNING) as (shield, _), contextlib.ExitStack() as stack:
        with Load(shield, rate=100) as load, no_descriptor_left(shield, room=20):
            for _ in range(25):
                for _ in range(10):
                    stack.enter_context(socket.create_connection(shield.address, 5))
                load.go_on(0.1)
        assert load.outcome == load.flawless


# ------------------------------------------------------------ no room on the disk


@pytest.mark.parametrize("room", [0, 4096], ids=["not even for the log", "not for a snapshot"])
def test_a_full_disk_keeps_the_old_snapshot_and_costs_no_answer(tmp_path, room):
    path = tmp_path / "cache"
    with behind(good, cache=kept_in(path)) as (shield, _):
        assert rcodes(ask_each(shield, names(200))) == {NOERROR: 200}
        until(path.exists)
        until(lambda: path.stat().st_size > 8192)
        limited(shield, resource.RLIMIT_FSIZE, room)
        before = path.read_bytes()
        with Load(shield) as load:
            for _ in range(5):
                load.go_on(0.5)
                shield.process.send_signal(signal.SIGHUP)
        assert load.outcome == load.flawless
        assert stats(shield)["reloads"] > 0
        assert path.read_bytes() == before
        assert (f"{path}: snapshot not written: File too large" in shield.log) == (room > 0)
        limited(shield, resource.RLIMIT_FSIZE)
        until(lambda: path.read_bytes() != before)
    with behind(good, cache=kept_in(path)) as (shield, _):
        assert "snapshot restored" in shield.log


# ------------------------------------------------------------ another time of day


@pytest.fixture
def stepped(tmp_path, monkeypatch):
    """Yield a function that sets the wall clock of shields to come, and of those that run, so many seconds off."""
    library, file = tmp_path / "stepped.so", tmp_path / "step"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("stepped.c")], check=True)
    file.write_bytes(bytes(8))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("STEPPED", str(file))

    def step(seconds):
        with file.open("r+b") as opened:
            opened.write(seconds.to_bytes(8, "little", signed=True))

    return step


@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["back", "on"])
def test_a_clock_that_is_set_changes_no_answer(stepped, tmp_path, seconds):
    path = tmp_path / "cache"
    cookies = {"mode": "serve", "require": True, "secret_file": ""}
    options = {"cache": kept_in(path), "cookies": cookies, "log": {"format": "json"}}
    (warm,) = names(1)

    def ttl(shield):
        return ask(warm, server=shield).answer[0].ttl

    with behind(good, **options) as (shield, upstream):
        first = ttl(shield)
        cookie = with_cookie(shield, warm, bytes(8))[1]
        assert with_cookie(shield, warm, cookie) == (dns.rcode.NOERROR, cookie)
        started = stats(shield)["start_time_seconds"]
        with Load(shield) as load:
            load.go_on(0.3)
            stepped(seconds)
            load.go_on(1.5)
        assert load.outcome == load.flawless
        assert first - 10 < ttl(shield) < first
        code, another = with_cookie(shield, warm, cookie)
        assert (code, another) == (dns.rcode.BADCOOKIE, another) != (code, cookie)
        assert with_cookie(shield, warm, another) == (dns.rcode.NOERROR, another)
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: stats(shield)["reloads"] == 1)
        assert 0 < stats(shield)["uptime_seconds"] < 60
        assert stats(shield)["start_time_seconds"] == started
        path.unlink(missing_ok=True)
        until(path.exists)
        last = ttl(shield)
    stepped(0)
    with behind(good, **options) as (shield, upstream):
        assert "snapshot restored" in shield.log
        assert ttl(shield) <= (last if seconds > 0 else first)
    assert upstream.count(warm) == (0 if seconds > 0 else 1)


def test_a_signature_counts_from_the_time_of_day_at_which_it_comes(stepped):
    """What has expired is passed on and never kept. A machine without a clock of its own begins in 1970."""
    expires = int(time.time()) + 3600

    def signed(query):
        name, response = query.name.to_text(), respond(query)
        response.answer += [rrset(name, "A", "192.0.2.1"), rrsig(name, "A", "test.", expires=expires)]
        return response

    stepped(-YEARS)
    with behind(signed) as (shield, upstream):
        for seconds, times in (-YEARS, 1), (0, 1), (86400, 2), (YEARS, 2), (-86400, 1):
            stepped(seconds)
            (name,) = names(1)
            assert [len(ask(name, server=shield, dnssec=True).answer) for _ in range(2)] == [2, 2]
            assert (seconds, upstream.count(name)) == (seconds, times)


def with_cookie(shield, name, cookie):
    """Return the rcode that a query with a cookie gets, and the cookie in its response."""
    response = ask_with(shield, asked(name, options=[(COOKIE, cookie)]))
    (option,) = (option for option in response.options if option.otype == COOKIE)
    return response.rcode(), option.to_wire()


# ------------------------------------------------------------ no power


def test_killed_at_any_moment_the_next_start_serves_and_a_snapshot_is_whole(tmp_path):
    assert kill_again_and_again(tmp_path, KILLS) == KILLS
