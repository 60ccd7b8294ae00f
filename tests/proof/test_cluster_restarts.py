"""Nodes that are restarted, or replaced, and what becomes of purges meanwhile."""

import contextlib
import os
import tempfile

import pytest
from support.control import stats
from support.nodes import FIRST, SECOND, purge, running, uses
from support.process import run_shield
from support.rig import PATIENT, ask, data, toml
from support.store import clustered, redis, run_store
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
        os.utime(f"{folder}/cache", (1e9, 1e9))
        upstream.number = 2
        with another(store, upstream, folder, **kept) as shield:
            assert stats(shield)["cluster_cache_emptied"] == 1
            assert data(ask(shield, "before.test")) == [SECOND]


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
