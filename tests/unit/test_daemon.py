"""Know that the control gear gives way to workers that drop misses, and comes back once they have not for a while."""

import os
from types import SimpleNamespace

import pytest

from funkenshield.core._clock import Clock
from funkenshield.daemon import CALM, NICE, Daemon


@pytest.fixture
def told(monkeypatch):
    """What the kernel is told, in turn."""
    told = []
    monkeypatch.setattr(os, "setpriority", lambda which, who, nice: told.append(nice))
    return told


@pytest.fixture
def daemon():
    return SimpleNamespace(clock=Clock(), _dropped=0, _calm_at=0.0, _nice=0, _niced=0)


def test_where_nothing_is_dropped_nothing_is_said(daemon, told):
    for _ in range(3):
        Daemon._give_way(daemon, 0)
    assert told == []


def test_it_gives_way_at_once_and_comes_back_a_while_after_the_last_drop(daemon, told):
    for dropped in 10, 20, 20, 30:
        daemon.clock.advance(CALM / 2)
        Daemon._give_way(daemon, dropped)
    assert told == [NICE]
    daemon.clock.advance(CALM - 1)
    Daemon._give_way(daemon, 30)
    assert told == [NICE]
    daemon.clock.advance(2)
    Daemon._give_way(daemon, 30)
    assert told == [NICE, 0]


def test_a_kernel_that_refuses_is_not_asked_ten_times_a_second(daemon, monkeypatch):
    asked = []

    def refuse(which, who, nice):
        asked.append(nice)
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    for dropped in range(1, 5):
        Daemon._give_way(daemon, dropped)
    assert asked == [NICE]
