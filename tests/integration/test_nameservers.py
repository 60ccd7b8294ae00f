"""Know that the shield in front of NSD, Knot DNS and BIND tells its clients what these would have told them.

Each test looks at what the client got and at how often the nameserver was asked for it.
"""

import subprocess

import dns.flags
import dns.query
import dns.rcode
import pytest
from support.client import ask
from support.control import advance
from support.law import assert_lawful
from support.nameservers import program

QUESTIONS = {
    "A": ("www.shield.test.", "A"),
    "AAAA": ("www.shield.test.", "AAAA"),
    "MX": ("shield.test.", "MX"),
    "TXT of several strings": ("text.shield.test.", "TXT"),
    "NS": ("shield.test.", "NS"),
    "SOA": ("shield.test.", "SOA"),
    "CAA": ("shield.test.", "CAA"),
    "SRV": ("_dns._udp.shield.test.", "SRV"),
    "unknown type": ("private.shield.test.", "TYPE65280"),
    "CNAME": ("alias.shield.test.", "CNAME"),
    "CNAME chain": ("alias.shield.test.", "A"),
    "CNAME chain to NODATA": ("alias.shield.test.", "MX"),
    "wildcard": ("any.name.wild.shield.test.", "A"),
    "DNAME": ("host.old.shield.test.", "A"),
    "referral": ("www.child.shield.test.", "A"),
    "NODATA": ("www.shield.test.", "MX"),
    "NODATA of an empty non-terminal": ("empty.shield.test.", "A"),
    "NXDOMAIN": ("absent.shield.test.", "A"),
    "REFUSED": ("www.elsewhere.test.", "A"),
}
every_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)


@every_question
def test_cold_and_warm_answers_are_those_of_the_nameserver(nameserver, relay, shield, question):
    for entries, edns in enumerate(({}, {"edns": 1232}, {"dnssec": True}), 1):
        direct = ask(*question, server=nameserver, **edns)
        for _ in "cold", "warm":
            assert_lawful(ask(*question, server=shield, **edns), direct)
        assert_lawful(ask(*question, server=shield, tcp=True, **edns), direct)
        assert relay.count(*question) == len(relay.received) == entries


@every_question
def test_dig_sees_no_difference(nameserver, relay, shield, question):
    direct = dig(nameserver, *question)
    assert dig(shield, *question) == direct
    assert dig(shield, *question) == direct
    assert dig(shield, *question, "+tcp") == direct
    assert relay.count(*question) == 1


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        ("www.shield.test.", dns.rcode.NOERROR),
        ("absent.shield.test.", dns.rcode.NXDOMAIN),
        ("www.elsewhere.test.", dns.rcode.REFUSED),
    ],
)
def test_the_nameservers_serve_the_zone_and_no_other(nameserver, name, rcode):
    assert ask(name, server=nameserver).rcode() == rcode


@pytest.mark.parametrize("edns", [None, 512, 1232])
def test_a_big_answer_is_cut_for_udp_and_whole_over_tcp(nameserver, relay, shield, edns):
    big = "big.shield.test.", "TXT"
    direct = ask(*big, server=nameserver, tcp=True, edns=edns)
    for _ in "cold", "warm":
        truncated_reply = ask(*big, server=shield, edns=edns)
        assert truncated_reply.flags & dns.flags.TC
        assert_lawful(ask(*big, server=shield, tcp=True, edns=edns), direct)
    assert not truncated_reply.answer
    assert relay.count(*big, "tcp") == 1


def test_a_transfer_passes_through_whole_and_is_never_kept(nameserver, relay, shield):
    direct, _ = transfer(nameserver)
    for times in 1, 2:
        records, messages = transfer(shield)
        assert records == direct
        assert messages > 1
        assert relay.count("shield.test.", "AXFR", "tcp") == times
    assert relay.count("shield.test.", "AXFR", "udp") == 0


def test_the_question_is_echoed_as_spelled_out_of_one_entry(nameserver, relay, shield):
    for spelling in "www.shield.test.", "WWW.SHIELD.TEST.", "wWw.ShIeLd.tEsT.":
        reply = ask(spelling, server=shield)
        assert reply.question[0].name.to_text() == spelling
        assert_lawful(reply, ask(spelling, server=nameserver))
    assert relay.count("www.shield.test.", "A") == 1


def test_each_client_gets_its_own_id_and_the_nameserver_sees_another(relay, shield):
    for n in range(8):
        assert ask(f"host{n}.shield.test.", "TXT", server=shield, id=n).id == n
        assert ask(f"host{n}.shield.test.", "TXT", server=shield, id=65535 - n).id == 65535 - n
    assert len(relay.received) == 8
    assert [query.message.id for query in relay.received] != list(range(8))


def test_the_ttls_of_an_entry_count_down(nameserver, relay, shield):
    cold = ask("alias.shield.test.", "A", server=shield)
    advance(shield, 1.1)
    warm = ask("alias.shield.test.", "A", server=shield)
    assert_lawful(warm, cold)
    for before, after in zip(ttls(cold), ttls(warm), strict=True):
        assert after < before
    assert relay.count("alias.shield.test.", "A") == 1


def dig(server, name, rdtype, *options):
    """Return what dig prints: the status, and the set of records without their TTLs."""
    where = (f"@{server.address.host}", "-p", str(server.address.port))
    output = ("+noall", "+comments", "+answer", "+authority", "+additional", "+tries=1", "+timeout=5")
    done = subprocess.run(
        [program("dig"), "-r", *where, name, rdtype, *output, *options],
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    status = [line.partition("status: ")[2].partition(",")[0] for line in lines if "status: " in line]
    records = (line.split() for line in lines if line and not line.startswith(";"))
    return status, sorted((owner, *rest) for owner, _, *rest in records)


def transfer(server):
    """Return the set of records of an AXFR and in how many messages they came."""
    messages = list(dns.query.xfr(server.address.host, "shield.test.", port=server.address.port, lifetime=15))
    records = {
        (rrset.name, rrset.rdtype, rrset.ttl, rdata)
        for message in messages
        for rrset in message.answer
        for rdata in rrset
    }
    return records, len(messages)


def ttls(message):
    return [rrset.ttl for section in message.sections[1:] for rrset in section]
