"""Know that an upstream which wants to be told whose query it is, is told so, over UDP and TCP, and tells it on."""

import socket
import struct

import pytest
from support import quick
from support.client import Address, frame, free_port
from support.edns import split_opt
from support.process import run_shield
from support.proxied import DGRAM, INET, INET6, LOCAL, PROXY, SIGNATURE, STREAM, local, told
from support.server import Received
from support.upstream import ScriptedUpstream, answer, respond, truncated
from support.wires import ask_wire

OUTER = "127.0.0.1"
FIXED = 16


class ToldUpstream(ScriptedUpstream):
    """An upstream that every query comes to behind a header, of which it remembers (command, family, addresses)."""

    def __init__(self, handle):
        super().__init__(handle)
        self.told, self.connections = [], 0

    def _take(self, query, send):
        if query.transport == "udp":
            size = self._read(query.wire)
            query = Received(query.wire[size:], "udp", query.source)
        super()._take(query, send)

    async def stream(self, reader, writer):
        self.connections += 1
        start = await reader.readexactly(FIXED)
        self._read(start + await reader.readexactly(int.from_bytes(start[14:])))
        await super().stream(reader, writer)

    def _read(self, header):
        """Remember a header; return its octets."""
        assert header[:12] == SIGNATURE
        end = FIXED + int.from_bytes(header[14:16])
        self.told.append((header[12], header[13], header[FIXED:end]))
        return end


def tables(upstream, more=""):
    return f'[[upstreams]]\naddress = "{upstream.address}"\nproxy_protocol = true\n{more}'


def v4(source, port, asked):
    """Return the addresses of a header that tells of a client, and where he sent his query to."""
    return socket.inet_aton(source) + socket.inet_aton(asked[0]) + struct.pack("!2H", port, asked[1])


def address(query):
    return answer(query, "A 192.0.2.1")


def ask_from(host, shield, name, rdtype="A", **header):
    """Ask over UDP from an address; return the reply and the port that it went to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind((host, 0))
        sock.sendto(ask_wire(name, rdtype, **header), shield.address)
        return sock.recv(65535), sock.getsockname()[1]


@pytest.mark.parametrize("extra", ["", "random_case = true\n"], ids=["plain", "random case"])
def test_over_udp_each_query_tells_whose_it_is(extra):
    with ToldUpstream(address) as upstream, run_shield([], toml=tables(upstream, extra)) as shield:
        ports = [ask_from(host, shield, f"a{host}.test.")[1] for host in ("127.0.0.1", "127.0.0.2")]
        assert upstream.told == [
            (PROXY, INET | DGRAM, v4("127.0.0.1", ports[0], shield.address)),
            (PROXY, INET | DGRAM, v4("127.0.0.2", ports[1], shield.address)),
        ]
        ask_from("127.0.0.9", shield, "a127.0.0.1.test.")
        assert len(upstream.received) == 2, "a hit is nobody's to tell of"


def test_what_is_passed_on_tells_whose_it_is():
    with ToldUpstream(respond) as upstream, run_shield([], toml=tables(upstream)) as shield:
        query = bytes([0, 1, 0x14, 0]) + quick.query("zone.test", 6)[4:]  # STATUS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.bind(("127.0.0.2", 0))
            sock.sendto(query, shield.address)
            assert sock.recv(65535)[:2] == query[:2]
            assert upstream.told == [(PROXY, INET | DGRAM, v4("127.0.0.2", sock.getsockname()[1], shield.address))]


def test_over_tcp_each_query_has_a_connection_that_begins_with_whose_it_is():
    with ToldUpstream(address) as upstream, run_shield([], toml=tables(upstream, 'transport = "tcp"\n')) as shield:
        with socket.create_connection(shield.address) as sock, sock.makefile("rb") as stream:
            port = sock.getsockname()[1]
            for name in ("a.test.", "b.test."):
                sock.sendall(frame(ask_wire(name, "A")))
                assert stream.read(int.from_bytes(stream.read(2)))[7] == 1
        assert upstream.told == [(PROXY, INET | STREAM, v4("127.0.0.1", port, shield.address))] * 2
        assert (upstream.connections, upstream.count(transport="tcp")) == (2, 2)


def test_what_came_truncated_is_fetched_for_the_same_client():
    def cut(query):
        return truncated(query) if query.transport == "udp" else address(query)

    with ToldUpstream(cut) as upstream, run_shield([], toml=tables(upstream)) as shield:
        reply, port = ask_from("127.0.0.2", shield, "a.test.")
        assert not reply[2] & 2
        assert upstream.told == [
            (PROXY, INET | DGRAM, v4("127.0.0.2", port, shield.address)),
            (PROXY, INET | DGRAM, v4("127.0.0.2", port, shield.address)),
        ]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("family", "wildcard", "asked", "wide"),
    [(socket.AF_INET, "0.0.0.0", "127.0.0.7", INET), (socket.AF_INET6, "::", "::1", INET6)],
)
def test_who_listens_everywhere_tells_the_address_that_was_asked(family, wildcard, asked, wide, tcp):
    listen = [Address(wildcard, free_port(asked))]
    with ToldUpstream(address) as upstream, run_shield([], listen=listen, toml=tables(upstream)) as shield:
        to = (asked, shield.address.port)
        with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(to)
            query = ask_wire("a.test.", "A")
            sock.sendall(frame(query) if tcp else query)
            assert sock.recv(65535)
            own = sock.getsockname()
        ends = socket.inet_pton(family, own[0]) + socket.inet_pton(family, asked) + struct.pack("!2H", own[1], to[1])
        assert upstream.told[0][1:] == (wide | (STREAM if tcp else DGRAM), ends)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("client", ["192.0.2.1", "2001:db8::1"])
def test_what_a_front_proxy_tells_is_told_on(client, tcp):
    """The header goes to the upstream as it came: addresses and ports of both ends."""
    front = told(client, transport=STREAM if tcp else DGRAM)
    with (
        ToldUpstream(address) as upstream,
        run_shield([], toml=f'proxy_protocol_from = ["{OUTER}"]\n' + tables(upstream)) as shield,
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.bind((OUTER, 0))
            sock.connect(shield.address)
            query = ask_wire("a.test.", "A")
            sock.sendall(front + (frame(query) if tcp else query))
            assert sock.recv(65535)
        assert upstream.told == [(front[12], front[13], front[FIXED:])]


def test_a_proxys_own_query_and_a_transfer_tell_the_sockets_ends():
    def axfr(query):
        return answer(query, "SOA a. b. 1 2 3 4 5") if query.message is not None else None

    allow = f'proxy_protocol_from = ["{OUTER}"]\n[forward.allow]\ntransfers = ["{OUTER}"]\n'
    with ToldUpstream(axfr) as upstream, run_shield([], toml=allow + tables(upstream)) as shield:
        with socket.create_connection(shield.address) as sock:
            sock.settimeout(10)
            port = sock.getsockname()[1]
            sock.sendall(local() + frame(ask_wire("zone.test.", "AXFR")))
            assert sock.recv(65535)
        assert upstream.told[0] == (PROXY, INET | STREAM, v4(OUTER, port, shield.address))


def test_checks_are_nobodys_but_our_own():
    with ToldUpstream(respond) as upstream:
        health = 'health = { check = "always", interval = 0.1 }\n'
        with run_shield([], toml=tables(upstream, health)):
            upstream.wait_for(2)
    assert set(upstream.told) == {(LOCAL, 0, b"")}


def test_a_shield_before_a_shield_tells_him_whose_query_it_is():
    inner = f'proxy_protocol_from = ["{OUTER}"]\n[client_subnet]\nadd = true\nipv4_prefix_length = 32\nprivate = true\n'
    with (
        ScriptedUpstream(address) as upstream,
        run_shield([upstream], toml=inner) as second,
        run_shield([], toml=tables(second)) as first,
    ):
        for host in ("127.0.0.2", "127.0.0.4"):
            reply, _ = ask_from(host, first, f"x{host}.test.")
            assert reply[7] == 1
            assert split_opt(reply)[1] is None
        options = [query.message.options[0] for query in upstream.received]
        assert [(option.address, option.srclen) for option in options] == [("127.0.0.2", 32), ("127.0.0.4", 32)]
