"""Know that listeners come and go by a reload: what clients of each get, whatever they were at.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import errno
import signal
import socket
from pathlib import Path

import dns.message
import pytest
from support import http2
from support.certificates import HOST, Authority
from support.client import Address, ask, frame, free_port, udp_wire
from support.control import advance, stats
from support.encrypted import Door, read_wire, shown
from support.quick import query
from support.rig import behind, data, names, rcode, toml
from support.until import until
from support.upstream import Delayed, answer
from support.wires import ask_wire

pytest.importorskip("funkenshield.server._tls")
pytest.importorskip("funkenshield.server._http2")

SLOW = 0.7  # seconds


def script(asked):
    """Answer with an address; slowly where the name says so."""
    answered = answer(asked, "A 192.0.2.1")
    return Delayed(SLOW, answered) if asked.name.labels[0] == b"slow" else answered


def place():
    return Address("127.0.0.1", free_port())


class Stage:
    """A shield whose listeners are another at each reload, beside the one that it began with."""

    def __init__(self, shield, upstream, authority):
        self.shield, self.upstream, self.authority = shield, upstream, authority
        self.certificates = [shown(authority.issue(HOST))]

    def listen(self, *listeners, served=True, **options):
        """Listen on these, and where it began, from now on."""
        before, lines = stats(self.shield)["reloads"], len(self.shield.log.splitlines())
        self.shield.folder.joinpath("funkenshield.toml").write_text(
            f'listen = ["{self.shield.address}"]\n'
            + toml(listeners=list(listeners), upstreams=[str(self.upstream.address)], **options)
        )
        self.shield.process.send_signal(signal.SIGHUP)
        until(lambda: stats(self.shield)["reloads"] > before if served else self.failures(lines))
        return self.failures(lines)

    def failures(self, lines):
        return [line for line in self.shield.log.splitlines()[lines:] if "reload failed" in line]

    def table(self, transport, address, **more):
        certificates = {"certificates": self.certificates} if transport in ("tls", "https") else {}
        return {"address": str(address), "transport": transport, **certificates, **more}

    def door(self, address):
        return Door(address, self.authority)

    def by_http(self, address):
        return http2.connected(address, context=http2.trusting(self.authority.file), name=HOST)

    def served_as(self, address):
        """Return the number of the listening sockets of an address over TCP, as the kernel has them."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {line[9] for line in lines if line[3] == "0A" and line[1].endswith(f":{address.port:04X}")}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    with behind(script) as (shield, upstream):
        yield Stage(shield, upstream, authority)


@pytest.fixture
def stage(running):
    running.upstream.received.clear()
    yield running
    running.listen()
    advance(running.shield, 60)


def is_refused(address):
    """Tell whether nobody takes connections at an address."""
    with socket.socket() as sock:
        return sock.connect_ex(address) == errno.ECONNREFUSED


def test_a_listener_that_comes_serves_and_one_that_goes_refuses(stage):
    address, name = place(), names(1)[0]
    stage.listen(stage.table("udp+tcp", address))
    for tcp in False, True:
        assert data(ask(name, server=address, tcp=tcp)) == ["192.0.2.1"]
    assert stage.upstream.count(name) == 1
    assert stats(stage.shield)["listener_messages"][str(address)] == 2
    stage.listen()
    with pytest.raises(ConnectionRefusedError):
        udp_wire(address, ask_wire(name))
    until(lambda: is_refused(address))  # whoever is there before the worker has heard of it is served
    assert str(address) not in stats(stage.shield)["listener_messages"]
    until(lambda: f"listening no more on {address}" in stage.shield.log)
    assert f"listening on {address}" in stage.shield.log


def test_who_waits_at_a_listener_that_goes_is_answered_from_there(stage):
    address, name = place(), names(1)[0]
    stage.listen(stage.table("udp+tcp", address))
    wires = [ask_wire(f"slow.{n}.{name}", id=n) for n in range(2)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.create_connection(address, timeout=10) as connection,
        connection.makefile("rb") as stream,
    ):
        datagram.settimeout(10)
        datagram.connect(address)  # it hears nobody else
        datagram.send(wires[0])
        connection.sendall(frame(wires[1]))
        stage.upstream.wait_for(2)
        stage.listen()
        assert data(dns.message.from_wire(datagram.recv(512))) == ["192.0.2.1"]
        assert data(dns.message.from_wire(read_wire(stream))) == ["192.0.2.1"]
        assert stream.read(1) == b""
    assert len(stage.upstream.received) == 2


def test_tls_and_https_say_goodbye(stage):
    tls, https = place(), place()
    stage.listen(stage.table("tls", tls), stage.table("https", https))
    wire = ask_wire(names(1)[0])
    slow = query(f"slow.{names(1)[0]}", 1)
    with (
        stage.door(tls).connect() as (idle, heard),
        stage.by_http(https) as client,
    ):
        idle.sendall(frame(wire))
        assert read_wire(heard)[:2] == wire[:2]
        stream = client.get(slow)
        stage.upstream.wait_for(2)
        stage.listen()
        assert heard.read(1) == b"", "an end without close_notify raises SSLEOFError"
        assert data(dns.message.from_wire(client.response(stream).body)) == ["192.0.2.1"]
        assert client.until_end() == http2.NO_ERROR
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(tls)
    until(lambda: stats(stage.shield)["tls_connections"] == 0)


def test_another_transport_keeps_the_sockets(stage):
    """And so whoever has connected and is not taken yet; who was served before speaks what he spoke, to the end."""
    address = place()
    stage.listen(stage.table("tls", address))
    sockets = stage.served_as(address)
    wire = query(names(1)[0], 1)
    with stage.door(address).connect() as (old, heard):
        old.sendall(frame(wire))
        assert read_wire(heard)[:2] == wire[:2]
        stage.listen(stage.table("https", address))
        assert heard.read(1) == b""
    with stage.by_http(address) as client:
        assert client.ask(wire).status == 200
    stage.listen(stage.table("https", address, paths=["/other"]))
    with stage.by_http(address) as client:
        assert client.ask(wire).status == 404
    stage.listen(stage.table("udp+tcp", address))
    assert [rcode(ask(names(1)[0], server=address, tcp=tcp)) for tcp in (False, True)] == ["NOERROR"] * 2
    assert stage.served_as(address) == sockets


def test_what_cannot_be_bound_is_one_line_and_all_stays(stage):
    address, other, taken = place(), place(), place()
    stage.listen(stage.table("udp+tcp", address))
    with socket.create_server(taken):
        failures = stage.listen(stage.table("udp+tcp", other), stage.table("tls", taken), served=False)
    assert len(failures) == 1
    assert failures[0].endswith(f"reload failed: cannot listen on {taken}, TLS: address in use by another program")
    assert rcode(ask(names(1)[0], server=address)) == "NOERROR"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(other)


def test_rules_know_a_new_listener_and_no_number_is_another_ones(stage):
    first, second = place(), place()
    refused = {"match": {"listener": str(second)}, "action": "refused"}
    stage.listen(stage.table("udp+tcp", first))
    assert rcode(ask(names(1)[0], server=first)) == "NOERROR"
    stage.listen(stage.table("udp+tcp", second), rules=[refused])
    assert rcode(ask(names(1)[0], server=second)) == "REFUSED"
    stage.listen(stage.table("udp+tcp", first), stage.table("udp+tcp", second), rules=[refused])
    assert [rcode(ask(names(1)[0], server=each)) for each in (first, second)] == ["NOERROR", "REFUSED"]
    counted = stats(stage.shield)["listener_messages"]
    assert (counted[str(first)], counted[str(second)]) == (1, 2)


def test_tcp_is_turned_off_and_on(stage):
    name = names(1)[0]
    with socket.create_connection(stage.shield.address, timeout=10) as connection:
        stage.listen(tcp={"max_connections": 0})
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(stage.shield.address)
    assert rcode(ask(name, server=stage.shield)) == "NOERROR"
    stage.listen()
    assert rcode(ask(name, server=stage.shield, tcp=True)) == "NOERROR"
    assert stage.upstream.count(name) == 1


def test_nobody_is_lost_while_listeners_come_and_go(stage):
    """Who asks at a listener that stays, over UDP and over a connection, notices nothing of ten changes."""
    name = names(1)[0]
    wire = ask_wire(name)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(stage.shield.address, timeout=10))
        stream = stack.enter_context(connection.makefile("rb"))
        for n in range(10):
            stage.listen(stage.table("tls" if n % 2 else "udp+tcp", place()))
            advance(stage.shield, 60)
            connection.sendall(frame(wire))
            assert read_wire(stream)[:2] == wire[:2]
            assert rcode(ask(name, server=stage.shield)) == "NOERROR"
    assert stats(stage.shield)["tcp_evicted_idle"] == 0
