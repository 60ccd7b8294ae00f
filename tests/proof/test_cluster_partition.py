"""A node that does not reach the store for a while, and what it makes of what it has missed."""

import contextlib

import pytest
from support.control import stats
from support.nodes import FIRST, SECOND, purge, running, uses
from support.rig import ask, data
from support.store import Way, redis, run_store
from support.until import until

pytestmark = pytest.mark.proof
STREAM = "funkenshield:purges"


HEALED = 40  # seconds within which a node comes back


@pytest.fixture(scope="module")
def scene():
    if not redis():
        pytest.skip("no store is installed")
    with (
        run_store() as store,
        contextlib.closing(Way(store)) as way,
        running(store, "near", timeout="100ms") as (upstream, near),
        running(way, "far", timeout="100ms", upstream=upstream) as (_, far),
    ):
        yield store, way, upstream, near, far
        way.heal()


def come_back(way, far):
    way.heal()
    until(lambda: uses(far), HEALED)


def test_who_was_away_serves_on_and_catches_up(scene):
    _, way, upstream, near, far = scene
    until(lambda: "at 2 nodes: far, near" in purge(near, "--name", "known.test").output)
    assert data(ask(far, "away.test")) == [FIRST]
    way.cut()
    done = purge(near, "--name", "away.test", "--wait", "1s")
    assert (done.exit_code, "not purged at far" in done.stderr) == (1, True)
    assert data(ask(far, "away.test")) == [FIRST]  # which it cannot know
    assert data(ask(far, "new.test")) == [FIRST]
    until(lambda: not uses(far), 10)
    upstream.number = 2
    come_back(way, far)
    assert data(ask(far, "away.test")) == [SECOND]
    assert stats(far)["cluster_cache_emptied"] == 0
    assert data(ask(far, "new.test")) == [FIRST]  # nobody purged it
    assert purge(near, "--name", "away.test").exit_code == 0


def test_who_missed_what_is_gone_empties_its_cache(scene):
    store, way, upstream, near, far = scene
    upstream.number = 1
    assert data(ask(far, "kept.test")) == [FIRST]
    way.cut()
    until(lambda: not uses(far), 10)
    purge(near, "--name", "kept.test", "--wait", "0")
    assert "not purged at far" in purge(near, "--name", "www.test", "--wait", "1s").stderr  # the store has it
    store("XTRIM", STREAM, "MAXLEN", 1)
    upstream.number = 2
    come_back(way, far)
    assert data(ask(far, "kept.test")) == [SECOND]
    assert stats(far)["cluster_cache_emptied"] == 1


def test_who_comes_to_another_stream_reads_what_is_told_again(scene):
    store, way, upstream, near, far = scene
    upstream.number = 1
    assert data(ask(far, "again.test")) == data(ask(near, "again.test")) == [FIRST]
    emptied = stats(far)["cluster_cache_emptied"]
    way.cut()
    until(lambda: not uses(far), 10)
    purge(near, "--name", "again.test", "--wait", "0")
    upstream.number = 2
    store.stop()
    store.start()
    come_back(way, far)
    until(lambda: data(ask(far, "again.test")) == [SECOND], 10)
    assert stats(far)["cluster_cache_emptied"] == emptied
    upstream.number = 3
    assert data(ask(far, "again.test")) == [SECOND]
