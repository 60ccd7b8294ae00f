"""Show that what is told of names that were never asked for is what the nameserver would have told.

The nameserver is a model (support.signed), and once a real one. Time is an argument: nothing waits.
"""

import gc
import time
import tracemalloc
from random import Random

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.client import exchange
from support.examples import examples
from support.law import assert_lawful
from support.nameservers import nsd
from support.signed import Authority, Zone, rrset, rrsig

from funkenshield.cache._nsec_cache import NsecCache

THOROUGH = examples(200)
HOUR = 3600
APEX = "example.test."
WALL = time.time()
EVERYTHING = b"\0"
TEST = b"\4test\0"
EXAMPLE = b"\7example\4test\0"
AA, RD, RA, AD, CD = dns.flags.AA, dns.flags.RD, dns.flags.RA, dns.flags.AD, dns.flags.CD
BOTH = {"nxdomain_cut": True, "nsec": True}


def make_query(name, rdtype="A", *, dnssec=True, flags=RD, **how):
    return dns.message.make_query(name, rdtype, id=7, want_dnssec=dnssec, flags=flags, **how)


def make_response(query, *authority, rcode=dns.rcode.NXDOMAIN, flags=AA, answer=(), additional=()):
    """Return a response to a query, with RRsets by section, on the wire."""
    response = dns.message.make_response(query)
    response.flags |= flags | query.flags & CD
    response.set_rcode(rcode)
    response.answer, response.authority, response.additional = list(answer), list(authority), list(additional)
    return response.to_wire(max_size=65535)


def learn(cache, query, response, zone=EVERYTHING, now=0.0, longest=HOUR, **how):
    cache.learn(query.to_wire(), response, zone, now=now, wall=WALL, longest=longest, **BOTH | how)


def respond(cache, query, zone=EVERYTHING, now=0.0, **how):
    """Return what is known, as dnspython reads it with all strictness, or None."""
    wire = cache.response_to(query.to_wire(), zone, now=now, **BOTH | how)
    return None if wire is None else dns.message.from_wire(wire)


def ttls(message):
    return {each.ttl for each in message.authority}


SIGNED_SOA = [
    rrset(APEX, "SOA", "ns.c.example.test. host.example.test. 1 3600 600 86400 300"),
    rrsig(APEX, "SOA", APEX),
]
SOA = SIGNED_SOA[0]


def nsec(owner, following, types="A RRSIG NSEC", ttl=300, **how):
    """Return an NSEC record with its signature."""
    return [rrset(owner, "NSEC", f"{following} {types}", ttl), rrsig(owner, "NSEC", APEX, ttl, **how)]


FIRST = nsec(APEX, "a.example.test.", "NS SOA RRSIG NSEC DNSKEY")
LAST = nsec("a.example.test.", APEX)
DENIED = [*SIGNED_SOA, *FIRST, *LAST]


def learnt(name, *authority, query=None, **how):
    """Return what was learnt from an NXDOMAIN for a name."""
    cache = NsecCache()
    query = query or make_query(name)
    learn(cache, query, make_response(query, *authority), **how)
    return cache


def knows(cache, name, rdtype="A", **how):
    return respond(cache, make_query(name, rdtype), **how) is not None


# ---------------------------------------------------------------- the law

labels = st.sampled_from(["*", "a", "b", "c", r"\000", r"\001", r"\255", "aa"])
names = st.lists(labels, min_size=1, max_size=3).map(lambda some: ".".join([*some, APEX]))
asked_names = st.lists(labels, max_size=4).map(lambda some: ".".join([*some, APEX]))
plain_types = [("A",), ("A", "MX"), ("TXT",), ("CNAME",)]
all_types = [*plain_types, ("NS",), ("NS", "DS"), ("DNAME",), ("A", "DNAME")]
lifetimes = st.sampled_from([60, 300])


@st.composite
def nodes(draw, below=names):
    """Draw what there is at some names; nobody delegates at a wildcard (RFC 4592 4.2)."""
    found = {}
    for name in draw(st.lists(below, max_size=8, unique=True)):
        found[name] = draw(st.sampled_from(plain_types if name.startswith("*") else all_types))
    return found


@st.composite
def authorities(draw):
    """Draw a nameserver with a zone, and perhaps one that is delegated from it."""
    signed = draw(st.booleans())
    parent = Zone(APEX, draw(nodes()), signed=signed, ttl=draw(lifetimes), minimum=draw(lifetimes))
    zones = [parent]
    delegations = [name for name in parent.chain[1:] if "NS" in parent.nodes[name]]
    if delegations and draw(st.booleans()):
        apex = draw(st.sampled_from(delegations)).to_text()
        below = labels.map(lambda label: f"{label}.{apex}")
        zones.append(Zone(apex, draw(nodes(below)), signed=draw(st.booleans())))
    return Authority(*zones, flags=draw(st.sampled_from([AA, RA, RA | AD])))


def telling_names(authority):
    """Return names that exist, names between them and the apex, and names beside and below those."""
    found = {
        name.split(depth)[1] for zone in authority.zones for name in zone.chain for depth in range(3, len(name) + 1)
    }
    return sorted(found | {dns.name.Name((label, *name)) for name in found for label in (b"*", b"aa", b"\0")})


@st.composite
def queries(draw, about=asked_names):
    spelling = draw(st.sampled_from([str.lower, str.upper]))
    return make_query(
        spelling(draw(about)),
        draw(st.sampled_from(["A", "MX", "DS", "NS", "CNAME", "TYPE1000"])),
        dnssec=draw(st.booleans()),
        flags=draw(st.sampled_from([RD, RD, RD | AD, 0])),
    )


@st.composite
def conversations(draw):
    """Draw a nameserver, what it is asked first, and what somebody asks then."""
    authority = draw(authorities())
    some = queries(st.sampled_from(telling_names(authority)).map(str))
    return authority, draw(st.lists(some, max_size=20)), draw(st.lists(some, max_size=20))


@pytest.mark.slow
@THOROUGH
@given(conversations(), st.booleans(), st.booleans())
def test_what_is_told_is_what_the_nameserver_would_tell(conversation, nxdomain_cut, nsec):
    authority, learnt, asked = conversation
    cache = NsecCache()
    for query in learnt:
        learn(cache, query, authority.response_to(query).to_wire(), nxdomain_cut=nxdomain_cut, nsec=nsec)
    for query in learnt + asked:
        told = respond(cache, query, nxdomain_cut=nxdomain_cut, nsec=nsec)
        if told is not None:
            assert_lawful(told, authority.response_to(query), aged=299)
            assert told.question[0].name.labels == query.question[0].name.labels, "the client's spelling"


@pytest.mark.slow
@examples(60)
@given(
    nodes(st.sampled_from([f"{label}{APEX}" for label in ("a.", "b.a.", "*.", "*.a.", "*.b.a.", "c.c.b.a.", "aa.")]))
)
def test_who_has_seen_a_whole_chain_knows_all_that_does_not_exist(found):
    zone = Zone(APEX, found)
    authority = Authority(zone)
    cache = NsecCache()
    query = make_query(APEX, "TYPE1000")
    records = [each for owner in zone.chain for each in zone.nsec(owner)]
    learn(cache, query, make_response(query, *zone.records(zone.apex, "SOA"), *records, rcode=0))
    assert len(cache) == len(zone.chain)
    for name in {APEX, *found, *(f"{label}.{each}" for each in [APEX, *found] for label in ("a", "*", r"\000", "z.z"))}:
        for rdtype in "A", "DS", "TYPE1000":
            query = make_query(name, rdtype)
            response = authority.response_to(query)
            told = respond(cache, query, nxdomain_cut=False)
            assert (told is not None) == bool(response.authority), f"{name} {rdtype}"
            if told is not None:
                assert_lawful(told, response, aged=0)


# ---------------------------------------------------------------- what is told, row by row


def test_a_cut_denies_what_is_below_the_name_and_nothing_beside():
    cache = learnt("c.example.test.", SOA, query=make_query("c.example.test.", dnssec=False), nsec=False)
    for name, known in {
        "c": True,
        "a.c": True,
        "z.z.C": True,
        "cc": False,
        "b": False,
        r"\000.c": True,
        "c.c": True,
    }.items():
        for rdtype in "A", "ANY", "NSEC":
            told = respond(cache, make_query(f"{name}.{APEX}", rdtype, dnssec=False))
            assert (told is not None) == known, name
            assert told is None or (told.rcode(), told.authority) == (dns.rcode.NXDOMAIN, [SOA])
    assert not knows(cache, "a.c.example.test."), "it was learnt without DO"


def test_names_in_what_is_learnt_are_compressed_and_stay_what_they_are():
    query = make_query("c.example.test.", dnssec=False)
    response = make_response(query, SOA)
    assert b"\2ns\xc0\x0c" in response, "the SOA's first server is below the name that was asked for"
    cache = NsecCache()
    learn(cache, query, response)
    told = respond(cache, make_query("a.b.c.example.test.", dnssec=False))
    assert told.authority == [SOA]
    assert told.authority[0][0].mname == dns.name.from_text("ns.c.example.test.")


FLAGS = [(flags, edns) for flags in (0, RD, CD, RD | CD, RD | AD) for edns in (None, False, True)]


def flagged(name, flags, edns, rdclass="IN"):
    return make_query(name, "A", flags=flags, dnssec=edns, use_edns=None if edns is None else 0, rdclass=rdclass)


@pytest.mark.parametrize(("flags", "edns"), FLAGS)
def test_cuts_are_kept_apart_by_flags_and_class(flags, edns):
    query = flagged("c.example.test.", flags, edns)
    cache = learnt("", SOA, query=query)
    for other in FLAGS:
        told = respond(cache, flagged("a.c.example.test.", *other))
        assert (told is not None) == (other == (flags, edns))
        if told is not None:
            assert told.flags == query.flags & ~AD | dns.flags.QR | AA | dns.rcode.NXDOMAIN
            assert (told.edns, told.ednsflags, told.payload) == (
                (0, query.ednsflags, 1232) if edns is not None else (-1, 0, 0)
            )
    assert respond(cache, flagged("a.c.example.test.", flags, edns, "CH")) is None


@pytest.mark.parametrize("checked", [0, CD])
def test_chains_are_kept_apart_by_rd_and_cd_and_validated_is_told_to_those_who_ask(checked):
    cache = NsecCache()
    query = make_query("c.example.test.", flags=RD | checked)
    learn(cache, query, make_response(query, *DENIED, flags=RA | AD))
    for flags, edns in FLAGS:
        told = respond(cache, flagged("d.example.test.", flags, edns), nxdomain_cut=False)
        assert (told is not None) == (flags & ~AD == RD | checked)
        if told is not None:
            assert bool(told.flags & AD) == bool(edns or flags & AD)
            assert told.flags & ~AD == dns.flags.QR | RA | RD | checked | dns.rcode.NXDOMAIN
            assert len(told.authority) == (6 if edns else 1)


def test_whether_a_zone_is_signed_is_for_its_parent_to_say():
    authority = Authority(
        Zone(APEX, {"a.example.test.": ("NS",)}), Zone("a.example.test.", {"b.a.example.test.": ("A",)})
    )
    cache = NsecCache()
    for name, rdtype in (("a", "DS"), ("a", "TYPE1000"), ("c.a", "A")):
        query = make_query(f"{name}.{APEX}", rdtype)
        learn(cache, query, authority.response_to(query).to_wire())
    for name, rdtype in (("a", "DS"), ("a", "MX"), ("c.a", "DS"), ("b.a", "MX")):
        query = make_query(f"{name}.{APEX}", rdtype)
        assert_lawful(respond(cache, query), authority.response_to(query), aged=0)


DOUBTFUL = {
    "below a DNAME": (["a.example.test.", "c.b.a.example.test.", "A DNAME"], "b.a.example.test.", "A"),
    "below a delegation": (["a.example.test.", "c.b.a.example.test.", "NS"], "b.a.example.test.", "A"),
    "a wildcard that delegates": (["*.example.test.", "aa.example.test.", "NS"], "b.example.test.", "DS"),
    "a wildcard with a DNAME": (["*.example.test.", "aa.example.test.", "DNAME"], "b.example.test.", "A"),
    "a wildcard without records": ([APEX, "a.*.example.test.", "NS SOA"], "b.example.test.", "A"),
}


@pytest.mark.parametrize(("link", "name", "rdtype"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_where_there_is_doubt_nothing_is_told(link, name, rdtype):
    cache, query = NsecCache(), make_query(APEX, "TYPE1000")
    learn(cache, query, make_response(query, *SIGNED_SOA, *nsec(*link), *nsec("aa.example.test.", APEX), rcode=0))
    assert not knows(cache, name, rdtype)


def test_meta_types_are_not_denied_by_a_bitmap():
    cache = learnt("c.example.test.", *DENIED)
    for rdtype, known in {
        "MX": True,
        "ANY": False,
        "RRSIG": False,
        "NSEC": False,
        "MAILB": False,
        "TYPE128": False,
    }.items():
        for name in "a.example.test.", "d.example.test.":
            assert (respond(cache, make_query(name, rdtype), nxdomain_cut=False) is not None) == known, rdtype
    assert knows(cache, "a.example.test.", "TYPE256")
    assert not knows(cache, "a.example.test.", "A")


def test_the_newer_is_right_where_two_records_differ():
    cache = learnt("c.example.test.", *DENIED)
    assert knows(cache, "d.example.test.", nxdomain_cut=False)
    query = make_query("d.example.test.", "TYPE1000")
    learn(cache, query, make_response(query, *SIGNED_SOA, *nsec("d.example.test.", "f.example.test."), rcode=0))
    known = {name: knows(cache, f"{name}.example.test.", "MX", nxdomain_cut=False) for name in "bdeg"}
    assert known == {"b": False, "d": True, "e": True, "g": False}, "what said that there is no d. is gone"


def test_a_lie_made_for_one_name_denies_that_name_alone():
    """White lies (RFC 4470) and black ones (RFC 9824)."""
    query = make_query("c.example.test.")
    assert len(learnt("c.example.test.", *SIGNED_SOA, *nsec(r"b\255.example.test.", r"\000.c.example.test."))) == 0
    wider = learnt("c.example.test.", *SIGNED_SOA, *nsec(r"b\255.example.test.", "c0.example.test."), nsec=False)
    assert knows(wider, "z.c.example.test."), "that covers what is below it"
    other = learnt("c.example.test.", *SIGNED_SOA, *nsec(r"d.example.test.", "e.example.test."), nsec=False)
    assert len(other) == 0, "that does not cover it"
    for types, held in {"RRSIG NSEC TYPE128": 0, "RRSIG NSEC": 1}.items():
        black, cache = nsec("c.example.test.", r"\000.c.example.test.", types), NsecCache()
        learn(cache, query, make_response(query, *SIGNED_SOA, *black, rcode=0))
        assert len(cache) == knows(cache, "c.example.test.", "MX") == held
        assert not knows(cache, "a.c.example.test.")


@pytest.mark.parametrize(
    ("zone", "learns", "tells"),
    [
        (EVERYTHING, True, True),
        (TEST, True, True),
        (EXAMPLE, True, True),
        (b"\1c" + EXAMPLE, False, False),
        (b"\5other" + TEST, False, False),
    ],
)
def test_nothing_is_learnt_or_told_above_the_configured_zone(zone, learns, tells):
    assert bool(learnt("c.example.test.", *DENIED, zone=zone)) == learns
    cache = learnt("c.example.test.", *DENIED)
    for how in {"nxdomain_cut": True, "nsec": False}, {"nxdomain_cut": False, "nsec": True}:
        assert knows(cache, "a.c.example.test.", zone=zone, **how) == tells


def subnet(name):
    return make_query(name, options=[dns.edns.ECSOption("192.0.2.0", 24)])


def test_a_client_subnet_is_asked_for_upstream_and_teaches_nothing():
    assert len(learnt("", *DENIED, query=subnet("c.example.test."))) == 0
    assert respond(learnt("c.example.test.", *DENIED), subnet("a.c.example.test.")) is None


# ---------------------------------------------------------------- what is learnt, and for how long


def soa(ttl=300, minimum=300):
    return [rrset(APEX, "SOA", f"ns.test. host.test. 1 2 3 4 {minimum}", ttl), rrsig(APEX, "SOA", APEX)]


SOON = int(WALL) + 100
HELD = {
    "by the SOA": ([*soa(200), *FIRST, *LAST], HOUR, 200),
    "by its MINIMUM": ([*soa(300, 50), *FIRST, *LAST], HOUR, 50),
    "by an NSEC": ([*soa(), *FIRST, *nsec("a.example.test.", APEX, ttl=70)], HOUR, 70),
    "by the operator": ([*soa(), *FIRST, *LAST], 30, 30),
    "by a signature": ([*soa(), *FIRST, *nsec("a.example.test.", APEX, expires=SOON)], HOUR, 99),
    "not, the SOA's TTL is 0": ([*soa(0), *FIRST, *LAST], HOUR, 0),
    "not, its MINIMUM is 0": ([*soa(300, 0), *FIRST, *LAST], HOUR, 0),
    "not, a signature is over": ([*soa(), *FIRST, *nsec("a.example.test.", APEX, expires=int(WALL) - 1)], HOUR, 0),
    "not, the operator forbids it": ([*soa(), *FIRST, *LAST], 0, 0),
}


@pytest.mark.parametrize(
    "how", [{"nxdomain_cut": True, "nsec": False}, {"nxdomain_cut": False, "nsec": True}], ids=["cut", "nsec"]
)
@pytest.mark.parametrize(("authority", "longest", "held"), HELD.values(), ids=HELD)
def test_how_long_it_is_held(authority, longest, held, how):
    cache = learnt("c.example.test.", *authority, longest=longest, now=1000.0, **how)
    if not held:
        assert len(cache) == 0
        return
    for age in 0, 1, held // 2, held - 1:
        assert ttls(respond(cache, make_query("a.c.example.test."), now=1000.0 + age, **how)) == {held - age}
    assert ttls(respond(cache, make_query("c.c.example.test."), now=1000.5, **how)) == {held - 1}, (
        "no promise is broken"
    )
    for age in held - 0.5, held:
        assert not knows(cache, "a.c.example.test.", now=1000.0 + age, **how)
    query = make_query("c.example.test.")
    learn(cache, query, make_response(query, *authority), longest=longest, now=1000.0 + held, **how)
    assert knows(cache, "a.c.example.test.", now=1000.0 + held, **how), "what is over is not in the way"


@pytest.mark.parametrize("links", [(FIRST, LAST), (LAST, FIRST)])
def test_a_proof_is_as_good_as_the_worst_of_its_parts(links):
    cache, query = NsecCache(), make_query("a.example.test.", "TYPE1000")
    for now, flags, link in zip((0.0, 100.0), (AA, AA | AD), links, strict=True):
        learn(cache, query, make_response(query, *SIGNED_SOA, *link, rcode=0, flags=flags), now=now)
    told = respond(cache, make_query("b.example.test."), now=100.0)
    assert (ttls(told), told.flags & (AA | AD)) == ({200}, AA)


OTHER = "other.test."
USELESS = {
    "no SOA": DENIED[1:],
    "two SOAs": [*DENIED, rrset("test.", "SOA", "ns.test. host.test. 1 2 3 4 300")],
    "the SOA of another zone": [rrset(OTHER, "SOA", "ns.test. host.test. 1 2 3 4 300"), *DENIED[1:]],
    "the SOA of a name below": [rrset("a.c.example.test.", "SOA", "ns.test. host.test. 1 2 3 4 300"), *DENIED[1:]],
    "records of another zone": [*DENIED, *[rrset(OTHER, "NSEC", f"z.{OTHER} A"), rrsig(OTHER, "NSEC", OTHER)]],
    "records of another class": [*DENIED, dns.rrset.from_text(APEX, 300, "CH", "NSEC", f"b.{APEX} A")],
    "an NSEC that leads out of the zone": [*DENIED, *nsec("f.example.test.", OTHER)],
    "an NSEC that leads back": [*DENIED, *nsec("f.example.test.", "d.example.test.")],
    "other records": [*DENIED, rrset(APEX, "NS", "ns.test.")],
    "more records than are looked at": [*DENIED, *[rrsig(APEX, f"TYPE{number}", APEX) for number in range(1000, 1030)]],
}


@pytest.mark.parametrize("authority", USELESS.values(), ids=USELESS)
def test_what_is_odd_teaches_nothing(authority):
    assert len(learnt("c.example.test.", *authority)) == 0


@pytest.mark.parametrize(
    "how",
    [
        {"answer": [rrset("c.example.test.", "CNAME", "d.example.test.")]},
        {"additional": [rrset("ns.test.", "A", "192.0.2.1")]},
        {"rcode": dns.rcode.SERVFAIL},
        {"rcode": dns.rcode.YXDOMAIN},
        {"rcode": dns.rcode.BADVERS},
        {"rcode": dns.rcode.BADMODE},
        {"flags": AA | dns.flags.TC},
        {"flags": AA | 0x0800},
    ],
    ids=str,
)
def test_what_is_no_plain_denial_teaches_nothing(how):
    cache, query = NsecCache(), make_query("c.example.test.")
    learn(cache, query, make_response(query, *DENIED, **how))
    assert len(cache) == 0


UNTRUSTED = {
    "unsigned": [*SIGNED_SOA, *FIRST[:1], *LAST[:1]],
    "a SOA without a signature": [SOA, *FIRST, *LAST],
    "signed by another zone": [*SIGNED_SOA, LAST[0], rrsig("a.example.test.", "NSEC", "test.")],
    "a signature of something else": [*SIGNED_SOA, LAST[0], rrsig("a.example.test.", "A", APEX)],
    "a signature of another name": [*SIGNED_SOA, LAST[0], rrsig("b.example.test.", "NSEC", APEX)],
    "made from a wildcard": [*SIGNED_SOA, *nsec("a.example.test.", APEX, labels=2)],
}


@pytest.mark.parametrize("authority", UNTRUSTED.values(), ids=UNTRUSTED)
def test_only_what_its_zone_has_signed_is_trusted(authority):
    assert len(learnt("c.example.test.", *authority, nxdomain_cut=False)) == 0


@pytest.mark.parametrize("longest_first", [True, False])
def test_records_that_are_too_large_are_not_kept(longest_first):
    many = [rrsig("a.example.test.", "NSEC", APEX) for _ in range(20)]
    for number, each in enumerate(many):
        many[number] = dns.rrset.from_rdata(each.name, 300, each[0].replace(key_tag=number, signature=bytes(300)))
    records = [*SIGNED_SOA, *FIRST, LAST[0], *(reversed(many) if longest_first else many)]
    assert len(learnt("c.example.test.", *records, nsec=False)) == 0
    assert not knows(learnt("c.example.test.", *records, nxdomain_cut=False), "d.example.test.")


def test_the_apex_is_never_cut():
    assert len(learnt(APEX, *SIGNED_SOA)) == 0


# ---------------------------------------------------------------- bounds, purges, garbage


def room_for(count):
    """Return the octets that so many cuts of names of one length take."""
    cache = NsecCache()
    for number in range(10, 10 + count):
        query = make_query(f"c{number}.example.test.", dnssec=False)
        learn(cache, query, make_response(query, SOA))
    return cache.octets


def test_the_oldest_makes_room():
    cache = NsecCache(room_for(10))
    for number in range(10, 40):
        query = make_query(f"c{number}.example.test.", dnssec=False)
        learn(cache, query, make_response(query, SOA))
        assert len(cache) == min(number - 9, 10)
        assert cache.octets <= cache.limit
    known = [respond(cache, make_query(f"a.c{number}.example.test.", dnssec=False)) for number in range(10, 40)]
    assert [number for number, told in enumerate(known, 10) if told] == list(range(30, 40))
    cache = NsecCache(0)
    learn(cache, QUERY, RESPONSE)
    assert (len(cache), cache.octets) == (0, 0)


def test_a_chain_of_one_link_makes_room_for_another():
    cache = NsecCache(4096)
    for _ in "once", "again":
        learn(
            cache,
            make_query("c.example.test."),
            make_response(make_query("c.example.test."), *DENIED),
            nxdomain_cut=False,
        )
        assert 1 <= len(cache) <= 2
        assert knows(cache, "a.example.test.", "MX")


def test_what_is_over_makes_room_first():
    cache = NsecCache()
    for now, count in [(0.0, 1), (400.0, 1), (401.0, 2)]:
        query = make_query(f"c{now:.0f}.example.test.", dnssec=False)
        learn(cache, query, make_response(query, SOA), now=now)
        assert len(cache) == count


@pytest.mark.parametrize("signed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_more_memory_is_taken_than_is_counted(signed):
    cache = NsecCache(1 << 20)
    learnt = []
    for number in range(1500):
        apex = f"zone{number}.test." if signed else "test."
        query = make_query(f"c{number}.{apex}", dnssec=signed)
        records = [rrset(apex, "SOA", "ns.test. host.test. 1 2 3 4 300")]
        if signed:
            records += [rrsig(apex, "SOA", apex), rrset(apex, "NSEC", f"{apex} NS SOA"), rrsig(apex, "NSEC", apex)]
        response = make_response(query, *records, rcode=dns.rcode.NXDOMAIN)
        learnt.append((query.to_wire(), response))
    gc.collect()
    tracemalloc.start()
    for query, response in learnt:
        cache.learn(query, response, EVERYTHING, now=0.0, wall=WALL, longest=HOUR, **BOTH)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.3 * cache.octets < taken <= cache.octets <= 1 << 20


MANY = [make_query(f"c{number}.example.test.", dnssec=False).to_wire() for number in range(1500)]
SOA_WIRE = EXAMPLE + b"\0\6\0\1\0\0\1\x2c\0\x16\0\0" + 4 * b"\0\0\0\1" + b"\0\0\1\x2c"


@pytest.mark.parametrize("seed", range(6))
def test_many_are_found_in_whatever_order_they_come_and_go(seed):
    chance = Random(seed)
    order = chance.sample(range(len(MANY)), len(MANY))
    gone = chance.sample(order, 200 * seed)
    cache = NsecCache()
    for number in order:
        query = MANY[number]
        response = query[:2] + b"\x84\3\0\1\0\0\0\1\0\0" + query[12:] + SOA_WIRE
        cache.learn(query, response, EXAMPLE, now=0.0, wall=WALL, longest=HOUR, **BOTH)
    assert len(cache) == len(MANY)
    for number in gone:
        cache.forget(MANY[number][12:-4])
    for number, query in enumerate(MANY):
        assert (cache.response_to(query, EXAMPLE, now=0.0, **BOTH) is None) == (number in gone)


@pytest.mark.slow
@THOROUGH
@given(conversations(), asked_names)
def test_after_a_purge_nothing_is_told_of_the_name_and_what_is_below(conversation, purged):
    authority, learnt, asked = conversation
    cache = NsecCache()
    for query in learnt:
        learn(cache, query, authority.response_to(query).to_wire())
    purged = dns.name.from_text(purged)
    cache.forget(purged.to_wire())
    for query in learnt + asked:
        if query.question[0].name.is_subdomain(purged):
            assert respond(cache, query) is None
    cache.forget(EVERYTHING)
    for query in learnt + asked:
        assert respond(cache, query) is None


def test_a_purge_is_a_note_and_what_is_learnt_after_it_counts():
    cache = learnt("c.example.test.", *DENIED)
    before = len(cache)
    cache.forget(b"\1D\7EXAMPLE\4test\0")
    assert len(cache) == before, "nothing is looked for"
    assert not knows(cache, "d.example.test.")
    learn(cache, QUERY, RESPONSE)
    assert knows(cache, "d.example.test.")


def test_a_purge_of_a_wildcard_is_one_of_what_follows_from_it():
    cache = learnt("c.example.test.", *DENIED)
    assert knows(cache, "d.example.test.")
    cache.forget(b"\1*\7example\4test\0")
    assert not knows(cache, "d.example.test.")


def test_any_number_of_purges_leave_what_they_do_not_concern():
    cache = learnt("c.example.test.", *DENIED)
    for number in range(2000):
        cache.forget(b"\5n%04d\5other\0" % number)
    assert knows(cache, "d.example.test.")
    for number in range(5000):
        cache.forget(b"\5n%04d\5other\4test\0" % number)
    assert knows(cache, "d.example.test."), "they have become one of their parent"
    for number in range(5000):
        cache.forget(b"\3www\5n%04d\5other\4test\0" % number)
    learn(cache, QUERY, RESPONSE)
    assert knows(cache, "d.example.test."), "where there was no room for parents, what was lost is learnt again"
    cache.forget(b"\3www\5n9999\5other\4test\0")
    assert knows(cache, "d.example.test."), "and there is room again"


@pytest.mark.parametrize("name", [b"", b"\1a", b"\xc0\x0c", b"\0\0", bytes([64]) + bytes(65), (b"\1a" * 128) + b"\0"])
def test_what_is_no_name_is_refused(name):
    cache, query = NsecCache(), make_query("c.example.test.").to_wire()
    for use in (
        lambda: cache.forget(name),
        lambda: cache.response_to(query, name, now=0.0, **BOTH),
        lambda: cache.learn(query, query, name, now=0.0, wall=WALL, longest=HOUR, **BOTH),
    ):
        with pytest.raises(ValueError, match="not a name on the wire"):
            use()


QUERY = make_query("c.example.test.")
RESPONSE = make_response(QUERY, *DENIED)


def test_a_response_that_is_cut_off_or_goes_on_teaches_nothing():
    cache = NsecCache()
    for length in range(len(RESPONSE)):
        learn(cache, QUERY, RESPONSE[:length])
    learn(cache, QUERY, RESPONSE + b"\0")
    assert len(cache) == 0
    learn(cache, QUERY, RESPONSE)
    assert len(cache) == 3


octets = st.tuples(st.integers(12, len(RESPONSE) - 1), st.integers(0, 255))


@pytest.mark.slow
@examples(500)
@given(st.lists(octets, min_size=1, max_size=4), st.lists(queries(), min_size=1, max_size=3), st.binary(max_size=40))
def test_a_spoilt_response_does_no_harm(changes, asked, rubbish):
    cache, spoilt = NsecCache(), bytearray(RESPONSE)
    for position, octet in changes:
        spoilt[position] = octet
    learn(cache, QUERY, bytes(spoilt))
    for query in [*asked, make_query("a.c.example.test."), make_query("d.example.test.")]:
        respond(cache, query)
        learn(cache, query, query.to_wire()[:12] + rubbish)
        cache.learn(rubbish, RESPONSE, EVERYTHING, now=0.0, wall=WALL, longest=HOUR, **BOTH)
        assert cache.response_to(rubbish, EVERYTHING, now=0.0, **BOTH) is None


# ---------------------------------------------------------------- a real nameserver

REAL_NODES = {
    "a": ("A", "MX"),
    "b.ent": ("TXT",),
    "*.wild": ("A",),
    "child": ("NS",),
    "safe": ("NS", "DS"),
    "old": ("DNAME",),
    "alias": ("CNAME",),
    "z": ("A",),
}
REAL_NAMES = [
    "",
    "a.",
    "b.a.",
    "ent.",
    "b.ent.",
    "c.ent.",
    "x.wild.",
    "y.x.wild.",
    "wild.",
    "*.wild.",
    "child.",
    "www.child.",
]
REAL_NAMES += ["safe.", "old.", "x.old.", "alias.", "x.alias.", "z.", "zz.", "*.", "0.", r"\000.", "A.B.C.D."]


def test_the_nameserver_of_the_model_and_a_real_one_agree_on_what_is_told():
    zone = Zone("shield.test.", {f"{name}.shield.test.": types for name, types in REAL_NODES.items()}, minimum=60)
    authority, cache = Authority(zone), NsecCache()
    asked = [make_query(f"{name}shield.test.", rdtype) for name in REAL_NAMES for rdtype in ("A", "MX", "TXT")]
    asked += [make_query(f"{name}shield.test.", "DS") for name in REAL_NAMES if name]
    with nsd(zones={"shield.test": zone.to_text()}) as nameserver:
        real = [exchange(query, server=nameserver) for query in asked]
    for query, response in zip(asked, real, strict=True):
        learn(cache, query, response.to_wire())
    for query, response in zip(asked, real, strict=True):
        told = respond(cache, query, nxdomain_cut=False)
        assert (told is not None) == any(each.rdtype == dns.rdatatype.SOA for each in response.authority)
        if told is not None:
            assert_lawful(told, response, aged=0)
            assert_lawful(authority.response_to(query), response, aged=0)
