"""Conditions and actions as people write them: what they mean, and one clear line for each mistake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield import config
from funkenshield.config import action, match
from funkenshield.config.match import Match
from funkenshield.errors import ConfigError


def load(tmp_path, text):
    path = tmp_path / "shield.toml"
    path.write_text(text)
    return config.load(path)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ('match = { nonsense = 1 }\naction = "drop"', "rules[1].match.nonsense: no such key"),
        ('match = { suffix = "a..b" }\naction = "drop"', "rules[1].match.suffix: "),
        ('match = { suffix = [] }\naction = "drop"', "suffix: an empty list never matches; remove the key"),
        ('match = { qtype = "NOTHING" }\naction = "drop"', '"NOTHING" is not a known record type'),
        ('match = { qtype = 65536 }\naction = "drop"', "65536 is not a known record type"),
        ('match = { qtype = true }\naction = "drop"', "true is not a known record type"),
        ('match = { opcode = "NOTHING" }\naction = "drop"', '"NOTHING" is not a known opcode'),
        ('match = { option = "NOTHING" }\naction = "drop"', '"NOTHING" is not a known EDNS option'),
        ('match = { source = "192.0.2.1/24" }\naction = "drop"', "did you mean 192.0.2.0/24?"),
        ('match = { listener = "somewhere" }\naction = "drop"', "not an endpoint; write ADDR:PORT"),
        ('match = { regex = "(" }\naction = "drop"', "not a regular expression: "),
        ('match = { regex = "a{4294967296}" }\naction = "drop"', "not a regular expression: the repetition number"),
        (f'match = {{ regex = "{"(" * 3000}" }}\naction = "drop"', "not a regular expression: nested too deeply"),
        ('match = { time = "25:00-26:00" }\naction = "drop"', "not a time of day; write HH:MM-HH:MM"),
        ('match = { time = "20:00-24:30" }\naction = "drop"', "not a time of day; write HH:MM-HH:MM"),
        ('match = { days = "someday" }\naction = "drop"', "rules[1].match.days: "),
        ('match = { flags = "QR" }\naction = "drop"', "rules[1].match.flags: "),
        ('match = { probability = 1.5 }\naction = "drop"', "rules[1].match.probability: "),
        ('match = { rate = { limit = 0.0 } }\naction = "drop"', "rules[1].match.rate.limit: "),
        ('match = { tag = "two words" }\naction = "drop"', "rules[1].match.tag: "),
        ('match = { not = { qclass = "XX" } }\naction = "drop"', '"XX" is not a known class'),
        (
            'match = { rcode = "SERVFAIL" }\naction = "drop"',
            "a query has no rcode, and none of the flags AA, TC and RA",
        ),
        ('match = { any = [{ flags = "AA" }] }\naction = "drop"', "a query has no rcode, and none of the flags"),
        ('action = "nonsense"', 'rules[1].action: "nonsense" is not known: allow, forward,'),
        ('action = "rename"', "rules[1].action.rename: "),
        ("action = { drop = false }", "drop: a false or empty value has no meaning; remove the rule"),
        ("action = { allow = false }", "allow: a false or empty value has no meaning; remove the rule"),
        ("action = { drop = true, refused = true }", "an action table has exactly one key"),
        ("action = {}", "an action table has exactly one key"),
        ('action = { tag = "two words" }', "rules[1].action.tag: "),
        ('action = { answer = "A nonsense" }', "'A nonsense' is not a record"),
        ("action = { answer = [] }", "answer: a false or empty value has no meaning"),
        ('action = { add_option = { code = 9, data = "abc" } }', "rules[1].action.add_option.data: "),
        ('action = { rename = { old = "example." } }', "rules[1].action.rename.new: "),
        ("action = { delay = 11.0 }", "rules[1].action.delay: "),
        ("action = { ttl = { max = 0 } }", "rules[1].action.ttl.max: "),
        ('action = { call = "nonsense" }', "not a function; write FILE.py:FUNCTION"),
        ('action = { call = "rules.py:" }', "not a function; write FILE.py:FUNCTION"),
        ('action = { log = "{qnam}" }', "'qnam' is not a field of a query; fields are source, qname"),
        ('action = { log = "{qname.nonsense}" }', "is not a field of a query; fields are source, qname"),
        ('action = { log = "{id[0]}" }', "is not a field of a query; fields are source, qname"),
        ('action = { log = "{id:s}" }', "is not a field of a query; fields are source, qname"),
        ('action = { log = "{" }', "is not a field of a query; fields are source, qname"),
        (
            'chain = "responses"\naction = { delay = 1.0 }',
            "delay is not possible in the chain responses; possible are allow, call, continue,",
        ),
        (
            'chain = "cache-hits"\naction = { forward = "inner" }',
            "forward is not possible in the chain cache-hits; possible are allow, call,",
        ),
        ('chain = "nonsense"\naction = "drop"', "rules[1].chain: "),
        ('on_error = "nxdomain"\naction = "drop"', "rules[1].on_error: "),
        ('match = { suffix = "example." }', "rules[1].action: "),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, rule, told):
    with pytest.raises(ConfigError) as mistake:
        load(tmp_path, f"[[rules]]\n{rule}\n")
    (line,) = str(mistake.value).splitlines()
    assert line.startswith(f"{tmp_path / 'shield.toml'}: rules[1]")
    assert told in line


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as mistakes:
        load(tmp_path, '[[rules]]\nmatch = { qtype = "X1" }\naction = "drop"\n[[rules]]\naction = "nonsense"\n')
    assert len(str(mistakes.value).splitlines()) == 2


def test_one_thing_is_a_list_of_one_and_names_are_numbers(tmp_path):
    (rule,) = load(
        tmp_path,
        '[[rules]]\nmatch = { suffix = "Example.COM", qtype = "aaaa", option = 10, source = "::1",'
        ' opcode = "notify" }\naction = "allow"',
    ).rules
    match = rule.match
    assert (match.suffix, match.qtype, match.option, match.opcode) == (("example.com.",), (28,), (10,), (4,))
    assert [str(prefix) for prefix in match.source] == ["::1/128"]
    assert rule.action == action.allow()


@pytest.mark.parametrize(
    ("made", "written"),
    [
        (match.suffix("example."), {"suffix": "example."}),
        (match.suffix_file("names"), {"suffix_file": "names"}),
        (match.name("a.example.", "b.example."), {"name": ["a.example.", "b.example."]}),
        (match.regex("^ad"), {"regex": "^ad"}),
        (match.qtype("A", 28), {"qtype": ["A", "AAAA"]}),
        (match.qclass("CH"), {"qclass": "CH"}),
        (match.opcode("NOTIFY"), {"opcode": 4}),
        (match.flags("RD", "CD"), {"flags": ["RD", "CD"]}),
        (match.edns(), {"edns": True}),
        (match.dnssec(False), {"do": False}),
        (match.option("ECS"), {"option": 8}),
        (match.source("10.0.0.0/8"), {"source": "10.0.0.0/8"}),
        (match.listener("[::1]:53"), {"listener": "[::1]:53"}),
        (match.transport("tcp"), {"transport": "tcp"}),
        (match.rate(5.0, per="name"), {"rate": {"limit": 5.0, "per": "name"}}),
        (match.time("22:00-06:00", "sat"), {"time": "22:00-06:00", "days": "sat"}),
        (match.probability(0.5), {"probability": 0.5}),
        (match.source_ratio(0.1), {"source_ratio": 0.1}),
        (match.rcode("SERVFAIL"), {"rcode": 2}),
        (match.tagged("busy"), {"tag": "busy"}),
        (match.edns() & match.dnssec(), {"all": [{"edns": True}, {"do": True}]}),
        (match.edns() | match.dnssec(), {"any": [{"edns": True}, {"do": True}]}),
        (~match.edns(), {"not": {"edns": True}}),
        (match.all_of(match.edns()), {"all": [{"edns": True}]}),
        (match.any_of(match.edns()), {"any": [{"edns": True}]}),
        (match.not_(match.edns()), {"not": {"edns": True}}),
    ],
)
def test_a_condition_is_the_same_in_python_and_in_toml(made, written):
    assert made == Match.model_validate(written)


def test_all_tables_within_a_table_are_walked():
    inner = match.qtype("A")
    made = (inner | ~match.edns()) & match.suffix("example.")
    assert len(made.walk()) == 6
    assert inner in made.walk()


@given(st.text())
def test_a_span_of_time_is_one_of_a_day_or_a_mistake(text):
    try:
        begin, end = match.minutes_of(text)
    except ValueError:
        return
    assert 0 <= begin < 1440
    assert 0 <= end <= 1440


@pytest.mark.parametrize(
    ("made", "written", "kind", "decides"),
    [
        (action.allow(), "allow", "allow", True),
        (action.forward("inner"), {"forward": "inner"}, "forward", True),
        (action.answer("A 192.0.2.1"), {"answer": "A 192.0.2.1"}, "answer", True),
        (action.zone("@ SOA"), {"zone": "@ SOA"}, "zone", True),
        (action.zone_file("x.zone"), {"zone_file": "x.zone"}, "zone_file", True),
        (action.nxdomain(), "nxdomain", "nxdomain", True),
        (action.nodata(), "nodata", "nodata", True),
        (action.refuse(), "refused", "refused", True),
        (action.servfail(), "servfail", "servfail", True),
        (action.drop(), "drop", "drop", True),
        (action.truncate(), "truncate", "truncate", True),
        (action.skip_cache(), "skip_cache", "skip_cache", False),
        (action.ttl(max=60), {"ttl": {"max": 60}}, "ttl", False),
        (action.remove_option("ECS", 9), {"remove_option": [8, "EXPIRE"]}, "remove_option", False),
        (action.add_option(65001, b"\1"), {"add_option": {"code": 65001, "data": "01"}}, "add_option", False),
        (action.rename("a.", "b."), {"rename": {"old": "a", "new": "b"}}, "rename", False),
        (action.delay(0.5), {"delay": 0.5}, "delay", False),
        (action.tee("127.0.0.1:53"), {"tee": "127.0.0.1:53"}, "tee", False),
        (action.log("{qname}"), {"log": "{qname}"}, "log", False),
        (action.tag("busy"), {"tag": "busy"}, "tag", False),
        (action.proceed(), "continue", "continue", False),
    ],
)
def test_an_action_is_the_same_in_python_and_in_toml(made, written, kind, decides):
    assert made == action.Action.model_validate(written)
    assert (made.kind, made.decides) == (kind, decides)
