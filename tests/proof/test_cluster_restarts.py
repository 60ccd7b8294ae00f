"""Nodes that are restarted, or replaced, and what becomes of purges meanwhile."""

import time

import pytest
from support.control import advance, stats
from support.network import as_root
from support.nodes import FIRST, SECOND, Upstream, purge, running, uses
from support.rig import ask, data
from support.store import redis, run_store
from support.until import until

from proof.machines import HEALED, laid_out

pytestmark = [pytest.mark.proof, as_root, pytest.mark.skipif(not redis(), reason="no store is installed")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    upstream = Upstream("0.0.0.0", 53)
    with laid_out(upstream, "one", "another", folder=tmp_path_factory.mktemp("machines")) as (store, first, another):
        yield store, upstream, first.start(), another


@pytest.fixture(autouse=True)
def _as_it_was(scene):
    yield
    scene[1].number = 1
    scene[3].heal("store")


@pytest.fixture
def kept(tmp_path):
    return {"cache": {"snapshot": f"{tmp_path}/cache"}}


def test_a_snapshot_does_not_bring_back_what_was_purged_meanwhile(scene, kept):
    _, upstream, one, another = scene
    with another.running(**kept) as shield:
        assert data(ask(shield, "down.test")) == data(ask(shield, "kept.test")) == [FIRST]
    assert purge(one, "--name", "down.test").exit_code == 0
    upstream.number = 2
    with another.running(**kept) as shield:
        assert data(ask(shield, "kept.test")) == [FIRST]
        assert data(ask(shield, "down.test")) == [SECOND]
        assert stats(shield)["cluster_cache_emptied"] == 0


def test_a_snapshot_that_is_older_than_all_messages_is_not_used(scene, kept):
    store, upstream, _, another = scene
    with another.running(**kept) as shield:
        assert data(ask(shield, "before.test")) == [FIRST]
        until(store.entries)
    store("DEL", *store.entries())
    store("XTRIM", "funkenshield:purges", "MAXLEN", 0)
    upstream.number = 2
    with another.running(**kept) as shield:
        assert stats(shield)["cluster_cache_emptied"] == 1
        assert data(ask(shield, "before.test")) == [SECOND]


def test_what_was_missed_before_a_restart_is_purged_after_it(scene, kept):
    _, upstream, one, another = scene
    with another.running(**kept) as shield:
        until(lambda: "another" in purge(one, "--name", "known.test").output)
        assert data(ask(shield, "cut.test")) == data(ask(shield, "kept-cut.test")) == [FIRST]
        another.cut("store")
        until(lambda: not uses(shield), 10)
        assert "not purged at another" in purge(one, "--name", "cut.test", "--wait", "1s").stderr
        upstream.number = 2
    another.heal("store")
    with another.running(**kept) as shield:
        assert data(ask(shield, "kept-cut.test")) == [FIRST]
        assert data(ask(shield, "cut.test")) == [SECOND]
        assert stats(shield)["cluster_cache_emptied"] == 0


def test_what_was_missed_before_an_upgrade_is_purged_after_it_and_what_waited_is_told(scene):
    _, upstream, one, another = scene
    with another.running() as shield:
        names = "missed.test", "waits.test", "stays.test"
        assert [data(ask(each, name)) for name in names for each in (shield, one)] == [[FIRST]] * 6
        another.cut("store")
        until(lambda: not uses(shield), 10)
        purge(one, "--name", "missed.test", "--wait", "1s")
        shield.command("purge", "--name", "waits.test")
        assert another.upgrade()["ok"]
        upstream.number = 2
        assert data(ask(one, "waits.test")) == [FIRST]  # which it cannot know
        another.heal("store")
        until(lambda: uses(shield), HEALED)
        until(lambda: data(ask(one, "waits.test")) == [SECOND])
        assert [data(ask(shield, name)) for name in names] == [[SECOND], [SECOND], [FIRST]]
        assert stats(shield)["cluster_cache_emptied"] == 0


def test_an_upgrade_keeps_the_cache_and_the_node(scene):
    _, upstream, one, another = scene
    with another.running() as shield:
        assert data(ask(shield, "upgraded.test")) == [FIRST]
        assert another.upgrade()["ok"]
        until(lambda: uses(shield), 20)
        upstream.number = 2
        assert data(ask(shield, "upgraded.test")) == [FIRST]
        done = purge(one, "--name", "upgraded.test")
        assert (done.exit_code, "at 2 nodes: another, one" in done.output) == (0, True), done.output
        assert data(ask(shield, "upgraded.test")) == [SECOND]


def test_two_processes_with_one_name_find_out_within_some_minutes():
    with run_store() as store, running(store, "twin", "twin") as (_, *twins):
        assert [stats(each)["cluster_name_conflict"] for each in twins] == [0, 0]
        for _ in range(5):
            time.sleep(6)  # in which each looks once
            for each in twins:
                advance(each, 30)
        for each in twins:
            until(lambda each=each: stats(each)["cluster_name_conflict"], 20)
            assert each.log.count("another process has had this node's name, twin, for 120 s") == 1
