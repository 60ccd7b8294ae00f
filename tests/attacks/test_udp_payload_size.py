"""Know that no answer over UDP is larger than `udp.max_payload`, by whatever road: fragments can be forged."""

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest
from support.client import exchange
from support.process import run_shield
from support.upstream import ScriptedUpstream, answer

from attacks.test_response_rules import KEYRING

OURS = 1232
TEXTS = [f'TXT "{n:03}{"x" * 200}"' for n in range(15)]  # 3,000 octets


@pytest.fixture(scope="module")
def upstream():
    def as_large_as_it_takes(query):
        whole = answer(query, *TEXTS)
        if query.transport == "tcp" or len(whole.to_wire(max_size=65535)) <= query.message.payload:
            return whole
        truncated = answer(query)
        truncated.flags |= dns.flags.TC
        return truncated

    with ScriptedUpstream(as_large_as_it_takes) as running:
        yield running


@pytest.fixture(scope="module")
def shield(upstream):
    with run_shield([upstream]) as running:
        yield running


def query(name, payload, *, signed=False, options=()):
    made = dns.message.make_query(name, "TXT", use_edns=0, payload=payload, options=list(options))
    if signed:
        made.use_tsig(KEYRING)
    return made


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("kind", ["plain", "NSID", "unknown option", "TSIG"])
def test_what_a_client_offers_to_take_does_not_count(upstream, shield, kind, tcp):
    options = {"NSID": [dns.edns.GenericOption(3, b"")], "unknown option": [dns.edns.GenericOption(65001, b"x")]}
    name = f"{kind.replace(' ', '')}.{'tcp' if tcp else 'udp'}.test."
    asked = query(name, 4096, signed=kind == "TSIG", options=options.get(kind, ()))
    wire = (shield.tcp_wire if tcp else shield.udp_wire)(asked.to_wire())
    truncated = bool(wire[2] & 2)
    assert truncated != tcp
    assert tcp or len(wire) <= OURS
    told = {each.message.payload for each in upstream.received if each.name == asked.question[0].name}
    assert told == ({4096} if kind == "TSIG" else {OURS}), "what is signed goes as it came"


def test_a_client_that_takes_less_gets_no_more(shield):
    asked = query("less.test.", 700, options=[dns.edns.GenericOption(3, b"")])
    reply = exchange(asked, server=shield)
    assert reply.flags & dns.flags.TC
    assert len(reply.to_wire()) <= 700


# ------------------------------------------------------------ queries that are longer than our buffer


PADDED = {
    "padding that is cut off": {"pad": 5000},
    "padding behind DO": {"pad": 5000, "want_dnssec": True},
    "a payload size of its own": {"pad": 5000, "payload": 1000},
}


@pytest.mark.parametrize("edns", PADDED.values(), ids=PADDED)
def test_a_long_query_with_opt_is_told_to_come_by_tcp_with_opt(upstream, shield, edns):
    asked = dns.message.make_query("long.test.", "TXT", use_edns=0, **edns)
    reply = dns.message.from_wire(shield.udp_wire(asked.to_wire(max_size=65535)))
    assert (reply.id, reply.question, reply.rcode(), reply.answer) == (asked.id, asked.question, 0, [])
    assert reply.flags == dns.flags.QR | dns.flags.TC | dns.flags.RD
    assert (reply.edns, reply.payload, reply.ednsflags) == (0, OURS, asked.ednsflags)


def records(count):
    """Return so many TXT records of 255 octets, in the additional section of a query."""
    return [dns.rrset.from_text("long.test.", 1, "IN", "TXT", f'"{n:0242}"') for n in range(count)]


def test_an_opt_behind_what_is_cut_off_is_not_seen(upstream, shield):
    asked = dns.message.make_query("long.test.", "TXT", use_edns=0)
    asked.additional += records(20)
    wire = asked.to_wire(max_size=65535)
    assert len(wire) > 4096
    reply = dns.message.from_wire(shield.udp_wire(wire))
    assert (reply.edns, reply.flags & dns.flags.TC) == (-1, dns.flags.TC)
    assert not [each for each in upstream.received if each.name == asked.question[0].name]


def test_a_long_query_without_opt_gets_none(shield):
    asked = dns.message.make_query("long.test.", "TXT", use_edns=False)
    asked.additional += records(20)
    reply = dns.message.from_wire(shield.udp_wire(asked.to_wire(max_size=65535)))
    assert (reply.edns, reply.flags & dns.flags.TC) == (-1, dns.flags.TC)
