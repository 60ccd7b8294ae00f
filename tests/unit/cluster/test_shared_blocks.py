"""What an operator blocks at one node, or lets in again, with no store between; the tables of blocks are real."""

import json

import pytest

from funkenshield.cluster import purges
from funkenshield.cluster.purges import REPEATED
from funkenshield.errors import FunkenShieldError
from unit.cluster.test_purges import EXAMPLE, World

PREFIX, WITHIN, OTHER = "192.0.2.0/24", "192.0.2.7/32", "2001:db8::/48"


@pytest.fixture
def world():
    return World("one", "two")


def add(world, name, prefix, seconds=3600.0, action="drop"):
    """Block as the command does."""
    node, table = world.nodes[name], world.tables[name]
    table.add(prefix, seconds, action, reason=node.blocks.reason(name))
    node.tell_block(prefix=prefix, until=int((world.now + seconds) * 1000), action=action)


def remove(world, name, prefix):
    world.tables[name].remove(prefix)
    world.nodes[name].tell_block(prefix=prefix, until=0)


def blocked(world, name):
    world.tables[name].update()
    return {each["prefix"]: (round(each["seconds"]), each["action"]) for each in world.tables[name].listed()}


def test_what_one_blocks_all_do_until_the_same_time_and_what_it_lets_in_all_do(world):
    add(world, "one", PREFIX, 600.0, "refuse")
    world.flush("one")
    world.now += 100
    world.hear()
    assert blocked(world, "one") == blocked(world, "two") == {PREFIX: (500, "refuse")}
    assert world.tables["two"].listed()[0]["reason"] == "by hand at one, for all nodes"
    add(world, "two", WITHIN)
    remove(world, "two", PREFIX)
    world.flush("two")
    world.hear()
    assert blocked(world, "one") == blocked(world, "two") == {}
    assert world.purged == {"one": [], "two": []}


def test_who_begins_later_knows_what_is_in_force_and_nothing_that_is_over(world):
    add(world, "one", PREFIX, 36_000.0)
    add(world, "one", PREFIX, 60.0)  # shorter, on second thoughts
    add(world, "one", OTHER)
    add(world, "one", WITHIN)
    remove(world, "one", WITHIN)
    world.flush("one")
    world.now += 100
    world.begin("late")
    world.hear("late")
    assert blocked(world, "late").keys() == {OTHER}
    world.begin("one")  # anew: its table is empty
    world.hear("one")
    assert blocked(world, "one").keys() == {OTHER}


def test_what_the_store_has_lost_is_told_again_and_nothing_that_was_let_in_since(world):
    add(world, "one", PREFIX)
    add(world, "one", OTHER)
    world.tell("one", EXAMPLE)
    world.hear()
    remove(world, "two", OTHER)
    world.flush("two")
    world.hear()
    world.stream.clear()
    world.begin("late")
    for name in "one", "two":
        world.nodes[name].repeat()
        world.flush(name)
    world.hear()
    assert [blocked(world, name).keys() for name in ("one", "two", "late")] == [{PREFIX}] * 3
    assert len(world.purged["late"]) == 1


def test_what_was_let_in_and_blocked_again_by_another_stays_blocked(world):
    add(world, "one", PREFIX)
    remove(world, "one", PREFIX)
    world.flush("one")
    world.hear()
    add(world, "two", WITHIN)
    world.flush("two")
    world.hear()
    world.stream.clear()
    world.nodes["one"].repeat()
    world.flush("one")
    world.hear()
    assert blocked(world, "two").keys() == {WITHIN}


def test_who_was_not_there_when_one_was_let_in_hears_it_again_for_ten_minutes(world):
    for later, known in ((REPEATED - 1, True), (2, False)):
        if known:
            remove(world, "one", PREFIX)
        world.now += later
        world.nodes["one"].outbox.clear()
        world.nodes["one"].repeat()
        assert any(each.prefix == PREFIX for each in world.nodes["one"].outbox) == known


def test_one_that_waits_is_handed_over_and_is_lost_by_no_flood_of_purges(world, monkeypatch):
    one = world.nodes["one"]
    add(world, "one", PREFIX)
    world.now += 1
    one.tell(one.message(name=EXAMPLE.hex()))
    again = world.node("one")
    again.take_over(**json.loads(json.dumps(one.handed_over())))
    assert list(again.outbox) == list(one.outbox)
    monkeypatch.setattr(purges, "WAITING_MAX", 2)
    one.tell(one.message(name=EXAMPLE.hex()))
    assert [(each.prefix, each.name) for each in one.outbox] == [(PREFIX, ""), ("", "00")]
    with pytest.raises(FunkenShieldError, match="other nodes are not told"):
        add(world, "one", OTHER)


def test_who_goes_on_for_another_process_has_its_blocks_and_undoes_none_by_what_that_had_heard(world):
    add(world, "one", PREFIX)
    remove(world, "one", PREFIX)
    world.flush("one")
    world.hear()
    two, table = world.nodes["two"], world.tables["two"]
    table.add(WITHIN, 3600.0)  # later, and for this node alone
    add(world, "one", OTHER)
    world.flush("one")
    world.nodes["two"] = again = world.node("two")
    again.carried_out(two.numbers())
    again.take_over(**two.handed_over())
    world.hear("two")
    assert blocked(world, "two").keys() == {WITHIN, OTHER}


@pytest.mark.parametrize("prefix", ["home", "192.0.2.7/24"])
def test_what_another_version_means_by_a_prefix_is_borne(world, prefix):
    world.nodes["one"].tell_block(prefix=prefix, until=int(world.now * 1000) + 60_000)
    world.nodes["one"].tell_block(prefix=prefix, until=0)
    world.flush("one")
    world.hear()
    assert blocked(world, "two") == {}
