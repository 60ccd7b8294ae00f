"""Rules of a configuration: how its tables and its files become one list, and what is told of mistakes."""

import asyncio
import inspect
import sys

import pytest

from funkenshield import config, rules
from funkenshield.core.files import noted
from funkenshield.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Return how rules are loaded: of tables in TOML, and of a file."""

    def loaded(python="", toml=""):
        (tmp_path / "rules.py").write_text("from funkenshield.rules import *\n" + python)
        (tmp_path / "shield.toml").write_text(f'rules_file = "{tmp_path}/rules.py"\n{toml}')
        return rules.load(config.load(tmp_path / "shield.toml"))

    return loaded


@pytest.fixture
def mistake(load, tmp_path):
    """Return what is told of a mistake, without the folder; it is one line."""

    def told(python="", toml=""):
        with pytest.raises(ConfigError) as error:
            load(python, toml)
        (line,) = str(error.value).splitlines()
        return line.replace(f"{tmp_path}/", "")

    return told


def test_rules_of_tables_come_first_and_all_have_names(load):
    made = load(
        "shield.rule(qtype('A'), action=drop())\n"
        "@shield.rule()\ndef named(query): ...\n"
        "@shield.rule(name='another')\ndef function(query): ...\n",
        '[[rules]]\naction = "drop"\n[[rules]]\nname = "second"\naction = "drop"\n',
    )
    assert [rule.name for rule in made.rules] == ["rule 1", "second", "rule 1 of rules.py", "named", "another"]


def test_a_file_alone_can_be_all_rules(tmp_path):
    (tmp_path / "rules.py").write_text("from funkenshield.rules import *\nshield.rule(action=drop())\n")
    (tmp_path / "shield.toml").write_text(f'rules = "{tmp_path}/rules.py"\n')
    configured = config.load(tmp_path / "shield.toml")
    with noted() as read:
        made = rules.load(configured)
    assert [rule.action for rule in made.rules] == [rules.drop()]
    assert list(read) == [tmp_path / "rules.py"]


def test_without_rules_there_are_none(tmp_path):
    (tmp_path / "shield.toml").write_text("")
    assert rules.load(config.load(tmp_path / "shield.toml")) == rules.RuleSet()


def test_each_rule_is_in_its_chain(load):
    made = load("for chain in 'queries', 'responses', 'cache-hits': shield.rule(action=drop(), chain=chain)\n")
    assert [rule.chain for rule in made.rules] == ["queries", "responses", "cache-hits"]


def test_conditions_are_all_to_be_met(load):
    one, two, none = load(
        "shield.rule(edns(), action=drop())\n"
        "shield.rule(edns(), qtype('A'), action=drop())\n"
        "shield.rule(action=drop())\n"
    ).rules
    assert one.match == rules.edns()
    assert two.match == rules.edns() & rules.qtype("A")
    assert none.match.walk() == [rules.Match(all=())]


def test_functions_stay_what_they_are(load):
    one, two = load(
        "@shield.rule(cache=True, on_error='drop')\nasync def one(query): return 1\n"
        "@shield.rule(chain='responses')\ndef two(query): return 2\n"
    ).rules
    assert asyncio.run(one.function(None)) == 1
    assert (inspect.iscoroutinefunction(one.function), one.cache, one.on_error, one.answers) == (
        True,
        True,
        "drop",
        True,
    )
    assert (two.function(None), two.chain, two.cache, two.on_error, two.answers) == (
        2, "responses", False, "servfail", False,
    )  # fmt: skip


def test_hooks_are_kept_in_order(load):
    made = load(
        "said = []\n@shield.setup\ndef one(): return 1\n@shield.setup\nasync def two(): ...\n"
        "@shield.teardown\ndef three(): ...\n"
    )
    assert [hook.__name__ for hook in made.setups] == ["one", "two"]
    assert [hook.__name__ for hook in made.teardowns] == ["three"]
    assert made.setups[0]() == 1


def test_a_table_may_call_a_function_of_a_file_which_is_run_once(load, tmp_path):
    with noted() as read:
        made = load(
            "shield.rule(action=drop())\nruns = []\nruns.append(1)\ndef wanted(query): return runs\n",
            f'[[rules]]\naction = {{ call = "{tmp_path}/rules.py:wanted" }}\ncache = true\n',
        )
    assert [rule.name for rule in made.rules] == ["rule 1", "rule 1 of rules.py"]
    assert made.rules[0].function(None) == [1]
    assert list(read) == [tmp_path / "shield.toml", tmp_path / "rules.py"]


def test_keys_change_with_the_text_and_only_then(load, tmp_path):
    function = "@shield.rule(cache=True)\ndef one(query): return {}\n"
    table = f'[[rules]]\naction = {{ call = "{tmp_path}/rules.py:one" }}\n'
    zone = 'shield.rule(action=zone("$ORIGIN x.\\n@ 60 IN SOA . . {} 2 3 4 5\\n@ 60 IN NS ."))\n'

    def keys(number):
        return [rule.key for rule in load(function.format(number) + zone.format(number), table).rules]

    assert keys(1) == keys(1)
    assert len({*keys(1), *keys(2)}) == 6


def test_nothing_is_left_behind(load, mistake):
    before = set(sys.modules)
    load("shield.rule(action=drop())\n")
    mistake("shield.rule(action=drop())\n1 / 0\n")
    assert set(sys.modules) == before
    assert [rule.name for rule in load("shield.rule(action=drop())\n").rules] == ["rule 1 of rules.py"]
    with pytest.raises(RuntimeError, match="rules can only be added while the rules file is loaded"):
        rules.shield.rule(action=rules.drop())
    with pytest.raises(RuntimeError, match="rules can only be added while the rules file is loaded"):
        rules.shield.setup(print)


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("def broken(:\n", "rules.py:2: invalid syntax"),
        ("\0", "rules.py:1: source code string cannot contain null bytes"),
        ("\n1 / 0\n", "rules.py:3: ZeroDivisionError: division by zero"),
        ("def deep():\n    raise LookupError\ndeep()\n", "rules.py:3: LookupError: LookupError"),
        ("raise ValueError('two\\nlines')\n", "rules.py:2: ValueError: two lines"),
        ("raise SystemExit(1)\n", "rules.py:2: SystemExit: 1"),
        ("import nonsense_that_is_not_there\n", "rules.py:2: ModuleNotFoundError: No module named 'nonsense_that_is"),
        ("shield.rule(qtype('NONSENSE'), action=drop())\n", "rules.py:2: ValidationError: 1 validation error for"),
        ("shield.rule(rcode('SERVFAIL'), action=drop())\n", "rules.py:2: ValueError: a query has no rcode"),
        (
            "shield.rule(chain='cache-hits', action=forward('x'))\n",
            "rules.py:2: ValueError: forward is not possible in",
        ),
        ("shield.rule(chain='answer', action=drop())\n", "rules.py:2: ValueError: answer is not one of queries,"),
        (
            "shield.rule(on_error='nxdomain')\n",
            "rules.py:2: ValueError: nxdomain is not one of servfail, refused, drop",
        ),
        ("\n@shield.rule\ndef f(query): ...\n", "rules.py:3: TypeError: <function f at "),
        ("shield.rule('example.', action=drop())\n", "rules.py:2: TypeError: 'example.' is not a condition; write"),
        ("shield.rule(action=zone_file('/nowhere/x.zone'))\n", "rules.py:2: ConfigError: /nowhere/x.zone: No such"),
        ("shield.rule(name='x', action=zone('nonsense'))\n", "rules.py:2: ConfigError: x: not a valid zone: "),
        ("shield.rule(action=forward('inner'))\n", "rules: rule 1 of rules.py: there is no group inner of upstreams"),
        ("for _ in 1, 2: shield.rule(name='x', action=drop())\n", "rules: duplicate names: x"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_told_in_one_line(mistake, python, told):
    assert mistake(python).startswith(told)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ('{ call = "nowhere.py:function" }', "nowhere.py: No such file or directory"),
        ('{ call = "PATH/rules.py:nobody" }', "rules.py: no function nobody"),
        ('{ call = "PATH/rules.py:number" }', "rules.py: no function number"),
        ('{ zone_file = "nowhere.zone" }', "nowhere.zone: No such file or directory"),
        ('{ zone = "nonsense" }', "rule 1: not a valid zone: "),
        ('{ forward = "inner" }', "rules: rule 1: there is no group inner of upstreams"),
    ],
)
def test_a_mistake_in_a_table_is_told_in_one_line(mistake, tmp_path, action, told):
    assert mistake("number = 1\n", f"[[rules]]\naction = {action.replace('PATH', str(tmp_path))}\n").startswith(told)


def test_names_of_tables_and_of_a_file_are_told_apart(mistake):
    assert mistake("shield.rule(name='x', action=drop())\n", '[[rules]]\nname = "x"\naction = "drop"\n') == (
        "rules: duplicate names: x"
    )


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "rules.py").write_bytes(b"\xff\xfe")
    (tmp_path / "shield.toml").write_text(f'rules = "{tmp_path}/rules.py"\n')
    with pytest.raises(ConfigError, match=r"rules\.py: 'utf-8' codec can't decode"):
        rules.load(config.load(tmp_path / "shield.toml"))


def test_a_file_may_have_dataclasses_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "shield_rules.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Thing:\n    number: int\n"
    )
    before = set(sys.modules)
    rules.load(config.Config(rules_file=str(path)))
    assert not {name for name in set(sys.modules) - before if "rules_" in name}
