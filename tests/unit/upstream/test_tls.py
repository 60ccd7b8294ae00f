"""Show which upstream is trusted over TLS, what a connection shows of itself, and when a session goes on."""

import asyncio
import secrets
import ssl
import time

import pytest
from support.certificates import Authority, odd, self_signed
from support.links import Peer

from funkenshield.config import Config
from funkenshield.errors import ConfigError
from funkenshield.upstream.streams import Connections, UpstreamError
from unit.upstream.stream_helpers import (
    FIRST,
    QUESTIONS,
    ask,
    assert_fails,
    ended,
    listen,
    over_tls,
    questions,
)


@pytest.mark.parametrize("name", ["ns.test", "NS.test."])
def test_an_upstream_whose_certificate_is_for_its_name_is_asked(run, authority, host, name):
    with Peer(context=host.server()) as peer, over_tls(peer, server_name=name, ca_file=str(authority.file)) as shared:
        assert run(ask(shared)) == 0
    assert peer.links[0].tls == ("TLSv1.3", "dot", False)
    assert peer.names[0].lower() == "ns.test"
    assert questions(peer.queries) == questions([FIRST])


def test_a_name_may_be_an_address(run, authority):
    context = authority.issue("127.0.0.1").server()
    with Peer(context=context) as peer, over_tls(peer, server_name="127.0.0.1", ca_file=str(authority.file)) as shared:
        assert run(ask(shared)) == 0
    assert peer.names == [None]


def test_an_upstream_that_is_another_gets_no_query(run, tmp_path, authority, host, caplog):
    trusted = str(authority.file)
    other = Authority(tmp_path, "other")
    pin = self_signed(tmp_path, "ns.test").pin
    for tls, why in (
        ({"server_name": "ns.example", "ca_file": trusted}, "certificate is not for ns.example"),
        ({"server_name": "192.0.2.1", "ca_file": trusted}, r"certificate is not for 192\.0\.2\.1"),
        (
            {"server_name": "ns.test", "ca_file": str(other.file)},
            "certificate is not trusted: unable to get local issuer",
        ),
        ({"server_name": "ns.test"}, "certificate is not trusted: unable to get local issuer"),
        ({"pin_sha256": (pin,)}, "public key matches none of tls.pin_sha256"),
        (
            {"server_name": "ns.test", "ca_file": trusted, "pin_sha256": (pin,)},
            "public key matches none of tls.pin_sha256",
        ),
        (
            {"server_name": "ns.example", "ca_file": trusted, "pin_sha256": (host.pin,)},
            "certificate is not for ns.example",
        ),
    ):
        caplog.clear()
        with Peer(context=host.server()) as peer, over_tls(peer, **tls) as shared:
            assert_fails(run, ask(shared), why)
            assert_fails(run, anext(shared.transfer(FIRST, 5, first=5)), why)
        assert len(peer.links) == 2
        assert peer.queries == []
        assert (shared.opened, shared.failed, len(caplog.messages)) == (0, 2, 1)


def test_what_an_upstream_says_before_it_was_verified_is_heard_by_nobody(run, tmp_path, host, monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _count: 0)
    pin = self_signed(tmp_path, "ns.test").pin
    with (
        Peer(lambda link: link.answer(FIRST), context=host.server()) as peer,
        over_tls(peer, pin_sha256=(pin,)) as shared,
    ):
        assert_fails(run, ask(shared), "matches none of tls.pin_sha256")
    assert peer.queries == []


@pytest.mark.parametrize("also", [{}, {"server_name": "ns.test"}], ids=["pin", "name and pin"])
def test_one_of_the_pins_is_enough(run, tmp_path, authority, host, also):
    pins = (self_signed(tmp_path, "ns.test").pin, host.pin)
    with (
        Peer(context=host.server()) as peer,
        over_tls(peer, pin_sha256=pins, ca_file=str(authority.file), **also) as shared,
    ):
        assert run(ask(shared)) == 0


def test_a_pin_alone_needs_neither_name_nor_authority(run, tmp_path):
    lonely = self_signed(tmp_path, "whatever.test")
    with Peer(context=lonely.server()) as peer, over_tls(peer, pin_sha256=(lonely.pin,)) as shared:
        assert run(ask(shared)) == 0
    assert peer.names == [None]


@pytest.mark.parametrize("name", ["", "ns.test"])
def test_the_opportunistic_profile_takes_any_certificate(run, tmp_path, host, name):
    other = self_signed(tmp_path, "other.test")
    tls = {"profile": "opportunistic", "server_name": name, "pin_sha256": (host.pin,)}
    with Peer(context=other.server()) as peer, over_tls(peer, **tls) as shared:
        assert run(ask(shared)) == 0
    assert peer.names == [name or None]


def test_an_upstream_without_tls_is_told(run):
    def plain(link):
        link.read(5)
        link.send(b"not TLS, this")
        link.read(1 << 16)

    with Peer(plain) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), "TLS handshake failed: wrong version number")
    with Peer(lambda link: link.read(5)) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), "TLS handshake failed: connection closed")


def test_each_query_has_a_record_of_its_own(run, host):
    """What NSD 4.6 needs: it answers only the first query of a record."""

    def first_of_a_record(link):
        while record := link.record():
            link.answer(record[2 : 2 + int.from_bytes(record[:2])])

    async def story():
        for _ in range(2):  # while the connection is being made, and when it is there
            assert await asyncio.gather(*(ask(shared, query) for query in QUESTIONS)) == [0] * 6

    with Peer(first_of_a_record, context=host.server()) as peer, over_tls(peer, pin_sha256=(host.pin,)) as shared:
        run(story())


def test_old_tls_is_not_spoken(run, host):
    context = host.server()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Peer(context=context) as peer, over_tls(peer, profile="opportunistic") as shared:
        assert_fails(run, ask(shared), "TLS handshake failed: ")
    assert peer.links[0].refusal


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_goes_on_over_the_next_connections_and_with_nobody_else(run, authority, host, version):
    async def story():
        for number in range(3):
            assert await ask(shared) == number
            await ended(peer.links[number])
        assert await ask(other) == 3

    context = host.server(newest=version)
    tls = {"server_name": "ns.test", "pin_sha256": (host.pin,), "ca_file": str(authority.file)}
    with (
        Peer(lambda link: link.answer(link.query()), context=context) as peer,
        over_tls(peer, **tls) as shared,
        over_tls(peer, **tls) as other,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, True, True, False]
    assert {link.tls.version.replace(".", "_") for link in peer.links} == {version.name}
    assert (shared.opened, shared.resumed, other.resumed) == (3, 2, 0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "tls", [("pin_sha256", "matches none of tls.pin_sha256"), ("name", "not trusted")], ids=["pin", "name"]
)
def test_a_chain_of_sessions_is_verified_again_within_the_hour(run, tmp_path, authority, host, version, tls):
    """Its key is stolen and given up, say: whoever has the tickets goes on for so long, and no longer."""

    async def story():
        for number in range(3):  # each goes on with the session of the one before
            now[0] += 1500
            assert await ask(shared) == number
            await ended(peer.links[number])
            context.load_cert_chain(self_signed(tmp_path, "ns.test").file)
        now[0] += 1500
        with pytest.raises(UpstreamError, match=tls[1]):
            await ask(shared)

    now = [time.time()]
    context = host.server(newest=version)
    proof = (
        {"pin_sha256": (host.pin,)}
        if tls[0] == "pin_sha256"
        else {"server_name": "ns.test", "ca_file": str(authority.file)}
    )
    with (
        Peer(lambda link: (query := link.query()) and link.answer(query), context=context) as peer,
        over_tls(peer, lambda: now[0], **proof) as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links if link.tls][:3] == [False, True, True]
    assert len(peer.queries) == 3


@pytest.mark.parametrize(("passed", "resumed"), [(0, True), (3599, True), (3600, False), (-60, False)])
def test_a_session_goes_on_for_an_hour_by_a_clock_that_does_not_go_back(run, host, passed, resumed):
    async def story():
        for number in range(2):
            assert await ask(shared) == number
            await ended(peer.links[number])
            now[0] += passed

    now = [time.time()]
    with (
        Peer(lambda link: link.answer(link.query()), context=host.server()) as peer,
        over_tls(peer, lambda: now[0], pin_sha256=(host.pin,)) as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, resumed]


def test_no_session_goes_on_when_its_certificate_is_over(run, host):
    """It has a day; the session was made ten minutes before its end."""

    async def story():
        for number in range(2):
            assert await ask(shared) == number
            await ended(peer.links[number])
            now[0] += 1200

    now = [time.time() + 86400 - 600]
    with (
        Peer(lambda link: link.answer(link.query()), context=host.server()) as peer,
        over_tls(peer, lambda: now[0], pin_sha256=(host.pin,)) as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, False]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_that_cannot_be_read_leaves_no_connection_open(run, host, version):
    async def story():
        for number in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await ask(shared)
            await ended(peer.links[number])

    context = odd(host).server(newest=version)
    with Peer(listen, context=context) as peer, over_tls(peer, profile="opportunistic") as shared:
        run(story())
    assert len(peer.links) == len(peer.queries) == 3


def test_a_certificate_that_cannot_be_read_resumes_nothing_and_matches_no_pin(run, host):
    async def story():
        for number in range(2):
            assert await ask(shared) == number
            await ended(peer.links[number])

    with (
        Peer(lambda link: link.answer(link.query()), context=odd(host).server()) as peer,
        over_tls(peer, profile="opportunistic") as shared,
    ):
        run(story())
    assert [link.tls.resumed for link in peer.links] == [False, False]
    with Peer(context=odd(host).server()) as peer, over_tls(peer, pin_sha256=(host.pin,)) as shared:
        assert_fails(run, ask(shared), "public key matches none of tls.pin_sha256")


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_authorities_that_cannot_be_read_are_told(tmp_path, text):
    file = tmp_path / "authorities.pem"
    if text is not None:
        file.write_text(text)
    why = "No such file" if text is None else "no certificates in PEM format"
    with pytest.raises(ConfigError, match=f"tls.ca_file: {file}: {why}"):
        configured(server_name="ns.test", ca_file=str(file))


@pytest.mark.parametrize("name", [".ns.test", "ns..test", "n" * 64 + ".test", "ns\0.test"])
def test_a_name_that_no_host_has_is_told(name):
    with pytest.raises(ConfigError, match=r"tls\.server_name: .* is not a host name"):
        configured(server_name=name)


def configured(**tls):
    section = Config.model_validate({"upstreams": [{"address": "127.0.0.1:853", "transport": "tls", "tls": tls}]})
    return Connections(section.upstreams[0].address[0], section.upstreams[0])
