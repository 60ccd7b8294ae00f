"""Nodes that share a cache by a store, and purge together: what clients get, and what the upstream is asked."""

import time
from concurrent.futures import ThreadPoolExecutor

import dns.flags
import dns.message
import dns.name
import dns.opcode
import pytest
from support.control import advance, stats
from support.nodes import FIRST, SECOND, block, purge, running, uses
from support.proc import stopped
from support.rig import ask, asked, data
from support.store import redis, run_store, valkey
from support.until import until

STORES = [pytest.param(redis, id="redis"), pytest.param(valkey, id="valkey", marks=pytest.mark.proof)]
NODES = ("one", "two", "three")
STREAM, NODES_AT = "funkenshield:purges", "funkenshield:nodes"
SPOILED = (
    lambda value: b"", lambda value: b"garbage", lambda value: value[:-1], lambda value: value + b"\0",
    lambda value: bytes(len(value)), lambda value: bytes([value[0] ^ 1]) + value[1:],
    lambda value: value[:-1] + bytes([value[-1] ^ 1]), lambda value: value[16:], lambda value: value * 1000,
)  # fmt: skip


@pytest.fixture(scope="module", params=STORES)
def scene(request):
    program = request.param()
    if not program:
        pytest.skip("no such store is installed")
    # Where a machine is busy, a store is not slow.
    with run_store(program) as store, running(store, *NODES, timeout="100ms") as (upstream, *shields):
        yield store, upstream, shields


@pytest.fixture(autouse=True)
def _as_it_was(scene):
    yield
    scene[1].number, scene[1].delay = 1, 0.0


def told(store, shield, name):
    """Ask a node for a name until the store has the entry; return what the client got, and the entry by its name."""
    before, wire = store.entries(), dns.name.from_text(name).to_wire()

    def new():
        """Return what has come since, and is of this name: nodes may still write what was asked for before."""
        return {key: value for key, value in store.entries().items() if key not in before and wire in value}

    found = data(ask(shield, name))
    until(new)
    return found, new()


def notify(shield, zone):
    """Tell a node that a zone has changed."""
    query = dns.message.make_query(zone, "SOA")
    query.flags = dns.flags.AA
    query.set_opcode(dns.opcode.NOTIFY)
    return ask(shield, query)


# ---------------------------------------------------------------- one for all


def test_what_one_node_has_asked_others_need_not_ask(scene):
    store, upstream, (one, two, three) = scene
    found, entries = told(store, one, "shared.test")
    assert found == [FIRST]
    assert 0 < store("PTTL", *entries) <= (300 + 86400) * 1000
    before = stats(two)["shared_cache_hits"]
    assert data(ask(two, "shared.test")) == data(ask(three, "Shared.test")) == [FIRST]
    assert data(ask(two, "shared.test")) == [FIRST]  # and now from its own cache
    assert upstream.asked("shared.test") == 1
    assert stats(two)["shared_cache_hits"] == before + 1


def test_what_is_asked_otherwise_is_another_entry(scene):
    store, upstream, (one, two, _) = scene
    entries = told(store, one, "flags.test")[1]
    before = store.entries().keys() - entries.keys()
    assert data(ask(two, asked("flags.test", flags=""))) == data(ask(two, asked("flags.test", do=True))) == [FIRST]
    assert upstream.asked("flags.test") == 3
    until(lambda: len(store.entries().keys() - before) == 3)


def test_a_ttl_counts_from_when_the_answer_came_to_the_first_node(scene):
    store, _, (one, two, three) = scene
    told(store, one, "old.test")
    for each in (two, three):
        advance(each, 100)
    try:
        assert 190 <= ask(two, "old.test").answer[0].ttl <= 200
    finally:
        advance(one, 100)


def test_who_waits_for_the_same_gets_it_too(scene):
    store, upstream, (one, two, _) = scene
    told(store, one, "many.test")
    with ThreadPoolExecutor(5) as pool, store.paused():
        replies = [pool.submit(ask, two, "many.test") for _ in range(5)]
        until(lambda: stats(two)["outstanding_queries"] or all(each.done() for each in replies))
    assert [data(each.result()) for each in replies] == [[FIRST]] * 5
    assert upstream.asked("many.test") <= 2


def test_an_answer_for_a_subnet_is_for_that_alone(scene):
    store, upstream, (one, two, _) = scene
    here, there = (asked("subnet.test", options=[(8, bytes([0, 1, 24, 0, 192, 0, each]))]) for each in (2, 3))
    before = store.entries()
    assert data(ask(one, here)) == [FIRST]
    until(lambda: store.entries().keys() - before.keys())
    assert data(ask(two, here)) == [FIRST]
    assert upstream.asked("subnet.test") == 1
    assert data(ask(two, there)) == [FIRST]
    assert upstream.asked("subnet.test") == 2
    until(lambda: len(store.entries().keys() - before.keys()) == 2)


def test_beside_an_upstream_the_first_answer_counts(scene):
    store, upstream, (one, two, _) = scene
    told(store, one, "www.beside.test")
    upstream.delay = 3.0
    started = time.monotonic()
    assert data(ask(two, "www.beside.test")) == [FIRST]
    assert time.monotonic() - started < 2
    until(lambda: upstream.asked("www.beside.test") == 2)  # which may come to it after the answer of the store


def test_a_zone_of_its_own_is_not_shared(scene):
    store, upstream, (one, two, _) = scene
    before = store.entries()
    assert data(ask(one, "www.own.test")) == data(ask(two, "www.own.test")) == [FIRST]
    told(store, one, "written-later.test")
    assert len(store.entries()) == len(before) + 1
    assert upstream.asked("www.own.test") == 2


@pytest.mark.parametrize(("name", "times"), [("a.limited.test", 1), ("a.again.test", 2)])
def test_what_rules_for_responses_have_made_is_not_shared(scene, name, times):
    store, upstream, (one, two, _) = scene
    assert data(ask(one, name)) == [FIRST]
    told(store, one, f"{name}.after.test")  # what came before would be there, too
    assert data(ask(two, name)) == [FIRST]
    assert upstream.asked(name) == 2 * times


def test_what_has_expired_serves_where_the_upstream_does_not(scene):
    store, upstream, (one, two, three) = scene
    told(store, one, "stale.test")
    for each in (one, two, three):
        advance(each, 310)
    upstream.delay = 6.0
    reply = ask(two, "stale.test")
    assert (data(reply), reply.answer[0].ttl) == ([FIRST], 30)


# ---------------------------------------------------------------- who writes to the store has not the secret


def test_nothing_is_believed_that_no_node_has_sealed(scene):
    store, upstream, (one, two, _) = scene
    for number, spoil in enumerate(SPOILED):
        name = f"spoiled{number}.test"
        _, entries = told(store, one, name)
        ((key, value),) = entries.items()
        store("SET", key, spoil(value))
        rejected = stats(two)["shared_cache_rejected"]
        assert data(ask(two, name)) == [FIRST]
        assert upstream.asked(name) == 2
        assert stats(two)["shared_cache_rejected"] == rejected + 1


def test_an_entry_under_the_name_of_another_is_not_believed(scene):
    store, upstream, (one, two, _) = scene
    ((_, value),) = told(store, one, "mine.test")[1].items()
    ((key, _),) = told(store, one, "yours.test")[1].items()
    store("SET", key, value)
    assert data(ask(two, "yours.test")) == [FIRST]
    assert upstream.asked("yours.test") == 2


def test_an_old_value_serves_no_longer_than_it_was_to(scene):
    store, upstream, (one, two, three) = scene
    ((key, value),) = told(store, one, "replayed.test")[1].items()
    upstream.number = 2
    for each in (one, two, three):
        advance(each, 400)
    store("SET", key, value)
    assert data(ask(two, "replayed.test")) == [SECOND]
    store("SET", key, value)
    assert data(ask(three, "replayed.test")) == [SECOND]


def test_an_old_value_from_before_a_purge_is_asked_for_no_more(scene):
    store, upstream, (one, _, three) = scene
    ((key, value),) = told(store, one, "purged.test")[1].items()
    upstream.number = 2
    assert purge(one, "--name", "purged.test").exit_code == 0
    store("SET", key, value)
    assert data(ask(three, "purged.test")) == [SECOND]


# ---------------------------------------------------------------- purges


def test_a_purge_everywhere_waits_until_all_have_done_it(scene):
    _, upstream, shields = scene
    assert [data(ask(each, "everywhere.test")) for each in shields] == [[FIRST]] * 3
    upstream.number = 2
    done = purge(shields[1], "--zone", "everywhere.test")
    assert (done.exit_code, done.output) == (
        0, "purged: everywhere.test and all names below it, at 3 nodes: one, three, two\n",
    )  # fmt: skip
    assert [data(ask(each, "everywhere.test")) for each in shields] == [[SECOND]] * 3


def test_what_is_purged_at_one_node_does_not_come_back_from_the_others(scene):
    store, upstream, (one, two, three) = scene
    told(store, one, "once.test")
    assert data(ask(two, "once.test")) == [FIRST]
    upstream.number = 2
    two.command("purge", "--name", "once.test")
    assert data(ask(two, "once.test")) == [SECOND]
    until(lambda: data(ask(one, "once.test")) == [SECOND])
    assert data(ask(three, "once.test")) == [SECOND]


def test_who_has_not_purged_is_named_and_does_it_later(scene):
    _, upstream, (one, _, three) = scene
    assert data(ask(three, "later.test")) == [FIRST]
    upstream.number = 2
    with stopped(three.process):
        done = purge(one, "--name", "later.test", "--wait", "1s")
    assert done.exit_code == 1
    assert "not purged at three, which was last heard" in done.stderr
    until(lambda: data(ask(three, "later.test")) == [SECOND])


def test_a_notify_at_one_node_purges_at_all(scene):
    _, upstream, shields = scene
    assert [data(ask(each, "www.zone.test")) for each in shields] == [[FIRST]] * 3
    upstream.number, upstream.serial = 2, upstream.serial + 1
    notify(shields[0], "zone.test")
    for each in shields:
        until(lambda each=each: data(ask(each, "www.zone.test")) == [SECOND])


def test_a_message_that_is_taken_out_is_missed(scene):
    store, upstream, (one, _, three) = scene
    assert data(ask(three, "taken.test")) == [FIRST]
    upstream.number = 2
    with stopped(three.process):
        store("CLIENT", "KILL", "TYPE", "normal")  # so that nothing is on its way to it
        ((last, _),) = store("XREVRANGE", STREAM, "+", "-", "COUNT", 1)
        until(lambda: "not purged at three" in purge(one, "--name", "taken.test", "--wait", "1s").stderr, 20)
        store("XDEL", STREAM, *(message for message, _ in store("XRANGE", STREAM, b"(" + last, "+")))
        store("XADD", STREAM, "*", "m", "x" * 100)
    until(lambda: data(ask(three, "taken.test")) == [SECOND], 40)
    until(lambda: uses(three), 20)


# ---------------------------------------------------------------- blocks


def test_who_is_blocked_everywhere_is_at_all_nodes_and_let_in_again(scene):
    _, _, shields = scene
    done = block(shields[0], "add", "127.9.0.0/16", "--for", "1h", "--everywhere")
    at_all = "at 3 nodes: one, three, two\n"
    assert (done.exit_code, done.output) == (0, f"127.9.0.0/16: blocked for 3600 s, {at_all}")
    assert [ask(each, "blocked.test", source="127.9.0.1", timeout=0.3) for each in shields] == [None] * 3
    assert [data(ask(each, "blocked.test")) for each in shields] == [[FIRST]] * 3
    assert "127.9.0.0/16" in (listed := block(shields[2], "list").output)
    assert "by hand at one, for all nodes" in listed
    with stopped(shields[2].process):
        done = block(shields[1], "remove", "127.9.0.0/16", "--everywhere", "--wait", "1s")
    assert (done.exit_code, done.stdout) == (1, "127.9.0.0/16: 1 removed here, at 2 nodes: one, two\n")
    assert "not removed at three, which was last heard" in done.stderr
    until(lambda: block(shields[2], "list").output == "nobody is blocked\n")
    assert [data(ask(each, "blocked.test", source="127.9.0.1")) for each in shields] == [[FIRST]] * 3


# ---------------------------------------------------------------- a store that is no good


def clients_notice_nothing(upstream, shields, name):
    """Assert that each client gets what the upstream says, in no more time than the store may take."""
    for number, each in enumerate(shields):
        started = time.monotonic()
        assert data(ask(each, f"n{number}.{name}")) == [FIRST]
        assert time.monotonic() - started < 1


def test_a_store_that_says_nothing_costs_its_timeout_and_then_nothing(scene):
    store, upstream, shields = scene
    with store.paused():
        for number in range(5):
            clients_notice_nothing(upstream, shields, f"silent{number}.test")
        for each in shields:
            until(lambda each=each: not uses(each))
        late = [stats(each)["shared_cache_late"] for each in shields]
        clients_notice_nothing(upstream, shields, "later-silent.test")
        assert [stats(each)["shared_cache_late"] for each in shields] == late
    for each in shields:
        until(lambda each=each: uses(each), 20)


def test_a_store_that_ends_and_comes_back_empties_no_cache(scene):
    store, upstream, shields = scene
    emptied = [stats(each)["cluster_cache_emptied"] for each in shields]
    assert [data(ask(each, "kept.test")) for each in shields] == [[FIRST]] * 3
    store.stop()
    clients_notice_nothing(upstream, shields, "gone.test")
    store.start()
    for each in shields:
        until(lambda each=each: uses(each), 20)
    upstream.number = 2
    assert [data(ask(each, "kept.test")) for each in shields] == [[FIRST]] * 3
    assert [stats(each)["cluster_cache_emptied"] for each in shields] == emptied
    assert purge(shields[0], "--name", "kept.test").exit_code == 0
    assert [data(ask(each, "kept.test")) for each in shields] == [[SECOND]] * 3


def test_a_store_that_was_flushed_is_filled_again(scene):
    store, upstream, (one, two, three) = scene
    store("FLUSHALL")
    assert data(ask(one, "flushed.test")) == [FIRST]
    for each in (one, two, three):
        until(lambda each=each: uses(each))
    upstream.number = 2
    assert purge(one, "--name", "flushed.test").exit_code == 0
    assert [data(ask(each, "flushed.test")) for each in (one, two, three)] == [[SECOND]] * 3


@pytest.mark.parametrize("kind", ["string", "list", "garbage"])
def test_what_else_lies_where_nodes_look_is_borne(scene, kind):
    store, upstream, shields = scene
    store("DEL", STREAM, NODES_AT)
    if kind == "garbage":
        store("XADD", STREAM, "*", "m", "x" * 100)
        store("XADD", STREAM, "*", "n", "")
        store("HSET", NODES_AT, "four", "x" * 100)
    else:
        put = {"string": "SET", "list": "LPUSH"}[kind]
        store("EVAL", f"redis.call('DEL', KEYS[1]); redis.call('{put}', KEYS[1], 'x')", 1, STREAM)
    clients_notice_nothing(upstream, shields, f"{kind}.test")
    if kind != "garbage":
        store("DEL", STREAM)
    for each in shields:
        until(lambda each=each: uses(each), 20)
    assert purge(shields[0], "--name", "www.test").exit_code == 0
