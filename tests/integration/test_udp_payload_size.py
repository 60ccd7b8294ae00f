"""Know that a client who takes little gets the same from a miss, from the cache, and by any other road.

The upstream's answer has all that can be left out; what is right to leave out is in `support.fitting`.
"""

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import dns.tsigkeyring
import pytest
from support.client import udp_wire
from support.fitting import ADDITIONAL, read, what_fits
from support.pipeline import ask_all
from support.process import run_shield
from support.upstream import ScriptedUpstream, answer

KEYRING = dns.tsigkeyring.from_text({"key.": "c2VjcmV0LXNlY3JldC1zZWNyZXQ="})
NSID, UNKNOWN = 3, 65001
PAYLOADS = range(512, 1233, 16)
RULES = """
[[rules]]
match = { suffix = "uncached.test" }
action = "skip_cache"
[[rules]]
match = { suffix = "function.test" }
action = { call = "FILE:mail" }
"""
FUNCTION = """
import dns.message

def mail(query):
    response = dns.message.from_wire(bytes.fromhex("WHOLE"))
    response.id, response.question = query.message.id, query.message.question
    for rrset in response.answer:
        rrset.name = response.question[0].name
    return response
"""


def whole(query):
    """Return an answer of 1,150 octets that has room in 512 if it must, and whatever the client takes."""
    response = answer(query, *(f"MX {n} host{n}.example." for n in range(3)))
    response.authority.append(rrset("example.", "NS", "ns.example.", "ns.elsewhere."))
    for n in range(3):
        response.additional.append(rrset(f"host{n}.example.", "A", *[f"192.0.{n}.{k}" for k in range(20 - 6 * n)]))
        response.additional.append(rrset(f"host{n}.example.", "AAAA", *[f"2001:db8:{n}::{k}" for k in range(1 + n)]))
    return response


def script(query):
    """Answer; what is asked signed is answered so, more or less."""
    if not query.name.to_text().startswith("signed."):
        return whole(query)
    wire = whole(query).to_wire(max_size=65535)
    return wire[:11] + bytes([wire[11] + 1]) + wire[12:] + b"\0\0\xfa\0\xff" + bytes(6)


def rrset(name, rdtype, *data):
    return dns.rrset.from_text(name, 300, "IN", rdtype, *data)


def make(name, payload=None, *, options=()):
    query = dns.message.make_query(name, "MX", use_edns=0, payload=payload or 1232)
    query.use_edns(0, 0, payload or 1232, options=[dns.edns.GenericOption(code, b"") for code in options])
    return query if payload else dns.message.make_query(name, "MX")


@pytest.fixture(scope="module")
def upstream():
    with ScriptedUpstream(script) as running:
        yield running


@pytest.fixture(scope="module")
def shield(upstream, tmp_path_factory):
    file = tmp_path_factory.mktemp("rules") / "functions.py"
    template = dns.message.make_response(make("x.function.test.", 1232))
    template.sections[1:] = whole(Asked(make("x.function.test.", 1232))).sections[1:]
    file.write_text(FUNCTION.replace("WHOLE", template.to_wire(want_shuffle=False).hex()))
    with run_shield([upstream], toml=RULES.replace("FILE", str(file))) as running:
        yield running


class Asked:
    """A query as a script sees it."""

    def __init__(self, message):
        self.message, self.name = message, message.question[0].name


def shown(records):
    """Return the records in order, but within an RRset: the upstream shuffles those."""
    return [(each.section, each.section and each.name, each.rdtype) for each in records], sorted(
        each.data for each in records if each.section == ADDITIONAL
    )


ROADS = {
    "from the cache": ("kept.test.", ()),
    "as a miss": ("n{:04}.missed.test.", ()),
    "past the cache": ("uncached.test.", ()),
    "with an option": ("passed.test.", (NSID,)),
    "with an unknown option": ("passed.test.", (UNKNOWN,)),
    "from a function": ("function.test.", ()),
}


@pytest.mark.parametrize(("name", "options"), ROADS.values(), ids=ROADS)
def test_whatever_road_an_answer_comes_what_fits_of_it_is_the_same(shield, name, options):
    queries = [make(name.format(payload), payload, options=options) for payload in (1232, *PAYLOADS)]
    first, *replies = ask_all(shield, [query.to_wire() for query in queries])
    assert len(read(first)) == 3 + 2 + 42 + 6
    sizes = set()
    for payload, reply in zip(PAYLOADS, replies, strict=True):
        assert len(reply) <= payload
        assert not reply[2] & 2
        start = len(make(name.format(payload), payload).to_wire())
        fits = what_fits(first, payload - start) if payload < len(first) else read(first)
        assert shown(read(reply)) == shown(fits)
        sizes.add(len(reply))
    assert len(sizes) > 5


def test_without_edns_there_are_512_octets(shield):
    for _ in "cold", "warm":
        reply = shield.udp_wire(make("plain.test.").to_wire())
        assert 480 < len(reply) <= 512
        assert not reply[2] & 2


def test_what_is_signed_is_whole_or_cut_and_nothing_between(shield):
    for payload, truncated in (1232, False), (512, True):
        query = make("signed.test.", payload)
        query.use_tsig(KEYRING)
        reply = udp_wire(shield, query.to_wire())
        assert (bool(reply[2] & 2), len(reply) > 512) == (truncated, not truncated)
