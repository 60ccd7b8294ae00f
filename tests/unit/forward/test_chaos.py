"""Show that the shield says who it is when it may, in the client's own words, and leaves all else to the upstream."""

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rrset
import dns.tsigkeyring
import dns.update
import pytest

from funkenshield.forward.chaos import response

TEXTS = {"server": "ams1", "version": "FunkenShield"}


def ask(name, rdtype="TXT", rdclass="CH", **options):
    return dns.message.make_query(name, rdtype, rdclass, **options)


def answered(query, **texts):
    """Return the response to a query, read, or None."""
    wire = response(query.to_wire(), **(TEXTS | texts))
    if wire is None:
        return None
    reply = dns.message.from_wire(wire)
    assert query.is_response(reply)
    return reply


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("id.server.", "ams1"),
        ("hostname.bind.", "ams1"),
        ("version.server.", "FunkenShield"),
        ("version.bind.", "FunkenShield"),
        ("VeRsIoN.BiNd.", "FunkenShield"),
    ],
)
def test_it_says_who_it_is(name, text):
    query = ask(name)
    query.flags = 0
    reply = answered(query)
    assert reply.flags == dns.flags.QR | dns.flags.AA
    assert reply.question[0].name.to_text() == name, "the client's spelling"
    (rrset,) = reply.answer
    assert rrset.to_text() == f'{name} 60 CH TXT "{text}"'
    assert (reply.authority, reply.additional, reply.edns) == ([], [], -1)


@pytest.mark.parametrize("recursion", [0, dns.flags.RD])
def test_id_and_rd_are_echoed(recursion):
    query = ask("id.server.", id=4711)
    query.flags = recursion
    reply = answered(query)
    assert reply.id == 4711
    assert reply.flags == dns.flags.QR | dns.flags.AA | recursion


@pytest.mark.parametrize("want_dnssec", [False, True])
def test_an_opt_record_is_answered_with_one(want_dnssec):
    nsid = dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")
    reply = answered(ask("id.server.", use_edns=0, payload=4096, want_dnssec=want_dnssec, options=[nsid]))
    assert (reply.edns, reply.payload, reply.options) == (0, 1232, ())
    assert reply.ednsflags == (dns.flags.DO if want_dnssec else 0)


@pytest.mark.parametrize("length", [1, 255, 256, 600])
def test_a_long_text_is_cut_into_strings(length):
    text = "ü" + "x" * (length - 2) if length > 1 else "x"
    (rrset,) = answered(ask("id.server."), server=text).answer
    strings = rrset[0].strings
    assert b"".join(strings).decode() == text
    assert [len(each) for each in strings[:-1]] == [255] * ((length - 1) // 255)


@pytest.mark.parametrize("rdtype", ["A", "SOA", "ANY"])
def test_other_types_do_not_exist(rdtype):
    reply = answered(ask("version.bind.", rdtype))
    assert reply.rcode() == dns.rcode.NOERROR
    assert reply.flags & dns.flags.AA
    assert reply.answer == reply.authority == []


SIGNED = ask("id.server.")
SIGNED.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}))
UPDATE = dns.update.UpdateMessage("id.server.", "CH")
RESPONSE = dns.message.make_response(ask("id.server."))
FULL = ask("id.server.")
FULL.answer.append(dns.rrset.from_text("id.server.", 0, "CH", "TXT", "x"))


@pytest.mark.parametrize(
    "query",
    [
        ask("id.server.", rdclass="IN"),
        ask("authors.bind."),
        ask("x.id.server."),
        ask("."),
        ask("id.server.", use_edns=1),
        SIGNED,
        UPDATE,
        RESPONSE,
        FULL,
    ],
    ids=["class", "name", "below", "root", "EDNS version 1", "signed", "update", "response", "with an answer"],
)
def test_all_else_is_passed_on(query):
    assert response(query.to_wire(), **TEXTS) is None


@pytest.mark.parametrize("rdtype", ["TXT", "A"])
def test_what_is_not_configured_is_passed_on(rdtype):
    assert answered(ask("id.server.", rdtype), server="") is None
    assert answered(ask("version.bind.", rdtype), version="") is None
    assert answered(ask("version.bind.", rdtype), server="")


@pytest.mark.slow
def test_no_octets_are_too_strange():
    wire = ask("id.server.", use_edns=0, options=[dns.edns.ECSOption("192.0.2.0", 24)]).to_wire()
    for end in range(len(wire)):
        assert response(wire[:end], **TEXTS) is None
    for at in range(len(wire)):
        for octet in range(256):
            response(wire[:at] + bytes([octet]) + wire[at + 1 :], **TEXTS)
