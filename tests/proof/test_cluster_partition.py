"""A node that does not reach the store for a while, and what it makes of what it has missed."""

import pytest
from support.control import advance, stats
from support.network import as_root
from support.nodes import FIRST, SECOND, Upstream, purge, uses
from support.rig import ask, data
from support.store import redis
from support.until import until

from proof.machines import HEALED, laid_out

pytestmark = [pytest.mark.proof, as_root, pytest.mark.skipif(not redis(), reason="no store is installed")]
STREAM = "funkenshield:purges"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    upstream = Upstream("0.0.0.0", 53)
    with laid_out(upstream, "near", "far", folder=tmp_path_factory.mktemp("machines")) as (store, *machines):
        near, far = (each.start() for each in machines)
        for each in near, far:
            advance(each, 10)  # what was written when the stream began may be from before a purge, by another clock
        yield store, machines[1], upstream, near, far


def come_back(way, far):
    way.heal("store")
    until(lambda: uses(far), HEALED)


def test_who_was_away_serves_on_and_catches_up(scene):
    _, way, upstream, near, far = scene
    until(lambda: "at 2 nodes: far, near" in purge(near, "--name", "known.test").output)
    assert data(ask(far, "away.test")) == [FIRST]
    way.cut("store")
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
    way.cut("store")
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
    way.cut("store")
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
