"""Show that another process takes over and no client notices, and that where it cannot, the old one serves on."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import quick, usurper
from support.client import Address, ask, frame, free_port, tcp_wire, udp_wire
from support.control import stats
from support.process import COMMAND, run_shield
from support.rig import Holding
from support.until import until
from support.upgrades import command, has_ended, upgradable
from support.upstream import ScriptedUpstream, answer

from funkenshield.admin.readiness import check_ready
from funkenshield.errors import FunkenShieldError

A = {name: quick.query(f"{name}.test", quick.A, ident=7) for name in ("kept", "held", "new", "other")}
ANSWER = 16  # octets of the record


def address(query):
    return answer(query, "A 192.0.2.1")


def converse(sock, *octets):
    """Send these octets; return the response to them."""
    sock.settimeout(10)
    for each in octets:
        sock.sendall(each)
    with sock.makefile("rb", buffering=0) as stream:
        return stream.read(int.from_bytes(stream.read(2)))


def is_answered(query, response):
    return len(response) == len(query) + ANSWER and response[:2] == query[:2]


# ------------------------------------------------------------ all goes on


def test_nobody_notices_who_serves():
    toml = "forward = { timeout = 20.0, retry_after = 20.0, deadline = 20.0 }\ntcp.idle_timeout = 60"
    with (
        Holding(address) as upstream,
        upgradable([upstream], workers=2, toml=toml) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        shield = running.shield
        assert is_answered(A["kept"], udp_wire(shield, A["kept"]))
        with (
            socket.create_connection(shield.address) as connected,
            socket.create_connection(shield.address) as waiting,
        ):
            assert is_answered(A["kept"], converse(connected, frame(A["kept"])))
            connected.sendall(frame(A["kept"])[:9])
            upstream.hold()
            waiting.sendall(frame(A["held"]))
            over_udp = pool.submit(udp_wire, shield, A["held"], 20)
            until(lambda: stats(shield)["outstanding_queries"] == 2)
            assert command(shield, command="block add", prefix="198.51.100.0/24", seconds=60)["ok"]
            assert command(shield, command="log level", level="debug")["ok"]
            assert command(shield, command="upstream drain", name=str(upstream.address))["ok"]

            assert running.upgrade()["ok"]
            assert is_answered(A["kept"], converse(connected, frame(A["kept"])[9:]))  # the rest of a query
            assert is_answered(A["kept"], udp_wire(shield, A["kept"]))
            assert stats(shield)["cache_hits"] == 2  # of the new one
            blocks = command(shield, command="block list")["blocks"]
            assert command(shield, command="log level", level=None)["level"] == "debug"
            assert command(shield, command="upstream list")["upstreams"][0]["state"] == "draining (by command)"
            assert command(shield, command="upstream up", name=str(upstream.address))["ok"]
            assert [(each["prefix"], each["reason"]) for each in blocks] == [("198.51.100.0/24", "by hand")]

            assert running.upgrade()["ok"]  # another one, while the first still has clients who wait
            upstream.let_go()  # who are answered by the first
            assert is_answered(A["held"], over_udp.result(20))
            assert is_answered(A["held"], converse(waiting))
            assert shield.process.wait(5) == 0
            assert is_answered(A["kept"], converse(waiting, frame(A["kept"])))  # it was passed on then, twice
            assert is_answered(A["new"], tcp_wire(shield, A["new"]))
            assert stats(shield)["tcp_connections"] >= 2

            assert running.upgrade()["ok"]
            assert is_answered(A["new"], converse(connected, frame(A["new"])))
            assert stats(shield)["cache_misses"] == 0
        assert len(set(running.pids)) == 4
        assert [upstream.count(f"{name}.test.") for name in ("kept", "held", "new")] == [1, 1, 1]
        until(lambda: len(re.findall(r"serves, after \d+ ms in which what came had to wait", shield.log)) == 3)
        assert "ERROR" not in shield.log


def test_entries_are_copied_where_the_layout_differs():
    with ScriptedUpstream(address) as upstream, upgradable([upstream], toml='cache.memory = "8MiB"') as running:
        shield, config = running.shield, running.shield.folder / "funkenshield.toml"
        for each in A.values():
            assert is_answered(each, udp_wire(shield, each))
        assert command(shield, command="purge", name="other.test")["ok"]
        config.write_text(config.read_text().replace("8MiB", "12MiB"))
        assert running.upgrade()["ok"]
        assert stats(shield)["cache_limit_bytes"] == 12 << 20
        for each in A.values():
            assert is_answered(each, udp_wire(shield, each))
        assert [upstream.count(f"{name}.test.") for name in A] == [1, 1, 1, 2]  # what was purged stays so
        assert command(shield, command="purge", name="kept.test")["ok"]
        assert is_answered(A["kept"], udp_wire(shield, A["kept"]))
        assert upstream.count("kept.test.") == 2


def test_the_service_manager_is_told_who_is_the_main_process(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, ScriptedUpstream(address) as upstream:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with upgradable([upstream]) as running:
            assert manager.recv(4096) == b"READY=1"
            pid = running.upgrade()["pid"]
            assert manager.recv(4096) == b"MAINPID=%d" % pid
            assert manager.recv(4096) == b"READY=1"  # of that one
            assert running.shield.process.wait(5) == 0
        assert manager.recv(4096) == b"STOPPING=1"  # of the new one, and of nobody else


def test_a_signal_asks_for_it_where_there_is_no_control_socket(tmp_path):
    file, port = tmp_path / "funkenshield.toml", free_port()
    with ScriptedUpstream(address) as upstream, (tmp_path / "log").open("w") as log:
        file.write_text(f'listen = ["127.0.0.1:{port}"]\nupstreams = ["{upstream.address}"]\ncontrol.socket = ""\n')
        server = Address("127.0.0.1", port)
        with subprocess.Popen([*COMMAND, "run", "-c", file], stderr=log) as process:
            until(lambda: "ready" in Path(log.name).read_text(), 30)
            assert ask("www.test.", server=server).answer
            process.send_signal(signal.SIGUSR2)
            until(lambda: "which what came had to wait" in Path(log.name).read_text(), 30)
            assert process.wait(5) == 0
        pid = int(re.search(r"process (\d+) serves", Path(log.name).read_text())[1])
        assert ask("www.test.", server=server).answer
        os.kill(pid, signal.SIGTERM)
        until(lambda: has_ended(pid), 10)
    assert upstream.count("www.test.") == 1


# ------------------------------------------------------------ where it cannot be


def test_a_new_one_that_does_not_start_leaves_the_old_one_serving():
    toml = "tcp.idle_timeout = 60"
    with ScriptedUpstream(address) as upstream, upgradable([upstream], workers=2, toml=toml) as running:
        shield, config = running.shield, running.shield.folder / "funkenshield.toml"
        with socket.create_connection(shield.address) as connected:
            assert is_answered(A["kept"], converse(connected, frame(A["kept"])))
            good = config.read_text()
            config.write_text(good + "\nworkres = 2\n")
            failed = running.upgrade()
            assert not failed["ok"]
            assert re.search(r"upgrade failed, process \d+ serves on: .*workres", failed["error"])
            with socket.create_server(("127.0.0.1", 0)) as taken:
                place = f"127.0.0.1:{taken.getsockname()[1]}"
                config.write_text(good.replace('listen = ["', f'listen = ["{place}", "'))
                failed = running.upgrade()
                assert re.search(rf"serves on: cannot listen on {place}, TCP: address in use", failed["error"])
            config.write_text(good)

            for end, told in ("early", []), ("die", ["connections", "state"]), ("hang", ["connections", "state"]):
                failures = shield.log.count("has not taken over, this one serves on")
                with subprocess.Popen(
                    [sys.executable, usurper.__file__, shield.control, end], stdout=subprocess.PIPE, text=True
                ) as process:
                    assert process.stdout.read().split() == told
                    assert process.wait() in {"early": [0], "hang": [-signal.SIGKILL]}.get(end, [0, -signal.SIGKILL])
                until(lambda: shield.log.count("has not taken over, this one serves on") > failures)  # noqa: B023
                assert is_answered(A["kept"], converse(connected, frame(A["kept"])))
                assert is_answered(A["kept"], udp_wire(shield, A["kept"]))
        assert is_answered(A["kept"], udp_wire(shield, A["kept"]))
        assert is_answered(A["kept"], tcp_wire(shield, A["kept"]))
        assert upstream.count("kept.test.") == 1
        assert running.upgrade()["ok"]
        assert is_answered(A["kept"], udp_wire(shield, A["kept"]))
        assert upstream.count("kept.test.") == 1


# ------------------------------------------------------------ its sockets come from elsewhere; its end


ACTIVATED = """
import os, socket, sys
host, port, other, *command = sys.argv[1:]
bound = [socket.socket(type=kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)]
for each, wanted in zip(bound, (port, port, other)):
    each.bind((host, int(wanted)))
bound.append(socket.socket(socket.AF_UNIX))
bound[3].bind(command[-1])
bound[3].listen()
for fd in reversed(range(len(bound))):
    os.dup2(bound[fd].fileno(), 3 + fd)
    os.set_inheritable(3 + fd, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(bound)))
os.execv(command[0], command)
"""  # what systemd does for a socket unit: without SO_REUSEPORT, nobody else could bind these


def test_a_service_manager_may_have_bound_the_sockets():
    host, port, other = "127.0.0.1", free_port(), free_port()
    under = (sys.executable, "-c", ACTIVATED, host, str(port), str(other))
    with (
        ScriptedUpstream(address) as upstream,
        run_shield([upstream], under=under, listen=[(host, port)], workers=2) as shield,
    ):
        for tcp in (False, True) * 4:
            assert ask("www.test.", server=shield, tcp=tcp).answer
        assert stats(shield)["cache_hits"] == 7
        assert f"socket closed: nothing listens on ('127.0.0.1', {other}, 0), SOCK_DGRAM" in shield.log
    assert upstream.count("www.test.") == 1


@pytest.mark.slow
def test_an_upgrade_is_no_reason_to_be_taken_out():
    """Neither process says, in the midst of it, that nobody serves: what comes only waits."""
    scraped, ended, said = Address("127.0.0.1", free_port()), threading.Event(), []

    def ask_all_the_time():
        while not ended.is_set():
            for path in "ready", "live":
                try:
                    said.append(urllib.request.urlopen(f"http://{scraped}/{path}").status)
                except OSError as error:  # that a connection was closed by who leaves is no answer
                    if not isinstance(getattr(error, "reason", error), ConnectionResetError):
                        said.append(f"{path}: {error}")

    probing = threading.Thread(target=ask_all_the_time)
    with ScriptedUpstream(address) as upstream, upgradable([upstream], toml=f'metrics.listen = "{scraped}"') as running:
        probing.start()
        for _ in range(3):
            assert running.upgrade()["ok"]
        ended.set()
        probing.join()
    assert len(said) > 20
    assert set(said) == {200}


def test_a_lame_duck_serves_on_and_is_not_ready():
    scraped = Address("127.0.0.1", free_port())
    toml = f'lame_duck = 30\nmetrics.listen = "{scraped}"'
    with ScriptedUpstream(address) as upstream, run_shield([upstream], toml=toml) as shield:
        with urllib.request.urlopen(f"http://{scraped}/ready") as response:
            assert response.status == 200
        check_ready(scraped)
        shield.process.terminate()
        until(lambda: "not ready any more; serving for 30 s before draining" in shield.log)
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            urllib.request.urlopen(f"http://{scraped}/ready")
        refused.value.close()
        with pytest.raises(FunkenShieldError, match=f"not ready: {scraped} says 503"):
            check_ready(scraped)
        assert ask("www.test.", server=shield).answer
        assert ask("www.test.", server=shield, tcp=True).answer
        shield.terminate()  # told twice, it goes at once
    assert upstream.count("www.test.") == 1
