"""What a node tells and hears of purges, with no store between."""

import json
from unittest.mock import Mock

import pytest

from funkenshield.cluster import purges
from funkenshield.cluster.purges import HORIZON, REPEATED, ROOT, Epochs, Purges, parse_id
from funkenshield.cluster.sealing import MESSAGE, Sealer
from funkenshield.cluster.shared_blocks import SharedBlocks
from funkenshield.policy.dynblocks import Blocks
from funkenshield.wire.names import name_to_wire

SECRET = bytes(32)
EXAMPLE, WWW, OTHER = map(name_to_wire, ("example.com", "www.example.com", "other.test"))


class World:
    """Nodes, their clock, and a stream that they read from its beginning."""

    def __init__(self, *names):
        self.now = 1e9
        self.stream = []
        self.purged = {}
        self.known = set()
        self.nodes, self.tables = {}, {}
        for name in names:
            self.begin(name)

    def begin(self, name):
        """Have a node, with nothing from before."""
        self.purged[name], self.tables[name] = [], Blocks(Mock(take_alarms=list), lambda: self.now)
        self.nodes[name] = self.node(name)

    def node(self, name, secret=SECRET):
        return Purges(
            name, Sealer([secret]), lambda: self.now, lambda message: self.purged[name].append(message.wire),
            lambda zone, serial: (name, zone, serial) in self.known, entries_since=self.now,
            blocks=SharedBlocks(name, self.tables.get(name), lambda: self.now),
        )  # fmt: skip

    def tell(self, name, wire, **more):
        node = self.nodes[name]
        node.tell(node.message(name=wire.hex(), **more))
        self.flush(name)

    def flush(self, name):
        node = self.nodes[name]
        while node.outbox:
            self.add(node.sealed(node.outbox.popleft()))

    def add(self, sealed):
        self.now += 0.001
        self.stream.append(((int(self.now * 1000), 0), sealed))

    def hear(self, *names):
        for node in (self.nodes[each] for each in names or self.nodes):
            for at, sealed in self.stream:
                if (node.position is None or at > node.position) and not node.hear(at, sealed):
                    node.empty(self.stream[-1][0])
                    assert node.hear(at, sealed, emptied=True)
            node.caught_up()


@pytest.fixture
def world():
    return World("one", "two")


def key(name, subnet=b""):
    return bytes(12) + name + subnet


def test_a_purge_at_one_node_is_one_at_all_others(world):
    world.tell("one", EXAMPLE)
    world.hear()
    assert world.purged == {"one": [], "two": [EXAMPLE]}


def test_both_call_entries_the_same_and_not_as_before(world):
    one, two = (each.epochs for each in world.nodes.values())
    before = one.of(key(WWW))
    world.tell("one", EXAMPLE)
    assert one.of(key(WWW)) != before == two.of(key(WWW))
    world.hear()
    assert one.of(key(WWW)) == two.of(key(WWW)) == one.of(key(EXAMPLE))
    assert one.of(key(OTHER)) == b""


def test_who_told_a_purge_while_it_was_away_does_not_go_by_an_older_one_that_it_hears(world):
    one, two = world.nodes.values()
    world.tell("two", EXAMPLE)
    one.tell(one.message(name=EXAMPLE.hex()))  # later, but it does not reach the store
    world.hear()
    between = two.epochs.of(key(WWW))  # what there is now is older than what one has purged
    assert one.epochs.of(key(WWW)) != between
    world.flush("one")
    world.hear("two")
    assert two.epochs.of(key(WWW)) not in (between, one.epochs.of(key(WWW)))
    world.hear("one")
    assert one.epochs.of(key(WWW)) == two.epochs.of(key(WWW))


def test_what_is_stored_before_ones_own_purge_is_heard_is_nobody_elses_whoever_was_first(world):
    one, two = world.nodes.values()
    one.tell(one.message(name=EXAMPLE.hex()))
    own = one.epochs.of(key(WWW))  # what is stored now is older than what two is about to purge
    world.tell("two", EXAMPLE)
    world.flush("one")
    world.hear()
    assert one.epochs.of(key(WWW)) == two.epochs.of(key(WWW)) != own


def test_a_node_that_begins_later_calls_them_so_too(world):
    world.tell("one", EXAMPLE)
    world.hear()
    world.tell("two", WWW)
    world.hear()
    world.now += 3600
    world.purged["late"] = []
    world.nodes["late"] = world.node("late")
    world.hear("late")
    assert world.nodes["late"].epochs.of(key(WWW)) == world.nodes["one"].epochs.of(key(WWW))
    assert world.purged["late"] == []  # it had nothing then


def test_a_node_with_entries_from_before_purges_them(world):
    world.nodes["two"].entries_since = world.now - 3600
    world.tell("one", EXAMPLE)
    world.now += 60
    world.hear("two")
    assert world.purged["two"] == [EXAMPLE]


def test_an_old_message_is_not_believed_again(world):
    world.tell("one", EXAMPLE)
    world.hear()
    world.add(world.stream[0][1])
    world.hear()
    assert world.purged["two"] == [EXAMPLE]
    assert [each.rejected for each in world.nodes.values()] == [1, 1]


@pytest.mark.parametrize(
    "sealed",
    [
        None, b"", b"x" * 100,
        Sealer([b"\1" * 32]).seal(MESSAGE, b"", json.dumps({"node": "one", "time": 2**41, "name": "00"}).encode()),
        Sealer([SECRET]).seal(MESSAGE, b"", b"no JSON"),
        Sealer([SECRET]).seal(MESSAGE, b"", json.dumps({"node": "one", "time": 2**41, "name": "xx"}).encode()),
    ],
)  # fmt: skip
def test_what_no_node_has_sealed_purges_nothing(world, sealed):
    world.add(sealed)
    world.hear()
    assert world.purged == {"one": [], "two": []}
    assert [each.rejected for each in world.nodes.values()] == [1, 1]
    assert world.nodes["two"].epochs.of(key(WWW)) == b""


def test_a_clock_that_was_set_back_keeps_no_message_from_being_heard(world):
    world.tell("one", EXAMPLE)
    world.hear()
    world.now -= 30
    world.tell("one", OTHER)
    world.now += 30.5
    world.add(world.stream.pop()[1])
    world.hear()
    assert world.purged["two"] == [EXAMPLE, OTHER]


def test_what_was_told_lately_is_told_again(world):
    world.tell("one", OTHER)
    world.hear()
    world.now += REPEATED + 1
    world.tell("one", EXAMPLE)
    world.stream.clear()
    world.nodes["one"].repeat()
    world.flush("one")
    world.hear()
    assert world.purged == {"one": [], "two": [OTHER, EXAMPLE]}
    assert world.nodes["one"].epochs.of(key(WWW)) == world.nodes["two"].epochs.of(key(WWW))


def test_who_has_not_heard_what_is_told_no_more_purges_all(world):
    world.hear()
    world.tell("one", OTHER)
    world.stream.clear()
    world.now += REPEATED + 1
    world.nodes["one"].repeat()
    world.flush("one")
    world.hear("two")
    assert world.purged["two"] == [ROOT]
    assert world.nodes["two"].emptied == 1


def test_what_waits_is_told_again_however_old_it_is(world):
    world.hear()
    one = world.nodes["one"]
    one.tell(one.message(name=OTHER.hex()))
    world.now += REPEATED + 1
    one.repeat()
    world.flush("one")
    world.hear()
    assert world.purged == {"one": [], "two": [OTHER]}
    assert world.nodes["two"].numbers()["one"] == one.repeated_to


def test_a_message_that_somebody_takes_out_is_missed(world):
    world.hear()
    world.tell("one", EXAMPLE)
    world.tell("one", OTHER)
    world.hear("one")
    del world.stream[0]
    world.hear()
    assert world.purged == {"one": [], "two": [ROOT, OTHER]}
    assert world.nodes["two"].since >= world.now - 1


def test_what_tells_nothing_is_not_missed(world):
    world.tell("one", EXAMPLE)
    world.hear()
    one = world.nodes["one"]
    for _ in range(2):
        one.outbox.append(one.message())
        world.flush("one")
    del world.stream[1]
    world.hear()
    assert world.purged["two"] == [EXAMPLE]


def test_one_emptying_is_for_all_that_is_missed(world):
    world.hear()
    for name in ("one", "three", "four"):
        world.purged[name] = []
        world.nodes[name] = world.node(name)
        for wire in (EXAMPLE, OTHER):
            world.tell(name, wire)
        del world.stream[-2]
    world.now += 70
    world.hear("two")
    assert world.purged["two"] == [ROOT, OTHER, OTHER, OTHER]


def test_who_begins_believes_nothing_from_before_a_purge_that_it_misses(world):
    world.tell("one", EXAMPLE)
    told = world.stream[-1][0][0] / 1000
    world.now += 600
    world.tell("one", OTHER)
    del world.stream[0]
    world.stream.insert(0, ((1, 0), b"junk of 1970"))
    world.purged["late"] = []
    world.now += 100
    late = world.nodes["late"] = world.node("late")
    world.hear("late")
    assert late.since > told
    assert world.purged["late"] == []  # its cache was empty


def test_who_was_restarted_purges_what_it_had_not_heard(world):
    world.tell("one", OTHER)
    world.hear()
    heard = world.nodes["two"].numbers()
    world.now += 60
    world.tell("one", EXAMPLE)
    world.now += 600  # cut off all the time
    again = world.nodes["two"] = world.node("two")
    again.carried_out(heard)
    assert again.numbers() == heard
    world.hear("two")
    assert world.purged["two"] == [OTHER, EXAMPLE]


def test_who_was_restarted_and_knows_nothing_purges_all_that_there_is(world):
    world.tell("one", OTHER)
    world.now += 3600
    world.nodes["two"].carried_out({})
    world.hear("two")
    assert world.purged["two"] == [OTHER]


def test_what_is_told_later_is_purged_whatever_our_clock_said_at_the_start(world):
    world.nodes["two"].entries_since = world.now + 3600
    world.hear()
    world.tell("one", EXAMPLE)
    world.hear()
    assert world.purged["two"] == [EXAMPLE]


def test_what_waits_is_handed_over(world):
    world.hear()
    one = world.nodes["one"]
    world.tell("one", OTHER)
    one.tell(one.message(name=EXAMPLE.hex()))
    handed = json.loads(json.dumps(one.handed_over()))
    again = world.nodes["one"] = world.node("one")
    again.carried_out(one.numbers())
    again.take_over(**handed)
    assert again.epochs.of(key(WWW)) == one.epochs.of(key(WWW)) != b""
    world.flush("one")
    world.tell("one", WWW)
    world.hear()
    assert world.purged == {"one": [], "two": [OTHER, EXAMPLE, WWW]}


def test_where_too_many_wait_all_is_purged(world, monkeypatch):
    monkeypatch.setattr(purges, "WAITING_MAX", 3)
    world.hear()
    one = world.nodes["one"]
    for number in range(4):
        one.tell(one.message(name=name_to_wire(f"n{number}.test").hex()))
    world.flush("one")
    world.hear()
    assert world.purged == {"one": [], "two": [ROOT]}
    assert world.nodes["two"].emptied == 0
    assert world.nodes["one"].epochs.of(key(WWW)) == world.nodes["two"].epochs.of(key(WWW)) != b""


def test_an_old_message_undoes_no_later_purge(world):
    world.purged["gone"] = []
    world.nodes["gone"] = world.node("gone")
    world.tell("gone", EXAMPLE)
    kept = world.stream.pop()[1]
    world.now += 3600
    world.tell("one", EXAMPLE)
    world.hear()
    before = world.nodes["two"].epochs.of(key(WWW))
    world.add(kept)
    world.hear()
    assert world.nodes["two"].epochs.of(key(WWW)) == before
    world.now += HORIZON
    world.stream.clear()
    world.add(kept)
    world.purged["late"] = []
    late = world.nodes["late"] = world.node("late")
    world.hear("late")
    assert (late.rejected, late.epochs.of(key(WWW))) == (1, b"")


def test_who_leaves_is_not_there(world):
    world.hear()
    one, two = world.nodes["one"], world.nodes["two"]
    world.tell("one", EXAMPLE)
    world.hear("two")
    assert two.seen.keys() == {"one", "two"}
    one.outbox.append(one.message(leaves=True))
    world.flush("one")
    world.hear("two")
    assert two.seen.keys() == {"two"}


def test_a_serial_that_a_node_has_found_is_told_by_one_of_them(world):
    one, two = world.nodes.values()
    assert one.is_news(EXAMPLE, 7)
    world.tell("one", EXAMPLE, serial=7)
    world.hear()
    assert not two.is_news(EXAMPLE, 7)
    assert two.is_news(EXAMPLE, 8)


def test_a_zone_whose_serial_is_known_is_not_purged_again(world):
    world.known.add(("two", EXAMPLE, 7))
    world.tell("one", EXAMPLE, serial=7)
    world.tell("one", EXAMPLE, serial=8)
    world.hear()
    assert world.purged["two"] == [EXAMPLE]


def test_an_epoch_ends_when_no_entry_can_be_from_before(world):
    epochs = world.nodes["one"].epochs
    world.tell("one", EXAMPLE)
    world.now += HORIZON - 1
    assert epochs.of(key(WWW))
    world.now += 2
    assert epochs.of(key(WWW)) == b""


def test_very_many_purges_concern_all_names(monkeypatch):
    monkeypatch.setattr(purges, "EPOCHS_MAX", 3)
    epochs = Epochs(lambda: 1e9)
    for number in range(4):
        epochs.add(name_to_wire(f"n{number}.test"), bytes([number]) * 16, 1e9)
    assert epochs.of(key(OTHER)) == epochs.of(key(WWW)) == bytes([3]) * 16


def test_a_subnet_behind_the_name_is_none_of_its_labels(world):
    world.tell("one", EXAMPLE)
    epochs = world.nodes["one"].epochs
    assert epochs.of(key(WWW, b"\x01\x18\xc0\x00\x02")) == epochs.of(key(WWW))


def test_ids_are_numbers():
    assert parse_id(b"17-3") == (17, 3)
    with pytest.raises(ValueError, match="invalid literal"):
        parse_id(b"17")
