"""The process that takes over: with which priority it is started."""

import threading
from types import SimpleNamespace

import pytest

from funkenshield import upgrade


def test_it_is_started_by_a_thread_that_has_the_priority_of_the_daemons_start(monkeypatch):
    done = []

    def restore():
        done.append(("restored", threading.current_thread()))

    def start(*_, **__):
        done.append(("started", threading.current_thread()))
        raise OSError("no")

    config = SimpleNamespace(
        control=SimpleNamespace(socket=""), cookies=SimpleNamespace(model_fields_set={"secret_file"})
    )
    parts = SimpleNamespace(config=lambda: config, priority=SimpleNamespace(restore=restore))
    monkeypatch.setattr(upgrade.subprocess, "run", start)
    with pytest.raises(upgrade.UpgradeError):
        upgrade.Successors(parts)._start(0, 0)
    assert [what for what, _ in done] == ["restored", "started"]
    assert len({thread for _, thread in done}) == 1
