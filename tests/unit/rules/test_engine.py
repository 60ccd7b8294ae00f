"""Rules are read, put in force, replaced and ended; and what a reload that fails leaves."""

import asyncio
import os

import pytest
from support import quick

from funkenshield import config
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.errors import ConfigError
from funkenshield.forward._miss_path import MissPath
from funkenshield.rules import compiler, engine
from funkenshield.rules.engine import RuleEngine, check

HOOKS = """
from funkenshield.rules import *
import builtins
said = builtins.said_by_hooks

@shield.setup
def one(): said.append("one")
@shield.setup
async def two(): said.append("two")
@shield.teardown
async def three(): said.append("three")
@shield.teardown
def four(): said.append("four")
"""


class Stage:
    """A RuleEngine, and the file that its rules are in."""

    def __init__(self, folder):
        self.file = folder / "rules.py"
        self.table = folder / "shield.toml"
        self.table.write_text(
            f'rules = "{self.file}"\n[[upstreams]]\naddress = "127.0.0.1:5300"\ngroups = ["default", "inner"]\n'
        )
        self.cache = Cache(4 << 20, Clock())
        self.miss_path = MissPath(self.cache, 64)
        self.engine = RuleEngine(self.miss_path.rules, lambda: None)

    def write(self, text, at=None):
        self.file.write_text(f"from funkenshield.rules import *\n{text}\n")
        if at is not None:
            os.utime(self.file, (at, at))

    def prepare(self):
        return self.engine.prepare(config.load(self.table))

    def activate(self, **groups):
        prepared = self.prepare()
        return self.engine.activate(prepared, config.load(self.table), groups)


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


@pytest.fixture
def said(monkeypatch):
    """Return what hooks of HOOKS have said."""
    lines = []
    monkeypatch.setattr("builtins.said_by_hooks", lines, raising=False)
    return lines


def test_rules_that_are_read_change_nothing_before_they_are_put_in_force(stage):
    stage.write("shield.rule(action=drop(), name='old')")
    stage.activate()
    stage.write("shield.rule(action=drop(), name='new')")
    active = stage.engine.executor.active
    stage.prepare()
    assert [rule.name for rule in stage.engine.rule_set.rules] == ["old"]
    assert stage.engine.executor.active is active


@pytest.mark.parametrize("broken", ["1 / 0", "def (", "shield.rule(suffix_file('/nowhere'), action=drop())"])
def test_a_broken_file_changes_nothing(stage, broken):
    stage.write("shield.rule(action=drop(), name='old')")
    stage.activate()
    active = stage.engine.executor.active
    stage.write(broken)
    with pytest.raises(ConfigError):
        stage.prepare()
    assert list(stage.engine.counters()) == ["old"]
    assert stage.engine.executor.active is active


def test_every_set_of_rules_has_a_generation_of_its_own(stage):
    stage.write("@shield.rule()\ndef f(query): ...")
    stage.activate()
    first = stage.engine.executor.active
    stage.activate()
    second = stage.engine.executor.active
    assert first.generation != second.generation
    assert [len(stops) for stops in first.stops] == [1, 0, 0]
    assert stage.engine.executor._previous is first


def test_a_way_is_the_same_as_long_as_what_is_at_its_end(stage):
    stage.write("@shield.rule(cache=True)\ndef f(query): ...\nshield.rule(action=forward('inner'))")
    groups = stage.activate(inner=5)
    routes = dict(stage.engine.executor.active.routes)
    assert list(groups.values()) == [5]
    assert stage.activate(inner=6) == dict.fromkeys(groups, 6)
    assert list(stage.engine.executor.active.routes) == list(routes)
    stage.write("@shield.rule(cache=True)\ndef f(query): return None\nshield.rule(action=forward('inner'))")
    stage.activate(inner=6)
    assert not set(stage.engine.executor.active.routes) & set(routes)


def test_all_files_are_watched(stage, tmp_path):
    (tmp_path / "names").write_text("one.test")
    (tmp_path / "x.zone").write_text("$ORIGIN x.example.\n@ 60 IN SOA . . 1 2 3 4 5\n@ 60 IN NS .\n")
    stage.write(
        f"shield.rule(suffix_file('{tmp_path}/names'), action=drop())\n"
        f"shield.rule(~suffix_file('{tmp_path}/names'), action=zone_file('{tmp_path}/x.zone'))"
    )
    assert [path.name for path in stage.prepare().versions] == ["rules.py", "x.zone", "names"]


def test_after_ever_so_many_changes_rules_are_read_and_none_is_answered_from_what_another_had(stage, monkeypatch):
    monkeypatch.setattr(compiler, "NUMBERS_MAX", 8)
    cache, asked = stage.cache, quick.query("www.test")
    kept, had = [], []
    for number in range(20):
        cache.store(asked, quick.answer(asked, b"x"))
        stage.write(f"@shield.rule(cache=True)\ndef f(query): return {number}\nshield.rule(action=forward('inner'))")
        stage.activate(default=0, inner=1)
        kept.append(cache.lookup(asked) is not None)
        had.append(*stage.engine.executor.active.routes)
        assert had[-1] not in had[-3:-1]
    assert len(set(had)) <= 8
    again = [number for number, route in enumerate(had) if route in had[:number]]
    assert not kept[again[0]], "before a number means another rule, nothing has it"
    assert sum(kept) > 10, "that is seldom"


def test_where_there_are_no_more_numbers_nothing_changes(stage, monkeypatch):
    stage.write("shield.rule(action=drop(), name='old')")
    stage.activate()
    monkeypatch.setattr(compiler, "NUMBERS_MAX", 2)
    stage.write("@shield.rule(cache=True)\ndef f(query): ...")
    with pytest.raises(ConfigError, match="more than 2 routes at once"):
        stage.prepare()
    assert list(stage.engine.counters()) == ["old"]


def test_a_file_that_changes_is_seen_once(stage):
    stage.write("", at=1000)
    stage.activate()
    assert not stage.engine.files_changed()
    stage.write("1 / 0", at=2000)
    assert [stage.engine.files_changed() for _ in range(2)] == [True, False]
    stage.file.unlink()
    assert [stage.engine.files_changed() for _ in range(2)] == [True, False]


def test_a_file_that_changes_while_rules_are_set_up_is_seen(stage):
    stage.write("", at=1000)
    prepared = stage.prepare()
    stage.write("shield.rule(action=drop())", at=2000)
    stage.engine.activate(prepared, config.load(stage.table), {})
    assert stage.engine.files_changed()


def test_a_file_that_another_took_the_place_of_is_seen_whatever_its_time_says(stage):
    stage.write("# one", at=1000)
    stage.activate()
    fresh = stage.file.with_name("fresh.py")
    fresh.write_bytes(stage.file.read_bytes().replace(b"one", b"two"))
    os.utime(fresh, ns=(stage.file.stat().st_atime_ns, stage.file.stat().st_mtime_ns))
    fresh.replace(stage.file)
    assert [stage.engine.files_changed() for _ in range(2)] == [True, False]


def test_a_file_that_changes_while_the_rules_are_read_is_seen(stage, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("one.test")
    stage.write(f"shield.rule(suffix_file({str(names)!r}), action=drop())\nimport os\nos.utime(__file__, (5, 5))")
    stage.activate()
    assert stage.engine.files_changed()


def test_hooks_are_called_in_order(stage, said):
    stage.write(HOOKS)
    stage.activate()
    assert said == []
    asyncio.run(stage.engine.set_up())
    assert said == ["one", "two"]
    asyncio.run(stage.engine.close())
    assert said == ["one", "two", "three", "four"]


@pytest.mark.parametrize("told", ["raise LookupError('no database')", "raise SystemExit('no database')"])
def test_a_setup_that_fails_is_told_and_the_next_is_not_called(stage, said, told):
    stage.write(f"@shield.setup\nasync def connect(): {told}\n{HOOKS}")
    with pytest.raises(ConfigError, match=r"^rules: setup connect: \w+: no database at .*/rules\.py:3$"):
        asyncio.run(stage.engine.set_up(stage.prepare()))
    assert said == []


@pytest.mark.parametrize("told", ["raise LookupError('gone')", "raise SystemExit('gone')"])
def test_a_teardown_that_fails_is_logged_and_the_next_is_called(stage, said, told, caplog):
    stage.write(f"@shield.teardown\ndef leave(): {told}\n{HOOKS}")
    asyncio.run(stage.engine.tear_down(stage.prepare().rules))
    assert said == ["three", "four"]
    assert "rules: teardown leave: " in caplog.text


def test_a_setup_without_an_end_is_told_and_the_next_is_not_called(stage, said, monkeypatch):
    monkeypatch.setitem(engine.TIMEOUTS, "setup", 0.05)
    stage.write(f"import asyncio\n@shield.setup\nasync def connect(): await asyncio.Event().wait()\n{HOOKS}")
    with pytest.raises(ConfigError, match=r"^rules: setup connect: not done within 0\.05 s$"):
        asyncio.run(asyncio.wait_for(stage.engine.set_up(stage.prepare()), 5))
    assert said == []


def test_a_teardown_without_an_end_is_logged_and_the_next_is_called(stage, said, monkeypatch, caplog):
    monkeypatch.setitem(engine.TIMEOUTS, "teardown", 0.05)
    stage.write(f"import asyncio\n@shield.teardown\nasync def leave(): await asyncio.Event().wait()\n{HOOKS}")
    asyncio.run(asyncio.wait_for(stage.engine.tear_down(stage.prepare().rules), 5))
    assert said == ["three", "four"]
    assert caplog.messages == ["rules: teardown leave: not done within 0.05 s"]


def test_a_setup_that_times_out_by_itself_is_told_with_its_line(stage):
    stage.write("@shield.setup\nasync def connect(): raise TimeoutError('no database')")
    with pytest.raises(ConfigError, match=r"^rules: setup connect: TimeoutError: no database at .*/rules\.py:3$"):
        asyncio.run(stage.engine.set_up(stage.prepare()))


def test_rules_are_torn_down_once_their_functions_have_ended(stage, said):
    async def play():
        async def work():
            await asyncio.sleep(0.01)
            said.append("function")

        stage.write(HOOKS)
        task = asyncio.get_running_loop().create_task(work())
        stage.engine.executor._tasks.add(task)
        task.add_done_callback(stage.engine.executor._tasks.discard)
        await stage.engine.tear_down(stage.prepare().rules)

    asyncio.run(play())
    assert said == ["function", "three", "four"]


def test_a_hook_whose_name_nobody_knows_is_a_hook(stage):
    stage.write(
        "import functools\nshield.setup(functools.partial(int, 'x'))\nshield.teardown(functools.partial(int, 'x'))"
    )
    prepared = stage.prepare()
    with pytest.raises(ConfigError, match=r"rules: setup .*invalid literal"):
        asyncio.run(stage.engine.set_up(prepared))
    asyncio.run(stage.engine.tear_down(prepared.rules))


def test_all_rules_are_counted_whoever_decides(stage):
    stage.write("shield.rule(action=drop(), name='here')\n@shield.rule(chain='responses')\ndef there(query): ...")
    stage.activate()
    stage.engine.executor._stats["there"].calls += 2
    assert stage.engine.counters() == {
        "here": {"matches": 0, "handler_calls": 0, "handler_errors": 0, "handler_seconds": 0.0},
        "there": {"matches": 0, "handler_calls": 2, "handler_errors": 0, "handler_seconds": 0.0},
    }


def test_rules_are_checked_for_nobody(stage):
    stage.write("shield.rule(action=drop())")
    check(config.load(stage.table))
    stage.write("shield.rule(listener('192.0.2.1:53'), action=drop())")
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:53 is not a listen address"):
        check(config.load(stage.table))
