"""Show that the clock runs with the kernel's, that a hand moves it forward, and that nothing moves it back."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from funkenshield.core._clock import Clock

TESTS = Path(__file__).parents[2]
HOUR = 3600


def test_it_starts_thirty_days_in():
    assert 30 * 86400 <= Clock().seconds() < 30 * 86400 + 1


def since_boot():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_it_runs_with_the_clock_since_boot():
    clock, before = Clock(), since_boot()
    readings = [clock.seconds() for _ in range(1000)]
    passed = since_boot() - before
    assert readings == sorted(readings)
    assert 0 < readings[-1] - readings[0] <= passed + 1e-6


@pytest.mark.parametrize("steps", [[0], [1], [0.25] * 8, [3600, 86400, 0.5], [1e9 - 1]])
def test_it_is_moved_by_what_was_asked(steps):
    clock, before = Clock(), since_boot()
    began = clock.seconds()
    for step in steps:
        clock.advance(step)
    moved = clock.seconds() - began - sum(steps)
    assert -1e-6 <= moved <= since_boot() - before + 1e-6


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


# ---------------------------------------------------------------- a machine that sleeps, and one whose time is set

SLEEPS = """
import time
from support import asleep, quick
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
clock = Clock()
cache, began, awake = Cache(1 << 22, clock), clock.seconds(), time.monotonic()
asked = quick.query("www.test")
for name, ttl in ((asked, 60), (quick.query("long.test"), 2 * 3600)):
    record = b"\\xc0\\x0c\\0\\1\\0\\1" + ttl.to_bytes(4) + b"\\0\\4" + bytes(4)
    assert cache.store(name, name[:2] + b"\\x84\\0\\0\\1\\0\\1\\0\\0\\0\\0" + name[12:] + record)
try:
    asleep.sleep(3600)
except OSError as error:
    raise SystemExit(f"no: {error}")
assert time.monotonic() - awake < 600, "the machine was not awake for an hour"
print(clock.seconds() - began, cache.lookup(asked), int.from_bytes(cache.lookup(name)[-10:-6]))
"""


def run_here(program):
    """Return what a program of one thread says, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=TESTS, env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.stderr.startswith("no: "):
        pytest.skip(f"no time namespace here: {done.stderr}")
    assert not done.returncode, done.stderr
    return done.stdout.split()


def test_it_goes_on_while_the_machine_sleeps():
    passed, short, ttl = run_here(SLEEPS)
    assert HOUR <= float(passed) < HOUR + 600
    assert short == "None", "its time is over"
    assert HOUR - 600 <= int(ttl) <= HOUR
