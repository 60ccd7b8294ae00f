"""Know nothing but where the scenarios are: each file is a test, and the shield does what it says.

How they are written is in `notation`, `told` and `message`.
"""

from pathlib import Path

import pytest

from conformance.notation import read
from conformance.player import Player

SCENARIOS = Path(__file__).with_name("scenarios")
FILES = sorted(SCENARIOS.rglob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCENARIOS).with_suffix("")))
def test_scenario(path, tmp_path, monkeypatch):
    monkeypatch.setattr("funkenshield.daemon.HOUSEKEEPING", 0.05)  # seconds; watched zones are looked at so often
    with Player(read(path), tmp_path) as player:
        player.play()
