"""The process of QUIC: when it ends, and how the daemon follows it."""

import asyncio
import errno
import gc
import json
import os
import select
import signal
import socket
import subprocess
from types import SimpleNamespace

import pytest

pytest.importorskip("qh3")
from support.proc import nothing_opened
from support.quic import LIMITS
from support.until import until

from funkenshield.config import load
from funkenshield.config.types import Endpoint
from funkenshield.core import early_signals
from funkenshield.quic import front, process
from funkenshield.server.listeners import OpenListener
from funkenshield.server.quic import QuicContexts


def udp():
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.0.0.1", 0))
    opened.setblocking(False)
    return opened


def test_it_ends_in_peace_where_the_daemon_ends_without_reading_what_it_was_told(monkeypatch):
    async def story():
        daemon, channel = socket.socketpair()
        serving = asyncio.create_task(front.serve(channel))
        while not select.select([daemon], [], [], 0)[0]:
            await asyncio.sleep(0.001)
        daemon.close()
        await asyncio.wait_for(serving, 10.0)

    monkeypatch.setattr(front.Front, "counters", lambda _: {})
    monkeypatch.setattr(front, "SECOND", 0.001)
    asyncio.run(story())


@pytest.mark.parametrize("whose", ["the daemon", "the way to its worker"])
def test_it_ends_where_it_can_serve_no_more(whose, certificates):
    async def story():
        daemon, channel = socket.socketpair()
        worker, relay = socket.socketpair()
        serving = asyncio.create_task(front.serve(channel))
        reader, writer = await asyncio.open_connection(sock=daemon)
        told = QuicContexts(certificates, "doq", ticket_secret=bytes(32), ticket_lifetime=60.0).as_told()
        listener = {"number": 0, "transport": "quic", "paths": [], **told}
        log = {"level": "info", "format": "text"}
        settings = {"log": log, "limits": LIMITS._asdict(), "secrets": ["", ""], "listeners": [listener]}
        descriptors = [(udp().detach(), relay.detach())]
        writer.write(json.dumps({"settings": settings, "descriptors": descriptors}).encode() + b"\n")
        assert json.loads(await reader.readline()) == {"ready": True}
        assert not serving.done()
        (writer if whose == "the daemon" else worker).close()
        await asyncio.wait_for(serving, 10.0)
        writer.close()
        worker.close()

    asyncio.run(story())


def test_signals_for_the_daemon_do_not_end_it_and_its_priority_follows_from_the_daemons():
    daemon, channel = socket.socketpair()
    own = os.getpriority(os.PRIO_PROCESS, 0) + 1  # which a thread's need not be
    with daemon:
        with channel:
            started = process.begin(channel.fileno(), [channel.fileno()], own)
        for number in early_signals.ALL:
            started.send_signal(number)
        until(lambda: os.getpriority(os.PRIO_PROCESS, started.pid) == min(own + front.NICE, 19), within=10.0)
        for number in early_signals.ALL:
            started.send_signal(number)
    assert started.wait(10) == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*early_signals.ALL}


def test_a_reload_while_it_starts_has_it_started_anew(monkeypatch):
    opened = [OpenListener(n, Endpoint("127.0.0.1", 8530 + n), "quic", quic=[udp()]) for n in range(2)]
    connect, started = asyncio.open_connection, []

    def start(command, **_):
        started.append(command)
        return begin(["sleep", "60"])

    async def story():
        worker = SimpleNamespace(relays=SimpleNamespace(offer=lambda fd, *_: os.close(fd)))
        quic = process.QuicFront(worker, 0)
        quic.configure(None, opened[:1], {})

        async def reloaded(**how):
            quic.configure(None, opened, {})
            return await connect(**how)

        monkeypatch.setattr(asyncio, "open_connection", reloaded)
        quic.start()
        assert await quic._serve() == "has other listeners"
        assert quic._is_outdated

    begin = subprocess.Popen
    monkeypatch.setattr(process.subprocess, "Popen", start)
    monkeypatch.setattr(process, "END_TIMEOUT", 0.0)
    asyncio.run(story())
    assert len(started) == 1
    for each in opened:
        each.quic[0].close()


def test_what_does_not_listen_any_more_is_told_nothing(monkeypatch):
    def write(_):
        raise RuntimeError("the handler is closed")

    quic = process.QuicFront(None, 0)
    monkeypatch.setattr(quic, "_settings", lambda: {"listeners": []})
    quic._told = {"listeners": ["another"]}
    quic._writer = SimpleNamespace(is_closing=lambda: True, write=write)
    quic.follow()
    quic.leave()
    assert quic._told == {"listeners": []}


def test_the_daemon_that_takes_over_has_the_secret_of_retry_tokens_and_another_one_for_resets(monkeypatch):
    def secrets(front):
        monkeypatch.setattr(front, "_listeners", [])
        front._config = load(None, {})
        return front._settings()["secrets"]

    first = process.QuicFront(None, 0)
    retry, reset = zip(secrets(first), secrets(process.QuicFront(None, 0, first.retry_secret)), strict=True)
    assert (len({*retry}), len({*reset})) == (1, 2)
    assert len({*secrets(process.QuicFront(None, 0)), *retry, *reset}) == 5


def test_where_it_cannot_be_started_nothing_is_left_open_and_each_start_offers_the_same(monkeypatch):
    def begin(descriptor, passed, nice):
        assert descriptor in passed
        raise OSError(errno.EMFILE, "Too many open files")

    async def story():
        opened = [OpenListener(0, Endpoint("127.0.0.1", 8530), "quic", quic=[udp()])]
        offered = []
        worker = SimpleNamespace(relays=SimpleNamespace(offer=lambda fd, *what: (os.close(fd), offered.append(what))))
        quic = process.QuicFront(worker, 0)
        quic.configure(None, opened, {})
        with nothing_opened():
            for _ in range(2):
                with pytest.raises(OSError, match="Too many open files"):
                    await quic._serve()
        assert offered[0] == offered[1]
        opened[0].quic[0].close()

    monkeypatch.setattr(process, "begin", begin)
    asyncio.run(story())
    gc.collect()
