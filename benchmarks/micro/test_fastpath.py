"""The parts of the fast path, each beside the same thing done with dnspython or a dict.

What is biased here: the compiled parts are called from Python, once for each query, so that most of what is measured is
the call; a worker calls them without. Read the ratios within a group, on one machine, in one run, and nothing else.
"""

import dns.flags
import dns.message
import dns.name
import pytest

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.wire._message import inspect_query

NAMES = 10_000


def query(number: int, message_id: int = 0) -> dns.message.QueryMessage:
    return dns.message.make_query(f"n{number}.bench.test.", "A", id=message_id, use_edns=0)


def response(asked: dns.message.QueryMessage) -> dns.message.Message:
    made = dns.message.make_response(asked)
    made.flags |= dns.flags.AA
    made.answer.append(dns.rrset.from_text(asked.question[0].name, 3600, "IN", "A", "192.0.2.1", "192.0.2.2"))
    return made


@pytest.fixture(scope="module")
def questions():
    return [query(number).to_wire() for number in range(NAMES)]


@pytest.fixture(scope="module")
def responses():
    return [response(query(number)).to_wire() for number in range(NAMES)]


@pytest.fixture(scope="module")
def cache(questions, responses):
    filled = Cache(64 << 20, Clock())
    for asked, answered in zip(questions, responses, strict=True):
        assert filled.store(asked, answered)
    return filled


@pytest.fixture(scope="module")
def table(questions, responses):
    """Return what one would write in Python: parsed question -> packed response."""
    return {key_of(asked): answered for asked, answered in zip(questions, responses, strict=True)}


def key_of(wire: bytes) -> tuple:
    message = dns.message.from_wire(wire)
    question = message.question[0]
    return (question.name.canonicalize(), question.rdtype, question.rdclass, message.flags, message.ednsflags)


@pytest.mark.benchmark(group="parse and key")
def test_parse_and_key(benchmark, questions):
    assert benchmark(inspect_query, questions[1])["verdict"] == "plain"


@pytest.mark.benchmark(group="parse and key")
def test_parse_and_key_with_dnspython(benchmark, questions):
    assert benchmark(key_of, questions[1])[1] == 1


@pytest.mark.benchmark(group="look-up, hit")
def test_hit(benchmark, cache, questions, responses):
    assert len(benchmark(cache.lookup, questions[77])) == len(responses[77])


@pytest.mark.benchmark(group="look-up, hit")
def test_hit_with_dnspython_and_a_dict(benchmark, table, questions, responses):
    def look_up(wire: bytes) -> bytes:
        return wire[:2] + table[key_of(wire)][2:]

    assert benchmark(look_up, questions[77]) == responses[77]


@pytest.mark.benchmark(group="look-up, miss")
def test_miss(benchmark, cache):
    assert benchmark(cache.lookup, query(NAMES + 1).to_wire()) is None


@pytest.mark.benchmark(group="look-up, miss")
def test_miss_with_dnspython_and_a_dict(benchmark, table):
    wire = query(NAMES + 1).to_wire()
    assert benchmark(lambda: table.get(key_of(wire))) is None


@pytest.mark.benchmark(group="put")
def test_put(benchmark, cache, questions, responses):
    assert benchmark(cache.store, questions[5], responses[5])


@pytest.mark.benchmark(group="put")
def test_put_with_dnspython_and_a_dict(benchmark, questions, responses):
    kept = {}

    def put() -> int:
        parsed = dns.message.from_wire(responses[5])
        ttl = min(rrset.ttl for section in parsed.sections[1:] for rrset in section)
        kept[key_of(questions[5])] = (responses[5], ttl)
        return ttl

    assert benchmark(put) == 3600
