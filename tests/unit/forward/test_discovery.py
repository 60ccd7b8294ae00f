"""Show that clients find the encrypted listeners that there are (RFC 9461, 9462), and that no upstream is asked."""

import contextlib

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from support.path import Path

from funkenshield.config.types import Endpoint
from funkenshield.forward.discovery import Encrypted, responder

LISTENERS = [
    Encrypted("dns.example.net", Endpoint("192.0.2.1", 853), "dot"),
    Encrypted("dns.example.net", Endpoint("2001:db8::1", 8853), "dot"),
    Encrypted("dns.example.net", Endpoint("0.0.0.0", 853), "dot"),
    Encrypted("dns.example.net", Endpoint("fe80::1%lo", 853), "dot"),
]
LOOPBACK = Encrypted("dns.example.net", Endpoint("127.0.0.1", 853), "dot")
RECORDS = [
    '1 dns.example.net. alpn="dot" ipv4hint="192.0.2.1"',
    '2 dns.example.net. alpn="dot" port="8853" ipv6hint="2001:db8::1"',
    '3 dns.example.net. alpn="dot"',
    '4 dns.example.net. alpn="dot"',
]


def answered(query, listeners=LISTENERS):
    wire = responder(listeners)(query.to_wire())
    if wire is None:
        return None
    reply = dns.message.from_wire(wire)
    assert query.is_response(reply)
    assert reply.rcode() == dns.rcode.NOERROR
    return reply


@pytest.mark.parametrize("name", ["_dns.resolver.arpa.", "_DNS.Resolver.ARPA."])
def test_listeners_are_told_in_their_order(name):
    reply = answered(dns.message.make_query(name, "SVCB"))
    (rrset,) = reply.answer
    assert (rrset.name.to_text(), rrset.ttl, [each.to_text() for each in rrset]) == (name, 300, RECORDS)
    assert reply.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert reply.edns == -1
    assert reply.authority == []


@pytest.mark.parametrize(
    ("name", "rdtype", "listeners"),
    [
        ("_dns.resolver.arpa.", "SVCB", []),
        ("_dns.resolver.arpa.", "A", LISTENERS),
        ("resolver.arpa.", "SVCB", LISTENERS),
        ("other.resolver.arpa.", "SVCB", LISTENERS),
    ],
    ids=["no listener", "another type", "the domain", "another name"],
)
def test_nothing_else_is_there(name, rdtype, listeners):
    reply = answered(dns.message.make_query(name, rdtype), listeners)
    assert reply.answer == []
    assert [each.to_text() for each in reply.authority] == ["resolver.arpa. 300 IN SOA . . 1 3600 600 86400 300"]


def test_another_class_is_not_its_own():
    assert answered(dns.message.make_query("_dns.resolver.arpa.", "SVCB", "CH")) is None


def test_what_is_no_query_is_not_its_own():
    query = dns.message.make_query("_dns.resolver.arpa.", "SVCB")
    query.set_opcode(dns.opcode.STATUS)
    assert answered(query) is None
    assert responder(LISTENERS)(b"\0" * 11) is None


def test_sixty_four_listeners_are_told_to_whoever_takes_little():
    many = [Encrypted("a" * 60 + ".example.net", Endpoint(f"2001:db8::{n}", 8853), "dot") for n in range(1, 65)]
    reply = answered(dns.message.make_query("_dns.resolver.arpa.", "SVCB", use_edns=0, payload=512), many)
    assert len(reply.answer[0]) == 64


def test_no_address_of_this_machine_alone_is_told():
    (rrset,) = answered(dns.message.make_query("_dns.resolver.arpa.", "SVCB"), [LOOPBACK]).answer
    assert rrset[0].to_text() == '1 dns.example.net. alpn="dot"'


@pytest.mark.parametrize("option", [None, b"\xfe\x01\0\0"], ids=["cacheable", "uncacheable"])
def test_no_upstream_is_asked(option):
    options = [] if option is None else [dns.edns.GenericOption(0xFE01, b"")]
    query = dns.message.make_query("_DNS.resolver.arpa.", "SVCB", options=options, use_edns=0)
    with contextlib.ExitStack() as stack:
        path = Path(stack)
        path.miss_path.consult(discovery=responder(LISTENERS[:1]))
        path.hand_over(query.to_wire())
        path.miss_path.send()
        assert path.nothing_arrived()
        reply = dns.message.from_wire(path.client.recv(512))
        assert query.is_response(reply)
        assert [each.to_text() for each in reply.answer[0]] == RECORDS[:1]


def test_what_is_told_changes_with_the_listeners():
    query = dns.message.make_query("_dns.resolver.arpa.", "SVCB")
    with contextlib.ExitStack() as stack:
        path = Path(stack)
        for listeners in LISTENERS[:1], LISTENERS[1:2]:
            path.miss_path.consult(discovery=responder(listeners))
            path.hand_over(query.to_wire())
            reply = dns.message.from_wire(path.client.recv(512))
            assert [each.to_text()[1:] for each in reply.answer[0]] == [RECORDS[LISTENERS.index(listeners[0])][1:]]


@pytest.mark.parametrize("name", ["resolver.arpa.test.", "arpa.", "xresolver.arpa."])
def test_an_upstream_is_asked_for_other_names(name):
    with contextlib.ExitStack() as stack:
        path = Path(stack)
        path.miss_path.consult(discovery=responder(LISTENERS))
        path.hand_over(dns.message.make_query(name, "SVCB").to_wire())
        path.miss_path.send()
        assert not path.nothing_arrived()
