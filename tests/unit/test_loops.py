"""Show which queries count as a loop, and for how long."""

import logging

import pytest

from funkenshield import loops
from funkenshield.loops import EQUAL, REFUSED_FOR, Loops

UPSTREAM, CLIENT = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def found(now):
    made = Loops(lambda: now[0])
    made.configure(["192.0.2.1", "2001:db8::1"])
    return made


def query(ident, text=b"query"):
    return ident.to_bytes(2) + text


def test_so_many_equal_ones_of_an_upstream_at_once_are_none_and_the_next_one_is(found, now, caplog):
    for ident in range(EQUAL):
        assert not found.is_one(UPSTREAM, query(ident))
        found.begin(UPSTREAM, query(ident))
    assert not found.is_one(UPSTREAM, query(0, b"another"))
    assert not found.is_one(CLIENT, query(0))
    with caplog.at_level(logging.WARNING):
        assert found.is_one(UPSTREAM, query(7))
        assert found.is_one(UPSTREAM, query(8))
    assert len(caplog.messages) == 1
    for ident in range(EQUAL):
        found.end(UPSTREAM, query(ident))
    now[0] += REFUSED_FOR - 0.1
    assert found.is_one(UPSTREAM, query(9))  # so that no other way round is tried
    now[0] += 0.2
    assert not found.is_one(UPSTREAM, query(9))


def test_what_is_remembered_is_bounded(found, monkeypatch):
    monkeypatch.setattr(loops, "FOUND_MAX", 4)
    for text in (b"%d" % n for n in range(20)):
        for _ in range(EQUAL):
            found.begin(UPSTREAM, query(0, text))
        assert found.is_one(UPSTREAM, query(0, text))
        assert len(found._found) <= 4
        for _ in range(EQUAL):
            found.end(UPSTREAM, query(0, text))
    assert not found._passing


def test_one_after_another_is_never_a_loop(found):
    for ident in range(100):
        assert not found.is_one(UPSTREAM, query(ident))
        found.begin(UPSTREAM, query(ident))
        found.end(UPSTREAM, query(ident))
