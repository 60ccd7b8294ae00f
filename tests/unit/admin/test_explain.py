"""A question is decided about on copies: what is told is right where the property of 1,000 questions does not go."""

from ipaddress import ip_address

import pytest
from support.quick import TXT, A, failure, query

from funkenshield.admin._explain import Question
from funkenshield.admin.explain import TRANSPORTS, Asked
from funkenshield.cache._store import Cache
from funkenshield.config.action import Action
from funkenshield.config.match import Match
from funkenshield.core._clock import Clock
from funkenshield.errors import FunkenShieldError
from funkenshield.forward._miss_path import MissPath
from funkenshield.rules.compiler import IdAllocator, Rule, compile_chain

CLIENT = ip_address("192.0.2.7").packed


@pytest.fixture
def miss_path():
    return MissPath(Cache(1 << 22, Clock()), 64)


def decided(miss_path, **how):
    question = Question(miss_path, query("www.example.com", A), CLIENT, **how)
    question.decide()
    return question


def test_a_limit_is_told_and_not_charged(miss_path):
    guard = miss_path.settings_writer.guard
    guard.set_limits([(0.01, 200, 32, 64, "refuse"), (1, 1000, 32, 64, "drop")])  # two at once
    now = int(miss_path.cache.clock.seconds() * 1e9)
    for taken in ("welcome", "welcome", "refuse"):
        for _ in range(3):
            question = decided(miss_path)
            assert question.limits() == [taken != "welcome", False]
            assert ("rate_limited" in question.facts()["counted"]) == (taken != "welcome")
        assert guard.admits(CLIENT, now) == taken


@pytest.mark.parametrize(("transport", "matches"), [("udp", False), ("tcp", False), ("tls", True), ("https", True)])
def test_a_server_name_is_one_of_a_handshake(miss_path, transport, matches):
    rule = Rule("r", "queries", Match(tls_server_name=("dns.example",)), Action(refused=True))
    compiled = compile_chain([rule], IdAllocator(), 1, miss_path.settings_writer.guard, [])
    miss_path.settings_writer.set_chains(compiled.chain)
    for lists in (0, 1):
        question = decided(miss_path, transport=TRANSPORTS.index(transport), server_names=lists)
        assert bool(question.facts()["counted"].get("rule_replies")) == (matches and lists == 1)
        ((asked, steps, matched, left_out),) = question.queries.rules()
        assert (asked, [held for _, held in steps], matched, left_out) == (True, [matched], matches and lists == 1, [])
    assert compiled.chain.matched() == [0]


class Knowing:
    """Knows one name not to exist."""

    def response_to(self, wire, zone, **_):
        return failure(wire, 3) if b"nobody" in wire else None


def test_what_is_answered_here_is_told_by_who_knows(miss_path):
    miss_path.cache.zones.configure(0, nxdomain_cut=True)
    miss_path.consult(
        nsec_cache=Knowing(), chaos=lambda wire: failure(wire, 0), discovery=lambda wire: failure(wire, 0)
    )
    asked = {"nobody.test": "synthesised", "somebody.test": "queued", "_dns.resolver.arpa": "local"}
    for name, way in asked.items():
        question = Question(miss_path, query(name, A), CLIENT)
        question.decide()
        assert question.miss()["way"] == way
    question = Question(miss_path, query("version.bind", TXT)[:-1] + b"\3", CLIENT)
    question.decide()
    assert question.miss()["way"] == "local"
    assert miss_path.counters()["local_answers"] == 0


def test_what_is_no_query_gets_no_explanation(miss_path):
    with pytest.raises(ValueError, match=r"^a query has 12 to 65535 octets, not 3$"):
        Question(miss_path, b"abc", CLIENT)
    with pytest.raises(ValueError, match="address"):
        Question(miss_path, query("a."), b"abc")
    with pytest.raises(FunkenShieldError, match=r"^explain: a\.\.b is not a name"):
        Asked("a..b").wire()
