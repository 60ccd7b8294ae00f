"""Who is shut out for how long: by alarms of the guard, and by hand."""

import heapq
import logging

import pytest

from funkenshield.config.guard import GuardSection
from funkenshield.policy.dynblocks import BlockError, Blocks


class Guard:
    """Take what is told, and raise the alarms that a test wants."""

    def __init__(self):
        self.alarms = []
        self.out = []
        self.told = {}

    def __getattr__(self, name):
        return lambda *given, **named: self.told.update({name: (given, named)})

    def take_alarms(self):
        taken, self.alarms = self.alarms, []
        return taken

    def set_blocks(self, blocks):
        self.out = blocks


@pytest.fixture
def time():
    return [1000.0]


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture
def blocks(guard, time):
    made = Blocks(guard, lambda: time[0])
    made.configure(configured([{"type": "nxdomains", "rate": 10.0, "duration": 30.0, "action": "refuse"}]))
    return made


def configured(watches, **section):
    return GuardSection.model_validate({"dynamic_blocks": watches, **section})


ALARM = (0, bytes([192, 0, 2, 7]), 32)


def test_an_alarm_shuts_a_prefix_out_until_its_time_is_over(blocks, guard, time, caplog):
    guard.alarms = [ALARM, (0, bytes.fromhex("20010db8") + bytes(12), 64)]
    with caplog.at_level(logging.WARNING):
        blocks.update()
    assert guard.out == [(bytes([192, 0, 2, 7]), 32, "refuse"), (bytes.fromhex("20010db8") + bytes(12), 64, "refuse")]
    assert "192.0.2.7/32 blocked for 30 s: over 10 nxdomains a second" in caplog.text
    assert [each["prefix"] for each in blocks.listed()] == ["192.0.2.7/32", "2001:db8::/64"]
    assert blocks.added == 2
    time[0] += 29.9
    blocks.update()
    assert len(guard.out) == 2
    time[0] += 0.1
    blocks.update()
    assert guard.out == []
    assert blocks.listed() == []


def test_who_goes_on_is_shut_out_for_longer_and_reported_once(blocks, guard, time, caplog):
    guard.alarms = [ALARM]
    blocks.update()
    time[0] += 20
    guard.alarms = [ALARM]
    blocks.update()
    assert caplog.text.count("blocked for") == 1
    assert blocks.added == 1
    assert blocks.listed()[0]["seconds"] == 30.0


def test_no_alarm_lets_in_sooner_who_is_shut_out_for_longer(blocks, guard, time):
    blocks.configure(configured([{"type": "queries", "rate": 10.0, "duration": 30.0, "action": "refuse"},
                                 {"type": "octets", "rate": 10.0, "duration": 5.0}]))  # fmt: skip
    guard.alarms = [ALARM, (1, *ALARM[1:])]
    blocks.update()
    assert [(each["seconds"], each["action"]) for each in blocks.listed()] == [(30.0, "refuse")]


def test_the_bound_lets_in_who_would_be_first(guard, time):
    blocks = Blocks(guard, lambda: time[0])
    blocks.configure(configured([{"type": "queries", "rate": 10.0}], max_blocked=16))
    for number in range(17):
        guard.alarms = [(0, bytes([192, 0, 2, number]), 32)]
        time[0] += 1
        blocks.update()
    assert len(guard.out) == 16
    assert bytes([192, 0, 2, 0]) not in {address for address, _, _ in guard.out}


def flood(first, count=256):
    """Return the alarms of so many sources."""
    return [(0, (0x0A000000 + number).to_bytes(4), 32) for number in range(first, first + count)]


def test_alarms_of_many_sources_take_room_once_where_many_are_shut_out(guard, time, monkeypatch):
    monkeypatch.setattr("funkenshield.policy.dynblocks.thread_time", lambda: 0.0)
    looked_through, nsmallest = [], heapq.nsmallest
    monkeypatch.setattr(heapq, "nsmallest", lambda *most, **key: looked_through.append(most) or nsmallest(*most, **key))
    blocks = Blocks(guard, lambda: time[0])
    blocks.configure(configured([{"type": "queries", "rate": 10.0}], max_blocked=65536))
    guard.alarms = flood(0, 65536)
    blocks.update()
    time[0] += 50
    guard.alarms, looked_through[:] = flood(65536), []
    blocks.update()
    assert len(looked_through) == 1  # all blocks, which are many
    assert (len(guard.out), len(blocks)) == (65536, 65536)
    assert {(address, 32, "drop") for _, address, _ in flood(65536)} < set(guard.out)


def test_a_table_that_takes_long_is_made_rarely_and_nobody_is_forgotten(guard, time, monkeypatch):
    made, taken = [], [0.0]

    def set_slowly(blocks):
        taken[0] += 0.25
        made.append(len(blocks))

    monkeypatch.setattr("funkenshield.policy.dynblocks.thread_time", lambda: taken[0])
    monkeypatch.setattr(guard, "set_blocks", set_slowly, raising=False)
    blocks = Blocks(guard, lambda: time[0])
    blocks.configure(configured([{"type": "queries", "rate": 10.0}], max_blocked=1000))
    for turn in range(100):
        guard.alarms = flood(turn * 100, 5)
        blocks.update()
        time[0] += 0.1
    assert len(made) == 4, "a tenth of the time"
    time[0] += 3
    blocks.update()
    assert made[-1] == 500
    blocks.add("192.0.2.1", 60)
    assert made[-1] == 501, "an operator does not wait"


def test_who_is_shut_out_by_hand_is_for_however_short_where_there_are_too_many(blocks, guard):
    blocks.configure(configured([{"type": "queries", "rate": 10.0}], max_blocked=16))
    guard.alarms = flood(0, 16)
    blocks.update()
    blocks.add("192.0.2.1", 1)
    assert len(guard.out) == 16
    assert (bytes([192, 0, 2, 1]), 32, "drop") in guard.out


def test_an_alarm_of_a_watch_that_is_no_more_is_nobodys(blocks, guard):
    guard.alarms = [(1, bytes(4), 32)]
    blocks.update()
    assert guard.out == []


def test_by_hand(blocks, guard, time):
    blocks.add("198.51.100.0/24", 60, "drop")
    blocks.add("198.51.100.7", 60)
    assert guard.out == [(bytes([198, 51, 100, 0]), 24, "drop"), (bytes([198, 51, 100, 7]), 32, "drop")]
    assert blocks.listed()[0]["reason"] == "by hand"
    assert blocks.remove("198.51.100.0/25") == 1
    assert blocks.remove("2001:db8::/32") == 0
    assert guard.out == [(bytes([198, 51, 100, 0]), 24, "drop")]
    assert blocks.remove("0.0.0.0/0") == 1
    assert guard.out == []


def test_what_another_node_blocks_is_in_force_at_once_and_where_they_are_many_soon(blocks, guard, time):
    blocks.take("198.51.100.0/24", 60, "refuse", "by another")
    assert guard.out == [(bytes([198, 51, 100, 0]), 24, "refuse")]
    blocks._publish_at = time[0] + 1.0  # as it is where it took long
    blocks.take("198.51.100.7", 60, "drop", "by another")
    blocks.take("198.51.100.0/24", -1, "drop", "by another")  # which is over
    assert len(guard.out) == 1
    time[0] += 1.0
    blocks.update()
    assert guard.out == [(bytes([198, 51, 100, 7]), 32, "drop")]
    assert (blocks.holds("198.51.100.0/24"), blocks.holds("203.0.113.0/24")) == (True, False)


@pytest.mark.parametrize(
    ("prefix", "seconds"),
    [("198.51.100.1/24", 60), ("home", 60), ("192.0.2.1", 0),
     ("192.0.2.1", float("nan")), ("192.0.2.1", 10**400)],
)  # fmt: skip
def test_what_cannot_be_shut_out(blocks, prefix, seconds):
    with pytest.raises(BlockError):
        blocks.add(prefix, seconds)


def test_a_reload_leaves_who_is_shut_out(blocks, guard):
    guard.alarms = [ALARM]
    blocks.update()
    blocks.configure(configured([]))
    blocks.update()
    assert len(guard.out) == 1
    assert guard.told["set_dynblocks"] == (([],), {})


@pytest.mark.parametrize(
    ("prefix", "count"), [("0.0.0.0/0", 32), ("126.0.0.0/7", 25), ("::/0", 128), ("2000::/15", 113)]
)
def test_a_prefix_that_shuts_out_very_many_takes_somebody_who_is_sure(blocks, guard, prefix, count):
    with pytest.raises(BlockError, match=rf"^{prefix} has 2\^{count} addresses; to block it nevertheless, add --yes$"):
        blocks.add(prefix, 60.0)
    assert blocks.listed() == []
    blocks.add(prefix, 60.0, confirmed=True)
    assert [each["prefix"] for each in blocks.listed()] == [prefix]
