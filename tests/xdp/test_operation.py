"""While clients ask on: interfaces that go and come back, reloads, other processes. Nobody but wires loses one."""

import contextlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from support import quick
from support.control import stats
from support.process import run_shield
from support.rig import numbered
from support.until import until
from support.upgrades import upgradable
from support.upstream import ScriptedUpstream

from xdp.wires import HERE, SERVER, SERVER_6, Wire, counted, listener

HIT = quick.query("hit.test", quick.A)
PATIENCE = 5.0  # seconds that an answer may take before it counts as lost, as with dnsperf


class Load:
    """dnsperf: thousands of queries a second, on their way no more than a wire holds; it counts what got no answer."""

    def __init__(self, wire, folder):
        (folder / "queries").write_text("hit.test A\n")
        command = ["dnsperf", "-s", HERE, "-d", folder / "queries", "-l", "600", "-Q", "5000", "-q", "200", "-c", "8"]
        with wire.far.entered():
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.sent = self.lost = 0

    def end(self):
        if not self.sent:
            self._process.send_signal(signal.SIGINT)
            report = self._process.communicate(timeout=60)[0]
            found = re.findall(r"Queries (sent|completed|lost|interrupted): +(\d+)", report)
            counts = {"interrupted": 0} | {kind: int(count) for kind, count in found}
            assert re.search(r"Response codes: +NOERROR \d+ \(100.00%\)", report), report
            self.sent = counts["sent"]
            self.lost = self.sent - counts["completed"] - counts["interrupted"]


@contextlib.contextmanager
def loaded(wire):
    """Yield a load, beside what else is asked."""
    with tempfile.TemporaryDirectory() as folder:
        load = Load(wire, Path(folder))
        yield load
        load.end()
        print(f"of {load.sent} queries, {load.lost} were lost")


class Client:
    """One who asks the same question, again and again, from the other end of a wire."""

    def __init__(self, wire, server=SERVER):
        self._wire, self._server = wire, server
        self.answered = self.lost = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with self._wire.far.entered(), socket.socket(self._server.family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self._server)
            while not self._ended.is_set():
                ident = (self.answered + self.lost & 0xFFFF).to_bytes(2)
                try:
                    sock.send(ident + HIT[2:])
                    while (reply := sock.recv(4096))[:2] != ident:
                        pass  # it is late: what it answers counts as lost
                except OSError:  # it takes too long, or the wire is cut
                    self.lost += 1
                    continue
                assert (reply[:2], reply[-4:]) == (ident, b"\xc0\0\2\1")
                self.answered += 1

    def __enter__(self):
        self._thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self._ended.set()
        self._thread.join()

    def more(self, count=100):
        """Wait until so many more answers have come."""
        before = self.answered
        until(lambda: self.answered >= before + count, 30)


@contextlib.contextmanager
def served(wire, *, run=run_shield, toml=None, **options):
    """Run a shield at one end of a wire."""
    toml = listener(wire.name, SERVER, SERVER_6) if toml is None else toml
    with (
        wire.near.entered(),
        ScriptedUpstream(numbered(1)) as upstream,
        run([upstream], toml=toml, **options) as shield,
    ):
        yield shield, upstream


def is_attached(shield, wire):
    return stats(shield)["xdp_attached"].get(wire.name)


def becomes_attached(shield, wire, wanted=1):
    """Wait until an interface is attached, or as is wanted: some seconds, on a busy machine."""
    until(lambda: is_attached(shield, wire) == wanted, 30)


def told(shield):
    return re.findall(r"(?:WARNING|ERROR) +(.*)", shield.log)


@pytest.fixture
def wire():
    with Wire(queues=4) as laid:
        yield laid


def test_each_queue_is_answered_by_a_worker(wire):
    with served(wire, workers=2) as (shield, _):
        assert f"queries are taken from {wire.name}: 4 queues, native, copied" in shield.log
        wire.ask(HIT)
        with counted(shield, wire, received=2000, sent=2000):
            for _ in range(20):  # of as many ports, which is what the queue depends on
                assert wire.ask_all([HIT] * 100)


def test_a_wire_that_is_cut_and_mended(wire):
    with served(wire) as (shield, _), Client(wire) as client:
        for network in wire.near, wire.far:
            network.run("ip", "link", "set", wire.name, "down")
            network.run("ip", "link", "set", wire.name, "up")
            network.run("ip", "address", "show")
            client.more()
        assert is_attached(shield, wire) == 1
        is_taken_from(shield, wire, client)
        assert told(shield) == []


def is_taken_from(shield, wire, client):
    """Show that what one asks is answered by a frame, when the other asks no more."""
    client.end()
    with counted(shield, wire, received=1, sent=1):
        wire.ask(HIT)


def test_an_interface_that_is_down_at_first(wire):
    wire.near.run("ip", "link", "set", wire.name, "down")
    with served(wire, toml=listener(wire.name, SERVER)) as (shield, _):
        wire.near.run("ip", "link", "set", wire.name, "up")
        becomes_attached(shield, wire)
        with counted(shield, wire, received=1, sent=0):
            wire.ask(HIT)


def test_an_interface_that_is_gone_and_made_anew(wire):
    with served(wire) as (shield, _):
        wire.ask(HIT)
        wire.near.run("ip", "link", "delete", wire.name)
        becomes_attached(shield, wire, 0)
        gone = f"{HERE}:53, {SERVER_6}: served by sockets alone: {wire.name}: there is no such interface"
        until(lambda: told(shield) == [gone], 30)
        wire.join(wire.name)
        becomes_attached(shield, wire)
        with counted(shield, wire, received=1, sent=1):
            wire.ask(HIT)


@pytest.mark.parametrize("change", ["mtu 1400", "address 02:00:00:00:00:77"])
def test_an_interface_that_is_another_now(wire, change):
    with served(wire) as (shield, _), Client(wire) as client, loaded(wire) as load:
        wire.near.run("ip", "link", "set", wire.name, *change.split())
        wire.far.run("ip", "neighbour", "flush", "dev", wire.name)  # who would else ask the old address for a while
        until(lambda: f"{wire.name} has changed" in shield.log, 30)
        becomes_attached(shield, wire)
        client.more()
        load.end()
        is_taken_from(shield, wire, client)
        assert told(shield) == []
    assert load.lost == 0 or change.startswith("address"), "which the other end learns in its time"


def test_queues_become_more_and_fewer(wire):
    """A driver takes none away that is in use: its listeners are taken off before, and come back with what is left."""
    for network in wire.far, wire.near:
        network.set_queues(wire.name, 1)

    def taken(shield, count):
        until(lambda: f"queries are taken from {wire.name}: {count} queues" in shield.log, 30)
        becomes_attached(shield, wire)

    with served(wire, workers=2) as (shield, _), Client(wire) as client, loaded(wire) as load:
        taken(shield, 1)
        for count in 2, 4:
            wire.near.set_queues(wire.name, count)
            wire.far.set_queues(wire.name, count)
            taken(shield, count)
            client.more()
        wire.far.set_queues(wire.name, 2)
        with pytest.raises(OSError, match="Invalid argument"):
            wire.near.set_queues(wire.name, 2)
        file = shield.folder / "funkenshield.toml"
        before, plain = file.read_text(), f'[[listeners]]\naddress = ["{SERVER}", "{SERVER_6}"]\n'
        reload(shield, before.replace(listener(wire.name, SERVER, SERVER_6), plain))
        until(lambda: can_have(wire, 3), 30)
        reload(shield, before)
        taken(shield, 3)
        client.more()
        load.end()
        is_taken_from(shield, wire, client)
        assert told(shield) == []
    assert load.lost + client.lost <= 0.01 * load.sent, "the link is off for a moment each time"


def can_have(wire, count):
    with contextlib.suppress(OSError):
        wire.near.set_queues(wire.name, count)
        return True


def test_listeners_come_and_go_by_a_reload(wire):
    with served(wire, toml="") as (shield, upstream):
        file = shield.folder / "funkenshield.toml"
        begin = file.read_text()
        plain = f'[[listeners]]\naddress = "{SERVER}"\n'
        reload(shield, begin + plain)
        with Client(wire) as client, loaded(wire) as load:
            for text, there in (
                (listener(wire.name, SERVER), 1), (listener(wire.name, SERVER, SERVER_6), 1), (plain, None),
                (listener(wire.name, SERVER_6) + plain, 1), (listener(wire.name, SERVER), 1),
            ):  # fmt: skip
                reload(shield, begin + text)
                becomes_attached(shield, wire, there)
                client.more()
            load.end()
            is_taken_from(shield, wire, client)
            assert (client.lost, load.lost) == (0, 0)
        assert told(shield) == []
        assert len(upstream.received) == 1


def reload(shield, text):
    before = stats(shield)["reloads"]
    (shield.folder / "funkenshield.toml").write_text(text)
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: stats(shield)["reloads"] > before, 30)


def test_another_process_takes_over(wire):
    with served(wire, run=upgradable) as (running, _), Client(wire) as client, loaded(wire) as load:
        assert is_attached(running.shield, wire) == 1
        for _ in range(2):
            assert running.upgrade()["ok"]
            becomes_attached(running.shield, wire)
            client.more()
        load.end()
        is_taken_from(running.shield, wire, client)
        assert (client.lost, load.lost) == (0, 0)
        assert told(running.shield) == []


def test_a_shield_that_ends_leaves_all_to_the_next(wire):
    with wire.near.entered(), ScriptedUpstream(numbered(1)) as upstream:
        for _ in range(2):
            with (
                run_shield([upstream], toml=listener(wire.name, SERVER)) as shield,
                counted(shield, wire, received=1, sent=0),
            ):
                assert wire.ask(HIT)[-4:] == b"\xc0\0\2\1"
        assert "xdp" not in wire.near.run("ip", "link", "show", "dev", wire.name)


def test_one_address_on_two_links_is_two_listeners():
    """Misses are answered by the socket of the link that they came by."""

    def ask(wire, query):
        with wire.far.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("fe80::53", 53, 0, socket.if_nametoindex(wire.name)))
            sock.send(query)
            return sock.recv(512)[-4:]

    with Wire() as one, Wire(beside=one) as other, one.near.entered(), ScriptedUpstream(numbered(1)) as upstream:
        wires = one, other
        for wire in wires:
            wire.near.run("ip", "address", "add", "fe80::53/64", "dev", wire.name, "nodad")
            wire.far.run("ip", "address", "add", "fe80::9/64", "dev", wire.name, "nodad")
        servers = [SERVER_6._replace(host=f"fe80::53%{wire.name}") for wire in wires]
        toml = "".join(listener(wire.name, server) for wire, server in zip(wires, servers, strict=True))
        with run_shield([upstream], toml=toml) as shield:
            until(lambda: stats(shield)["xdp_attached"] == {wire.name: 1 for wire in wires}, 30)
            for number, wire in enumerate(wires):
                query = quick.query(f"of{number}.test", quick.A)
                with counted(shield, wire, received=2, sent=1):
                    assert [ask(wire, query) for _ in range(2)] == [b"\xc0\0\2\1"] * 2
            assert [stats(shield)["listener_messages"][str(each)] for each in servers] == [2, 2]
