"""Show that counters are read once for all who look, and seldom; that an hour is kept, and no more."""

import asyncio
import json

import pytest
from support.shown import Clock, counted

from funkenshield.web import monitor
from funkenshield.web.monitor import MAX_VIEWERS, Monitor


class Viewer:
    """Who keeps what is sent."""

    def __init__(self, prefix=b"\x7f\0\0"):
        self.prefix, self.sent, self.ended = prefix, b"", False

    def write(self, data):
        self.sent += data

    def end(self):
        self.ended = True

    @property
    def events(self):
        """What came: pairs of a name and a value."""
        parts = [part.split(b"\ndata: ") for part in self.sent.split(b"\n\n") if part.startswith(b"event: ")]
        return [(name.removeprefix(b"event: ").decode(), json.loads(data)) for name, data in parts]


@pytest.fixture
def watched():
    """Return a monitor, its clock, and how often counters and a table were read."""
    clock, reads = Clock(), {"counters": 0, "table": 0}

    def read():
        reads["counters"] += 1
        return counted(queries=reads["counters"] * 100)

    def table():
        reads["table"] += 1
        return [{"prefix": "192.0.2.0/24"}]

    made = Monitor(
        read, {"host": "ns"}, {"blocks": table}, now=lambda: clock.at + 1e9, elapsed=clock, worked=lambda: 0.0
    )
    return made, clock, reads


def look(made, prefix=b"\x7f\0\0"):
    """Return who has come to look."""
    assert made.has_room(prefix)
    viewer = Viewer(prefix)
    viewer.write(made.greeting())
    made.add(viewer)
    return viewer


def pass_by(made, clock, seconds, step=5.0, *, shown=False):
    for _ in range(round(seconds / step)):
        clock.at += step
        made.update(shown=shown)


def test_an_hour_is_kept_and_no_more(watched):
    made, clock, reads = watched
    pass_by(made, clock, 7300)
    told = json.loads(made.history())
    assert len(told["samples"]) == 720
    times = [sample[told["columns"].index("time")] for sample in told["samples"]]
    assert times == [round(clock.at + 1e9 - 5 * k) for k in reversed(range(720))]
    assert len(made.history()) < 100_000
    assert reads["table"] == 0, "nobody looked"


def test_rates_are_of_the_last_five_seconds_however_often_it_is_read(watched):
    made, clock, _ = watched
    pass_by(made, clock, 10)
    pass_by(made, clock, 20, step=1.0, shown=True)
    told = json.loads(made.current())
    assert (told["seconds"], told["rates"]["queries"], told["host"]) == (5.0, 100.0, "ns")
    assert len(json.loads(made.history())["samples"]) == 5


def test_counters_are_read_once_a_second_whoever_asks(watched):
    made, clock, reads = watched
    for _ in range(50):
        made.current()
    assert reads == {"counters": 1, "table": 1}
    clock.at += 0.9
    made.current()
    assert reads["counters"] == 1
    clock.at += 0.2
    made.current()
    assert reads["counters"] == 2


def test_who_comes_gets_the_hour_at_once_and_all_get_the_same(watched):
    made, clock, reads = watched
    pass_by(made, clock, 600)
    before = reads["counters"]
    viewers = [look(made) for _ in range(MAX_VIEWERS)]
    assert not made.has_room(viewers[0].prefix)
    assert reads["counters"] == before + 1
    for viewer in viewers:
        (name, told), (last, now) = viewer.events
        assert (name, last, len(told["samples"]), now["blocks"]) == (
            "history",
            "now",
            119,
            [{"prefix": "192.0.2.0/24"}],
        )
    pass_by(made, clock, 5, shown=True)
    assert len({viewer.sent for viewer in viewers}) == 1
    assert [name for name, _ in viewers[0].events[2:]] == ["sample", "now"]
    made.remove(viewers[0])
    assert made.has_room(viewers[0].prefix)
    made.close()
    assert [viewer.ended for viewer in viewers] == [False] + [True] * (MAX_VIEWERS - 1)


def test_a_neighbour_who_has_taken_all_places_gives_way_until_both_have_as_many(watched):
    made, _, _ = watched
    one, other, third = b"\xc0\0\2", b"\xc0\0\3", b"\xc0\0\4"
    greedy = [look(made, one) for _ in range(MAX_VIEWERS)]
    assert not made.has_room(one)
    late = [look(made, other) for _ in range(MAX_VIEWERS // 2)]
    assert not made.has_room(other)
    assert [viewer.ended for viewer in greedy] == [True] * (MAX_VIEWERS // 2) + [False] * (MAX_VIEWERS // 2)
    look(made, third)
    assert not any(viewer.ended for viewer in late)
    made.update(shown=True)
    assert sum(viewer.events[-1][0] == "now" and len(viewer.events) > 2 for viewer in greedy + late) == MAX_VIEWERS - 1


def test_a_reading_that_fails_takes_nobodys_place(watched, monkeypatch):
    made, _, _ = watched
    monkeypatch.setattr(made, "_read", lambda: 1 / 0)
    for _ in range(MAX_VIEWERS + 1):
        with pytest.raises(ZeroDivisionError):
            look(made)
    monkeypatch.undo()
    assert [len(look(made).events) for _ in range(MAX_VIEWERS)] == [2] * MAX_VIEWERS


def test_it_reads_by_itself_each_second_while_somebody_looks(watched, monkeypatch):
    made, clock, reads = watched
    monkeypatch.setattr(monitor, "PACE", 0.01)

    async def story():
        made.start()
        await asyncio.sleep(0.05)
        assert reads == {"counters": 1, "table": 0}
        clock.at += 1
        viewer = look(made)
        async with asyncio.timeout(5):
            while reads["table"] < 5:
                await asyncio.sleep(0.001)
        made.close()
        assert viewer.ended

    asyncio.run(story())


def test_what_takes_long_is_done_more_seldom():
    clock, worked, reads = Clock(), Clock(), []

    def read():
        worked.at += 0.1
        reads.append(clock.at)
        return counted()

    made = Monitor(read, {}, {}, now=clock, elapsed=clock, worked=worked)
    for _ in range(120):
        clock.at += 1
        made.current()
    assert len(reads) == 4  # of a thread that it takes a tenth of a second of, it has a three-hundredth


def test_a_reading_that_fails_is_told_and_the_next_is_made(caplog):
    reads = []

    def read():
        reads.append(1)
        raise RuntimeError("out of order")

    async def story():
        made = Monitor(read, {}, {}, worked=lambda: 0.0)
        made.start()
        assert made._timer is not None
        made.close()

    asyncio.run(story())
    assert caplog.messages == ["internal error, the page is not updated: RuntimeError('out of order')"]
