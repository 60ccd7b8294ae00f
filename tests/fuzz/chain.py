"""Any query under rules with every kind of condition: it meets those that are true of it as dnspython reads it."""

import dns.flags
import dns.name

from funkenshield.config.action import Action
from funkenshield.config.match import Match
from funkenshield.config.types import Endpoint
from funkenshield.policy._guard import Guard
from funkenshield.rules.compiler import IdAllocator, Rule, compile_chain
from funkenshield.wire._message import inspect_query

from .messages import query_of, read

EXAMPLE, WWW = dns.name.from_text("example.com."), dns.name.from_text("www.example.com.")
RULES = [
    ({"suffix": "example.com"}, lambda q, _: q.question[0].name.is_subdomain(EXAMPLE)),
    ({"name": "www.example.com"}, lambda q, _: q.question[0].name == WWW),
    ({"not": {"suffix": "example.com"}}, lambda q, _: not q.question[0].name.is_subdomain(EXAMPLE)),
    ({"qtype": ["A", "MX"]}, lambda q, _: q.question[0].rdtype in {1, 15}),
    ({"qclass": "CH"}, lambda q, _: q.question[0].rdclass == 3),
    ({"flags": ["RD", "CD"]}, lambda q, _: q.flags & 0x0110 == 0x0110),
    ({"edns": True}, lambda q, _: q.edns >= 0),
    ({"do": True}, lambda q, _: bool(q.ednsflags & dns.flags.DO)),
    ({"option": ["COOKIE", "ECS", 65001]}, lambda q, _: {int(each.otype) for each in q.options} & {10, 8, 65001}),
    ({"source": ["192.0.2.0/25", "2001:db8::/33"]}, lambda _, source: source[:5] in INSIDE),
    ({"opcode": ["QUERY"]}, lambda q, _: q.opcode() == 0),
    ({"any": [{"qtype": "TXT"}, {"all": [{"edns": False}, {"suffix": "."}]}]},
     lambda q, _: q.question[0].rdtype == 16 or q.edns < 0),
    ({"tag": "seen"}, lambda *_: False),
    ({"listener": "192.0.2.53:53", "transport": "udp"}, lambda *_: True),
]  # fmt: skip
UNSURE = [  # by time or chance
    {"rate": {"limit": 5, "per": "name"}},
    {"rate": {"limit": 5, "per": "zone"}},
    {"rate": {"limit": 5}},
    {"time": "08:00-18:00", "days": ["mon", "sun"]},
    {"probability": 0.5},
    {"source_ratio": 0.5},
]
SOURCES = [bytes([192, 0, 2, 1]), bytes([192, 0, 2, 129]), b"\x20\1\x0d\xb8" + bytes(12), bytes(16)]
INSIDE = {SOURCES[0], SOURCES[2][:5]}


def _compiled():
    rules = [
        Rule(str(number), "queries", Match.model_validate(match), Action.model_validate("continue"))
        for number, match in enumerate([*(match for match, _ in RULES), *UNSURE])
    ]
    numbers = IdAllocator()
    return compile_chain(rules, numbers, numbers.next_generation(), Guard(1 << 16), [Endpoint("192.0.2.53", 53)])


CHAIN = _compiled().chain


def made(dice):
    """Return where a query comes from, and the query."""
    return bytes([dice.randrange(256)]) + query_of(dice).to_wire()


def one(data):
    """Let a query meet the rules; its first octet says from where it comes, and when."""
    where, query = (data[0] if data else 0), data[1:]
    source = SOURCES[where % 4]
    if inspect_query(query)["verdict"] == "unanswerable":
        return
    found = [rule for _, _, _, rule in CHAIN.actions(query, source, wall=where * 3600, now=where << 32)]
    assert found == sorted(set(found))
    if inspect_query(query)["verdict"] == "plain":
        message = read(query)
        true = [number for number, (_, holds) in enumerate(RULES) if holds(message, source)]
        assert [number for number in found if number < len(RULES)] == true
