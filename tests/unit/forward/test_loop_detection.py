"""Show which queries count as a loop, and that the log says so once a minute."""

import logging

from funkenshield.forward.loop_detection import EQUAL, Loops

UPSTREAM, CLIENT = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


def test_more_equal_ones_of_an_upstream_at_once_than_it_has_tries_are_a_loop(caplog):
    now = [0.0]
    loops = Loops(lambda: now[0])
    assert not loops.is_one(UPSTREAM, 100)
    loops.configure(["192.0.2.1", "2001:db8::1"])
    assert not loops.is_one(UPSTREAM, EQUAL - 1)
    assert not loops.is_one(CLIENT, 100)
    with caplog.at_level(logging.WARNING):
        assert all(loops.is_one(UPSTREAM, waiting) for waiting in range(EQUAL, 100))
    assert len(caplog.messages) == 1
