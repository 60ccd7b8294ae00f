"""Know how a daemon stops: what it was at, and what it leaves behind."""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import socket
import threading
from types import SimpleNamespace

import pytest
from support.client import free_port

from funkenshield.admin import commands
from funkenshield.cluster.node import Credentials
from funkenshield.config import load
from funkenshield.core._clock import Clock
from funkenshield.core.files import Watched
from funkenshield.core.logs import RateLimited, recent
from funkenshield.daemon import Daemon
from funkenshield.errors import FunkenShieldError
from funkenshield.server.inherited import Inherited
from funkenshield.upgrade import open_cache
from funkenshield.wire.names import name_to_wire
from unit.server.certificate_helpers import Issued, write


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "shield.toml"
    file.write_text(
        f'listen = ["127.0.0.1:{free_port()}"]\n'
        "workers = 1\n"
        f'control.socket = "{tmp_path}/control"\n'
        f'cache = {{ memory = "16MiB", snapshot = "{tmp_path}/kept" }}\n'
        '[[upstreams]]\naddress = "127.0.0.1:53"\n'
    )
    return file


def test_a_start_that_fails_writes_no_snapshot(table, tmp_path, monkeypatch):
    async def failing(*_):
        raise OSError("no control socket")

    monkeypatch.setattr("funkenshield.daemon.control.serve", failing)
    with pytest.raises(OSError, match="no control socket"):
        asyncio.run(Daemon(load(table)).run())
    assert not (tmp_path / "kept").exists()


def memory_files():
    """Return how many files in memory this process has open."""
    return sum("/memfd:" in os.readlink(each.path) for each in os.scandir("/proc/self/fd") if each.is_file())


def test_the_file_of_the_caches_memory_is_closed_with_the_rest(table):
    before = memory_files()
    with Daemon(load(table))._bound:
        assert memory_files() == before + 1
    assert memory_files() == before


def test_where_no_purge_can_be_noted_a_reload_purges_everything(table, tmp_path):
    with_zone = tmp_path / "with_zone.toml"
    with_zone.write_text(table.read_text() + '[[zones]]\nname = "strangers"\nttl.max = 60\n')
    daemon = Daemon(load(with_zone))
    with daemon._bound:
        for n in range(1 << 17):
            with contextlib.suppress(OverflowError):
                daemon.cache.purge(name_to_wire(f"{n}.strange{n}."), below=False)
        with pytest.raises(OverflowError):
            daemon.cache.purge(name_to_wire("a.new."), below=False)
        before, without_zone = daemon.cache.purges_total, load(table)
        daemon.configure(without_zone)
        assert daemon.config is without_zone
        assert daemon.cache.purges_total == before + 1
        daemon.cache.purge(name_to_wire("a.new."), below=False)  # there is room again


def test_who_purges_waits_for_the_disk_and_nobody_else_does(table, tmp_path, monkeypatch):
    """No crash may bring back what was said to be purged."""
    go_on, removed = threading.Event(), []

    def slow_fsync(_):
        removed.append(go_on.wait(5))

    async def story():
        request = {"command": "purge", "name": "a.test"}
        purging = asyncio.create_task(commands.handle(daemon, request))
        daemon._changed("b.test.", 7)
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert daemon.cache.purges_total == 2
        assert not purging.done()
        go_on.set()
        assert await purging == {}
        assert not (tmp_path / "kept").exists()
        assert removed == [True]

    daemon = Daemon(load(table))
    (tmp_path / "kept").touch()
    monkeypatch.setattr("os.fsync", slow_fsync)
    with daemon._bound:
        asyncio.run(story())


def test_what_operators_purge_and_block_is_logged(table, monkeypatch):
    monkeypatch.setattr(commands, "limited", RateLimited(logging.getLogger("test")))
    requests = [
        {"command": "purge", "name": "Example.COM", "below": True},
        {"command": "block add", "prefix": "192.0.2.0/24", "seconds": 60},
        {"command": "block remove", "prefix": "192.0.2.0/24"},
        {"command": "block remove", "prefix": "192.0.2.0/24"},  # there is none any more
    ]

    async def story():
        for request in requests:
            await commands.handle(daemon, request)

    daemon = Daemon(load(table))
    with daemon._bound:
        asyncio.run(story())
    assert [line["text"] for line in reversed(recent()[:3])] == [
        "purged by command: example.com. and all below it, all types",
        "192.0.2.0/24 blocked for 60 s by command: drop",
        "192.0.2.0/24 not blocked any more, by command",
    ]


def test_a_reload_does_not_end_in_the_midst_of_stopping(table, tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def reread():
        begun.set()
        go_on.wait(10)
        return load(table)

    async def slow_drain(_):
        go_on.set()
        await asyncio.sleep(0.3)

    async def story():
        running = asyncio.create_task(daemon.run())
        while not daemon.is_serving():
            await asyncio.sleep(0.01)
        daemon.reload()
        await asyncio.to_thread(begun.wait, 10)
        daemon.stop()
        await running

    daemon = Daemon(load(table), reread)
    monkeypatch.setattr(daemon.forwarder, "drain", slow_drain)
    asyncio.run(story())
    assert daemon.stats.reloads == 0
    assert (tmp_path / "kept").exists()


def test_no_reload_is_lost_in_a_process_that_another_takes_over_from(table, monkeypatch, caplog):
    monkeypatch.setattr("funkenshield.daemon.logs.set_up", lambda *_: None)
    daemon = Daemon(load(table), lambda: load(table))
    with daemon._bound:
        daemon.successors.is_switching = True
        assert daemon.reload() is None
    assert "an upgrade is in progress: ask for a reload again when that is over" in caplog.messages


def test_a_reload_that_is_asked_for_while_one_goes_on_is_told_and_follows(table, monkeypatch, caplog):
    go_on = threading.Event()

    def reread():
        go_on.wait(10)
        return load(table)

    async def story():
        daemon.reload()
        assert caplog.messages == []
        await asyncio.sleep(0)
        daemon.reload()
        daemon.reload()
        assert caplog.messages == ["a reload is in progress; another one follows"] * 2
        go_on.set()
        await daemon.reloads.wait()
        await daemon.rules.close()

    monkeypatch.setattr("funkenshield.daemon.logs.set_up", lambda *_: None)
    caplog.set_level("INFO", "funkenshield.reload")
    daemon = Daemon(load(table), reread)
    with daemon._bound:
        asyncio.run(story())
    assert caplog.messages[2:] == ["reloaded"] * 2


def test_a_sink_that_cannot_be_made_leaves_all_as_it_was(table, tmp_path, monkeypatch):
    def gone(*_):
        raise OSError(errno.ENODEV, "No such device")

    other = tmp_path / "other.toml"
    other.write_text(f'minimal_any = true\n{table.read_text()}[[dnstap]]\naddress = "127.0.0.1:6000"\n')
    daemon, port = Daemon(load(table)), free_port()
    other.write_text(other.read_text().replace('listen = ["', f'listen = ["127.0.0.1:{port}", "'))
    before = daemon.config
    with daemon._bound:
        monkeypatch.setattr("funkenshield.config.types.sockaddr", gone)
        with pytest.raises(FunkenShieldError, match=r"^dnstap 127.0.0.1:6000: No such device$"):
            daemon.configure(load(other))
        assert daemon.config is before
        assert len(daemon.listeners.open) == len(before.all_listeners) == 1


def test_a_shorter_deadline_ends_no_query_of_a_listener_that_goes(table, monkeypatch):
    def with_deadline(seconds, port):
        text = table.read_text().replace("listen = [", f'listen = ["127.0.0.1:{port}", ')
        other = table.with_name("other.toml")
        other.write_text(f"{text}[forward]\ntimeout = 1\ndeadline = {seconds}\nupdate_timeout = {seconds}\n")
        return load(other)

    monkeypatch.setattr("funkenshield.daemon.logs.set_up", lambda *_: None)
    first = with_deadline(20, free_port())
    daemon = Daemon(first)
    with daemon._bound:
        now = daemon.clock.seconds()
        daemon.configure(with_deadline(1, first.all_listeners[0].endpoint.port))
        daemon.configure(with_deadline(1, free_port()))  # the reload after that closes a listener
        (leaving,) = daemon.listeners._leaving
        assert leaving.until >= now + 20


def test_what_was_told_to_end_is_alive_and_not_ready(table):
    daemon = Daemon(load(table))
    with daemon._bound:
        assert (daemon.is_alive(), daemon.is_serving()) == (False, False)  # nothing is started
        daemon.successors.is_switching = True  # what comes waits for another process
        assert (daemon.is_alive(), daemon.is_serving()) == (True, True)
        assert asyncio.run(daemon._handle({"command": "ready"})) == {"ready": True}
        with pytest.raises(FunkenShieldError, match="ask again"):
            asyncio.run(daemon._handle({"command": "purge", "name": "a.test"}))
        daemon.successors.is_switching = False
        daemon.stop()
        assert (daemon.is_alive(), daemon.is_serving()) == (True, False)


@pytest.mark.parametrize("clustered", [True, False])
def test_tickets_are_those_of_the_nodes_and_of_a_node_alone_those_of_the_process_before(clustered, table, tmp_path):
    pytest.importorskip("hiredis")
    (tmp_path / "secret").write_text("5e" * 32)
    cluster = 'cluster = { store = "redis://127.0.0.1", secret_file = "secret" }\n' if clustered else ""
    table.write_text(cluster + table.read_text())
    before = SimpleNamespace(
        ticket_secret=b"t" * 32, retry_secret=b"", clock=Clock(), workers=1, inherited=Inherited([]), cache=open_cache
    )
    daemon = Daemon(load(table), predecessor=before)
    with daemon._bound:
        shared = Credentials(daemon.config.cluster).ticket_secret if clustered else b""
        assert daemon._tls.secret == daemon._tls_over_quic.secret == (shared or b"t" * 32)


def test_a_control_socket_that_is_turned_off_is_not_there_and_no_cause_for_a_warning(table, tmp_path, caplog):
    table.write_text(table.read_text().replace(f"{tmp_path}/control", ""))
    daemon = Daemon(load(table))
    with daemon._bound:
        assert daemon._control is None
    assert caplog.messages == []
    assert [each.name for each in tmp_path.iterdir()] == ["shield.toml"]


@pytest.mark.parametrize("follows", [True, False])
def test_a_file_that_changes_is_read_again_unless_that_is_turned_off(follows, table, monkeypatch):
    asked = []
    if not follows:
        table.write_text(f"reload_on_change = false\n{table.read_text()}")
    daemon = Daemon(load(table), file=Watched(table))
    monkeypatch.setattr(daemon, "reload", lambda: asked.append(None))
    with daemon._bound:
        daemon._housekeeping()
        os.replace(shutil.copy(table, f"{table}.new"), table)
        for _ in range(2):
            daemon._housekeeping()
    assert len(asked) == follows


@pytest.fixture
def encrypted(table, tmp_path, monkeypatch):
    """Return the file of a daemon with a listener that encrypts, or would if that was built in."""
    issued = Issued()
    write(tmp_path, certificate=issued.pem, key=issued.key_bytes())
    table.write_text(
        f'{table.read_text()}[[listeners]]\naddress = "127.0.0.1:{free_port()}"\ntransport = "tls"\n'
        'certificates = { certificate = "certificate", key = "key" }\n'
    )
    monkeypatch.setattr("funkenshield.daemon.logs.set_up", lambda *_: None)
    return table


def test_a_listener_that_encrypts_takes_tcp_alone_and_is_told_when_ready(encrypted, caplog):
    pytest.importorskip("funkenshield.server._tls")
    caplog.set_level("INFO", "funkenshield.daemon")
    daemon = Daemon(load(encrypted))
    plain, other = daemon.config.endpoints
    with daemon._bound:
        listeners = {each.endpoint: (len(each.udp), len(each.tcp)) for each in daemon.listeners.open}
        assert listeners == {plain: (1, 1), other: (0, 1)}
        daemon._tell_ready()
    assert f"ready: listening on {plain}, {other} (TLS), forwarding to " in caplog.text


def test_an_address_that_another_program_encrypts_on_is_told(encrypted):
    pytest.importorskip("funkenshield.server._tls")
    config = load(encrypted)
    with socket.create_server(config.endpoints[1]), pytest.raises(FunkenShieldError) as told:
        Daemon(config)
    assert str(told.value) == f"cannot listen on {config.endpoints[1]}, TLS: address in use by another program"


def test_without_any_listener_over_udp_connections_are_served(encrypted):
    pytest.importorskip("funkenshield.server._tls")

    async def story():
        running = asyncio.create_task(daemon.run())
        while not daemon.is_serving():
            await asyncio.sleep(0.01)
        daemon.stop()
        await running

    text = encrypted.read_text()
    encrypted.write_text(f"listen = []\n{text.partition(chr(10))[2]}")
    daemon = Daemon(load(encrypted))
    assert [(each.udp, len(each.tcp)) for each in daemon.listeners.open] == [((), 1)]
    asyncio.run(story())


def test_an_internal_error_in_the_background_ends_it_as_a_failure_after_a_drain(table, tmp_path, monkeypatch, caplog):
    async def drain(seconds):
        drained.append(seconds)

    monkeypatch.setattr("funkenshield.daemon.logs.set_up", lambda *_: None)
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0)
    daemon, drained = Daemon(load(table)), []
    monkeypatch.setattr(daemon.upstreams, "housekeeping", lambda: 1 / 0)
    monkeypatch.setattr(daemon.forwarder, "drain", drain)
    with pytest.raises(FunkenShieldError, match="stopped: internal error") as told:
        asyncio.run(daemon.run())
    assert told.value.exit_code, "so that a service manager starts it again"
    assert len(drained) == 1
    assert (tmp_path / "kept").exists()
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text
