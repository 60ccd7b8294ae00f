"""Nodes that are restarted, or replaced, and what becomes of purges meanwhile."""

import contextlib
import tempfile

import pytest
from support.control import stats
from support.nodes import FIRST, SECOND, purge, running, uses
from support.process import run_shield
from support.rig import PATIENT, ask, data, toml
from support.store import Way, clustered, redis, run_store
from support.until import until

pytestmark = pytest.mark.proof


@pytest.fixture(scope="module")
def scene():
    if not redis():
        pytest.skip("no store is installed")
    with run_store() as store, running(store, "one", timeout="100ms") as (upstream, one):
        yield store, upstream, one


@pytest.fixture(autouse=True)
def _as_it_was(scene):
    yield
    scene[1].number = 1


@contextlib.contextmanager
def another(store, upstream, folder, **more):
    """Run one more node, whose files are kept."""
    section = clustered(store, folder, "another", timeout="100ms")
    # A process of its own, for the command line of an upgrade.
    with run_shield([upstream], toml=toml(forward=PATIENT, cluster=section, **more), under=("env",)) as shield:
        until(lambda: uses(shield))
        yield shield


def test_a_snapshot_does_not_bring_back_what_was_purged_meanwhile(scene):
    store, upstream, one = scene
    with tempfile.TemporaryDirectory() as folder:
        kept = {"cache": {"snapshot": f"{folder}/cache"}}
        with another(store, upstream, folder, **kept) as shield:
            assert data(ask(shield, "down.test")) == data(ask(shield, "kept.test")) == [FIRST]
        assert purge(one, "--name", "down.test").exit_code == 0
        upstream.number = 2
        with another(store, upstream, folder, **kept) as shield:
            assert data(ask(shield, "kept.test")) == [FIRST]
            assert data(ask(shield, "down.test")) == [SECOND]
            assert stats(shield)["cluster_cache_emptied"] == 0


def test_a_snapshot_that_is_older_than_all_messages_is_not_used(scene):
    store, upstream, _ = scene
    with tempfile.TemporaryDirectory() as folder:
        kept = {"cache": {"snapshot": f"{folder}/cache"}}
        with another(store, upstream, folder, **kept) as shield:
            assert data(ask(shield, "before.test")) == [FIRST]
            until(store.entries)
        store("DEL", *store.entries())
        store("XTRIM", "funkenshield:purges", "MAXLEN", 0)
        upstream.number = 2
        with another(store, upstream, folder, **kept) as shield:
            assert stats(shield)["cluster_cache_emptied"] == 1
            assert data(ask(shield, "before.test")) == [SECOND]


def test_what_was_missed_before_a_restart_is_purged_after_it(scene):
    store, upstream, one = scene
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Way(store)) as way:
        kept = {"cache": {"snapshot": f"{folder}/cache"}}
        with another(way, upstream, folder, **kept) as shield:
            until(lambda: "another" in purge(one, "--name", "known.test").output)
            assert data(ask(shield, "cut.test")) == data(ask(shield, "kept-cut.test")) == [FIRST]
            way.cut()
            until(lambda: not uses(shield), 10)
            assert "not purged at another" in purge(one, "--name", "cut.test", "--wait", "1s").stderr
            upstream.number = 2
        way.heal()
        with another(way, upstream, folder, **kept) as shield:
            assert data(ask(shield, "kept-cut.test")) == [FIRST]
            assert data(ask(shield, "cut.test")) == [SECOND]
            assert stats(shield)["cluster_cache_emptied"] == 0


def test_what_was_missed_before_an_upgrade_is_purged_after_it_and_what_waited_is_told(scene):
    store, upstream, one = scene
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Way(store)) as way,
        another(way, upstream, folder) as shield,
    ):
        names = "missed.test", "waits.test", "stays.test"
        assert [data(ask(each, name)) for name in names for each in (shield, one)] == [[FIRST]] * 6
        way.cut()
        until(lambda: not uses(shield), 10)
        purge(one, "--name", "missed.test", "--wait", "1s")
        shield.command("purge", "--name", "waits.test")
        shield.command("upgrade")
        upstream.number = 2
        assert data(ask(one, "waits.test")) == [FIRST]  # which it cannot know
        way.heal()
        until(lambda: uses(shield), 40)
        until(lambda: data(ask(one, "waits.test")) == [SECOND])
        assert [data(ask(shield, name)) for name in names] == [[SECOND], [SECOND], [FIRST]]
        assert stats(shield)["cluster_cache_emptied"] == 0


def test_an_upgrade_keeps_the_cache_and_the_node(scene):
    store, upstream, one = scene
    with tempfile.TemporaryDirectory() as folder, another(store, upstream, folder) as shield:
        assert data(ask(shield, "upgraded.test")) == [FIRST]
        shield.command("upgrade")
        until(lambda: uses(shield), 20)
        upstream.number = 2
        assert data(ask(shield, "upgraded.test")) == [FIRST]
        done = purge(one, "--name", "upgraded.test")
        assert (done.exit_code, "at 2 nodes: another, one" in done.output) == (0, True), done.output
        assert data(ask(shield, "upgraded.test")) == [SECOND]
