"""Show what a client gets who cannot take all of an answer: whole RRsets, and TC only where he lacks one that he needs.

The responses are dnspython's. What is right is written down, for each octet that he may take.
"""

import contextlib

import dns.edns
import dns.flags
import dns.message
import dns.renderer
import dns.rrset
import pytest
from dns.rdatatype import NS, NSEC3, RRSIG, TXT, A
from support.fitting import read, size_of
from support.path import Path
from support.wires import record_wire

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

MEMORY = 1 << 22
OPT = 11  # octets of an OPT record without options
EDE, REPORT_CHANNEL = 15, 18
LARGEST = 65535
SIGNATURE = "8 3 300 20380101000000 20200101000000 1 example. " + "A" * 120


def rrset(name, rdtype, *data, ttl=300):
    return dns.rrset.from_text(name, ttl, "IN", rdtype, *data)


def addresses(name, count=1, rdtype="A"):
    prefix = "192.0.2." if rdtype == "A" else "2001:db8::"
    return rrset(name, rdtype, *[f"{prefix}{n + 1}" for n in range(count)])


def signature(name, covers):
    return rrset(name, "RRSIG", f"{covers} {SIGNATURE}")


def response(query, answer=(), authority=(), additional=(), *, options=(), rcode=0):
    """Return a response, its records in this order, with the OPT record last where the query has one."""
    out = dns.renderer.Renderer(query.id, 0x8400 | rcode, LARGEST)
    out.add_question(query.question[0].name, query.question[0].rdtype)
    for section, rrsets in enumerate((answer, authority, additional), 1):
        for each in rrsets:
            out.add_rrset(section, each, want_shuffle=False)
    if query.edns >= 0:
        out.add_opt(dns.message.Message._make_opt(0, 1232, [dns.edns.GenericOption(*each) for each in options]))
    out.write_header()
    return out.get_wire()


def asked(name, rdtype, *, edns=True):
    return dns.message.make_query(name, rdtype, use_edns=0 if edns else False, payload=4096)


def sections(wire):
    """Return the RRsets of a message by section, as (name, type, records) or, of signatures, the type they are for."""
    told = ([], [], [])
    for each in read(wire):
        what = each.name.to_text(), f"{'+' if each.rdtype == RRSIG else ''}{dns.rdatatype.to_text(each.covered)}"
        section = told[each.section]
        if section and section[-1][:2] == what:
            section[-1] = (*what, section[-1][2] + 1)
        else:
            section.append((*what, 1))
    return told


def shapes(cache, query, smallest, largest):
    """Return all that a client gets who may take so many octets, each with the fewest that bring it, TC being None."""
    found = []
    for limit in range(smallest, largest + 1):
        wire = cache.lookup(query.to_wire(), limit)
        assert len(wire) <= limit
        assert dns.message.from_wire(wire, one_rr_per_rrset=True).question == query.question
        truncated = wire[2] & dns.flags.TC >> 8
        told = None if truncated else sections(wire)
        assert not truncated or sections(wire) == ([], [], [])
        if not found or found[-1][1] != told:
            found.append((limit, told))
    return found


def fitting(query, wire):
    """Return what becomes of a response, from what is as small as may be to the whole."""
    cache = Cache(MEMORY, Clock())
    assert cache.store(query.to_wire(), wire)
    found = shapes(cache, query, len(query.to_wire()), len(wire))
    assert found[-1] == (len(wire), sections(wire)), "it is whole where it can be"
    return [told for _, told in found]


ALL = [("mx.example.", "MX", 2)]
MX = rrset("mx.example.", "MX", "10 large.example.", "20 small.example.")
APEX = rrset("example.", "NS", "ns1.example.", "ns2.example.")
LARGE, SMALL = addresses("large.example.", 5), addresses("small.example.")


def test_what_is_additional_goes_first_and_then_the_zones_own_ns():
    query = asked("mx.example.", "MX")
    ns1, ns2 = addresses("ns1.example.", 2), addresses("ns2.example.", 2)
    told = fitting(query, response(query, [MX], [APEX], [ns1, ns2]))
    ns = [("example.", "NS", 2)]
    assert told == [
        None,
        (ALL, [], []),
        (ALL, ns, []),
        (ALL, ns, [("ns1.example.", "A", 2)]),
        (ALL, ns, [("ns1.example.", "A", 2), ("ns2.example.", "A", 2)]),
    ]


def test_a_smaller_rrset_behind_one_that_is_too_large_is_taken():
    query = asked("mx.example.", "MX")
    large, small = ("large.example.", "A", 5), ("small.example.", "A", 1)
    told = fitting(query, response(query, [MX], [], [LARGE, SMALL]))
    assert told == [None, (ALL, [], []), (ALL, [], [small]), (ALL, [], [large]), (ALL, [], [large, small])]


def test_an_rrset_goes_with_the_signature_behind_it():
    query = asked("mx.example.", "MX")
    records = [SMALL, signature("small.example.", "A"), addresses("small.example.", 3, "AAAA")]
    told = fitting(query, response(query, [MX], [], records))
    small, six = [("small.example.", "A", 1), ("small.example.", "+A", 1)], ("small.example.", "AAAA", 3)
    assert told == [None, (ALL, [], []), (ALL, [], [six]), (ALL, [], small), (ALL, [], [*small, six])]


def test_a_signature_that_stands_apart_is_never_there_without_its_rrset():
    query = asked("mx.example.", "MX")
    apart = [addresses("large.example.", 12), SMALL, signature("large.example.", "A"), signature("small.example.", "A")]
    told = fitting(query, response(query, [MX], [], apart))
    large, small = ("large.example.", "A", 12), ("small.example.", "A", 1)
    assert told == [
        None,
        (ALL, [], []),
        (ALL, [], [small]),
        (ALL, [], [small, ("small.example.", "+A", 1)]),
        (ALL, [], [large]),
        (ALL, [], [large, small]),
        (ALL, [], [large, small, ("large.example.", "+A", 1)]),
        (ALL, [], [large, small, ("large.example.", "+A", 1), ("small.example.", "+A", 1)]),
    ]


def test_what_proves_that_a_wildcard_was_meant_stays_and_the_ns_before_it_do_not():
    query = asked("a.wild.example.", "A")
    answer = [addresses("a.wild.example."), signature("a.wild.example.", "A")]
    proof = [rrset("*.wild.example.", "NSEC", "www.example. A RRSIG NSEC"), signature("*.wild.example.", "NSEC")]
    told = fitting(query, response(query, answer, [APEX, signature("example.", "NS"), *proof]))
    needed = [("*.wild.example.", "NSEC", 1), ("*.wild.example.", "+NSEC", 1)]
    answered = [("a.wild.example.", "A", 1), ("a.wild.example.", "+A", 1)]
    assert told == [
        None,
        (answered, needed, []),
        (answered, [("example.", "NS", 2), ("example.", "+NS", 1), *needed], []),
    ]


def test_a_proof_whose_name_is_spelled_in_what_goes_is_spelled_as_the_answer():
    query = asked("a.Wild.Zone.example.", "A")
    wire = query.to_wire()[:-OPT]
    answer = record_wire(A, b"\xc0\0\2\1")
    zone = (0xC000 | len(wire) + len(answer)).to_bytes(2)  # not spelled as the question has it, and so again
    ns = record_wire(NS, b"\2ns" + zone, owner=b"\4zone\7example\0")
    proof = (0xC000 | len(wire) + len(answer) + len(ns)).to_bytes(2)
    nsec3 = record_wire(NSEC3, b"\1\0\0\0\0\x14" + bytes(20), owner=b"\x20" + b"h" * 32 + zone)
    signed = signature("zone.example.", "NSEC3")[0].to_wire()
    records = answer + ns + nsec3 + record_wire(RRSIG, signed, owner=proof)
    whole = wire[:2] + b"\x84\0\0\1\0\1\0\3\0\1" + wire[12:] + records + query.to_wire()[-OPT:]
    name, respelled = f"{'h' * 32}.zone.example.", f"{'h' * 32}.Zone.example."
    assert [told and told[1] for told in fitting(query, whole)] == [
        None,
        [(respelled, "NSEC3", 1), (respelled, "+NSEC3", 1)],
        [("zone.example.", "NS", 1), (name, "NSEC3", 1), (name, "+NSEC3", 1)],
    ]


CUT = rrset("child.example.", "NS", "ns.child.example.", "ns.sibling.example.", "child.example.")
GLUE = [addresses("child.example.", 2), addresses("ns.child.example.", 1, "AAAA"), addresses("ns.child.example.")]
SIBLING = addresses("ns.sibling.example.", 4)


@pytest.mark.parametrize("place", range(4))
def test_a_referral_needs_its_glue_wherever_that_stands_but_not_a_siblings(place):
    query = asked("www.child.example.", "A")
    proof = [rrset("child.example.", "DS", "4711 13 2 " + "47" * 32), signature("child.example.", "DS")]
    whole = response(query, [], [CUT, *proof], [*GLUE[:place], SIBLING, *GLUE[place:]])
    told = fitting(query, whole)
    assert len(told) == 3
    assert told[0] is None
    answer, authority, additional = told[1]
    assert (answer, authority) == sections(whole)[:2]
    assert additional == [each for each in sections(whole)[2] if each[0] != "ns.sibling.example."]


def test_an_alias_that_leads_to_a_referral_needs_it():
    query = asked("alias.example.", "A")
    alias = rrset("alias.example.", "CNAME", "www.child.example.")
    told = fitting(query, response(query, [alias], [CUT], [SIBLING, *GLUE]))
    assert len(told) == 3
    assert told[0] is None
    assert "ns.sibling.example." not in {name for name, *_ in told[1][2]}
    assert len(told[1][1]) == 1


def test_who_asks_for_signatures_has_them_where_an_alias_leads():
    query = asked("alias.example.", "RRSIG")
    alias = [rrset("alias.example.", "CNAME", "www.example."), signature("alias.example.", "CNAME")]
    answer = [*alias, signature("www.example.", "A")]
    told = fitting(query, response(query, answer, [APEX]))
    of_alias = [("alias.example.", "CNAME", 1), ("alias.example.", "+CNAME", 1)]
    assert told[:2] == [None, ([*of_alias, ("www.example.", "+A", 1)], [], [])]
    _, (answer, referral, glue), *_ = fitting(query, response(query, alias, [CUT], GLUE))
    assert (answer, referral, len(glue)) == (of_alias, [("child.example.", "NS", 3)], 3)


def test_who_asks_for_the_alias_itself_needs_no_more():
    query = asked("alias.example.", "CNAME")
    alias = rrset("alias.example.", "CNAME", "www.child.example.")
    told = fitting(query, response(query, [alias], [APEX], [SMALL]))
    assert told[1] == ([("alias.example.", "CNAME", 1)], [], [])


@pytest.mark.parametrize("rcode", [0, 3], ids=["NODATA", "NXDOMAIN"])
def test_a_denial_is_needed_as_a_whole(rcode):
    query = asked("absent.example.", "A")
    soa = rrset("example.", "SOA", "ns1.example. host.example. 1 2 3 4 300")
    owners = [f"{letter * 32}.example." for letter in "abc"]
    proof = [rrset(name, "NSEC3", "1 0 0 - " + "v" * 32 + " A") for name in owners]
    wire = response(query, [], [soa, *proof, APEX], [addresses("ns1.example.")], rcode=rcode)
    told = fitting(query, wire)
    assert told == [None, (*sections(wire)[:2], []), sections(wire)]


def test_thousands_of_records_that_do_not_fit_are_not_tried_one_by_one():
    query = asked("mx.example.", "MX")
    rest = [addresses(f"x{n}.example.", 2, "AAAA") for n in range(40)]
    cache = Cache(MEMORY, Clock())
    cache.store(query.to_wire(), response(query, [MX], [], [*rest[:16], SMALL, *rest[16:]]))
    assert sections(cache.lookup(query.to_wire(), 120))[2] == [], "sixteen were in the way"
    cache.store(query.to_wire(), response(query, [MX], [], [*rest[:15], SMALL, *rest[15:]]))
    assert sections(cache.lookup(query.to_wire(), 120))[2] == [("small.example.", "A", 1)]


def test_a_name_that_is_spelled_in_what_goes_does_not_lead_astray():
    query = asked("srv.example.", "SRV")
    srv = rrset("srv.example.", "SRV", "1 2 3 target.example.")
    large, six = addresses("target.example.", 9), addresses("target.example.", 1, "AAAA")  # SRV is never pointed to
    told = fitting(query, response(query, [srv], [], [large, six]))
    answered = [("srv.example.", "SRV", 1)]
    both = [("target.example.", "A", 9), ("target.example.", "AAAA", 1)]
    assert told == [None, (answered, [], []), (answered, [], both[:1]), (answered, [], both)]


def test_ttls_of_what_is_left_count_down_and_are_those_of_stale_answers():
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, stale="immediate", stale_ttl=7, stale_longest=100)
    query = asked("mx.example.", "MX")
    small = addresses("small.example.")
    small.ttl = 1000
    cache.store(query.to_wire(), response(query, [MX], [], [LARGE, small]))
    clock.advance(10)
    limit = len(cache.lookup(query.to_wire())) - size_of(read(cache.lookup(query.to_wire()))[-1:])
    for age, ttls in ((0, [290, 290, 990]), (300, [7, 7, 7])):
        clock.advance(age)
        left = cache.lookup(query.to_wire(), limit - 1)
        assert sections(left)[2] == [("small.example.", "A", 1)]
        assert [each.ttl for each in read(left)] == ttls


@pytest.mark.parametrize("size", [1232, LARGEST])
def test_what_is_added_to_a_stale_answer_never_brings_tc(size):
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, stale="immediate", stale_ttl=7, stale_longest=100)
    query = asked("stale.example.", "TYPE65280")
    wire = query.to_wire()
    for octets in range(size - 8, size + 1):
        data = bytes(octets - len(wire) - 12)
        record = b"\xc0\x0c\xff\0\0\1\0\0\0\5" + len(data).to_bytes(2) + data
        whole = wire[:2] + b"\x84\0\0\1\0\1\0\0\0\1" + wire[12:-OPT] + record + wire[-OPT:]
        assert len(whole) == octets
        assert cache.store(wire, whole)
        clock.advance(5)
        stale = cache.lookup(wire, size)
        assert not stale[2] & 2
        told = dns.message.from_wire(stale)
        assert [int(option.otype) for option in told.options] == ([EDE] if octets + 6 <= size else [])
        assert (len(told.answer), told.answer[0].ttl) == (1, 7)


def test_extended_errors_of_the_upstream_go_before_records_and_other_options_stay():
    query = asked("mx.example.", "MX")
    options = [(REPORT_CHANNEL, b"\5agent\0"), (EDE, b"\0\0" + 50 * b"x")]
    wire = response(query, [MX], [], [LARGE], options=options)
    cache = Cache(MEMORY, Clock())
    cache.store(query.to_wire(), wire)
    for limit, additional, codes in (
        (len(wire), 5, [REPORT_CHANNEL, EDE]),
        (len(wire) - 1, 5, [REPORT_CHANNEL]),
        (len(wire) - 56, 5, [REPORT_CHANNEL]),
        (len(wire) - 57, 0, [REPORT_CHANNEL]),
    ):
        told = dns.message.from_wire(cache.lookup(query.to_wire(), limit))
        assert sum(map(len, told.additional)) == additional
        assert [int(option.otype) for option in told.options] == codes


def test_without_edns_there_is_room_for_as_much_more():
    query = asked("mx.example.", "MX", edns=False)
    told = fitting(query, response(query, [MX], [], [LARGE]))
    assert told == [None, (ALL, [], []), (ALL, [], [("large.example.", "A", 5)])]


def test_without_an_answer_an_owner_that_stood_in_what_is_left_out_is_right_nevertheless():
    cache, query = Cache(MEMORY, Clock()), dns.message.make_query("www.example.", "TYPE65400")
    before = len(query.to_wire())
    soa = record_wire(dns.rdatatype.SOA, bytes(18) + (300).to_bytes(4), owner=b"\xc0\x10")
    large = record_wire(dns.rdatatype.TXT, b"\xff" + bytes(255), owner=b"\3ns1\7example\0")
    into_it = (0xC000 | before + len(soa) + 4).to_bytes(2)  # where it says "example"
    address = record_wire(A, bytes(4), owner=into_it)
    reply = query.to_wire()[:2] + bytes.fromhex("84000001000000010002") + query.to_wire()[12:] + soa + large + address
    assert cache.store(query.to_wire(), reply)
    other = asked("a.example.", "A")  # what its walk has found is no part of the next one's
    assert cache.store(other.to_wire(), response(other, [addresses("a.example.", 9)], (), [addresses("b.test.", 40)]))
    assert len(cache.lookup(other.to_wire(), 300)) <= 300
    found = dns.message.from_wire(cache.lookup(query.to_wire(), before + len(soa) + len(address)))
    assert [(each.name.to_text(), each.rdtype) for each in found.additional] == [("example.", A)]


def left_of(name, *records):
    """Return what a client without EDNS gets who asks for a name, where an upstream says so much, all additional."""
    with contextlib.ExitStack() as stack:
        shield = Path(stack)
        wire = asked(name, "MX", edns=False).to_wire()
        (at_upstream,) = shield.ask(wire)
        head = at_upstream.wire[:2] + bytes.fromhex("84000001000000000002")
        shield.say(at_upstream.port, head + wire[12:] + b"".join(records))
        return shield.client.recv(4096)


TOO_LARGE = record_wire(TXT, (b"\xff" + bytes(255)) * 2 + b"\x57" + bytes(87), owner=b"\1x\7example\0")


@pytest.mark.parametrize(
    ("name", "additional"),
    [("www.example.", []), ("x.example.", ["x.example."]), ("a.x.example.", ["x.example."])],
)
def test_without_any_answer_an_owner_leads_into_the_question_or_is_left_out(name, additional):
    into_it = (0xC000 | len(asked(name, "MX", edns=False).to_wire())).to_bytes(2)
    found = dns.message.from_wire(left_of(name, TOO_LARGE, record_wire(A, b"\xc0\0\2\1", owner=into_it)))
    assert (found.flags & dns.flags.TC, found.answer, found.authority) == (0, [], [])
    assert [each.to_text() for each in found.additional] == [f"{owner} 300 IN A 192.0.2.1" for owner in additional]


@pytest.mark.parametrize("last", [0xC0, 0xC1, 0xC5, 0xFF])
def test_a_plain_owner_that_ends_like_a_pointer_stays_behind_what_is_left_out(last):
    plain = record_wire(A, b"\xc0\0\2\1", owner=b"\3www\3ns" + bytes([last]) + b"\0")
    got = left_of("www.example.", TOO_LARGE, plain)
    assert got[4:] == bytes([0, 1, 0, 0, 0, 0, 0, 1]) + asked("www.example.", "MX", edns=False).to_wire()[12:] + plain
