"""Know how to wait for what comes true in a while."""

import time


def until(condition, within=5.0):
    """Wait until `condition()` is true, and return it; AssertionError after `within` seconds."""
    end, pause = time.monotonic() + within, 0.001
    while not (found := condition()):
        assert time.monotonic() < end, f"not true within {within} s"
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return found
