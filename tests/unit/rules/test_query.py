"""What a rule in Python is given, and what it makes of it."""

import asyncio
import ipaddress

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rrset
import dns.tsig
import pytest

from funkenshield.rules.query import ClientInfo, Query

ADDRESS = bytes([192, 0, 2, 1])


def query(name="Www.Example.", rdtype="A", *, ask=None, response=None, **how):
    made = dns.message.make_query(name, rdtype, **how)
    return Query(made.to_wire(), ClientInfo(ADDRESS, "tcp", "127.0.0.1:53", frozenset({"busy"})), ask, response)


def test_a_query_is_read_as_far_as_it_is_asked_about():
    asked = query(use_edns=0, want_dnssec=True, id=4711)
    assert (asked.qname, asked.qtype, asked.qclass, asked.id) == ("Www.Example.", "A", "IN", 4711)
    assert (asked.opcode, asked.flags, asked.edns, asked.do) == ("QUERY", {"RD"}, True, True)
    assert (asked.transport, asked.listener, asked.tags) == ("tcp", "127.0.0.1:53", {"busy"})
    assert asked.source == ipaddress.ip_address("192.0.2.1")
    assert asked.message.question[0].name.to_text() == "Www.Example."
    assert (asked.response, asked.rcode) == (None, "")
    assert repr(asked) == "<Query Www.Example. A from 192.0.2.1>"


def test_a_plain_query_has_no_edns():
    asked = query("example.", "TYPE65280", rdclass="CH", flags=dns.flags.CD | dns.flags.AD)
    assert (asked.qtype, asked.qclass, asked.flags, asked.edns, asked.do) == (
        "TYPE65280", "CH", {"CD", "AD"}, False, False,
    )  # fmt: skip


def test_a_client_of_ipv6_has_its_address():
    wire = dns.message.make_query("example.", "A").to_wire()
    assert str(Query(wire, ClientInfo(bytes.fromhex("20010db8000000000000000000000001"))).source) == "2001:db8::1"


def test_a_query_without_a_question_has_no_name():
    wire = bytes.fromhex("1234 3900 0000 0000 0000 0000")
    asked = Query(wire, ClientInfo(ADDRESS))
    assert (asked.id, asked.opcode, asked.qname, asked.qtype) == (0x1234, "7", "", "TYPE0")


def test_a_response_is_there_to_be_looked_at():
    answered = query(response=bytes.fromhex("1234 8003 0000 0000 0000 0000"))
    assert answered.rcode == "NXDOMAIN"
    assert answered.response.rcode().name == "NXDOMAIN"
    assert query(response=bytes.fromhex("1234 800c 0000 0000 0000 0000")).rcode == "12"


def test_records_are_answered_with():
    made = query(use_edns=0, id=7).respond(
        "A 192.0.2.1",
        "300 A 192.0.2.2",
        "x.example. TXT x",
        dns.rrset.from_text("y.example.", 5, "IN", "A", "192.0.2.3"),
    )
    assert (made.id, made.flags, made.edns, made.payload) == (
        7, dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA, 0, 1232,
    )  # fmt: skip
    assert made.question == query().message.question
    assert [rrset.to_text() for rrset in made.answer] == [
        "Www.Example. 60 IN A 192.0.2.1\nWww.Example. 60 IN A 192.0.2.2",
        'x.example. 60 IN TXT "x"',
        "y.example. 5 IN A 192.0.2.3",
    ]


def test_an_error_may_have_an_authority():
    made = query().respond(rcode="NXDOMAIN", authority=["example. 9 SOA . . 1 2 3 4 5"])
    assert (made.rcode().name, made.edns) == ("NXDOMAIN", -1)
    assert [rrset.to_text() for rrset in made.authority] == ["example. 9 IN SOA . . 1 2 3 4 5"]


def test_what_is_no_record_is_a_mistake():
    with pytest.raises(ValueError, match="'nonsense' is not a record"):
        query().respond("nonsense")


def test_a_signed_query_cannot_be_read_whole_and_that_is_said():
    signed = dns.message.make_query("example.", "A")
    signed.use_tsig(dns.tsig.Key("key.", "c2VjcmV0"))
    asked = Query(signed.to_wire(), ClientInfo(ADDRESS))
    assert asked.qname == "example."
    with pytest.raises(dns.message.UnknownTSIGKey):
        asked.message  # noqa: B018


@pytest.mark.parametrize("opcode", ["QUERY", "UPDATE", "NOTIFY"])
def test_it_is_answered_whatever_else_came_along(opcode):
    signed = dns.message.make_query("example.", "SOA", use_edns=0, want_dnssec=True)
    signed.use_tsig(dns.tsig.Key("key.", "c2VjcmV0"))
    signed.set_opcode(dns.opcode.from_text(opcode))
    made = Query(signed.to_wire(), ClientInfo(ADDRESS)).respond("example. TXT x", authority=["example. NS ns.example."])
    assert (made.id, made.opcode(), made.question, made.edns) == (signed.id, signed.opcode(), signed.question, 0)
    assert [rrset.to_text() for rrset in (*made.answer, *made.authority)] == [
        'example. 60 IN TXT "x"',
        "example. 60 IN NS ns.example.",
    ]


def test_a_query_asks_on_with_itself_or_another_in_any_form():
    asked = []

    async def ask(wire):
        asked.append(wire)
        return dns.message.make_response(dns.message.from_wire(wire)).to_wire()

    async def play():
        own, other = query(ask=ask), dns.message.make_query("other.", "A", use_edns=0, payload=512)
        other.use_edns(0, payload=512, options=[dns.edns.GenericOption(65001, bytes(2000))])
        for given in (None, other, own.wire):
            assert isinstance(await own.resolve(given), dns.message.Message)
        assert asked == [own.wire, other.to_wire(max_size=65535), own.wire]

    asyncio.run(play())


def test_who_has_nobody_to_ask_says_so():
    with pytest.raises(OSError, match="this query cannot be resolved"):
        asyncio.run(query().resolve())
