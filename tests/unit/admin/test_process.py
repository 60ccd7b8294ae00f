"""Know that the control thread gives way to workers that drop misses, and comes back once they have not for a while."""

import os
import threading

import pytest

from funkenshield.admin.process import CALM, NICE, Priority
from funkenshield.core._clock import Clock


@pytest.fixture
def told(monkeypatch):
    """What the kernel is told, in turn."""
    told = []
    monkeypatch.setattr(os, "setpriority", lambda which, who, nice: told.append(nice))
    return told


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def priority(monkeypatch, clock):
    monkeypatch.setattr(os, "getpriority", lambda which, who: 0)
    return Priority(clock.seconds)


def test_where_nothing_is_dropped_nothing_is_said(priority, told):
    for _ in range(3):
        priority.follow(0)
    assert told == []


def test_it_gives_way_at_once_and_comes_back_a_while_after_the_last_drop(priority, clock, told):
    for dropped in 10, 20, 20, 30:
        clock.advance(CALM / 2)
        priority.follow(dropped)
    assert told == [NICE]
    clock.advance(CALM - 1)
    priority.follow(30)
    assert told == [NICE]
    clock.advance(2)
    priority.follow(30)
    assert told == [NICE, 0]


def test_what_another_thread_starts_has_the_priority_of_the_start(priority, monkeypatch):
    told = []
    monkeypatch.setattr(os, "setpriority", lambda which, who, nice: told.append((who, nice)))
    priority.follow(10)
    thread = threading.Thread(target=priority.restore)
    thread.start()
    thread.join()
    priority.follow(20)
    assert told == [(threading.get_native_id(), NICE), (thread.native_id, 0)]


def test_a_kernel_that_refuses_is_not_asked_ten_times_a_second(priority, monkeypatch):
    asked = []

    def refuse(which, who, nice):
        asked.append(nice)
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    for dropped in range(1, 5):
        priority.follow(dropped)
    assert asked == [NICE]
