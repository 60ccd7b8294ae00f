"""Show that lines which strangers cause are told once, and then counted."""

import logging

import pytest

from funkenshield.core.logs import OF_QUERIES, RECENT, RateLimited, RecentHandler


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


def test_lines_of_what_is_as_it_should_be_are_counted_too(told, caplog):
    now = [100.0]
    limited = RateLimited(logging.getLogger("test"), lambda: now[0])
    for n in range(3):
        limited.info("kind", "purged: %d", n)
    now[0] += 60.1
    limited.summarize()
    assert told() == ["purged: 0", "purged: 2; 2 like this in the last minute"]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]


def test_kinds_are_told_apart(told):
    limited = RateLimited(logging.getLogger("test"), lambda: 0.0)
    for kind in "abab":
        limited.warning(kind, "%s", kind)
    assert told() == ["a", "b"]


def test_the_last_lines_are_kept_for_who_looks_later_but_none_of_single_queries():
    handler, log = RecentHandler(), logging.Logger("test")
    rules = logging.Logger(OF_QUERIES)
    for each in (log, rules):
        each.addHandler(handler)
    for number in range(RECENT + 5):
        log.info("line %d", number)
    log.debug("not this")
    rules.info("192.0.2.1 asks")
    rules.warning("rule x: wrong")
    log.error("%d", "no number")
    kept = list(handler.kept)
    assert [(each["level"], each["text"]) for each in kept[:2]] == [("warning", "rule x: wrong"), ("info", "line 54")]
    assert len(kept) == RECENT
