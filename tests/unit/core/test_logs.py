"""Show that lines which strangers cause are told once, and then counted."""

import logging

import pytest

from funkenshield.core.logs import RateLimited


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_first_line_is_written_at_once_and_the_others_are_counted(told):
    now = [100.0]
    limited = RateLimited(logging.getLogger("test"), lambda: now[0])
    for n in range(1000):
        limited.warning("kind", "refused: %d", n)
    limited.summarize()
    assert told() == ["refused: 0"]
    now[0] += 59.9
    limited.warning("kind", "refused: %d", 1000)
    limited.summarize()
    assert told() == ["refused: 0"]
    now[0] += 0.2
    limited.summarize()
    limited.warning("kind", "refused: %d", 1001)
    assert told() == ["refused: 0", "refused: 1000; 1000 like this in the last minute"]
    now[0] += 60
    limited.summarize()
    now[0] += 60
    limited.summarize()
    limited.warning("kind", "refused: %d", 1002)
    assert told()[2:] == ["refused: 1001; 1 like this in the last minute", "refused: 1002"]


def test_kinds_are_told_apart(told):
    limited = RateLimited(logging.getLogger("test"), lambda: 0.0)
    for kind in "abab":
        limited.warning(kind, "%s", kind)
    assert told() == ["a", "b"]
