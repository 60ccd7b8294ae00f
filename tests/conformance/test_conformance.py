"""Know nothing but where the scenarios are: each file is a test, and the shield does what it says.

How they are written is in `notation`, `told` and `message`. Whose clients ask over TCP is played over TLS as well.
"""

import re
from pathlib import Path

import pytest
from support.certificates import HOST, self_signed

from conformance.notation import read
from conformance.player import Player

SCENARIOS = Path(__file__).with_name("scenarios")
FILES = sorted(SCENARIOS.rglob("*.txt"))
OVER_TLS = re.compile(r"^(client|\w+ +asks) [^>]*\btls\b", re.M)
OVER_TCP = re.compile(r"^(client|\w+ +asks) [^>]*\btcp\b", re.M)


def scenarios(asked=None):
    """Parametrize a test by all scenarios, or by those in which somebody asks so."""
    paths = [path for path in FILES if asked is None or asked.search(path.read_text(encoding="utf-8"))]
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(SCENARIOS).with_suffix("")))


@pytest.fixture(scope="session")
def credentials(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificates"), HOST)


@scenarios()
def test_scenario(path, tmp_path, monkeypatch, credentials):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)  # seconds; watched zones are looked at so often
    encrypted = OVER_TLS.search(path.read_text(encoding="utf-8"))
    with Player(read(path), tmp_path, credentials=credentials if encrypted else None) as player:
        player.play()


@scenarios(OVER_TCP)
def test_scenario_over_tls(path, tmp_path, monkeypatch, credentials):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)
    with Player(read(path), tmp_path, credentials=credentials, tcp_over_tls=True) as player:
        player.play()
