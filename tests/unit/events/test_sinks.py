"""Show what becomes of sinks over reloads: all that can fail is tried first, and nothing is lost without a word."""

import contextlib
import os

import pytest
from support.until import until

from funkenshield.config import Config
from funkenshield.core._clock import Clock
from funkenshield.errors import ConfigError
from funkenshield.events._names import KINDS
from funkenshield.events._recorder import Recorder
from funkenshield.events.sinks import Sinks

QUERY = bytes(5) + b"\1" + bytes(6) + b"\4test\0\0\1\0\1"
RULES = (0, ((), (), ()))


class Scene:
    """Sinks, and who records for them."""

    def __init__(self):
        self.clock = Clock()
        self.recorder = Recorder(self.clock)
        self.sinks = Sinks(self.recorder)
        self.sinks.start()

    def configure(self, *files):
        config = Config(query_log=[{"file": str(each)} for each in files])
        self.sinks.configure({}, {}, RULES, self.sinks.prepare(config))
        return config

    def record(self, count=1):
        for _ in range(count):
            assert self.recorder.record(KINDS.index("hit"), QUERY, b"", address=bytes(4))


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.clock.advance(5)
    made.sinks.close()


def test_only_files_that_are_new_and_can_never_be_written_are_refused(scene, tmp_path):
    log, missing = tmp_path / "log", tmp_path / "none" / "log"
    both = scene.configure(log, missing)
    log.unlink(missing_ok=True)
    scene.sinks.examine(both)
    scene.configure(log)
    with pytest.raises(ConfigError, match=f"^query_log.file: {missing}: may not be written$"):
        scene.sinks.examine(both)
    with pytest.raises(ConfigError, match="may not be written"):
        scene.sinks.examine(Config(query_log=[{"file": str(tmp_path)}]))
    os.mkfifo(tmp_path / "pipe")
    scene.sinks.examine(Config(query_log=[{"file": str(tmp_path / "pipe")}, {"file": str(tmp_path / "new")}]))


def test_what_a_sink_that_is_no_more_did_not_take_stays_counted_and_is_told(scene, tmp_path, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    name = f"query log {pipe}"
    with contextlib.closing(open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb")):
        scene.configure(pipe)
        scene.record(2000)
        until(lambda: sum(scene.sinks.counters()[name][each] for each in ("written", "waiting")) == 2000)
        assert scene.sinks.counters()[name]["waiting"] > 0
        scene.configure()

        def is_over():
            scene.clock.advance(1)
            scene.sinks.housekeeping()
            return not scene.recorder.ending and not scene.sinks._ending

        until(is_over)
    counted = scene.sinks.counters()[name]
    assert counted["lost"] > 0
    assert counted["lost"] + counted["written"] == 2000
    assert f"{name}: an event was lost, for it was not taken in time" in caplog.text
    assert scene.recorder.memory_limit == 0


def test_sinks_that_have_not_ended_are_no_end_of_others(scene, tmp_path):
    for number in range(3):
        scene.configure(*(tmp_path / f"{number}-{k}" for k in range(16)))
    until(lambda: not scene.recorder.ending)
    scene.record()
    until(lambda: all(scene.sinks.counters()[f"query log {tmp_path}/2-{k}"]["written"] for k in range(16)))


def test_a_sink_that_cannot_be_made_is_one_line(scene, monkeypatch):
    def refused():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("funkenshield.events.sinks.StandardOutput", refused)
    with pytest.raises(ConfigError, match=r"^query log standard output: Too many open files$"):
        scene.configure("")


def test_a_socket_whose_path_has_too_many_octets_is_a_mistake_of_the_file():
    with pytest.raises(ValueError, match="a path of at most 107 octets"):
        Config(dnstap=[{"socket": "/" + 60 * "é"}])
