"""Chains of rules as programs: each condition true and false, what each action becomes, and where a query goes on."""

import random
from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.update
import pytest

from funkenshield.config.action import Action
from funkenshield.config.match import Match
from funkenshield.config.types import Endpoint
from funkenshield.errors import ConfigError
from funkenshield.policy._guard import Guard
from funkenshield.policy._rule_program import ACTIONS_OF
from funkenshield.rules import compiler
from funkenshield.rules.compiler import END, NUMBERS_MAX, RULES_MAX, START, TAGS_MAX, IdAllocator, Rule, compile_chain

FIRST = min(ACTIONS_OF.values())
KIND = {number - FIRST: name for name, number in ACTIONS_OF.items()}
LISTENERS = (Endpoint("192.0.2.1", 53), Endpoint("2001:db8::1", 53), Endpoint("192.0.2.1", 5353))
ALICE, BOB = "192.0.2.7", "198.51.100.9"
SECOND = 10**9
HOUR, DAY = 3600, 86400
MONDAY = 4 * DAY  # the fifth of January 1970
LONGEST = ".".join("x" * 127) + "."


class Chained:
    """A chain of rules, each a pair of match and action, and what queries meet in it."""

    def __init__(self, *rules, chain="queries", ids=None, guard=None):
        self.ids = ids or IdAllocator()
        made = [
            Rule(f"rule {number}", chain, Match.model_validate(match), Action.model_validate(action))
            for number, (match, action) in enumerate(rules)
        ]
        self.compiled = compile_chain(made, self.ids, 1, guard or Guard(1 << 16), LISTENERS)
        self.chain = self.compiled.chain

    def meets(self, wire, source=ALICE, **how):
        """Return what a query meets, as (kind, value, node, rule)."""
        met = self.chain.actions(wire, ip_address(source).packed, **how)
        return [(KIND[kind], *rest) for kind, *rest in met]

    def actions(self, wire, source=ALICE, **how):
        return [kind for kind, *_ in self.meets(wire, source, **how)]

    def rules(self, wire, source=ALICE, **how):
        return [rule for *_, rule in self.meets(wire, source, **how)]


def query(name="www.example.com.", rdtype="A", rdclass="IN", flags="RD", opcode="QUERY", **edns):
    message = dns.message.make_query(name, rdtype, rdclass, **edns)
    message.flags = dns.flags.from_text(flags)
    message.set_opcode(dns.opcode.from_text(opcode))
    return message.to_wire()


A_QUERY = query()


def option(code, data=b""):
    return query(options=[dns.edns.GenericOption(code, data)])


# ---------------------------------------------------------------- conditions

SLOW, TRUE, FALSE = {"regex": "x"}, {"qtype": "A"}, {"edns": True}  # for Python, and what is so of most queries
NESTED = {"source": ["10.0.0.0/8", "10.1.0.0/16"], "not": {"source": "10.1.2.0/24"}}

# With options that say they are longer than they are: of such messages, only queries are malformed.
CUT_OPTION, OTHER_CUT_OPTION = (
    query(opcode="NOTIFY", options=[dns.edns.GenericOption(code, b"")])[:-1] + b"\x10" for code in (65001, 65002)
)

# A table, then queries that it is true of, and queries that it is not; a query is (wire, what meets() takes).
CONDITIONS = {
    "nothing": ({}, [query(), query(".")], []),
    "suffix": (
        {"suffix": ["example.com", "b.test"]},
        [query("example.com."), query("a.b.c.EXAMPLE.com."), query("a.b.test.")],
        [query("com."), query("."), query("badexample.com."), query("test."), query("example.com.test.")],
    ),
    "suffix of all": ({"suffix": "."}, [query("."), query("com."), query(LONGEST)], []),
    "suffix below a suffix": (
        {"suffix": "example.com", "not": {"suffix": "dev.example.com"}},
        [query("example.com."), query("www.example.com.")],
        [query("dev.example.com."), query("a.dev.example.com.")],
    ),
    "name": ({"name": "Example.COM"}, [query("eXample.com.")], [query("a.example.com."), query("com."), query(".")]),
    "name of the root": ({"name": "."}, [query(".")], [query("com."), query(LONGEST)]),
    "longest name": ({"name": LONGEST}, [query(LONGEST.upper())], [query(LONGEST[2:]), query(".")]),
    "name below a suffix": (
        {"suffix": "example.com", "not": {"name": "www.example.com"}},
        [query("example.com."), query("a.www.example.com.")],
        [query("www.example.com.")],
    ),
    "name and suffix": (
        {"suffix": "example.com", "name": ["www.example.com", "www.example.net"]},
        [query("www.example.com.")],
        [query("www.example.net."), query("example.com.")],
    ),
    "qtype": ({"qtype": ["A", 65]}, [query(), query(rdtype="HTTPS")], [query(rdtype="MX"), query(rdtype="TYPE0")]),
    "metatypes": (
        {"qtype": ["ANY", "AXFR", "TKEY"]},
        [query(rdtype="ANY"), query(rdtype="AXFR"), query(rdtype="TKEY")],
        [query(), query(rdtype="IXFR"), query(rdtype="TYPE254")],
    ),
    "last type": ({"qtype": 65535}, [query(rdtype="TYPE65535")], [query(rdtype="TYPE65534")]),
    "qclass": ({"qclass": ["CH", "ANY"]}, [query(rdclass="CH"), query(rdclass="ANY")], [query(), query(rdclass="HS")]),
    "opcode": (
        {"opcode": ["NOTIFY", 15]},
        [query(rdtype="SOA", opcode="NOTIFY"), query(opcode="15")],
        [query(), query(opcode="STATUS"), query(opcode="14")],
    ),
    "flags": (
        {"flags": ["RD", "CD"]},
        [query(flags="RD CD AD")],
        [query(flags="RD"), query(flags="CD"), query(flags="")],
    ),
    "edns": ({"edns": True}, [query(use_edns=0)], [query()]),
    "no edns": ({"edns": False}, [query()], [query(use_edns=0), query(want_dnssec=True)]),
    "do": ({"do": True}, [query(want_dnssec=True)], [query(use_edns=0), query()]),
    "no do": ({"do": False}, [query(use_edns=0), query()], [query(want_dnssec=True)]),
    "option that is not whole": ({"option": 65001}, [CUT_OPTION], [OTHER_CUT_OPTION]),
    "option": (
        {"option": ["NSID", 65001]},
        [option(3), option(65001, b"data"), query(options=[dns.edns.GenericOption(n, bytes(9)) for n in (12, 3)])],
        [query(), query(use_edns=0), option(65002), option(12, b"\0\3\0\0")],
    ),
    "source": (
        {"source": ["192.0.2.0/24", "2001:db8::/33"]},
        [(query(), {"source": "192.0.2.255"}), (query(), {"source": "2001:db8::"})],
        [(query(), {"source": "192.0.3.0"}), (query(), {"source": "2001:db8:8000::"}), (query(), {"source": "::1"})],
    ),
    "one address": ({"source": ALICE}, [query()], [(query(), {"source": "192.0.2.8"})]),
    "all of IPv4": ({"source": "0.0.0.0/0"}, [query()], [(query(), {"source": "::192.0.2.7"})]),
    "nested prefixes": (
        NESTED,
        [(query(), {"source": "10.9.0.1"}), (query(), {"source": "10.1.3.1"})],
        [(query(), {"source": "10.1.2.3"}), (query(), {"source": "11.0.0.1"})],
    ),
    "listener": (
        {"listener": ["192.0.2.1:53", "192.0.2.1:5353"]},
        [(query(), {"listener": 0}), (query(), {"listener": 2})],
        [(query(), {"listener": 1})],
    ),
    "udp": (
        {"transport": "udp"},
        [(query(), {"datagram": True})],
        [(query(), {"datagram": False}), (query(), {"datagram": False, "transport": 2})],
    ),
    "tcp": (
        {"transport": "tcp"},
        [(query(), {"datagram": False})],
        [(query(), {"datagram": True}), (query(), {"datagram": False, "transport": 2})],
    ),
    "tls": (
        {"transport": "tls"},
        [(query(), {"datagram": False, "transport": 2})],
        [(query(), {"datagram": True}), (query(), {"datagram": False}), (query(), {"datagram": False, "transport": 3})],
    ),
    "https": (
        {"transport": "https"},
        [(query(), {"datagram": False, "transport": 3})],
        [(query(), {"datagram": True}), (query(), {"datagram": False}), (query(), {"datagram": False, "transport": 4})],
    ),
    "http": (
        {"transport": "http"},
        [(query(), {"datagram": False, "transport": 4})],
        [(query(), {"datagram": False}), (query(), {"datagram": False, "transport": 3})],
    ),
    "time": (
        {"time": "08:00-18:00"},
        [(query(), {"wall": 8 * HOUR}), (query(), {"wall": MONDAY + 18 * HOUR - 1})],
        [(query(), {"wall": 8 * HOUR - 1}), (query(), {"wall": 18 * HOUR}), (query(), {"wall": 0})],
    ),
    "time past midnight": (
        {"time": "22:00-06:00"},
        [(query(), {"wall": 22 * HOUR}), (query(), {"wall": 0}), (query(), {"wall": 6 * HOUR - 1})],
        [(query(), {"wall": 22 * HOUR - 1}), (query(), {"wall": 6 * HOUR})],
    ),
    "time until midnight": (
        {"time": "23:00-24:00"},
        [(query(), {"wall": 23 * HOUR}), (query(), {"wall": DAY - 1})],
        [(query(), {"wall": DAY}), (query(), {"wall": 23 * HOUR - 1})],
    ),
    "days": (
        {"days": ["mon", "sun"]},
        [(query(), {"wall": MONDAY}), (query(), {"wall": MONDAY - 1}), (query(), {"wall": MONDAY + 7 * DAY})],
        [(query(), {"wall": MONDAY + DAY}), (query(), {"wall": MONDAY - DAY - 1})],
    ),
    "time past midnight on a day": (
        {"time": "22:00-06:00", "days": "mon"},
        [(query(), {"wall": MONDAY + 23 * HOUR}), (query(), {"wall": MONDAY + HOUR})],
        [(query(), {"wall": MONDAY + DAY + HOUR}), (query(), {"wall": MONDAY + 12 * HOUR})],
    ),
    "always": ({"probability": 1.0}, [query()] * 50, []),
    "never": ({"probability": 0.0}, [], [query()] * 50),
    "whole ratio": ({"source_ratio": 1.0}, [query(), (query(), {"source": BOB})], []),
    "no ratio": ({"source_ratio": 0.0}, [], [query(), (query(), {"source": BOB})]),
    "all": (
        {"all": [{"qtype": "A"}, {"edns": True}, {"suffix": "com"}]},
        [query(use_edns=0)],
        [query(), query("a.test.", use_edns=0), query(rdtype="MX", use_edns=0)],
    ),
    "any": (
        {"any": [{"qtype": "MX"}, {"edns": True}, {"suffix": "test"}]},
        [query(use_edns=0), query(rdtype="MX"), query("a.test.")],
        [query()],
    ),
    "not": ({"not": {"qtype": "A", "suffix": "com"}}, [query("a.test."), query(rdtype="MX")], [query()]),
    "neither": ({"not": {"any": [TRUE, {"suffix": "com"}]}}, [query("a.test.", "MX")], [query(), query("a.test.")]),
    "not both": ({"not": {"all": [TRUE, {"suffix": "com"}]}}, [query("a.test."), query(rdtype="MX")], [query()]),
    "names of all kinds": (
        {"suffix": ["*.a.test", "b\\.c.test", "b\u00fccher.test"]},
        [query("x.*.a.test."), query("b\\.c.test."), query("xn--BCHER-kva.test.")],
        [query("a.test."), query("x.a.test."), query("b.c.test.")],
    ),
    "not not": ({"not": {"not": {"qtype": "A"}}}, [query()], [query(rdtype="MX")]),
    "all that a table has": (
        {"qtype": "A", "any": [{"edns": True}, {"flags": "CD"}], "all": [{"suffix": "com"}], "not": {"do": True}},
        [query(use_edns=0), query(flags="CD")],
        [query(), query("a.test.", use_edns=0), query(want_dnssec=True), query(rdtype="MX", use_edns=0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_true_of_these_and_not_of_those(condition):
    match, of, not_of = CONDITIONS[condition]
    chained = Chained((match, "refused"))
    inverse = Chained(({"not": match}, "refused"))
    for wanted, asked in ([True, of], [False, not_of]):
        for each in asked:
            wire, how = each if isinstance(each, tuple) else (each, {})
            assert bool(chained.meets(wire, **how)) == wanted
            assert bool(inverse.meets(wire, **how)) != wanted


def test_a_response_is_told_by_code_and_flags():
    chained = Chained(({"rcode": ["NXDOMAIN", "BADVERS"], "flags": "AA"}, "servfail"), chain="responses")
    assert chained.actions(query(), rcode=3, flags=0x0400) == ["error"]
    assert chained.actions(query(), rcode=16, flags=0x0580) == ["error"]
    assert chained.actions(query(), rcode=3) == []
    assert chained.actions(query(), rcode=0, flags=0x0400) == []


def test_tags_are_told_by_rules_before_or_by_the_chain_before():
    chained = Chained(({"qtype": "A"}, {"tag": "a"}), ({"tag": ["a", "b"]}, "drop"))
    assert chained.actions(query()) == ["tag", "drop"]
    assert chained.actions(query(rdtype="MX")) == []
    assert chained.actions(query(rdtype="MX"), tags=chained.ids.tag("b")) == ["drop"]
    assert chained.actions(query(rdtype="MX"), tags=chained.ids.tag("c")) == []


def test_local_time_is_ahead_of_utc_or_behind():
    chained = Chained(({"time": "00:00-01:00", "days": "mon"}, "drop"))
    chained.chain.set_offset(-5 * HOUR)
    assert chained.actions(query(), wall=MONDAY + 5 * HOUR) == ["drop"]
    assert chained.actions(query(), wall=MONDAY) == []
    chained.chain.set_offset(5 * HOUR)
    assert chained.actions(query(), wall=MONDAY - 5 * HOUR) == ["drop"]


def test_nobody_listens_there():
    told = r"127\.0\.0\.1:53 is not a listen address; those are 192\.0\.2\.1:53, \["
    with pytest.raises(ConfigError, match=told):
        Chained(({"listener": "127.0.0.1:53"}, "drop"))


# ---------------------------------------------------------------- chance


def test_chance_is_about_right_and_another_for_each_test():
    half = {"probability": 0.5}
    chained = Chained(({"probability": 0.1}, {"tag": "a"}), ({"all": [half, half]}, {"tag": "b"}))
    for now in range(20_000):
        chained.meets(A_QUERY, now=now)
    tenth, quarter = chained.chain.matched()
    assert 1800 < tenth < 2200  # 2000, and five standard deviations of 42
    assert 4690 < quarter < 5310


def test_a_share_is_of_addresses_always_the_same_ones_and_a_larger_one_holds_a_smaller_one():
    dice = random.Random(7)
    sources = [dice.randbytes(dice.choice([4, 16])) for _ in range(5000)]
    small, large, again = (Chained(({"source_ratio": ratio}, "drop")).chain for ratio in (0.1, 0.3, 0.3))
    in_small, in_large, in_again = (
        {source for source in sources if chain.actions(A_QUERY, source, now=now)}
        for now, chain in enumerate((small, large, again))
    )
    assert in_large == in_again
    assert in_small < in_large
    assert 390 < len(in_small) < 610
    assert 1340 < len(in_large) < 1660


# ---------------------------------------------------------------- rates

A_CUSTOMER, HIS_TOO, ANOTHER = "2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"  # of /64


@pytest.mark.parametrize(
    ("how", "same", "another"),
    [
        ({}, [("a.test.", ALICE), ("b.test.", ALICE)], ("a.test.", "192.0.2.8")),
        ({"ipv4_prefix_length": 24}, [("a.test.", ALICE), ("a.test.", "192.0.2.8")], ("a.test.", "192.0.3.7")),
        ({"ipv4_prefix_length": 20}, [("a.test.", ALICE), ("a.test.", "192.0.15.8")], ("a.test.", "192.0.16.7")),
        ({}, [("a.test.", A_CUSTOMER), ("a.test.", HIS_TOO)], ("a.test.", ANOTHER)),
        ({"per": "zone"}, [("a.b.test.", ALICE), ("C.B.Test.", BOB), ("b.test.", BOB)], ("a.c.test.", ALICE)),
        ({"per": "zone"}, [("test.", ALICE), ("TEST.", BOB)], ("net.", ALICE)),
        ({"per": "zone"}, [(".", ALICE), (".", BOB)], ("test.", ALICE)),
        ({"per": "zone"}, [(LONGEST, ALICE), ("x.x.", BOB)], ("y.x.", ALICE)),
        ({"per": "name"}, [("a.test.", ALICE), ("A.TEST.", BOB)], ("b.test.", ALICE)),
        ({"per": "name"}, [(".", ALICE), (".", BOB)], ("test.", ALICE)),
    ],
)
def test_a_rate_is_for_a_source_a_zone_or_a_name(how, same, another):
    chained = Chained(({"rate": {"limit": 2.0, **how}}, "drop"))
    asked = (same * 3)[:5]
    assert [chained.actions(query(name), source, now=SECOND) for name, source in asked] == [[], [], *[["drop"]] * 3]
    name, source = another
    assert chained.actions(query(name), source, now=SECOND) == []
    assert chained.actions(query(asked[0][0]), asked[0][1], now=2 * SECOND) == []


def test_a_rate_for_all_is_one():
    chained = Chained(({"rate": {"limit": 2.0, "per": "all"}}, "drop"))
    asked = [("a.test.", ALICE), ("b.test.", BOB), (".", A_CUSTOMER)]
    assert [chained.actions(query(name), source, now=SECOND) for name, source in asked] == [[], [], ["drop"]]


def test_a_rate_of_names_is_that_of_questions_that_no_cache_knows_too():
    chained = Chained(({"rate": {"limit": 1.0, "per": "name"}}, "drop"))
    assert chained.actions(query("A.test.", "AXFR"), now=SECOND) == []
    assert chained.actions(query("a.TEST."), now=SECOND) == ["drop"]


def test_as_many_may_come_at_once_as_in_the_window():
    chained = Chained(({"rate": {"limit": 2.0, "window": 5.0}}, "drop"))
    assert [len(chained.actions(query(), now=SECOND)) for _ in range(12)] == [0] * 10 + [1] * 2


def test_only_what_meets_the_rest_of_its_table_is_counted():
    chained = Chained(({"rate": {"limit": 1.0}, "qtype": "A", "not": {"edns": True}, "any": [{"flags": "RD"}]}, "drop"))
    for wire in [query(rdtype="MX"), query(use_edns=0), query(flags="")] * 3:
        assert chained.actions(wire, now=SECOND) == []
    assert chained.actions(query(), now=SECOND) == []
    assert chained.actions(query(), now=SECOND) == ["drop"]


def test_a_rate_goes_on_over_a_reload_that_leaves_its_rule():
    guard = Guard(1 << 16)
    rule = ({"rate": {"limit": 1.0}}, "drop")
    before = Chained(rule, guard=guard)
    assert before.actions(query(), now=SECOND) == []
    assert Chained(rule, guard=guard).actions(query(), now=SECOND) == ["drop"]
    assert Chained(({"rate": {"limit": 1.5}}, "drop"), guard=guard).actions(query(), now=SECOND) == []
    assert Chained(({}, "continue"), rule, guard=guard).actions(query(), now=SECOND) == ["count"]  # its name is another
    assert Chained(rule, chain="cache-hits", guard=guard).actions(query(), now=SECOND) == []


def test_two_rates_of_one_rule_are_two():
    limited = {"rate": {"limit": 1.0}}
    chained = Chained(({"any": [{"suffix": "a.test", **limited}, {"suffix": "b.test", **limited}]}, "drop"))
    assert chained.actions(query("a.test."), now=SECOND) == []
    assert chained.actions(query("b.test."), now=SECOND) == []
    assert chained.actions(query("b.test."), now=SECOND) == ["drop"]


# ---------------------------------------------------------------- actions

DECIDES = {
    "allow": ("pass", 0),
    "drop": ("drop", 0),
    "truncate": ("truncate", 0),
    "nodata": ("error", 0),
    "servfail": ("error", 2),
    "nxdomain": ("error", 3),
    "refused": ("error", 5),
}


@pytest.mark.parametrize(("action", "met"), DECIDES.items())
def test_an_action_decides(action, met):
    chained = Chained(({}, action), ({}, "drop"))
    ((kind, value, _, rule),) = chained.meets(query())
    assert (kind, value, rule) == (*met, 0)
    assert chained.chain.matched() == [1, 0]
    assert chained.compiled.stops == {}


def test_who_is_asked_has_a_number():
    rules = [
        ({"name": "a.test"}, {"forward": "inner"}),
        ({"name": "b.test"}, {"forward": "outer"}),
        ({"name": "c.test"}, {"forward": "inner"}),
        ({"name": "d.test"}, {"answer": ["A 192.0.2.1"]}),
        ({"name": "e.test"}, {"zone": "@ SOA . . 1 1 1 1 1"}),
        ({"name": "f.test"}, {"zone_file": "test.zone"}),
        ({}, "drop"),
    ]
    chained = Chained(*rules)
    met = [chained.meets(query(f"{each}.test.")) for each in "abcdef"]
    assert [(kind, value) for ((kind, value, _, _),) in met] == [("route", route) for route in (1, 2, 1, 3, 4, 5)]
    assert chained.compiled.stops == {}
    assert list(chained.ids.routes) == ["group inner", "group outer", "rule rule 3", "rule rule 4", "rule rule 5"]


def test_what_only_changes_something_goes_on():
    chained = Chained(
        ({}, "skip_cache"),
        ({}, {"ttl": {"min": 5}}),
        ({}, {"ttl": {"max": 60}}),
        ({}, {"ttl": {"min": 5}}),
        ({}, {"tag": "a"}),
        ({}, {"tag": "b"}),
        ({"qtype": "A"}, "continue"),
    )
    assert [(kind, value) for kind, value, _, _ in chained.meets(query(rdtype="MX"))] == [
        ("uncached", 0), ("ttl_limits", 1), ("ttl_limits", 2), ("ttl_limits", 1), ("tag", 1), ("tag", 2),
    ]  # fmt: skip
    assert chained.rules(query()) == [0, 1, 2, 3, 4, 5, 6]
    assert chained.chain.matched() == [2, 2, 2, 2, 2, 2, 1]
    assert chained.ids.ttl_limits == {(5, 604800): 1, (0, 60): 2}


IN_PYTHON = [
    {"remove_option": ["ECS"]},
    {"add_option": {"code": "NSID"}},
    {"rename": {"old": "a.test", "new": "b.test"}},
    {"delay": 0.1},
    {"tee": "192.0.2.53:53"},
    {"log": "{qname}"},
    {"call": "rules.py:function"},
]


@pytest.mark.parametrize("action", IN_PYTHON, ids=lambda action: next(iter(action)))
def test_what_python_does_stops_there_and_goes_on_behind(action):
    chained = Chained(({}, "continue"), ({}, action), ({}, "continue"), ({}, "drop"))
    met = chained.meets(query())
    assert [(kind, rule) for kind, _, _, rule in met] == [("count", 0), ("call", 1)]
    ((node, stop),) = chained.compiled.stops.items()
    assert node == met[-1][2]
    assert stop.rule == chained.compiled.rules[1]
    assert stop.regex is None
    assert chained.rules(query(), at=stop.yes) == [2, 3]
    assert chained.chain.matched() == [1, 1, 1, 1]


def test_a_function_whose_answers_are_kept_is_asked_like_an_upstream():
    action = Action(call="rules.py:function")
    ids, guard = IdAllocator(), Guard(1 << 16)
    for chain, cache, kind in [("queries", True, "route"), ("queries", False, "call"), ("responses", True, "call")]:
        rule = Rule("name", chain, Match(), action, cache=cache, key="of the rule")
        compiled = compile_chain([rule], ids, 1, guard, ())
        assert [KIND[met] for met, *_ in compiled.chain.actions(query(), bytes(4))] == [kind]
        assert bool(compiled.stops) == (kind == "call")
    assert ids.routes == {"rule of the rule": 1}


# ---------------------------------------------------------------- regular expressions


def test_a_regular_expression_is_asked_of_python_and_of_queries_that_all_else_leaves():
    rest = {"suffix": "example.com", "transport": "tcp", "all": [{"qtype": "A"}], "any": [{"flags": "RD"}],
            "not": {"edns": True}}  # fmt: skip
    chained = Chained(({"regex": "^ad[0-9]", **rest}, "drop"), ({}, "refused"))
    ((kind, _, node, rule),) = chained.meets(query(), datagram=False)
    stop = chained.compiled.stops[node]
    assert (kind, rule, stop.regex.pattern) == ("ask", 0, "^ad[0-9]")
    assert chained.actions(query(), datagram=False, at=stop.yes) == ["drop"]
    assert chained.actions(query(), datagram=False, at=stop.no) == ["error"]
    assert chained.chain.matched() == [1, 1]  # that Python is asked is no match
    for wire in query("a.test."), query(rdtype="MX"), query(flags=""), query(use_edns=0):
        assert chained.actions(wire, datagram=False) == ["error"]
    assert chained.actions(query()) == ["error"]


@pytest.mark.parametrize(
    ("match", "actions"),
    [
        ({"all": [SLOW, FALSE]}, []),
        ({"all": [SLOW, TRUE]}, ["ask"]),
        ({"any": [SLOW, TRUE]}, ["drop"]),
        ({"any": [SLOW, FALSE]}, ["ask"]),
        ({"all": [{"all": [SLOW, TRUE]}, FALSE]}, []),
        ({"any": [{"not": SLOW}, TRUE]}, ["drop"]),
        ({"all": [SLOW], "any": [FALSE]}, []),
        ({"all": [SLOW], "not": TRUE}, []),
        ({"any": [SLOW, SLOW], "not": TRUE}, []),
        ({"not": SLOW, "any": [FALSE]}, []),
        ({"not": {"all": [SLOW, FALSE]}}, ["drop"]),
        ({"not": {"any": [SLOW, TRUE]}}, []),
    ],
)
def test_python_is_asked_only_where_nothing_else_decides(match, actions):
    assert Chained((match, "drop")).actions(query()) == actions


def test_two_regular_expressions_are_asked_one_by_one():
    chained = Chained(({"regex": "a", "not": {"regex": "b"}}, "drop"))
    ((_, _, first, _),) = chained.meets(query())
    ways = chained.compiled.stops[first]
    assert ways.regex.pattern == "b"
    assert chained.actions(query(), at=ways.yes) == []
    ((kind, _, second, _),) = chained.meets(query(), at=ways.no)
    assert (kind, chained.compiled.stops[second].regex.pattern) == ("ask", "a")
    assert chained.actions(query(), at=chained.compiled.stops[second].yes) == ["drop"]


def test_a_rate_is_charged_before_python_is_asked():
    chained = Chained(({"rate": {"limit": 1.0}, "all": [SLOW]}, "drop"))
    assert chained.actions(query(), now=SECOND) == []
    assert chained.actions(query(), now=SECOND) == ["ask"]


# ---------------------------------------------------------------- chains


def test_the_first_that_decides_is_the_last():
    chained = Chained(({"qtype": "A"}, "continue"), ({"suffix": "com"}, "drop"), ({}, "refused"), ({}, "allow"))
    assert chained.rules(query()) == [0, 1]
    assert chained.rules(query("a.test.")) == [0, 2]
    assert chained.rules(query("a.test.", "MX")) == [2]
    assert chained.chain.matched() == [2, 1, 2, 0]


def test_a_chain_begins_at_its_start_and_has_an_end():
    chained = Chained(({}, "drop"))
    assert chained.rules(query(), at=START) == [0]
    assert chained.rules(query(), at=END) == []
    assert Chained().rules(query()) == []
    assert Chained().chain.matched() == []


def test_a_query_goes_on_at_any_of_its_nodes():
    chained = Chained(({}, {"tag": "a"}), ({"qtype": "A"}, "skip_cache"), ({"tag": "a"}, "drop"))
    met = chained.meets(query())
    for number, (_, _, node, _) in enumerate(met):
        assert chained.meets(query(), at=node, tags=1) == met[number:]


@pytest.mark.parametrize("rules", [63, 64, 65, 128, 1000, RULES_MAX])
def test_rules_of_all_numbers_are_found(rules):
    chained = Chained(*[({"name": f"{number}.test"}, "continue") for number in range(rules - 1)], ({}, "continue"))
    for number in {0, 62, 63, 64, 65, rules - 3, rules - 2} & set(range(rules - 1)):
        assert chained.rules(query(f"{number}.test.")) == [number, rules - 1]
    assert chained.rules(query("test.")) == [rules - 1]


def test_rules_that_nothing_tells_apart_are_asked_in_order():
    chained = Chained(*[({"flags": "RD"}, "continue")] * 130)
    assert chained.rules(query()) == list(range(130))
    assert chained.rules(query(flags="")) == []


def test_rules_are_found_by_name_type_and_source_together():
    rules = [
        {"suffix": f"{name}.test", "qtype": qtype, "source": source}
        for name in "abcdefgh"
        for qtype in ("A", "AAAA", "MX")
        for source in ("10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32")
    ]
    chained = Chained(*[(match, "continue") for match in rules])
    assert chained.rules(query("x.d.test.", "AAAA"), "10.1.2.3") == [
        number for number, match in enumerate(rules)
        if match["suffix"] == "d.test" and match["qtype"] == "AAAA" and match["source"].startswith("10.")
    ]  # fmt: skip
    assert chained.rules(query("x.d.test.", "TXT"), "10.1.2.3") == []
    assert chained.rules(query("x.d.test."), "11.1.2.3") == []


def test_there_are_too_many_rules():
    with pytest.raises(ConfigError, match="a chain has at most 4096 rules, not 4097"):
        Chained(*[({}, "continue")] * (RULES_MAX + 1))


def test_a_hundred_thousand_names_are_found(tmp_path):
    (tmp_path / "names").write_text("".join(f"a{number}.b{number % 97}.test\n" for number in range(100_000)))
    chained = Chained(({"suffix_file": str(tmp_path / "names")}, "drop"))
    assert chained.actions(query("www.A99999.b89.test.")) == ["drop"]
    assert chained.actions(query("a0.b1.test.")) == []


# ---------------------------------------------------------------- queries that no cache answers


def update(zone="example.com."):
    message = dns.update.UpdateMessage(zone)
    message.add("www", 60, "A", "192.0.2.1")
    return message.to_wire()


@pytest.mark.parametrize(
    ("wire", "also"),
    [
        (query("example.com.", "SOA", opcode="NOTIFY"), {"opcode": "NOTIFY", "qtype": "SOA"}),
        (update("Example.COM."), {"opcode": "UPDATE", "qtype": "SOA"}),
        (update().replace(b"\0\6\0\1", b"\0\1\0\1", 1), {"opcode": "UPDATE", "qtype": "A"}),
        (query("example.com.", "AXFR"), {"qtype": "AXFR"}),
        (query("EXAMPLE.com.", options=[dns.edns.GenericOption(65001, b"")]), {"option": 65001, "qtype": "A"}),
    ],
    ids=["notify", "update", "update of another type", "transfer", "unknown option"],
)
def test_what_is_never_cached_meets_rules_too(wire, also):
    match = {"suffix": "com", "name": "example.com", "qclass": "IN", "source": "192.0.2.0/24", **also}
    assert Chained((match, "drop")).actions(wire) == ["drop"]
    assert Chained(({**match, "name": "example.net"}, "drop")).actions(wire) == []
    assert Chained(({**match, "qtype": "TXT"}, "drop")).actions(wire) == []


NO_QUESTION = dns.message.Message(1).to_wire()[:2] + bytes(10)


@pytest.mark.parametrize("wire", [NO_QUESTION, bytes(2) + b"\x10" + bytes(9)], ids=["query", "status"])
@pytest.mark.parametrize("match", [{"suffix": "."}, {"name": "."}, {"qtype": 0}, {"qclass": 0}])
def test_without_a_question_nothing_of_it_is_true(wire, match):
    assert Chained((match, "drop")).actions(wire) == []
    assert Chained(({"not": match}, "drop")).actions(wire) == ["drop"]


@pytest.mark.parametrize("per", ["source", "zone", "name", "all"])
def test_without_a_question_queries_are_counted(per):
    chained = Chained(({"rate": {"limit": 1.0, "per": per}}, "drop"))
    assert [chained.actions(NO_QUESTION, now=SECOND) for _ in range(2)] == [[], ["drop"]]


@pytest.mark.parametrize("wire", [b"", bytes(11), b"\0\0\x80" + bytes(9), bytes(65536)])
def test_what_nobody_answers_meets_no_rules(wire):
    with pytest.raises(ValueError, match="that is no query"):
        Chained(({}, "drop")).meets(wire)


# ---------------------------------------------------------------- numbers


def test_numbers_are_kept():
    ids = IdAllocator()
    first = Chained(({}, {"forward": "a"}), ids=ids)
    second = Chained(({"qtype": "A"}, {"forward": "b"}), ({}, {"forward": "a"}), ids=ids)
    assert [first.meets(query())[0][1], second.meets(query())[0][1], second.meets(query(rdtype="MX"))[0][1]] == [
        1,
        2,
        1,
    ]
    assert [ids.ttl_limit((0, 5)), ids.ttl_limit((0, 6)), ids.ttl_limit((0, 5))] == [1, 2, 1]


def test_there_are_so_many_tags():
    ids = IdAllocator()
    assert [ids.tag(f"tag{number}") for number in range(TAGS_MAX)] == [1 << bit for bit in range(64)]
    assert ids.tag("tag63") == 1 << 63
    with pytest.raises(ConfigError, match="more than 64 tags at once"):
        ids.tag("another")
    chained = Chained(({}, {"tag": "tag63"}), ({"tag": "tag62"}, "drop"), ({"tag": "tag63"}, "drop"), ids=ids)
    assert chained.rules(query()) == [0, 2]


@pytest.mark.parametrize("kind", ["route", "ttl_limit"])
def test_there_are_so_many_numbers(kind):
    number = getattr(IdAllocator(), kind)
    assert [number((0, each)) for each in range(NUMBERS_MAX)] == list(range(1, NUMBERS_MAX + 1))
    assert number((0, 0)) == 1
    with pytest.raises(ConfigError, match=r"more than 65535 .* at once"):
        number((1, 0))


@pytest.mark.parametrize(
    ("kind", "most"), [("route", "NUMBERS_MAX"), ("ttl_limit", "NUMBERS_MAX"), ("tag", "TAGS_MAX")]
)
def test_numbers_that_no_rules_have_any_more_are_given_out_again_and_no_others(kind, most, monkeypatch):
    monkeypatch.setattr(compiler, most, 4)
    ids = IdAllocator()
    number = getattr(ids, kind)
    had = []
    for each in range(50):
        ids.next_generation()
        number((1, each))  # of rules that are never activated
        ids.next_generation()
        lasting, had = number((0, 0)), [*had, number((0, 1 + each))]
        assert had[-1] not in {lasting, *had[-3:-1]}
        ids.activate()
        assert (number((0, 0)), number((0, 1 + each))) == (lasting, had[-1])
    assert len({lasting, *had}) == 4


def test_limits_that_functions_compute_do_not_run_out_and_leave_those_of_rules_alone(monkeypatch):
    monkeypatch.setattr(compiler, "NUMBERS_MAX", 4)
    ids = IdAllocator()
    ids.next_generation()
    own = ids.ttl_limit((0, 1))
    ids.activate()
    assert own not in {ids.ttl_limit((1, each), once=True) for each in range(50)}
    assert ids.ttl_limit((0, 1), once=True) == own


def test_a_generation_is_never_0():
    ids = IdAllocator()
    assert [ids.next_generation() for _ in range(NUMBERS_MAX + 2)] == [*range(1, NUMBERS_MAX + 1), 1, 2]


def test_a_disabled_rule_is_passed_over_until_it_is_enabled():
    chained = Chained(({"qtype": "A"}, {"tag": "x"}), ({}, "continue"), ({"suffix": "example.com"}, "drop"))
    assert chained.rules(A_QUERY) == [0, 1, 2]
    for _ in range(2):
        chained.chain.enable(0, False)
        assert chained.rules(A_QUERY) == [1, 2]
    chained.chain.enable(2, False)
    assert chained.rules(A_QUERY) == [1]
    chained.chain.enable(0, True)
    chained.chain.enable(2, True)
    assert chained.rules(A_QUERY) == [0, 1, 2]
    with pytest.raises(IndexError):
        chained.chain.enable(3, True)


def test_each_node_that_tests_knows_what_the_file_says():
    match = {"qtype": "A", "suffix": ["a."], "not": {"do": True}, "rate": {"limit": 1}, "regex": "x"}
    compiled = compile_chain(
        [Rule("r", "queries", Match.model_validate(match), Action.model_validate("drop"))],
        IdAllocator(), 1, Guard(1 << 16), LISTENERS,
    )  # fmt: skip
    assert sorted(each.key for each in compiled.conditions.values()) == ["do", "qtype", "rate", "regex", "suffix"]
