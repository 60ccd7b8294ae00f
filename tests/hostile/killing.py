"""Know how to kill a shield under load, in the midst of whatever it does, and what the next start makes of it."""

import contextlib
import random
import subprocess
import time

from support.client import ask, free_port
from support.nameservers import nsd
from support.process import COMMAND, run_shield
from support.until import until

NAMES = [f"kept{n}.wild.shield.test." for n in range(20_000)]
RATE = 10_000  # queries a second


class KilledError(Exception):
    """The shield was killed: it does not end cleanly."""


def kill_again_and_again(folder, count):
    """Kill a shield so often: once there is a snapshot, while one is written, at any moment after the start, in turns.

    Each start must serve. Return how many began with answers, of one more than there were kills.
    """
    path, port = folder / "cache", free_port()
    names = folder / "names"
    names.write_text("".join(f"{name} A\n" for name in NAMES))
    rng = random.Random(count)
    toml = f'cache.snapshot = "{path}"\ncache.snapshot_interval = 1\n'
    where = ["-s", "127.0.0.1", "-p", str(port)]
    load = [*COMMAND, "perf", "-d", names, *where, "-l", "600", "-Q", str(RATE), "-t", "0.2"]
    warm = 0
    with nsd() as upstream, running(load):
        for turn in range(count):
            kept = path.exists()
            with (
                contextlib.suppress(KilledError),
                run_shield([upstream], listen=[("127.0.0.1", port)], toml=toml) as shield,
            ):
                warm += see(shield, path, kept)
                if turn % 3 == 0:
                    until(path.exists, within=15.0)
                if turn % 3 == 1:
                    until(path.with_name("cache.new").exists, within=15.0)
                time.sleep(rng.random() * (0.02, 1.5)[turn % 3 != 1])
                shield.process.kill()
                raise KilledError
        with run_shield([upstream], listen=[("127.0.0.1", port)], toml=toml) as shield:
            warm += see(shield, path, True)
    return warm


def see(shield, path, kept):
    """Assert that a shield which has just started serves, with what was `kept`, if anything was; return that."""
    assert ask(NAMES[0], server=shield, timeout=10).answer
    assert "snapshot rejected" not in shield.log
    assert "cannot be read" not in shield.log
    assert not path.with_name("cache.damaged").exists()
    assert ("snapshot restored" in shield.log) == kept
    return kept


@contextlib.contextmanager
def running(command):
    """Run a command while the context is entered."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
