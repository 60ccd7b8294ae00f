"""Know that clients resume their sessions over TLS, and see the certificates that are in their files now."""

import signal
import time
from collections import Counter

import pytest
from support.certificates import HOST
from support.client import Address, frame, free_port
from support.control import advance, stats
from support.encrypted import (
    TLS12,
    TLS13,
    Door,
    encrypted,
    read_wire,
    reload,
    s_client,
    shown,
    tally,
)
from support.process import run_shield
from support.rig import by_name, names, toml
from support.tls_fixtures import FIXTURES
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import ask_wire

versions = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
authority, door, name, _, shield, upstream = FIXTURES


@pytest.fixture(scope="module")
def running(authority):
    with encrypted(
        by_name,
        authority=authority,
        certificates=[authority.issue(HOST)],
        tls={"handshakes_per_second_per_client": 0},
    ) as stage:
        yield stage


# ------------------------------------------------------------ sessions (RFC 8446 2.2, 5077)

SECRET, OTHER = "42" * 32, "17" * 32


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl_resumes_its_session(shield, door, tmp_path, version):
    file, options = tmp_path / "session", [f"-tls{version.replace('.', '_')}", "-servername", HOST]
    assert "New, TLSv1" in s_client(door, *options, sess_out=file)
    before = tally(shield)
    assert "Reused, TLSv1" in s_client(door, *options, "-sess_in", file)
    assert tally(shield) - before == Counter({"resumed": 1, version: 1})


def with_tickets(authority, file, **tls):
    """Run a shield whose tickets are made from a file's secret."""
    credentials = authority.issue(f"{file.name}.test")
    return encrypted(
        by_name,
        authority=authority,
        certificates=[credentials],
        tls={"ticket_secret_file": str(file), "handshakes_per_second_per_client": 0, **tls},
    )


@pytest.fixture
def tickets(tmp_path):
    file = tmp_path / "tickets"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    return file


@versions
def test_nodes_with_one_secret_resume_each_others_sessions(authority, tickets, tmp_path, version):
    another = tmp_path / "another"
    another.write_text(OTHER + "\n")
    with (
        with_tickets(authority, tickets) as (one, first, _),
        with_tickets(authority, tickets) as (two, second, _),
        with_tickets(authority, another) as (three, third, _),
    ):
        wire = ask_wire(names(1)[0], id=77)
        session = first.session(wire, context=first.context(newest=version), name="tickets.test")
        assert second.resumes(wire, name="tickets.test", **session)
        assert first.resumes(wire, name="tickets.test", **session)
        session["context"].check_hostname = False
        assert not third.resumes(wire, name="tickets.test", **session)
        for shield, full, resumed in (one, 1, 1), (two, 0, 1), (three, 1, 0):
            assert (tally(shield)["full"], tally(shield)["resumed"]) == (full, resumed)


@versions
def test_every_worker_resumes_the_sessions_of_all(authority, version):
    credentials = authority.issue(HOST)
    door = Door(Address("127.0.0.1", free_port()), authority)
    listener = {"address": str(door.address), "transport": "tls", "certificates": [shown(credentials)]}
    told = toml(listeners=[listener], tls={"handshakes_per_second_per_client": 0})
    with ScriptedUpstream(by_name) as upstream, run_shield([upstream], workers=4, toml=told) as shield:
        wire = ask_wire(names(1)[0], id=77)
        session = door.session(wire, context=door.context(newest=version))
        assert all(door.resumes(wire, **session) for _ in range(40))
        assert (tally(shield)["full"], tally(shield)["resumed"]) == (1, 40)
        assert upstream.count() == 1


@versions
def test_a_ticket_is_taken_for_its_lifetime_and_the_next(authority, tickets, version):
    with with_tickets(authority, tickets, ticket_lifetime="1h") as (shield, door, _):
        wire = ask_wire(names(1)[0], id=77)
        session = door.session(wire, context=door.context(newest=version), name="tickets.test")
        assert door.resumes(wire, name="tickets.test", **session)
        advance(shield, 3600)
        assert door.resumes(wire, name="tickets.test", **session)
        advance(shield, 3600)
        assert not door.resumes(wire, name="tickets.test", **session)
        session = door.session(wire, context=door.context(newest=version), name="tickets.test")
        assert door.resumes(wire, name="tickets.test", **session)


def test_a_restart_ends_sessions_unless_their_secret_is_kept(authority, tickets):
    wire = ask_wire(names(1)[0], id=77)
    sessions = {}
    for file, resumed in ("", False), (str(tickets), True):
        credentials = authority.issue("tickets.test")
        for turn in range(2):
            with encrypted(
                by_name, authority=authority, certificates=[credentials], tls={"ticket_secret_file": file}
            ) as (_, door, _):
                if turn:
                    assert door.resumes(wire, name="tickets.test", **sessions) == resumed
                else:
                    sessions = door.session(wire, name="tickets.test")


def test_early_data_is_never_taken(upstream, door, tmp_path, name):
    """RFC 8446 8: it could be replayed."""
    session, early = tmp_path / "session", tmp_path / "early"
    early.write_bytes(frame(ask_wire(name)))
    options = ["-tls1_3", "-servername", HOST]
    s_client(door, *options, sess_out=session)
    printed = s_client(door, *options, "-sess_in", session, "-early_data", early)
    assert "Reused, TLSv1.3" in printed
    assert "Early data was accepted" not in printed
    assert upstream.received == []


# ------------------------------------------------------------ certificates, replaced


def test_a_connection_goes_on_with_the_certificate_that_it_had(authority):
    with encrypted(by_name, authority=authority, certificates=[authority.issue("moved.test")]) as (shield, door, _):
        wire = ask_wire(names(1)[0], id=5)
        with door.connect(name="moved.test") as (old, stream):
            before = old.getpeercert()["serialNumber"]
            authority.issue("moved.test")
            reload(shield)
            assert serial(door, "moved.test") != before
            for _ in range(3):
                old.sendall(frame(wire))
                assert read_wire(stream)[:2] == wire[:2]


def test_what_is_asked_while_the_certificate_is_replaced_is_answered_over_its_connection(authority):
    with encrypted(
        by_name, authority=authority, certificates=[authority.issue("moved.test")], forward={"timeout": 5.0}
    ) as (shield, door, upstream):
        (name,) = names(1)
        with door.connect(name="moved.test") as (sock, stream):
            sock.sendall(frame(ask_wire(f"slow.{name}", id=5)))
            upstream.wait_for(1)
            authority.issue("moved.test")
            shield.process.send_signal(signal.SIGHUP)
            assert read_wire(stream)[:2] == b"\0\5"
        until(lambda: stats(shield)["reloads"] == 1)
        assert upstream.count(f"slow.{name}") == 1


def serial(door, name):
    """Return the number of the certificate that clients who ask for a name are shown."""
    with door.connect(name=name) as (sock, _):
        return sock.getpeercert()["serialNumber"]


@pytest.mark.slow
def test_certificates_are_followed_without_a_signal(authority):
    """And a wrong one is told of once, while the one before serves."""
    credentials = authority.issue("kept.test")
    with encrypted(by_name, authority=authority, certificates=[credentials]) as (shield, door, _):
        before = serial(door, "kept.test")
        lines = len(shield.log.splitlines())
        credentials.key.write_bytes(authority.issue("stranger.test").key.read_bytes())
        until(lambda: len(shield.log.splitlines()) > lines)
        time.sleep(2.5)
        assert len([line for line in shield.log.splitlines()[lines:] if "kept.test" in line]) == 1
        assert serial(door, "kept.test") == before
        authority.issue("kept.test")
        until(lambda: serial(door, "kept.test") != before)
        assert stats(shield)["reloads"] == 0


@pytest.mark.parametrize("mistake", ["another key", "no certificate", "no key", "no file", "nonsense"])
def test_a_bad_pair_is_told_of_in_one_line_and_the_old_one_serves(authority, mistake):
    credentials = authority.issue("kept.test")
    with encrypted(by_name, authority=authority, certificates=[credentials]) as (shield, door, _):
        before = serial(door, "kept.test")
        match mistake:
            case "another key":
                credentials.key.write_bytes(authority.issue("stranger.test").key.read_bytes())
            case "no certificate":
                credentials.certificate.write_text("")
            case "no key":
                credentials.key.write_text("")
            case "no file":
                credentials.certificate.unlink()
            case "nonsense":
                credentials.certificate.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        lines = len(shield.log.splitlines())
        reload(shield)
        until(lambda: "reloaded" in shield.log)
        said = [line for line in shield.log.splitlines()[lines:] if "kept.test" in line]
        assert len(said) == 1, shield.log
        assert said[0].endswith("; what was in use before is used")
        assert "reload failed" not in shield.log
        with door.connect(name="kept.test") as (sock, stream):
            assert sock.getpeercert()["serialNumber"] == before
            sock.sendall(frame(ask_wire(names(1)[0], id=5)))
            assert read_wire(stream)[:2] == b"\0\5"
        authority.issue("kept.test")
        reload(shield)
        assert serial(door, "kept.test") != before


def test_what_a_listener_asks_of_clients_changes_by_a_reload(authority):
    with encrypted(
        by_name, authority=authority, certificates=[authority.issue("kept.test")], listener={"min_version": "1.2"}
    ) as (shield, door, _):
        assert "New, TLSv1.2" in s_client(door, "-tls1_2")
        reload(shield, ('min_version = "1.2"', 'min_version = "1.3"'))
        assert "alert protocol version" in s_client(door, "-tls1_2")
        assert "New, TLSv1.3" in s_client(door)
