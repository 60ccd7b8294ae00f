"""Know that clients that others wrote are served over TLS as over TCP (RFC 7858, 8310).

They are kdig, OpenSSL, dnspython and Python's ssl.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections import Counter

import dns.edns
import dns.message
import dns.query
import dns.rcode
import dns.update
import pytest
from attacks.test_confused_deputy import notify, update
from cryptography.hazmat.primitives.asymmetric import rsa
from support import proxied, quick
from support.certificates import HOST
from support.client import ask, frame
from support.control import stats
from support.encrypted import (
    TLS12,
    TLS13,
    ByHand,
    encrypted,
    ends,
    has_ended,
    read_wire,
    reload,
    s_client,
    shown,
    tally,
)
from support.links import Peer
from support.nameservers import nsd, program
from support.rig import LARGE, by_name, data, names, placed, rcode
from support.tls_fixtures import FIXTURES
from support.until import until
from support.wires import ask_wire

IDLE = 3.0  # seconds
BLOCK = 468  # octets, the unit of padding (RFC 8467 4.1)
PADDING, KEEPALIVE = 12, 11
ALLOW = {option: ["127.0.0.0/8"] for option in ("transfers", "updates", "notifies")}
versions = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
authority, door, name, _, shield, upstream = FIXTURES


@pytest.fixture(scope="module")
def running(authority):
    first = authority.issue(HOST)
    others = [authority.issue("other.test"), authority.issue("*.wild.test")]
    others.append(authority.issue("rsa.test", rsa.generate_private_key(65537, 2048)))
    with encrypted(
        by_name,
        authority=authority,
        certificates=[shown(first, authority.vouch(first)), *others],
        forward={"timeout": 0.5, "deadline": 1.0, "attempts": 1, "allow": ALLOW},
        tcp={"idle_timeout": IDLE, "max_in_flight": 20},
        tls={"handshakes_per_second_per_client": 0},
    ) as stage:
        yield stage


# ------------------------------------------------------------ kdig


def kdig(door, *words, name=HOST):
    """Return what kdig prints; it is told to believe no other name than this, of the authority's."""
    command = [program("kdig"), f"@{door.address.host}", "-p", str(door.address.port), "+retry=0", "+time=5"]
    command += [f"+tls-ca={door.authority.file}", f"+tls-hostname={name}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


def test_kdig_is_answered_with_padding(upstream, door, name):
    for _ in "cold", "warm":
        printed = kdig(door, name, "A")
        assert "status: NOERROR" in printed
        assert re.search(r"^;; TLS session \(TLS1\.3\)", printed, re.M)
        assert re.search(rf"^{re.escape(name)}\s+\d+\s+IN\s+A\s+192\.0\.2\.1$", printed, re.M)
        assert re.search(r"^;; PADDING: \d+ B", printed, re.M)
        (size,) = re.findall(r"^;; Received (\d+) B", printed, re.M)
        assert int(size) % BLOCK == 0
    assert upstream.count(name) == len(upstream.received) == 1
    assert not any(option.otype == PADDING for query in upstream.received for option in query.message.options)


def test_kdig_asks_several_over_one_connection(upstream, shield, door, name):
    before = tally(shield)
    asked = [f"{n}.{name}" for n in range(5)]
    printed = kdig(door, "+keepopen", *(word for each in asked for word in (each, "A")))
    assert printed.count("status: NOERROR") == 5
    assert [upstream.count(each) for each in asked] == [1] * 5
    assert tally(shield) - before == Counter({"full": 1, "1.3": 1})


def test_kdig_believes_no_other_name(upstream, door, name):
    assert "status:" not in kdig(door, name, "A", name="stranger.test")
    assert upstream.received == []


def test_kdig_gets_a_whole_zone_from_a_real_nameserver(authority):
    with (
        nsd() as nameserver,
        encrypted(
            placed(nameserver),
            authority=authority,
            certificates=[authority.issue("zone.test")],
            forward={"allow": {"transfers": ["127.0.0.0/8"]}},
        ) as (_, door, _),
    ):
        host, port = nameserver.address
        direct = [program("kdig"), f"@{host}", "-p", str(port), "+nocomments", "AXFR", "shield.test"]
        expected = subprocess.run(direct, capture_output=True, text=True, timeout=30).stdout
        printed = kdig(door, "+nocomments", "AXFR", "shield.test", name="zone.test")
        assert records(printed) == records(expected)
        assert len(records(printed)) > 10


def records(printed):
    return sorted(line for line in printed.splitlines() if line and not line.startswith(";"))


# ------------------------------------------------------------ openssl s_client


def test_openssl_trusts_the_certificate_and_speaks_dot(door):
    printed = s_client(door, "-servername", HOST, "-alpn", "dot")
    assert "Verification: OK" in printed
    assert "ALPN protocol: dot" in printed
    assert re.search("New, TLSv1.3, Cipher is TLS_", printed)


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_both_versions_are_spoken(shield, door, option, version):
    before = tally(shield)
    assert f"New, {version}, Cipher is " in s_client(door, "-alpn", "dot", option)
    assert tally(shield) - before == Counter({"full": 1, version.removeprefix("TLSv"): 1})


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_older_versions_are_refused_by_an_alert(shield, door, option):
    before = tally(shield)
    printed = s_client(door, option, "-cipher", "ALL:@SECLEVEL=0")
    assert "alert protocol version" in printed
    assert "New, (NONE)" in printed
    assert tally(shield) - before == Counter({"failed": 1, "version": 1})


def test_a_cipher_that_nobody_should_use_is_refused(shield, door):
    before = tally(shield)
    printed = s_client(door, "-tls1_2", "-cipher", "NULL:@SECLEVEL=0")
    assert "alert handshake failure" in printed
    assert tally(shield) - before == Counter({"failed": 1, "cipher": 1})


@pytest.mark.parametrize(
    ("asked", "subject"),
    [
        (HOST, HOST), ("other.test", "other.test"), ("OTHER.test", "other.test"), ("rsa.test", "rsa.test"),
        ("a.wild.test", "*.wild.test"), ("a.b.wild.test", HOST), ("wild.test", HOST), ("unknown.test", HOST),
        (None, HOST),
    ],
)  # fmt: skip
def test_the_name_that_is_asked_for_picks_the_certificate(door, asked, subject):
    """RFC 6066 3: else the first; only the leftmost label is a wildcard's, and it is one label (RFC 6125 6.4.3)."""
    for version in "-tls1_2", "-tls1_3":
        printed = s_client(door, version, *(("-servername", asked) if asked else ("-noservername",)))
        assert re.search(rf"^subject=CN ?= ?{re.escape(subject)}$", printed, re.M)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("dot", "dot"), ("h2,dot", "dot"), (None, None), ("h2", "refused"), ("http/1.1,h2", "refused")],
)
def test_dot_is_chosen_where_it_is_offered(door, offered, chosen):
    """Who offers protocols, but not this one, is told so (RFC 7301 3.2)."""
    printed = s_client(door, *(("-alpn", offered) if offered else ()))
    if chosen == "refused":
        assert "alert no application protocol" in printed
    else:
        assert (f"ALPN protocol: {chosen}" if chosen else "No ALPN negotiated") in printed


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_ocsp_response_is_stapled_where_it_is_asked_for(door, version):
    assert "OCSP Response Status: successful" in s_client(door, "-status", version, "-servername", HOST)
    for asked in ("-status", "-servername", "other.test"), ("-servername", HOST):
        printed = s_client(door, version, *asked)
        assert "subject=" in printed
        assert "OCSP Response Status" not in printed


def test_what_is_set_of_versions_and_ciphers_counts(authority):
    listener = {"min_version": "1.3", "ciphersuites": "TLS_AES_128_GCM_SHA256"}
    credentials = authority.issue("strict.test")
    with encrypted(by_name, authority=authority, certificates=[credentials], listener=listener) as (_, door, _):
        assert "alert protocol version" in s_client(door, "-tls1_2")
        assert "Cipher is TLS_AES_128_GCM_SHA256" in s_client(door)
        printed = s_client(door, "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")
        assert "alert handshake failure" in printed
    with encrypted(
        by_name,
        authority=authority,
        certificates=[credentials],
        listener={"ciphers": "ECDHE-ECDSA-CHACHA20-POLY1305"},
    ) as (_, door, _):
        assert "Cipher is ECDHE-ECDSA-CHACHA20-POLY1305" in s_client(door, "-tls1_2")
        assert "alert handshake failure" in s_client(door, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256")


# ------------------------------------------------------------ dnspython, and Python's ssl


def test_dnspython_is_answered_by_the_one_it_meant(upstream, door, name):
    query = dns.message.make_query(name, "A")
    for _ in "cold", "warm":
        reply = dns.query.tls(
            query, door.address.host, 5, door.address.port, ssl_context=door.context(), server_hostname=HOST
        )
        assert (rcode(reply), data(reply)) == ("NOERROR", ["192.0.2.1"])
    with pytest.raises(ssl.SSLCertVerificationError):
        dns.query.tls(
            query, door.address.host, 5, door.address.port, ssl_context=door.context(), server_hostname="stranger.test"
        )
    assert upstream.count(name) == len(upstream.received) == 1


@versions
def test_many_queries_in_one_write_are_all_answered(upstream, door, name, version):
    with door.connect(context=door.context(newest=version)) as (sock, stream):
        assert sock.version() == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
        sock.sendall(b"".join(frame(ask_wire(f"{n}.{name}", id=n)) for n in range(200)))
        replies = {reply.id: reply for reply in (dns.message.from_wire(read_wire(stream)) for _ in range(200))}
    assert sorted(replies) == list(range(200))
    for n, reply in replies.items():
        assert reply.question[0].name.to_text() == f"{n}.{name}"
        assert data(reply) == ["192.0.2.1"]
        assert upstream.count(f"{n}.{name}", "A") == 1
    assert len(upstream.received) == 200


def test_a_slow_answer_is_overtaken_by_hits_and_misses(upstream, door, name):
    hit = f"hit.{name}"
    door.ask(ask_wire(hit))
    asked = [f"slow.{name}", *(hit if n % 2 else f"{n}.{name}" for n in range(1, 20))]
    with door.connect() as (sock, stream):
        sock.sendall(b"".join(frame(ask_wire(each, id=n)) for n, each in enumerate(asked)))
        ids = [int.from_bytes(read_wire(stream)[:2]) for _ in asked]
    assert sorted(ids[:-1]) == list(range(1, 20))
    assert ids[-1] == 0
    assert [upstream.count(each) for each in asked] == [1] * 20


@pytest.mark.parametrize("step", [1, 2, 7])
def test_queries_may_arrive_in_records_of_any_size(upstream, door, name, step):
    octets = frame(ask_wire(name, id=1)) + frame(ask_wire(name.upper(), id=2))
    with door.connect() as (sock, stream):
        for start in range(0, len(octets), step):
            sock.sendall(octets[start : start + step])
        replies = [dns.message.from_wire(read_wire(stream)) for _ in range(2)]
    # The second may find the answer before the first, which waited for it, has its own.
    assert sorted((reply.id, reply.question[0].name.to_text()) for reply in replies) == [(1, name), (2, name.upper())]
    assert upstream.count(name) == 1


@pytest.mark.parametrize("step", [1, 5, 100])
def test_a_handshake_may_arrive_in_pieces(upstream, door, name, step):
    with door.plain() as sock:
        client = ByHand(sock, door.context())
        octets = client.hello()
        for start in range(0, len(octets), step):
            sock.sendall(octets[start : start + step])
        client.shake_hands()
        client.send(frame(ask_wire(name, id=7)))
        assert client.message()[:2] == b"\0\7"
    assert upstream.count(name) == 1


def test_answers_larger_than_a_record_come_whole(upstream, door, name):
    large = f"large.{name}"
    with door.connect() as (sock, stream):
        sock.sendall(frame(ask_wire(large, "TYPE65280")) * 20)
        for _ in range(20):
            assert len(read_wire(stream)) > LARGE
    assert upstream.count(large) == 1


@pytest.mark.parametrize("kind", ["hit", "miss", "slow"])
@versions
def test_who_says_close_notify_gets_all_answers_first(upstream, door, name, kind, version):
    name = f"slow.{name}" if kind == "slow" else name
    if kind == "hit":
        door.ask(ask_wire(name))
    with door.plain() as sock:
        client = ByHand(sock, door.context(newest=version))
        client.shake_hands()
        client.send(b"".join(frame(ask_wire(each, id=n)) for n, each in enumerate((name, f"a.{name}"))))
        client.finish()
        assert {client.message()[:2], client.message()[:2]} == {b"\0\0", b"\0\1"}
        assert client.read(1) == b""
        sock.settimeout(IDLE / 2)
        assert sock.recv(1) == b""
    assert (upstream.count(name), upstream.count(f"a.{name}")) == (1, 1)


def test_who_half_closes_the_connection_below_gets_all_answers_first(upstream, door, name):
    with door.connect() as (sock, stream):
        sock.sendall(frame(ask_wire(f"slow.{name}", id=1)) + frame(ask_wire(name, id=2)))
        socket.socket.shutdown(sock, socket.SHUT_WR)  # an SSLSocket would forget that it is one
        assert [read_wire(stream)[:2] for _ in range(2)] == [b"\0\2", b"\0\1"]
        assert has_ended(stream)
    assert (upstream.count(name), upstream.count(f"slow.{name}")) == (1, 1)


@versions
def test_an_idle_connection_is_ended_by_close_notify(door, version):
    """RFC 8446 6.1: without, the client could not tell the end from an attack."""
    with door.connect(context=door.context(newest=version), timeout=IDLE * 3) as (_, stream):
        assert stream.read(1) == b""  # without close_notify, SSLEOFError


# ------------------------------------------------------------ as over TCP


def test_notify_and_update_are_passed_on(upstream, door):
    for made in notify(), update():
        reply = dns.message.from_wire(door.ask(made.to_wire()))
        assert (reply.id, reply.opcode(), rcode(reply)) == (made.id, made.opcode(), "NOERROR")
    assert len(upstream.received) == 2


@pytest.mark.parametrize("made", [notify, update, lambda: dns.message.make_query("a.test.", "AXFR", flags=0)])
def test_what_is_not_allowed_is_refused_as_over_tcp(authority, made):
    with encrypted(by_name, authority=authority, certificates=[authority.issue(HOST)]) as (shield, door, upstream):
        over_tcp = shield.tcp_wire(made().to_wire())
        assert dns.message.from_wire(over_tcp).rcode() == dns.rcode.REFUSED
        assert door.ask(made().to_wire())[2:] == over_tcp[2:]
        assert upstream.received == []


MESSAGES = 40  # of a zone, each of 60,000 octets


def test_a_transfer_comes_whole_to_who_reads_slowly(authority):
    def zone(link):
        asked = link.query()
        soa = dns.message.make_response(dns.message.from_wire(asked))
        soa.answer.append(dns.rrset.from_text("zone.test.", 60, "IN", "SOA", ". . 5 0 0 0 0"))
        link.send(frame(soa.to_wire()))
        for n in range(MESSAGES):
            link.send(frame(quick.answer(asked, quick.sealed("zone", n, 59_000), rdtype=65280)))
        link.send(frame(soa.to_wire()))
        link.query()

    with (
        Peer(zone) as peer,
        encrypted(
            placed(peer),
            authority=authority,
            certificates=[authority.issue(HOST)],
            forward={"timeout": 30.0, "deadline": 30.0, "allow": ALLOW},
        ) as (_, door, _),
        door.connect(receive_buffer=4096) as (sock, stream),
    ):
        wire = dns.message.make_query("zone.test.", "AXFR", flags=0).to_wire()
        sock.sendall(frame(wire))
        came = []
        for _ in range(MESSAGES + 2):
            came.append(read_wire(stream))
            time.sleep(0.01)
        assert {message[:2] for message in came} == {wire[:2]}
        versions = [quick.unseal("zone", quick.payload_of(wire, each)) for each in came[1:-1]]
        assert versions == list(range(MESSAGES))
        assert len(peer.queries) == 1


def told(wire, code):
    """Return the octets of each option of this kind."""
    return [option.to_wire() for option in dns.message.from_wire(wire).options if option.otype == code]


def test_who_asks_is_told_how_long_a_connection_may_be_idle(upstream, door, name):
    """RFC 7828, 7858 3.4."""
    asks = [dns.edns.GenericOption(KEEPALIVE, b"")]
    with door.connect() as (sock, stream):
        for options, expected in (asks, [int(IDLE * 10).to_bytes(2)]), ((), []), (asks, [int(IDLE * 10).to_bytes(2)]):
            sock.sendall(frame(ask_wire(name, use_edns=0, options=options)))
            assert told(read_wire(stream), KEEPALIVE) == expected
    assert upstream.count(name) == 1


FUNCTION = """
from funkenshield.rules import *

@shield.rule(suffix("told.test"))
def told(query):
    return query.respond(f'0 TXT "{query.transport}" "{query.tls_server_name}"')
"""


@pytest.fixture(scope="module")
def ruled(authority, tmp_path_factory):
    file = tmp_path_factory.mktemp("rules") / "rules.py"
    file.write_text(FUNCTION)
    refused = [
        {"transport": "tls", "suffix": "no-tls.test"},
        {"transport": "tcp", "suffix": "no-tcp.test"},
        {"tls_server_name": ["Family.test", "*.staff.test"], "suffix": "named.test"},
        {"not": {"tls_server_name": "guests.test"}, "suffix": "guests.test"},
    ]
    rules = [{"match": match, "action": "refused"} for match in refused]
    with encrypted(
        by_name, authority=authority, certificates=[authority.issue(HOST)], rules=rules, rules_file=str(file)
    ) as stage:
        yield stage


def test_rules_know_the_transport(ruled, name):
    shield, door, upstream = ruled
    for transport in "tls", "tcp":
        wire = ask_wire(f"{name}no-{transport}.test")
        came = {"tls": door.ask(wire), "tcp": shield.tcp_wire(wire), "udp": shield.udp_wire(wire)}
        codes = {way: rcode(dns.message.from_wire(each)) for way, each in came.items()}
        assert codes == dict.fromkeys(("tls", "tcp", "udp"), "NOERROR") | {transport: "REFUSED"}
        assert upstream.count(f"{name}no-{transport}.test") == 1


def by_server_name(door, asked, wire):
    """Return the answer to a client that asks for a server of this name, whatever its certificate says."""
    context = door.context()
    context.check_hostname = False
    return dns.message.from_wire(door.ask(wire, context=context, name=asked))


@pytest.mark.parametrize(
    ("asked", "is_listed"),
    [
        ("family.test", True), ("FAMILY.test", True), ("a.staff.test", True), ("a.b.staff.test", True),
        ("staff.test", False), ("a.family.test", False), ("xstaff.test", False), (HOST, False), (None, False),
    ],
)  # fmt: skip
def test_rules_know_the_name_that_is_asked_for(ruled, name, asked, is_listed):
    shield, door, upstream = ruled
    wire = ask_wire(f"{name}named.test")
    assert rcode(by_server_name(door, asked, wire)) == ("REFUSED" if is_listed else "NOERROR")
    assert rcode(dns.message.from_wire(shield.tcp_wire(wire))) == "NOERROR", "without TLS, there is no name"
    assert upstream.count(f"{name}named.test") == 1


def test_a_rule_may_want_the_name(ruled, name):
    shield, door, _ = ruled
    wire = ask_wire(f"{name}guests.test")
    assert rcode(by_server_name(door, "guests.test", wire)) == "NOERROR"
    for reply in door.ask(wire), shield.udp_wire(wire):
        assert rcode(dns.message.from_wire(reply)) == "REFUSED"


def test_functions_know_the_transport_and_the_name(ruled):
    shield, door, _ = ruled
    for n, asked in enumerate(("a.test", "UPPER.test", "x" * 63 + ".test", None)):
        (rdata,) = data(by_server_name(door, asked, ask_wire(f"n{n}.told.test", "TXT")))
        assert rdata == f'"tls" "{(asked or "").lower()}"'
    assert data(ask("b.told.test", "TXT", server=shield, tcp=True)) == ['"tcp" ""']
    assert data(ask("c.told.test", "TXT", server=shield)) == ['"udp" ""']


def test_a_connection_goes_by_the_lists_of_names_that_are_in_force(ruled, name):
    shield, door, _ = ruled
    context, wire = door.context(), ask_wire(f"{name}named.test")
    context.check_hostname = False
    with door.connect(context=context, name="family.test") as (sock, stream):
        for change, expected in (
            (None, "REFUSED"),
            (('"Family.test"', '"others.test"'), "NOERROR"),
            (('"others.test"', '"Family.test"'), "REFUSED"),
        ):
            if change:
                reload(shield, change)
            for _ in range(2):
                sock.sendall(frame(wire))
                assert rcode(dns.message.from_wire(read_wire(stream))) == expected


@pytest.mark.parametrize("pieces", [1, 7, 30, 1000])
def test_a_front_proxy_says_whose_connection_it_is_before_tls(authority, pieces):
    refused = {"match": {"source": "192.0.2.66"}, "action": "refused"}
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        proxy_protocol_from=["127.0.0.1"],
        rules=[refused],
    ) as (shield, door, upstream):
        for source, expected in ("192.0.2.1", "NOERROR"), ("192.0.2.66", "REFUSED"), ("2001:db8::1", "NOERROR"):
            with door.plain() as sock:
                client = ByHand(sock, door.context())
                octets = proxied.told(source, transport=proxied.STREAM) + client.hello()
                for start in range(0, len(octets), pieces):
                    sock.sendall(octets[start : start + pieces])
                client.shake_hands()
                client.send(frame(ask_wire(names(1)[0])))
                assert rcode(dns.message.from_wire(client.message())) == expected
        assert len(upstream.received) == 2
        with door.plain() as sock:
            sock.sendall(ByHand(sock, door.context()).hello())
            assert ends(sock), "who must say whose it is, and does not"
        assert stats(shield)["proxy_protocol_invalid"] == 1


def test_the_limit_of_handshakes_is_for_whom_a_front_proxy_tells(authority):
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        proxy_protocol_from=["127.0.0.1"],
        tls={"handshakes_per_second_per_client": 1},
    ) as (shield, door, _):
        for source, served in ("192.0.2.1", True), ("192.0.2.1", False), ("192.0.2.2", True):
            with door.plain() as sock:
                client = ByHand(sock, door.context())
                sock.sendall(proxied.told(source, transport=proxied.STREAM) + client.hello())
                if served:
                    client.shake_hands()
                else:
                    assert ends(sock)
        assert tally(shield)["limited"] == 1


# ------------------------------------------------------------ discovery (RFC 9461, 9462)


def test_clients_find_the_way_to_the_listener(authority):
    certificates = [authority.issue("*.wild.test"), authority.issue(HOST)]
    with encrypted(by_name, authority=authority, certificates=certificates[::-1]) as (shield, door, upstream):
        expected = [f'1 {HOST}. alpn="dot" port="{door.address.port}"']
        for tcp in False, True:
            assert data(ask("_dns.resolver.arpa.", "SVCB", server=shield, tcp=tcp)) == expected
        assert data(dns.message.from_wire(door.ask(ask_wire("_dns.resolver.arpa.", "SVCB")))) == expected
        for name, rdtype in ("_dns.resolver.arpa.", "A"), ("resolver.arpa.", "SVCB"), ("a.resolver.arpa.", "A"):
            assert rcode(reply := ask(name, rdtype, server=shield)) == "NOERROR"
            assert reply.answer == []
        assert upstream.received == []


# ------------------------------------------------------------ padding (RFC 7830, 8467)

PADDED = [dns.edns.GenericOption(PADDING, bytes(7))]


@pytest.mark.parametrize("kind", ["miss", "hit", "passed on", "failure", "refused", "large", "with all options"])
def test_who_pads_gets_answers_of_a_multiple_of_the_block(upstream, door, name, kind):
    name = {"failure": f"silent.{name}", "large": f"large.{name}"}.get(kind, name)
    rdtype = {"refused": "IXFR", "large": "TYPE65280"}.get(kind, "A")
    more = {"passed on": [dns.edns.NSIDOption(b"")]}.get(kind, [])
    if kind == "with all options":
        more = [dns.edns.GenericOption(10, bytes(8)), dns.edns.GenericOption(KEEPALIVE, b"")]
    if kind == "hit":
        door.ask(ask_wire(name, rdtype, use_edns=0))
    padded = door.ask(ask_wire(name, rdtype, use_edns=0, options=[*more, *PADDED]))
    assert len(padded) % BLOCK == 0
    (zeros,) = told(padded, PADDING)
    assert not any(zeros)
    assert len(zeros) < BLOCK
    bare = door.ask(ask_wire(name, rdtype, use_edns=0, options=more))
    assert told(bare, PADDING) == []
    assert len(bare) + 4 + len(zeros) == len(padded)
    assert not any(option.otype == PADDING for query in upstream.received for option in query.message.options)


def test_padding_is_for_who_asks_for_it_over_tls_alone(shield, door, name):
    padded = ask_wire(name, use_edns=0, options=PADDED)
    assert told(shield.tcp_wire(padded), PADDING) == []
    assert told(shield.udp_wire(padded), PADDING) == []
    assert len(door.ask(padded)) % BLOCK == 0
    without = door.ask(ask_wire(name))
    assert dns.message.from_wire(without).edns == -1
    assert without[2:] == shield.tcp_wire(ask_wire(name))[2:]


def test_every_answer_of_a_connection_is_padded_as_its_query_asks(upstream, door, name):
    """Whether it is cold or warm, first or second; a query of another length gets an answer of the same block."""
    sizes = set()
    with door.connect() as (sock, stream):
        for n in range(10):
            for each in f"{n}.{name}", f"{'x' * (n + 1)}.{name}":
                for _ in range(2):
                    sock.sendall(frame(ask_wire(each, use_edns=0, options=PADDED)))
                    sizes.add(len(read_wire(stream)))
    assert sizes == {BLOCK}


# ------------------------------------------------------------ what is counted


def test_connections_and_queries_over_tls_are_counted(shield, door, name):
    until(lambda: stats(shield)["tls_connections"] == 0)
    before = stats(shield)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(door.connect()) for _ in range(3)]
        for sock, stream in held:
            for _ in range(2):
                sock.sendall(frame(ask_wire(name)))
                read_wire(stream)
        assert ask(name, server=shield, tcp=True).answer
        now = stats(shield)
        assert now["tls_connections"] == 3
        transports = Counter(now["queries_by_transport"]) - Counter(before["queries_by_transport"])
        assert transports == Counter({"tls": 6, "tcp": 1})
        messages = Counter(now["listener_messages"]) - Counter(before["listener_messages"])
        assert messages == Counter({str(door.address): 6, str(shield.address): 1})
        for transport, count in ("tls", 6), ("tcp", 1), ("udp", 0), ("https", 0):
            codes = (each["responses"][transport]["NOERROR"] for each in (now, before))
            assert next(codes) - next(codes) == count
    until(lambda: stats(shield)["tls_connections"] == 0)
