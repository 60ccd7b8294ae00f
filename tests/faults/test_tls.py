"""Know that over TLS only the upstream that was meant is told anything, and that one which fails costs no answer."""

import signal
import ssl

import pytest
from support.certificates import Authority, self_signed
from support.client import frame
from support.control import stats
from support.links import Peer
from support.rig import (
    DEADLINE,
    HASTY,
    NOERROR,
    SERVFAIL,
    SOON,
    answerers,
    ask_each,
    behind,
    counters,
    good,
    names,
    numbered,
    placed,
    rcodes,
)
from support.server import Received
from support.stopwatch import Stopwatch
from support.until import until

HOST = "dns.test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("strangers"), "stranger")


def answering(number):
    """Return a script of a connection that answers each query as `numbered` does."""

    def script(link):
        while query := link.query():
            link.send(frame(numbered(number)(Received(query, "tcp", link.source))))

    return script


def meant(authority, peer, **tls):
    """Return an upstream that must be HOST by this authority, unless something else is said."""
    return placed(peer, transport="tls", tls={"server_name": HOST, "ca_file": str(authority.file)} | tls)


def assert_served(stage, peer, count=20):
    """Assert that clients are answered, and that the upstream was asked once for each name, over TLS."""
    shield, upstream = stage
    assert answerers(ask_each(shield, names(count))) == {1: count}
    assert len(peer.queries) == count
    assert {link.tls.protocol for link in peer.links} == {"dot"}
    assert counters(shield, upstream)["responses"] == count


def assert_told_nothing(stage, peer):
    """Assert that clients are told of the failure in time, and the upstream nothing."""
    shield, _ = stage
    stopwatch = Stopwatch()
    assert rcodes(ask_each(shield, names(5))) == {SERVFAIL: 5}
    assert stopwatch.seconds() < DEADLINE + 0.7
    assert peer.links
    assert peer.queries == []


# ------------------------------------------------------------ who is meant


def test_the_right_name_is_served_over_kept_connections(authority):
    with (
        Peer(answering(1), context=authority.issue(HOST).server()) as peer,
        behind(meant(authority, peer)) as stage,
    ):
        assert_served(stage, peer, 100)
        assert len(peer.links) <= 8
        assert set(peer.names) == {HOST}


def test_a_client_over_tcp_is_served_by_the_same(authority):
    with Peer(answering(1), context=authority.issue(HOST).server()) as peer, behind(meant(authority, peer)) as stage:
        assert answerers(ask_each(stage[0], names(20), tcp=True)) == {1: 20}
        assert len(peer.queries) == 20


@pytest.mark.parametrize("mistake", ["another name", "another authority", "self-signed"])
def test_who_cannot_prove_its_name_is_told_nothing(authority, stranger, mistake, tmp_path):
    credentials = {
        "another name": lambda: authority.issue("other.test"),
        "another authority": lambda: stranger.issue(HOST),
        "self-signed": lambda: self_signed(tmp_path, HOST),
    }[mistake]()
    with (
        Peer(answering(66), context=credentials.server()) as peer,
        behind(meant(authority, peer), forward=HASTY) as stage,
    ):
        assert_told_nothing(stage, peer)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "self-signed"])
def test_a_pin_alone_is_enough(authority, signed, tmp_path):
    credentials = authority.issue("whoever.test") if signed else self_signed(tmp_path, "whoever.test")
    tls = {"pin_sha256": [self_signed(tmp_path, "spare.test").pin, credentials.pin]}
    with (
        Peer(answering(1), context=credentials.server()) as peer,
        behind(placed(peer, transport="tls", tls=tls)) as stage,
    ):
        assert_served(stage, peer)


def test_with_another_key_than_the_pinned_a_right_name_is_told_nothing(authority, tmp_path):
    pins = [self_signed(tmp_path, HOST).pin]
    with (
        Peer(answering(66), context=authority.issue(HOST).server()) as peer,
        behind(meant(authority, peer, pin_sha256=pins), forward=HASTY) as stage,
    ):
        assert_told_nothing(stage, peer)


def test_opportunistic_takes_whoever_is_there(tmp_path):
    with (
        Peer(answering(1), context=self_signed(tmp_path, "whoever.test").server()) as peer,
        behind(placed(peer, transport="tls", tls={"profile": "opportunistic"})) as stage,
    ):
        assert_served(stage, peer)


# ------------------------------------------------------------ what fails


def test_who_does_not_speak_tls_never_sees_a_query(authority):
    seen = []

    def listening(link):
        seen.append(link.record())
        link.send(b"\0\x0c" + bytes(12))

    with Peer(listening) as peer, behind(meant(authority, peer), forward=HASTY) as stage:
        (name,) = names(1)
        assert rcodes(ask_each(stage[0], [name])) == {SERVFAIL: 1}
        assert seen
        assert not any(name.split(".")[0].encode() in octets for octets in seen)


def hang_up(link):
    """Say nothing, and end the connection."""


def stall(link):
    link.read(1 << 16)  # until the client gives up


def answer_once(link):
    link.send(frame(good(Received(link.query(), "tcp", link.source))))


def swallow(link):
    while link.query():
        pass


@pytest.mark.parametrize(
    ("script", "encrypted"),
    [(hang_up, False), (stall, False), (hang_up, True), (swallow, True)],
    ids=["hangs up before the handshake", "stalls the handshake", "hangs up after it", "says nothing"],
)
def test_one_of_two_fails_and_nobody_else_does(authority, script, encrypted):
    context = authority.issue(HOST).server() if encrypted else None
    with (
        Peer(script, context=context) as bad,
        Peer(answering(1), context=authority.issue(HOST).server()) as well,
        behind(meant(authority, bad), meant(authority, well), forward=SOON) as (shield, *_),
    ):
        assert answerers(ask_each(shield, names(60))) == {1: 60}
        assert len(well.queries) == 60
        assert bad.links


def test_a_forged_certificate_on_one_of_two_costs_no_answer(authority, stranger):
    with (
        Peer(answering(66), context=stranger.issue(HOST).server()) as forged,
        Peer(answering(1), context=authority.issue(HOST).server()) as well,
        behind(meant(authority, forged), meant(authority, well), forward=SOON) as (shield, *_),
    ):
        assert answerers(ask_each(shield, names(60))) == {1: 60}
        assert forged.queries == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_who_closes_after_each_answer_is_asked_anew_each_time(authority, version):
    with (
        Peer(answer_once, context=authority.issue(HOST).server(version)) as peer,
        behind(meant(authority, peer)) as (shield, _),
    ):
        assert [rcodes(ask_each(shield, [name])) for name in names(10)] == [{NOERROR: 1}] * 10
        assert len(peer.queries) >= 10
        assert any(link.tls.resumed for link in peer.links if link.tls)


def test_authorities_count_by_what_is_in_their_file_and_nonsense_changes_nothing(authority, stranger, tmp_path):
    file = tmp_path / "authorities.pem"
    file.write_bytes(authority.file.read_bytes())
    tls = {"server_name": HOST, "ca_file": str(file)}
    with (
        Peer(answering(1), context=stranger.issue(HOST).server()) as peer,
        behind(placed(peer, transport="tls", tls=tls)) as (shield, _),
    ):

        def reload(told):
            shield.process.send_signal(signal.SIGHUP)
            until(lambda: shield.log.count(told) == 1 if isinstance(told, str) else stats(shield)["reloads"] == told)

        assert rcodes(ask_each(shield, names(3))) == {SERVFAIL: 3}
        file.write_bytes(stranger.file.read_bytes())
        reload(1)
        assert answerers(ask_each(shield, names(3))) == {1: 3}
        file.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        called = f"tls://{peer.address}#{HOST}"
        reload(f"upstream {called}: tls.ca_file: {file}: no certificates in PEM format")
        assert answerers(ask_each(shield, names(3))) == {1: 3}
        assert stats(shield)["reloads"] == 1
        assert len(peer.queries) == 6
