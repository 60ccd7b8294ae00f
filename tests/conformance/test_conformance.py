"""Know nothing but where the scenarios are: each file is a test, and the shield does what it says.

How they are written is in `notation`, `told` and `message`. Those whose clients ask over TCP are played over TLS,
HTTPS, QUIC and HTTP/3 as well, where they get the same, but for padding, transfers, and what QUIC does not allow;
and all of them (but for `make proof`, one of four), by root, with a shield that takes queries from the loopback before
the network stack has them.
"""

import re
from pathlib import Path

import pytest
from support import forked
from support.certificates import self_signed
from support.network import Network, as_root, believe_loopback
from support.until import until

from conformance.notation import read
from conformance.player import Player

SCENARIOS = Path(__file__).with_name("scenarios")
FILES = sorted(SCENARIOS.rglob("*.txt"))
NOT_OVER_QUIC = ("padding", "AXFR", "keepalive")
ASKED = r"^(client|\w+ +asks) [^>]*\b{}\b"


def asks(path, *words):
    """Tell whether somebody asks with each of these words in a scenario."""
    text = path.read_text(encoding="utf-8")
    return all(re.search(ASKED.format(word), text, re.M) for word in words)


def scenarios(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(SCENARIOS).with_suffix("")))


@pytest.fixture(scope="session")
def credentials(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificates"), "127.0.0.1")


@scenarios(FILES)
def test_scenario(path, tmp_path, monkeypatch, credentials):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)  # seconds; watched zones are looked at so often
    encrypted = asks(path, "tls")
    with Player(read(path), tmp_path, credentials=credentials if encrypted else None) as player:
        player.play()


@scenarios([path for path in FILES if asks(path, "tcp") and not asks(path, "padding")])
def test_scenario_over_tls(path, tmp_path, monkeypatch, credentials):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)
    with Player(read(path), tmp_path, credentials=credentials, in_place_of_tcp="tls") as player:
        player.play()


@scenarios([path for path in FILES if asks(path, "tcp") and not asks(path, "padding") and not asks(path, "AXFR")])
def test_scenario_over_https(path, tmp_path, monkeypatch, credentials):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)
    with Player(read(path), tmp_path, credentials=credentials, in_place_of_tcp="https") as player:
        player.play()


@scenarios([path for path in FILES if asks(path, "tcp") and not any(asks(path, each) for each in NOT_OVER_QUIC)])
@pytest.mark.parametrize("transport", ["quic", "h3"])
def test_scenario_over_quic(path, transport, tmp_path, monkeypatch, credentials):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)
    monkeypatch.setattr("funkenshield.quic.process.begin", forked.front)
    with Player(read(path), tmp_path, credentials=credentials, in_place_of_tcp=transport) as player:
        player.play()


@pytest.fixture(scope="module")
def loopback():
    """Be in a network whose loopback gives and takes frames."""
    with Network() as own, own.entered():
        believe_loopback()
        yield "lo"


@as_root
@scenarios([path if k % 4 == 0 else pytest.param(path, marks=pytest.mark.proof) for k, path in enumerate(FILES)])
def test_scenario_by_frames(path, tmp_path, monkeypatch, credentials, loopback):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)
    encrypted = asks(path, "tls")
    with Player(read(path), tmp_path, credentials=credentials if encrypted else None, interface=loopback) as player:
        until(lambda: player.attached == {loopback: 1})  # the kernel has the queue back a moment after the one before
        player.play()
        assert player.attached == {loopback: 1}
