"""Show that the clock runs with the kernel's, that a hand moves it forward, and that nothing moves it back."""

import time

import pytest

from funkenshield._clock import Clock


def test_it_starts_thirty_days_in():
    assert 30 * 86400 <= Clock().seconds() < 30 * 86400 + 1


def test_it_runs_with_the_monotonic_clock():
    clock, before = Clock(), time.monotonic()
    readings = [clock.seconds() for _ in range(1000)]
    passed = time.monotonic() - before
    assert readings == sorted(readings)
    assert 0 < readings[-1] - readings[0] <= passed + 1e-6


@pytest.mark.parametrize("steps", [[0], [1], [0.25] * 8, [3600, 86400, 0.5], [1e9 - 1]])
def test_it_is_moved_by_what_was_asked(steps):
    clock, before = Clock(), time.monotonic()
    began = clock.seconds()
    for step in steps:
        clock.advance(step)
    moved = clock.seconds() - began - sum(steps)
    assert -1e-6 <= moved <= time.monotonic() - before + 1e-6


@pytest.mark.parametrize("seconds", [-1, -1e-9, 1e9, float("inf"), float("nan")])
def test_it_is_not_moved_back_nor_too_far(seconds):
    clock = Clock()
    with pytest.raises(ValueError, match="advances by 0 to 1e9 seconds, not by"):
        clock.advance(seconds)
    assert clock.seconds() < 30 * 86400 + 1


def test_each_has_a_time_of_its_own():
    moved, other = Clock(), Clock()
    moved.advance(1000)
    assert moved.seconds() - other.seconds() == pytest.approx(1000, abs=1)
