"""Know that a rule for responses is asked of every response, whatever its query looks like, and however it came.

An operator who filters by them must not be walked round by an option that nobody knows.
"""

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.tsigkeyring
import pytest
from support.client import ask, exchange, tcp_wire, udp_wire
from support.process import run_shield
from support.upstream import ScriptedUpstream, answer

RULES = """
[[rules]]
chain = "responses"
match = { suffix = "bad.test" }
action = "nxdomain"

[[rules]]
chain = "responses"
match = { suffix = "again.test" }
action = "drop"
"""
KEYRING = dns.tsigkeyring.from_text({"key.test.": "c2hpZWxkLXNoaWVsZC1zaGllbGQtc2hpZWxk"})


def option(code, octets=b""):
    return lambda name: dns.message.make_query(name, "A", options=[dns.edns.GenericOption(code, octets)])


def signed(name):
    query = dns.message.make_query(name, "A")
    query.use_tsig(KEYRING)
    return query


def with_answer(name):
    query = dns.message.make_query(name, "A")
    query.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "192.0.2.7"))
    return query


def with_opcode(name):
    query = dns.message.make_query(name, "A")
    query.set_opcode(dns.opcode.STATUS)
    return query


QUERIES = {
    "plain": lambda name: dns.message.make_query(name, "A"),
    "NSID": option(3),
    "unknown option": option(65001),
    "long option": option(65001, bytes(900)),
    "record in the answer section": with_answer,
    "EDNS version 1": lambda name: dns.message.make_query(name, "A", use_edns=1),
    "TSIG": signed,
    "STATUS": with_opcode,
}
transports = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


@pytest.fixture(scope="module")
def upstream():
    with ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as running:
        yield running


@pytest.fixture(scope="module")
def shield(upstream):
    with run_shield([upstream], toml=RULES) as running:
        yield running


def rcode_of(query, shield, tcp):
    return (tcp_wire if tcp else udp_wire)(shield, query.to_wire())[3] & 15


@transports
@pytest.mark.parametrize("made", QUERIES.values(), ids=QUERIES)
def test_no_query_goes_round_a_rule_for_responses(upstream, shield, made, tcp, request):
    name = f"{abs(hash(request.node.name))}.bad.test."
    assert rcode_of(made(name), shield, tcp) == dns.rcode.NXDOMAIN
    assert upstream.count(name) == 1
    good = name.replace("bad", "good")
    assert rcode_of(made(good), shield, tcp) == dns.rcode.NOERROR
    assert upstream.count(good) == 1


@pytest.mark.parametrize("made", [QUERIES["plain"], QUERIES["NSID"]], ids=["plain", "NSID"])
def test_a_response_that_is_not_wanted_is_told_to_nobody(upstream, shield, made, request):
    name = f"{abs(hash(request.node.name))}.again.test."
    assert exchange(made(name), server=shield).rcode() == dns.rcode.SERVFAIL
    assert upstream.count(name) == 1


def test_what_is_never_cached_is_sent_again_where_it_is_not_answered():
    heard = []

    def deaf_at_first(query):
        heard.append(query)
        return answer(query, "A 192.0.2.1") if len(heard) > 1 else None

    with ScriptedUpstream(deaf_at_first) as upstream, run_shield([upstream], toml="forward.timeout = 0.5") as shield:
        assert exchange(QUERIES["NSID"]("lost.test."), server=shield).answer
        assert upstream.count("lost.test.") == 2


def test_what_may_have_done_its_work_is_sent_once():
    with (
        ScriptedUpstream(lambda query: None) as upstream,
        run_shield(
            [upstream], toml="forward.timeout = 0.1\nforward.deadline = 0.5\nforward.update_timeout = 0.5"
        ) as shield,
    ):
        assert rcode_of(with_opcode("once.test."), shield, tcp=False) == dns.rcode.SERVFAIL
        assert upstream.count("once.test.") == 1
        assert not ask("once.test.", server=shield).answer
        assert upstream.count("once.test.") > 2, "a question is harmless"
