"""Compiled rules against the plain reading of them: random chains and queries, the same actions in the same order."""

import random
import re
from ipaddress import ip_address, ip_network

import dns.flags
import dns.message
import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from funkenshield.config.action import Action
from funkenshield.config.match import FLAGS, Match
from funkenshield.policy._guard import Guard
from funkenshield.policy._rule_program import ACTIONS_OF
from funkenshield.rules.compiler import START, TRANSPORTS, IdAllocator, Rule, compile_chain

GUARD = Guard(1 << 16)
FIRST = min(ACTIONS_OF.values())
NAMES = {number - FIRST: name for name, number in ACTIONS_OF.items()}
GOES_ON = {"tag", "count", "uncached", "ttl_limits"}

labels = st.sampled_from(["a", "b", "c"])
texts = st.lists(labels, max_size=4).map(lambda parts: ".".join(parts) + ".")
types = st.sampled_from(["A", "AAAA", "MX", "ANY"])
prefixes = st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "::/0", "2001:db8::/32", "2001:db8:1::/48"]
)
addresses = st.sampled_from(
    ["10.1.2.3", "10.1.2.4", "10.1.9.1", "10.9.9.9", "192.0.2.1", "2001:db8:1::1", "2001:db8::1"]
)
transports = st.sampled_from(TRANSPORTS)
server_names = st.sampled_from(["ns.a", "a", "deep.ns.a", "b", "*.a", "*.ns.a"])


def several(one):
    return st.lists(one, min_size=1, max_size=3, unique=True)


def table(below):
    """Draw a table of conditions, in which there may be others."""
    return st.fixed_dictionaries(
        {},
        optional={
            "suffix": several(texts),
            "name": several(texts),
            "qtype": several(types),
            "source": several(prefixes),
            "flags": several(st.sampled_from(["RD", "CD"])),
            "do": st.booleans(),
            "edns": st.booleans(),
            "regex": st.sampled_from(["^a", r"b\.c$", "^$"]),
            "transport": transports,
            "tls_server_name": several(server_names),
            "tag": several(st.sampled_from(["x", "y"])),
            "opcode": several(st.sampled_from(["QUERY", "NOTIFY"])),
            **below,
        },
    )


matches = st.recursive(
    table({}),
    lambda inner: table(
        {"all": st.lists(inner, min_size=1, max_size=2), "any": st.lists(inner, min_size=1, max_size=3), "not": inner}
    ),
    max_leaves=4,
)
actions = st.sampled_from(
    ["drop", "refused", "allow", "continue", "skip_cache", {"tag": "x"}, {"tag": "y"}, {"ttl": {"max": 5}}]
)
queries = st.fixed_dictionaries(
    {
        "name": texts,
        "rdtype": types,
        "flags": st.sampled_from(["RD", "CD", "RD CD", ""]),
        "do": st.booleans(),
        "source": addresses,
        "transport": transports,
        "server_name": st.sampled_from(["", "a", "ns.a", "deep.ns.a", "xns.a", "b"]),
    }
)


def is_named(query, wanted):
    """Tell whether a query came with TLS, to a server of a name, or of one below it."""
    name, below = query["server_name"], wanted.startswith("*")
    return query["transport"] in ("tls", "https") and (name.endswith(wanted[1:]) if below else name == wanted)


def holds(match, query, tags):
    """Tell whether a table is true of a query, by reading it."""
    name, source = dns.name.from_text(query["name"]), ip_address(query["source"])
    wanted = dns.rdatatype.from_text(query["rdtype"])
    asked = [
        not match.suffix or any(name.is_subdomain(dns.name.from_text(each)) for each in match.suffix),
        not match.name or any(name == dns.name.from_text(each) for each in match.name),
        not match.qtype or wanted in match.qtype,
        not match.source or any(source in ip_network(each) for each in match.source),
        all(dns.flags.from_text(query["flags"]) & FLAGS[flag] for flag in match.flags),
        match.do is None or match.do == query["do"],
        match.edns is None or match.edns == query["do"],
        not match.regex or bool(re.search(match.regex, query["name"].rstrip("."))),
        match.transport is None or match.transport == query["transport"],
        not match.tls_server_name or any(is_named(query, each) for each in match.tls_server_name),
        not match.tag or any(each in tags for each in match.tag),
        not match.opcode or 0 in match.opcode,
        all(holds(each, query, tags) for each in match.all),
        not match.any or any(holds(each, query, tags) for each in match.any),
        match.not_ is None or not holds(match.not_, query, tags),
    ]
    return all(asked)


def plainly(rules, query):
    """Return the numbers of the rules that a query meets, in order, up to the one that decides."""
    met, tags = [], set()
    for number, rule in enumerate(rules):
        if holds(rule.match, query, tags):
            met.append(number)
            if rule.action.tag:
                tags.add(rule.action.tag)
            if rule.action.decides:
                break
    return met


def wire_of(query):
    message = dns.message.make_query(query["name"], query["rdtype"], want_dnssec=query["do"])
    message.flags = dns.flags.from_text(query["flags"])
    return message.to_wire()


def came_by(query):
    return {"datagram": query["transport"] == "udp", "transport": TRANSPORTS.index(query["transport"])}


def meets(compiled, query, ids):
    """Return the actions and the rules that a query meets, with what Python is asked of answered."""
    met, at, tags = [], START, 0
    table = ids.server_name_table()
    lists = table.lists_with(query["server_name"].encode()) if table else 0
    while True:
        found = compiled.chain.actions(
            wire_of(query), ip_address(query["source"]).packed, **came_by(query), at=at, tags=tags, server_names=lists
        )
        met += [(NAMES[kind], rule) for kind, _, _, rule in found if NAMES[kind] != "ask"]
        if not found or NAMES[found[-1][0]] != "ask":
            return met
        tags |= sum({value for kind, value, _, _ in found if NAMES[kind] == "tag"})
        stop = compiled.stops[found[-1][2]]
        at = stop.yes if stop.regex.search(query["name"].rstrip(".")) else stop.no


def compiled(rules, numbers=None):
    numbers = numbers or IdAllocator()
    return compile_chain(rules, numbers, numbers.next_generation(), GUARD, ())


@pytest.mark.slow
@examples(150)
@given(st.lists(st.tuples(matches, actions), max_size=12), st.lists(queries, min_size=1, max_size=12))
def test_a_program_does_what_the_rules_say(chain, asked):
    rules = [
        Rule(f"rule {number}", "queries", Match.model_validate(match), Action.model_validate(action))
        for number, (match, action) in enumerate(chain)
    ]
    ids = IdAllocator()
    program = compiled(rules, ids)
    matched = [0] * len(rules)
    for query in asked:
        actions = meets(program, query, ids)
        met = plainly(rules, query)
        assert [rule for _, rule in actions] == met
        assert [kind in GOES_ON for kind, _ in actions] == [not rules[number].action.decides for number in met]
        for number in met:
            matched[number] += 1
    assert program.chain.matched() == matched


@examples(20)
@given(st.integers(0, 2**32), queries)
def test_many_rules_are_asked_in_order(seed, query):
    dice = random.Random(seed)
    names = [".".join(dice.choices("abc", k=dice.randint(0, 4))) + "." for _ in range(300)]
    rules = [
        Rule(
            f"rule {number}", "queries",
            Match.model_validate({"suffix": name, "qtype": dice.choice(["A", "MX", ["A", "AAAA", "MX", "ANY"]])}),
            Action.model_validate("continue" if dice.random() < 0.95 else "drop"),
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    source = ip_address(query["source"]).packed
    met = compiled(rules).chain.actions(wire_of(query), source, **came_by(query))
    assert [rule for _, _, _, rule in met] == plainly(rules, query)
