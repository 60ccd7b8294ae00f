"""Which worker has the queues of interfaces, as these come, change and go; without any interface."""

import errno
import gc
import weakref
from types import SimpleNamespace

import pytest

from funkenshield.config.listeners import ListenerSection
from funkenshield.config.types import Endpoint
from funkenshield.server import xdp
from funkenshield.xdp.interface import explained


class Machine:
    """Interfaces as they are now: how many queues each has, and which change that was made by."""

    def __init__(self):
        self.queues = {"eth0": 3, "eth1": 2}
        self.changes = dict.fromkeys(self.queues, 0)
        self.wrong = 0

    def link(self, name):
        return name, self.changes[name]

    def opened(self, name, *, answers, queues_max, **_):
        """Return an interface whose queues are there, and nothing else."""
        with explained(name, "socket"):
            if self.wrong:
                raise OSError(self.wrong, "no socket")
        self.may_answer = answers is not None

        def ignore(*_):
            pass

        queues = [Queue() for _ in range(min(self.queues[name], queues_max))]
        return SimpleNamespace(
            link=self.link(name), queues=queues, is_native=True, is_zero_copy=False, listen=ignore, take=ignore,
            close=lambda: None,
        )  # fmt: skip


class Queue:
    def counters(self):
        return {"received": 1}


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(xdp, "Interface", machine.opened)
    monkeypatch.setattr(xdp, "Link", SimpleNamespace(of=machine.link))
    return machine


def interfaces(machine, workers, **options):
    made = xdp.Interfaces(workers)
    sections = [
        ListenerSection(address=f"192.0.2.{k}:53", transport="xdp", interface=name, **options)
        for k, name in enumerate(machine.queues)
    ]
    made.configure((Endpoint(f"192.0.2.{k}", 53), section, k) for k, section in enumerate(sections))
    made.follow()
    return made


def owners(made, workers):
    """Return the worker of each queue; whoever has one has it alone."""
    found = [(queue, worker) for worker in range(workers) for queue in made.queues_of(worker)]
    assert sorted(map(id, made.queues)) == sorted(id(queue) for queue, _ in found)
    return dict(found)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_queue_stays_with_its_worker_while_others_come_and_go(machine, workers):
    made = interfaces(machine, workers)
    before = owners(made, workers)
    for name in ("eth0", "eth1", "eth0"):
        machine.changes[name] += 1
        assert made.follow()
        after = owners(made, workers)
        assert len(after) == len(before)
        assert {queue: after[queue] for queue in before if queue in after} == {
            queue: before[queue] for queue in before if queue in after
        }
        assert max(map(len, map(made.queues_of, range(workers)))) <= -(-5 // workers)
        before = after


def test_what_is_left_is_let_go_of_though_it_cannot_be_had_anew(machine):
    """Else its sockets would be open, and the interface busy, until garbage is collected: late, where little is."""
    made = interfaces(machine, 1)
    left = [weakref.ref(each) for each in made.queues]
    gc.disable()
    try:
        machine.changes = dict.fromkeys(machine.changes, 1)
        machine.wrong = errno.EBUSY
        for _ in range(5):
            made.follow()
        assert [each() for each in left] == [None] * 5
    finally:
        gc.enable()


def test_an_interface_that_no_worker_has_room_for_is_not_attached(machine, caplog):
    machine.queues["eth0"] = 2 * xdp.QUEUES_OF_WORKER
    made = interfaces(machine, 1)
    assert {name: counted["attached"] for name, counted in made.counters().items()} == {"eth0": 1, "eth1": 0}
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [
        "192.0.2.1:53: served by sockets alone: eth1: workers have 16 queues each, and no room for another"
    ]
    machine.queues["eth0"], machine.changes["eth0"] = 3, 1
    made.follow()
    assert [counted["attached"] for counted in made.counters().values()] == [1, 1]


@pytest.mark.parametrize("offset", [0, 500, -500])
def test_the_kernel_answers_nothing_where_its_clock_is_not_ours(machine, caplog, monkeypatch, tmp_path, offset):
    """Answers die at a time since boot, which is another one in a time namespace."""
    monkeypatch.setattr(xdp, "TIME_OFFSETS", tmp_path / "offsets")
    (tmp_path / "offsets").write_text(f"monotonic        77         0\nboottime   {offset:10d}         0\n")
    interfaces(machine, 1, kernel_answers=True)
    assert machine.may_answer is (offset == 0)
    assert ("its time since boot is not that of ours" in caplog.text) is (offset != 0)
