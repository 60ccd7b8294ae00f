"""Know that what is not cached takes the road of every miss: rules, tries, policies and transports are the same for it.

So it is for what a rule says, and for what only the upstream can answer; the client gets what he would have got.
"""

from collections import Counter

import dns.flags
import dns.rcode
import pytest
from support import quick
from support.client import tcp_wire
from support.edns import option, split_opt, with_opt
from support.rig import answering, ask, asked, behind, data, placed, rcode
from support.upstream import answer, respond, truncated

LARGE = [f'TXT "{n:02} {"x" * 200}"' for n in range(3)]
OPTION = (65001, b"x")
RULES = [
    {"match": {"suffix": "short.uncached.test"}, "action": {"ttl": {"max": 7}}},
    {"match": {"suffix": "uncached.test"}, "action": "skip_cache"},
    {"chain": "responses", "match": {"suffix": "denied.uncached.test"}, "action": "nxdomain"},
    {"chain": "responses", "match": {"suffix": "denied.test"}, "action": "nxdomain"},
]
seen = Counter()


def first_refused(query):
    """Answer; refuse what begins so when it comes for the first time, and truncate what is large over UDP."""
    name = query.name.to_text().lower()
    seen[name] += 1
    if name.startswith("refused") and seen[name] == 1:
        return respond(query, dns.rcode.REFUSED)
    if name.startswith("large"):
        return truncated(query) if query.transport == "udp" else answer(query, *LARGE)
    return answer(query, "A 192.0.2.1")


@pytest.fixture(scope="module")
def stage():
    """Return a shield and its two upstreams."""
    options = {
        "rules": RULES,
        "client_subnet": {"add": True, "private": True},
        "cookies": {"mode": "serve"},
        "forward": {"policy": "hash"},
    }
    with behind(first_refused, first_refused, **options) as running:
        yield running


@pytest.fixture
def shield(stage):
    return stage[0]


kinds = pytest.mark.parametrize(
    ("ending", "options"), [("uncached.test.", ()), ("test.", [OPTION])], ids=["by a rule", "an unknown option"]
)


def received(stage, name):
    return [each.count(name) for each in stage[1:]]


@kinds
def test_the_rules_for_responses_are_asked(shield, ending, options):
    assert rcode(ask(shield, asked(f"www.denied.{ending}", options=options))) == "NXDOMAIN"


def test_times_to_live_are_as_the_rule_says(shield):
    assert ask(shield, "www.short.uncached.test").answer[0].ttl == 7


@kinds
def test_what_one_refuses_is_asked_of_another(shield, stage, ending, options):
    name = f"refused.{ending}"
    assert data(ask(shield, asked(name, options=options))) == ["192.0.2.1"]
    assert received(stage, name) == [1, 1]


@kinds
def test_a_name_is_always_asked_of_the_same(shield, stage, ending, options):
    for n in range(8):
        for _ in range(3):
            assert data(ask(shield, asked(f"n{n}.{ending}", options=options))) == ["192.0.2.1"]
        assert sorted(received(stage, f"n{n}.{ending}")) == [0, 3]


@kinds
def test_what_is_truncated_is_fetched(shield, stage, ending, options):
    name = f"large.{ending}"
    reply = ask(shield, asked(name, "TXT", edns=0, options=options))
    assert (bool(reply.flags & dns.flags.TC), len(reply.answer[0])) == (False, 3)
    assert sorted(received(stage, name)) == [0, 2]


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
def test_who_has_no_opt_record_gets_none(shield, stage, tcp):
    reply = ask(shield, f"plain{tcp}.uncached.test", tcp=tcp)
    assert (data(reply), reply.edns) == (["192.0.2.1"], -1)
    came = [each for upstream in stage[1:] for each in upstream.received if f"plain{tcp}" in each.name.to_text()]
    assert [[option.otype for option in each.message.options] for each in came] == [[8]], "it is told of the client"


@pytest.mark.parametrize(("octets", "transport"), [(4096, "udp"), (4097, "tcp"), (5100, "tcp"), (65000, "tcp")])
def test_what_is_too_long_for_a_datagram_goes_over_tcp_to_whom_a_rule_of_responses_says(octets, transport):
    rules = [{"chain": "responses", "match": {"suffix": "moved.test"}, "action": {"forward": "other"}}]
    other = placed(answering("192.0.2.2"), groups=["other"])
    plain = quick.query("www.moved.test", quick.A, ident=4711)
    wire = with_opt(plain, option(65001, bytes(octets - len(with_opt(plain, option(65001, b""))))))
    with behind(answering("192.0.2.1"), other, rules=rules) as (shield, upstream, beside):
        reply = tcp_wire(shield, wire)
        assert (reply[:2], quick.payload_of(plain, split_opt(reply)[0])) == (wire[:2], b"\xc0\0\2\2")
        for each in (upstream, beside):
            assert [(came.transport, came.wire[2:]) for came in each.received] == [(transport, wire[2:])]
