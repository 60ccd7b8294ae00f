"""Know what clients get that come by DNS over QUIC (RFC 9250) and HTTP/3, as others wrote them, and what strangers get.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import os
import signal
import socket
import subprocess

import dns.message
import dns.query
import dns.quic
import pytest
from support.certificates import Authority
from support.client import Address, free_port
from support.control import stats
from support.nameservers import program
from support.over_quic import OverQuic
from support.proc import children
from support.rig import asked, behind, data, numbered, received
from support.until import until

pytest.importorskip("qh3")
pytest.importorskip("aioquic")
pytestmark = [  # dnspython leaves two sockets of each connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]
HOST = "dns.test"
INITIAL = b"\xc0\0\0\0\1\x08original\x08clientid\0\x44\x96"  # and 1,174 octets that nobody can read
RESET = 43  # octets
RULES = [
    {"match": {"suffix": "drop.test", "transport": "quic"}, "action": "drop"},
    {"match": {"suffix": "refused.test", "transport": "h3"}, "action": "refused"},
]


class Doors:
    """Where a shield listens for QUIC, for HTTP/3 (at all addresses), and for TLS at the address of the former."""

    def __init__(self, authority, name=HOST):
        self.quic, self.h3 = Address("127.0.0.1", free_port()), Address("0.0.0.0", free_port())
        self.authority, self.credentials = authority, authority.issue(name)
        self.name = name

    def tables(self):
        files = {"certificate": str(self.credentials.file), "key": str(self.credentials.file)}
        return [
            {"address": str(address), "transport": transport, "certificates": [files]}
            for address, transport in ((self.quic, "quic"), (self.h3, "h3"), (self.quic, "tls"))
        ]

    def over_quic(self, query, **how):
        """Return the response to a query, on a connection of its own."""
        where = {"port": self.quic.port, "verify": str(self.authority.file), "server_hostname": self.name}
        return dns.query.quic(query, "127.0.0.1", timeout=10.0, **where, **how)

    def over_h3(self, query):
        """Return the response to a query by HTTP/3, on a connection of its own."""
        return dns.query.https(
            query, f"https://{self.name}:{self.h3.port}/dns-query", timeout=10.0, verify=str(self.authority.file),
            http_version=dns.query.HTTPVersion.HTTP_3, bootstrap_address="127.0.0.2",
        )  # fmt: skip

    @contextlib.contextmanager
    def connected(self):
        """Yield a connection of dnspython's, for many queries."""
        with dns.quic.SyncQuicManager(verify_mode=str(self.authority.file), server_name=self.name) as manager:
            yield manager.connect("127.0.0.1", self.quic.port)


@contextlib.contextmanager
def listening(*servers, authority, **options):
    doors = Doors(authority)
    with behind(*servers, listeners=doors.tables(), **options) as (shield, *upstreams):
        yield shield, doors, *upstreams


@pytest.fixture(scope="module")
def running(authority):
    with listening(numbered(1), authority=authority, rules=RULES) as (shield, doors, upstream):
        yield shield, doors, upstream


def query(name, **how):
    """Return a query without an ID, as RFC 9250 wants it."""
    made = asked(name, **how)
    made.id = 0
    return made


# ------------------------------------------------------------ queries


@pytest.mark.parametrize("transport", ["quic", "h3"])
def test_a_miss_is_answered_and_the_next_is_a_hit(transport, running):
    shield, doors, upstream = running
    ask = doors.over_quic if transport == "quic" else doors.over_h3
    before = stats(shield)
    responses = [ask(query(f"{transport}.test")) for _ in range(2)]
    assert [data(response) for response in responses] == [["192.0.2.1"]] * 2
    assert received(upstream)[f"{transport}.test."] == 1
    counted = stats(shield)
    assert counted["queries_by_transport"][transport] == before["queries_by_transport"][transport] + 2
    assert counted["listener_messages"][f"{doors.quic} (QUIC)" if transport == "quic" else f"{doors.h3} (HTTP/3)"] >= 2
    assert counted["listener_messages"][str(doors.quic)] == 0


def test_every_response_to_edns_is_padded(running):
    _, doors, _ = running
    for _ in range(2):  # a miss, and a hit
        assert len(doors.over_quic(query("padded.test", edns=0)).to_wire()) == 468


def test_many_streams_of_a_connection_each_get_their_response(running):
    _, doors, upstream = running
    names = [f"n{n}.many.test." for n in range(60)]
    with doors.connected() as connection:
        streams = []
        for name in names:
            stream = connection.make_stream(timeout=10.0)
            stream.send(query(name).to_wire(), True)
            streams.append(stream)
        for name, stream in zip(names, streams, strict=True):
            with stream:
                response = dns.message.from_wire(stream.receive(timeout=10.0))
            assert (response.question[0].name.to_text(), data(response)) == (name, ["192.0.2.1"])
    assert sum(received(upstream)[name] for name in names) == 60


def test_other_clients_of_other_makers_are_served(running):
    _, doors, _ = running
    kdig = program("kdig")
    if "+[no]quic" not in subprocess.run([kdig, "--help"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("this kdig has no QUIC")
    asking = [kdig, "@127.0.0.1", "-p", str(doors.quic.port), "+quic", "+short", "kdig.test"]  # +tls-ca crashes it
    assert subprocess.run(asking, capture_output=True, text=True, check=True).stdout == "192.0.2.1\n"


def test_a_rule_knows_the_transport(running):
    _, doors, upstream = running
    with pytest.raises(dns.quic._common.UnexpectedEOF):
        doors.over_quic(query("a.drop.test"))
    assert data(doors.over_h3(query("a.drop.test"))) == ["192.0.2.1"]
    assert doors.over_h3(query("a.refused.test")).rcode() == dns.rcode.REFUSED
    assert data(doors.over_quic(query("a.refused.test"))) == ["192.0.2.1"]
    assert [received(upstream)[name] for name in ("a.drop.test.", "a.refused.test.")] == [1, 1]


def test_clients_are_told_of_it_beside_tls_at_the_same_address(running):
    shield, doors, _ = running
    told = shield.udp(asked("_dns.resolver.arpa", "SVCB")).answer[0]
    known = [(each.params[1].ids, each.params.get(3) and each.params[3].port) for each in told]
    assert known == [((b"dot",), doors.quic.port), ((b"doq",), doors.quic.port), ((b"h3",), doors.h3.port)]


# ------------------------------------------------------------ strangers, and what goes wrong


def test_who_may_be_elsewhere_gets_little_and_leaves_nothing(running):
    shield, doors, _ = running
    before = stats(shield)
    sent = got = 0
    with contextlib.ExitStack() as stack:
        for n in range(200):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.1.{n + 1}", 0))
            initial = INITIAL + os.urandom(1174)
            sock.sendto(initial, doors.quic)
            sent += len(initial)
            sock.settimeout(5.0)
            got += len(sock.recv(2000))
            sock.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                sock.recv(2000)
    assert got < sent / 8
    until(lambda: stats(shield)["quic_retries"] >= before["quic_retries"] + 200)
    counted = stats(shield)
    assert counted["quic_accepted"] == counted["quic_handshakes"]["full"]  # and nobody else
    assert counted["quic_connections"] == 0


def test_what_is_short_or_of_another_version_begins_nothing(running):
    _, doors, _ = running
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        for octets in (INITIAL + bytes(1100), b"\x40" + bytes(1300), b"\xff", b"", bytes(1300)):
            sock.sendto(octets, doors.quic)
        assert len(sock.recv(2000)) == RESET  # as of a connection that there was
        sock.sendto(b"\xc0\x0a\x0a\x0a\x0a" + INITIAL[5:] + bytes(1200), doors.quic)
        negotiation = sock.recv(2000)
        assert negotiation[1:5] == bytes(4)
        assert negotiation[-4:] == b"\0\0\0\1"
    assert data(doors.over_quic(query("still.test"))) == ["192.0.2.1"]


def test_a_certificate_is_replaced_and_no_connection_ends(authority):
    with listening(numbered(1), authority=authority) as (shield, doors, _), doors.connected() as connection:

        def ask():
            with connection.make_stream(timeout=10.0) as stream:
                stream.send(query("a.test").to_wire(), True)
                return data(dns.message.from_wire(stream.receive(timeout=10.0)))

        assert ask() == ["192.0.2.1"]
        another = Authority(doors.credentials.file.parent, "another")
        another.issue(HOST)
        doors.authority = another

        def is_shown():
            with contextlib.suppress(Exception):
                return doors.over_quic(query("a.test"))

        until(is_shown, within=20.0)
        assert ask() == ["192.0.2.1"]
        assert "new certificate" in shield.log


def test_a_reload_that_removes_a_listener_leaves_the_others(authority):
    with listening(numbered(1), authority=authority) as (shield, doors, _):
        assert data(doors.over_h3(query("a.test"))) == ["192.0.2.1"]
        file = shield.folder / "funkenshield.toml"
        file.write_text(file.read_text().replace('transport = "h3"', 'transport = "https"'))
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: "QUIC: its process serves again" in shield.log, within=10.0)
        assert data(doors.over_quic(query("b.test"))) == ["192.0.2.1"]
        assert stats(shield)["listener_messages"] == dict.fromkeys(
            (str(shield.address), str(doors.quic), f"{doors.quic} (QUIC)", str(doors.h3)), 0
        ) | {f"{doors.quic} (QUIC)": 1}
        assert "ERROR" not in shield.log


def test_where_the_process_ends_it_is_started_again_and_clients_are_told_and_resume(authority):
    with listening(numbered(1), authority=authority) as (shield, doors, _):
        before = OverQuic(doors.quic, "quic", trusted=authority.file, name=HOST)
        assert data(dns.message.from_wire(before.reply(before.ask(query("a.test").to_wire()), 10.0))) == ["192.0.2.1"]
        until(lambda: stats(shield)["quic_handshakes"]["full"] == 1)
        [front] = children(shield.process)
        nice = [os.getpriority(os.PRIO_PROCESS, each.pid) for each in (shield.process, front)]
        assert nice[1] == min(nice[0] + 5, 19)
        os.kill(front.pid, signal.SIGKILL)
        until(lambda: "QUIC: its process serves again" in shield.log, within=10.0)
        assert ends_at_once(before)
        before.close()
        with OverQuic(doors.quic, "quic", trusted=authority.file, name=HOST, session_ticket=before.tickets[0]) as after:
            assert after.quic.tls.session_resumed
            until(lambda: stats(shield)["quic_handshakes"] == {"full": 1, "resumed": 1, "failed": 0, "limited": 0})
        with doors.connected() as connection:
            with connection.make_stream(timeout=10.0) as stream:
                stream.send(query("b.test").to_wire(), True)
                assert data(dns.message.from_wire(stream.receive(timeout=10.0))) == ["192.0.2.1"]
            until(lambda: stats(shield)["quic_accepted"] == 3)
            assert stats(shield)["quic_resets"] >= 1
            shield.terminate()
            until(lambda: connection._done)
        errors = [line for line in shield.log.splitlines() if "ERROR" in line]
        assert len(errors) == 1
        assert "QUIC: its process ended with status -9; it is started again in 0.2 seconds" in errors[0]


def ends_at_once(client):
    """Tell whether what a client says is answered by what it takes for the end of its connection."""
    client.pump(0.0)  # what came before
    client.quic.send_ping(1)
    client.flush()
    client.socket.settimeout(5.0)
    return client.socket.recv(2000).endswith(client.quic._peer_cid.stateless_reset_token)
