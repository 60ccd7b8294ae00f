"""Know whose a query is, as a trusted front proxy tells it and nobody else, and what upstreams are told of him.

Each test looks at what the client got, what the upstream received, and how many times. A cookie of ours says
for which address it was made.
"""

import contextlib
import itertools
import json
import signal
import socket
import time
from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from support.client import LARGEST, Address, frame, free_port
from support.control import stats
from support.process import run_shield
from support.proxied import DGRAM, STREAM, local, told
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import Delayed, ScriptedUpstream, answer
from support.wires import ask_wire

from funkenshield.wire._edns_cookies import answer_cookie

PROXY, PROXY6, STRANGER = "127.0.0.1", "::1", "127.0.0.2"
SECRET = bytes(range(16))
CLIENT_COOKIE = b"a_client"
COOKIE = dns.edns.OptionType.COOKIE
FORMERR = dns.rcode.FORMERR
IDLE = 0.6  # seconds
CLIENTS = ["192.0.2.1", "2001:db8::1"]
HEADERS = [told(client, transport=kind, tlvs=tlvs) for client in CLIENTS for kind in (DGRAM, STREAM)
           for tlvs in (b"", b"\x04\0\x05abcde")]  # fmt: skip
serial = itertools.count()


def toml(proxies, secrets):
    return (
        f"proxy_protocol_from = {proxies}\nquery_log = [{{ file = 'dropped', outcomes = ['dropped'] }}]\n"
        f"[cookies]\nmode = 'serve'\nsecret_file = '{secrets}'\n"
        f"[tcp]\nidle_timeout = {IDLE}\nmax_connections_per_client = 3\n[forward]\ntimeout = 5.0\ndeadline = 10.0\n"
    )


def answering(query):
    """Answer with an address; slowly where the name says so, and not at all what is no query."""
    if query.message is None:
        return None
    reply = answer(query, "A 192.0.2.9")
    return Delayed(0.3, reply) if query.name.labels[0] == b"slow" else reply


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    secrets = tmp_path_factory.mktemp("whose") / "secrets"
    secrets.write_text(SECRET.hex() + "\n")
    listen = [Address(host, free_port(host)) for host in (PROXY, PROXY6)]
    with (
        ScriptedUpstream(answering) as upstream,
        run_shield([upstream], listen=listen, toml=toml([PROXY, PROXY6], secrets)) as shield,
    ):
        yield upstream, shield


def log_of(shield):
    """Return what the query log has of queries that were dropped."""
    return [json.loads(line) for line in (shield.folder / "dropped").read_text().splitlines()]


@pytest.fixture
def upstream(running):
    running[0].received.clear()
    return running[0]


@pytest.fixture
def shield(running):
    until(lambda: stats(running[1])["tcp_connections"] == 0, within=3.0)
    return running[1]


@pytest.fixture
def name():
    return f"name{next(serial)}.test."


def question(name, *, cookie=True, **options):
    if cookie:
        options["options"] = [dns.edns.GenericOption(COOKIE, CLIENT_COOKIE)]
    return ask_wire(name, **options)


def udp_wire(shield, *datagrams, source=PROXY):
    """Send datagrams and return what comes back to the last."""
    address = next(each for each in shield.addresses if (":" in each.host) == (":" in source))
    with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind((source, 0))
        for octets in datagrams:
            sock.sendto(octets, address)
        return sock.recv(LARGEST)


def udp(shield, *datagrams, source=PROXY):
    """Send datagrams and return the message that comes back to the last."""
    return dns.message.from_wire(udp_wire(shield, *datagrams, source=source))


@contextlib.contextmanager
def connect(shield, source=PROXY):
    """Connect from an address; yield the socket and a file to read from."""
    address = next(each for each in shield.addresses if (":" in each.host) == (":" in source))
    with socket.create_connection(address, 3.0, (source, 0)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock.makefile("rb") as stream:
            yield sock, stream


def read(stream):
    """Return the next message; EOFError where the connection ends instead."""
    length = stream.read(2)
    if len(length) < 2:
        raise EOFError
    return dns.message.from_wire(stream.read(int.from_bytes(length)))


def ended(stream):
    """Tell whether the shield has ended the connection, in whatever manner."""
    try:
        return stream.read(1) == b""
    except ConnectionResetError:
        return True


def is_made_for(reply, address):
    """Tell whether the cookie of a reply is one that we made for an address."""
    cookies = [option.to_wire() for option in reply.options if option.otype == COOKIE]
    assert len(cookies) == 1
    return answer_cookie((SECRET,), cookies[0], ip_address(address).packed, int(time.time()) % 2**32)[0] == "ours"


def client_of(header, proxy):
    """Return the address that a header tells, or the proxy's own."""
    return next((client for client in CLIENTS if ip_address(client).packed in header), proxy)


# ------------------------------------------------------------ datagrams


@pytest.mark.parametrize("proxy", [PROXY, PROXY6])
@pytest.mark.parametrize("header", [*HEADERS, local(), local(b"\x03\0\x04abcd")], ids=bytes.hex)
def test_a_miss_and_a_hit_are_of_the_client_that_is_told(upstream, shield, name, header, proxy):
    for _ in "miss", "hit":
        reply = udp(shield, header + question(name), source=proxy)
        assert reply.rcode() == dns.rcode.NOERROR
        assert reply.answer[0][0].address == "192.0.2.9"
        assert is_made_for(reply, client_of(header, proxy))
    assert upstream.count(name) == len(upstream.received) == 1
    assert upstream.received[0].message.options == ()


def test_those_who_wait_for_one_answer_get_each_his_own_cookie(upstream, shield, name):
    queries = [told(client) + question(f"slow.{name}", id=n) for n, client in enumerate(CLIENTS)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        for octets in queries:
            sock.sendto(octets, shield.address)
        replies = [dns.message.from_wire(sock.recv(LARGEST)) for _ in queries]
    for reply in replies:
        assert is_made_for(reply, CLIENTS[reply.id])
        assert not is_made_for(reply, CLIENTS[1 - reply.id])
    assert upstream.count(f"slow.{name}") == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        told(CLIENTS[0])[:27],
        told(CLIENTS[0])[:15],
        told(CLIENTS[0]).replace(b"\x21\x12", b"\x31\x12"),
        told(CLIENTS[0], tlvs=bytes(5000)),
    ],
    ids=["none", "cut", "cut before its length", "version 3", "longer than a buffer"],
)
def test_a_proxys_datagram_without_a_right_header_is_dropped_counted_and_told(upstream, shield, name, octets):
    before, told_before = stats(shield), len(log_of(shield))
    after = udp(shield, octets + (question(name) if not octets else b""), told(CLIENTS[0]) + question("x." + name))
    assert is_made_for(after, CLIENTS[0])
    counted = stats(shield)
    assert counted["proxy_protocol_invalid"] == before["proxy_protocol_invalid"] + 1
    assert counted["queries"] == before["queries"] + 2
    assert upstream.count(name) == 0
    (event,) = until(lambda: log_of(shield)[told_before:])
    assert (event["client"], event["transport"], event["outcome"]) == (PROXY, "udp", "dropped")
    assert (event["reason"], "name" in event) == ("proxy_protocol", False)


def test_a_header_with_nothing_behind_it_is_a_short_datagram(shield, name):
    before = stats(shield)["dropped_short"]
    udp(shield, told(CLIENTS[0]), told(CLIENTS[0]) + question(name))
    assert stats(shield)["dropped_short"] == before + 1


def test_nobody_else_is_believed(upstream, shield, name):
    before = stats(shield)
    reply = udp(shield, question(name), source=STRANGER)
    assert is_made_for(reply, STRANGER)
    octets = told(CLIENTS[0]) + question(name)
    assert udp_wire(shield, octets, source=STRANGER)[3] == FORMERR  # it has no question that can be read
    assert len(upstream.received) == 1
    with connect(shield, STRANGER) as (sock, stream):
        sock.sendall(frame(question(name)))
        assert is_made_for(read(stream), STRANGER)
    assert stats(shield)["proxy_protocol_invalid"] == before["proxy_protocol_invalid"]
    assert upstream.count(name) == 1


def test_a_query_that_is_too_long_for_its_buffer_is_sent_to_tcp(shield, name):
    padding = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(4200))
    reply = udp(shield, told(CLIENTS[0]) + ask_wire(name, options=[padding]))
    assert reply.flags & dns.flags.TC
    assert reply.question[0].name.to_text() == name
    assert reply.answer == []


def test_what_only_the_upstream_can_answer_comes_without_the_header(upstream, shield, name):
    wire = ask_wire(name, options=[dns.edns.GenericOption(65001, b"unknown")])
    assert udp(shield, told(CLIENTS[0]) + wire).answer
    assert [query.wire[2:] for query in upstream.received] == [wire[2:]]


# ------------------------------------------------------------ connections


@pytest.mark.parametrize("proxy", [PROXY, PROXY6])
@pytest.mark.parametrize("header", [HEADERS[2], HEADERS[7], local()], ids=bytes.hex)
@pytest.mark.parametrize("size", [1, 20, 1000])
def test_a_connection_is_of_the_client_that_is_told_in_pieces_too(upstream, shield, name, header, proxy, size):
    octets = header + frame(question(name)) + frame(question(name))
    with connect(shield, proxy) as (sock, stream):
        for at in range(0, len(octets), size):
            sock.sendall(octets[at : at + size])
        for _ in range(2):
            reply = read(stream)
            assert reply.answer
            assert is_made_for(reply, client_of(header, proxy))
    assert upstream.count(name) == 1


@pytest.mark.parametrize(
    "octets",
    [frame(ask_wire("none.test.")), b"PROXY TCP4 1", told(CLIENTS[0])[:12] + b"\x21\x41\0\0"],
    ids=["none", "version 1", "no family that is known"],
)
def test_a_proxys_connection_without_a_right_header_is_closed_counted_and_told(upstream, shield, octets):
    before, told_before = stats(shield)["proxy_protocol_invalid"], len(log_of(shield))
    with connect(shield) as (sock, stream):
        sock.sendall(octets)
        assert ended(stream)
    assert stats(shield)["proxy_protocol_invalid"] == before + 1
    assert upstream.received == []
    (event,) = until(lambda: log_of(shield)[told_before:])
    assert (event["client"], event["transport"], event["reason"]) == (PROXY, "tcp", "proxy_protocol")


def test_a_header_that_does_not_come_is_idleness(shield):
    before = stats(shield)
    with connect(shield) as (sock, stream):
        sock.sendall(told(CLIENTS[0])[:-1])
        start = time.monotonic()
        assert ended(stream)
        assert time.monotonic() - start > IDLE * 0.8
    assert stats(shield)["tcp_idle_timeouts"] == before["tcp_idle_timeouts"] + 1
    assert stats(shield)["proxy_protocol_invalid"] == before["proxy_protocol_invalid"]


def test_a_proxy_that_ends_before_its_header_does_is_let_go(shield):
    with connect(shield) as (sock, stream):
        sock.sendall(told(CLIENTS[0], tlvs=bytes(4000))[:-1])
        sock.shutdown(socket.SHUT_WR)
        stopwatch = Stopwatch()
        assert ended(stream)
        assert stopwatch.seconds() < IDLE / 2


def test_connections_are_counted_for_the_client_that_is_told(shield, name):
    def is_served(client):
        sock, stream = opened.enter_context(connect(shield))
        sock.sendall(told(client, transport=STREAM) + frame(question(name)))
        with contextlib.suppress(EOFError, ConnectionResetError):
            return bool(read(stream).answer)
        return False

    before = stats(shield)
    with contextlib.ExitStack() as opened:
        assert [is_served(CLIENTS[0]) for _ in range(4)] == [True, True, True, False]
        assert [is_served(CLIENTS[1]) for _ in range(3)] == [True, True, True]
        counted = stats(shield)
        assert counted["tcp_accepted"] == before["tcp_accepted"] + 6
        assert counted["tcp_refused"] == before["tcp_refused"] + 1
    until(lambda: stats(shield)["tcp_connections"] == 0, within=3.0)
    with contextlib.ExitStack() as opened:
        assert is_served(CLIENTS[0])


# ------------------------------------------------------------ while it runs


def reload(shield, text):
    """Give a running daemon another configuration, and wait until it has it."""
    config = shield.folder / "funkenshield.toml"
    head = config.read_text().splitlines()[:3]  # listen, upstreams, workers
    config.write_text("\n".join([*head, text]) + "\n")
    before = stats(shield)["reloads"]
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: stats(shield)["reloads"] > before, within=3.0)


def test_proxies_come_and_go_with_a_reload(upstream, tmp_path, name):
    secrets = tmp_path / "secrets"
    secrets.write_text(SECRET.hex() + "\n")
    with run_shield([upstream], toml=toml([], secrets)) as shield:
        for proxies in [], ["127.0.0.0/31", "::/0"], ["127.0.0.2"], ["127.0.0.1"], []:
            reload(shield, toml(proxies, secrets))
            trusted = proxies[:1] in (["127.0.0.0/31"], ["127.0.0.1"])
            reply = udp(shield, (told(CLIENTS[0]) if trusted else b"") + question(name))
            assert is_made_for(reply, CLIENTS[0] if trusted else PROXY)
            with connect(shield) as (sock, stream):
                sock.sendall((told(CLIENTS[1]) if trusted else b"") + frame(question(name)))
                assert is_made_for(read(stream), CLIENTS[1] if trusted else PROXY)
        assert stats(shield)["proxy_protocol_invalid"] == 0


# ------------------------------------------------------------ telling upstreams

SUBNET = dns.edns.OptionType.ECS
TELL = f"proxy_protocol_from = ['{PROXY}']\n[client_subnet]\nadd = true\n"


class Geography:
    """An upstream that answers each network of a scope with an address of its own, and says so."""

    def __init__(self, scope=24):
        self.scope = scope

    def __call__(self, query):
        told_of = subnets(query.message)
        if query.name.labels[0] == b"bare":
            return query.wire[:2] + b"\x80\x01" + bytes(8)
        if query.name.labels[0] == b"large":
            reply = answer(query, "TXT " + " ".join(['"' + "x" * 200 + '"'] * 3))
        else:
            reply = answer(query, f"A 10.9.8.{told_of[0].address.split('.')[2]}" if told_of else "A 10.9.8.255")
        if query.name.labels[0] == b"cut":
            reply.flags |= dns.flags.TC
        if told_of:
            option = dns.edns.ECSOption(told_of[0].address, told_of[0].srclen, self.scope)
            reply.use_edns(0, payload=1232, options=[option])
        return reply


def subnets(message):
    """Return the CLIENT-SUBNET options of a message."""
    return [option for option in message.options if option.otype == SUBNET]


@pytest.fixture
def geography():
    with ScriptedUpstream(Geography()) as upstream, run_shield([upstream], toml=TELL) as shield:
        yield upstream, shield


def by_udp(shield, client, wire):
    return udp(shield, (told(client) if client else local()) + wire)


def by_tcp(shield, client, wire):
    with connect(shield) as (sock, stream):
        sock.sendall((told(client, transport=STREAM) if client else local()) + frame(wire))
        return read(stream)


def place(reply):
    """Return the third octet of the network that an answer was made for; 255: of none."""
    return int(reply.answer[0][0].address.split(".")[-1])


BOTH = pytest.mark.parametrize("by", [by_udp, by_tcp])
EDNS = pytest.mark.parametrize("edns", [{}, {"use_edns": 0}, {"want_dnssec": True, "payload": 4096}])


@BOTH
@EDNS
def test_each_network_gets_its_own_answer_and_nobody_an_option_that_he_did_not_send(geography, name, by, edns):
    upstream, shield = geography
    clients = [("198.51.100.7", 100), ("198.51.101.7", 101), ("198.51.100.200", 100), ("198.51.101.1", 101)]
    for client, expected in clients:
        reply = by(shield, client, ask_wire(name, **edns))
        assert place(reply) == expected
        assert reply.options == ()
        assert reply.edns == (0 if edns else -1)
        assert bool(reply.ednsflags & dns.flags.DO) == ("want_dnssec" in edns)
    asked = [query.message for query in upstream.received]
    assert [subnets(message)[0].to_text() for message in asked] == [
        "ECS 198.51.100.0/24 scope/0",
        "ECS 198.51.101.0/24 scope/0",
    ]
    assert all(bool(message.ednsflags & dns.flags.DO) == ("want_dnssec" in edns) for message in asked)
    assert all(message.payload == 1232 for message in asked)


@BOTH
def test_a_wider_scope_serves_all_in_it(geography, name, by):
    upstream, shield = geography
    upstream.handle.scope = 16
    for client in "198.51.100.7", "198.51.7.7", "198.51.255.1":
        assert place(by(shield, client, ask_wire(name))) == 100
    assert place(by(shield, "198.52.7.1", ask_wire(name))) == 7
    assert upstream.count(name) == len(upstream.received) == 2


@BOTH
def test_of_ipv6_fewer_bits_than_a_site_has_are_told(geography, name, by):
    upstream, shield = geography
    upstream.handle = lambda query: answer(query, "A 192.0.2.9")
    assert by(shield, "2001:db8:1:2ff:3::4", ask_wire(name)).edns == -1
    assert [option.to_text() for option in subnets(upstream.received[0].message)] == ["ECS 2001:db8:1:200::/56 scope/0"]


@BOTH
@pytest.mark.parametrize("client", [None, "10.1.2.3", "fd00::1"])
def test_of_private_addresses_nothing_is_told_unless_that_is_wished(geography, name, by, client):
    upstream, shield = geography
    upstream.handle = lambda query: answer(query, "A 192.0.2.9")
    assert by(shield, client, ask_wire(name)).edns == -1
    assert [query.message.edns for query in upstream.received] == [-1]
    reload(shield, TELL + "private = true\nipv4_prefix_length = 9\nipv6_prefix_length = 8\n")
    assert by(shield, client, ask_wire(name)).edns == -1
    expected = {None: "127.0.0.0/9", "10.1.2.3": "10.0.0.0/9", "fd00::1": "fd00::/8"}[client]
    assert [option.to_text() for option in subnets(upstream.received[1].message)] == [f"ECS {expected} scope/0"]


@BOTH
@pytest.mark.parametrize(("own", "source", "scope"), [("203.0.113.0", 25, 24), ("0.0.0.0", 0, 0)])
def test_whoever_tells_of_himself_is_passed_on_and_answered_as_he_said(geography, name, by, own, source, scope):
    upstream, shield = geography
    upstream.handle.scope = scope
    option = dns.edns.ECSOption(own, source)
    for _ in "miss", "hit":
        reply = by(shield, "198.51.100.7", ask_wire(name, options=[option]))
        assert [each.to_text() for each in reply.options] == [f"ECS {own}/{source} scope/{scope}"]
    assert [each.to_text() for each in upstream.received[0].message.options] == [f"ECS {own}/{source} scope/0"]
    assert upstream.count(name) == 1


def test_an_answer_is_still_cut_for_who_sent_no_opt(geography, name):
    upstream, shield = geography
    for _ in "miss", "hit":
        reply = by_udp(shield, "198.51.100.7", ask_wire(f"large.{name}", "TXT"))
        assert reply.flags & dns.flags.TC
        assert reply.edns == -1
        assert reply.answer == []
        whole = by_tcp(shield, "198.51.100.7", ask_wire(f"large.{name}", "TXT"))
        assert len(whole.answer[0]) == 1
        assert whole.edns == -1
    assert upstream.count(f"large.{name}") == 1


@BOTH
@EDNS
def test_what_is_passed_on_as_it_came_holds_no_option_that_he_did_not_send(geography, name, by, edns):
    upstream, shield = geography
    reload(shield, TELL + "[forward]\nretry_truncated = false\n")
    for kind, rcode in ("bare", dns.rcode.FORMERR), ("cut", dns.rcode.NOERROR):
        reply = by(shield, "198.51.100.7", ask_wire(f"{kind}.{name}", **edns))
        assert reply.rcode() == rcode
        assert reply.options == ()
        assert reply.edns == (0 if edns and kind == "cut" else -1)
        assert subnets(upstream.received[-1].message)


def test_those_who_wait_together_are_answered_each_as_he_asked(geography, name):
    upstream, shield = geography
    upstream.handle = lambda query: Delayed(0.3, Geography()(query))
    own = dns.edns.ECSOption("198.51.100.0", 24)
    queries = [ask_wire(name, id=1, payload=512, use_edns=0), ask_wire(name, id=2, payload=512, options=[own])]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        for octets in queries:
            sock.sendto(told("198.51.100.7") + octets, shield.address)
        replies = {reply.id: reply for reply in (dns.message.from_wire(sock.recv(LARGEST)) for _ in queries)}
    assert replies[1].options == ()
    assert [each.to_text() for each in replies[2].options] == ["ECS 198.51.100.0/24 scope/24"]
    assert {place(reply) for reply in replies.values()} == {100}
    assert upstream.count(name) == 1


def test_nothing_is_told_once_that_is_turned_off(geography, name):
    upstream, shield = geography
    assert place(by_udp(shield, "198.51.100.7", ask_wire(name))) == 100
    reload(shield, f"proxy_protocol_from = ['{PROXY}']\n")
    for _ in "miss", "hit":
        assert place(by_udp(shield, "198.51.100.7", ask_wire(name))) == 255
    assert [len(subnets(query.message)) for query in upstream.received] == [1, 0]


def test_any_is_answered_here_without_an_opt(geography, name):
    upstream, shield = geography
    reload(shield, f"minimal_any = true\n{TELL}")
    reply = by_udp(shield, "198.51.100.7", ask_wire(name, "ANY"))
    assert reply.answer[0].rdtype == dns.rdatatype.HINFO
    assert reply.edns == -1
    assert upstream.received == []
