"""Show that a hit is the response that was stored, but for what may differ, and what is stored for how long.

The responses are dnspython's. Time is moved by hand: an answer is there a second before it is gone.
"""

import time
from struct import pack

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.renderer
import dns.rrset
import dns.wire
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.examples import examples

from funkenshield.cache._entry import is_response_to
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

THOROUGH = examples(200)
MEMORY = 1 << 22
PAYLOAD = 1232
ANSWER, AUTHORITY, ADDITIONAL = 1, 2, 3
DAY = 86400
COOKIE, PADDING, KEEPALIVE = 10, 12, 11
OF_THE_ANSWER = {15, 18}  # extended errors, and where to report them: the options that stay


def rrset(text):
    """Return an RRset of one or more lines, as in a zone file."""
    lines = [line.split(None, 4) for line in text.splitlines()]
    name, ttl, rdclass, rdtype, _ = lines[0]
    return dns.rrset.from_text(name, int(ttl), rdclass, rdtype, *[line[4] for line in lines])


def soa(ttl=300, minimum=300, name="example.com."):
    return rrset(f"{name} {ttl} IN SOA ns1.example.com. root.example.com. 1 3600 600 86400 {minimum}")


def rrsig(seconds, ttl=300, covers="A"):
    """Return a signature that expires so many seconds from now."""
    return signature(int(time.time()) + seconds, ttl, covers)


def signature(expires, ttl=300, covers="A"):
    """Return a signature that expires at a second of the wall clock."""
    return rrset(f"www.example.com. {ttl} IN RRSIG {covers} 8 3 300 {expires} 0 1 example.com. AAAA")


def make_query(name="www.example.com.", rdtype="A", ident=7, **how):
    return dns.message.make_query(name, rdtype, id=ident, **how)


def to_wire(query, sections, *, flags=0x8400, rcode=0, opt=None, opt_at=None):
    """Return a response: RRsets by section, and an OPT record at `opt_at` among the additional ones."""
    ident, flags = query.id, flags | query.flags & dns.flags.RD | rcode & 15
    writer = dns.renderer.Renderer(ident, flags, 65535)
    for asked in query.question:
        writer.add_question(asked.name, asked.rdtype, asked.rdclass)
    for section in (ANSWER, AUTHORITY):
        for each in sections.get(section, ()):
            writer.add_rrset(section, each, want_shuffle=False)
    additional = list(sections.get(ADDITIONAL, ()))
    if opt is not None:
        additional.insert(len(additional) if opt_at is None else opt_at, opt)
    for each in additional:
        if each is opt:
            writer.add_opt(each)
        else:
            writer.add_rrset(ADDITIONAL, each, want_shuffle=False)
    writer.write_header()
    return writer.get_wire()


def make_opt(*options, flags=0, payload=4096, rcode=0):
    return dns.message.Message._make_opt(
        rcode >> 4 << 24 | flags, payload, [dns.edns.GenericOption(code, data) for code, data in options]
    )


def read(wire):
    """Return the message as dnspython reads it with all strictness, or None."""
    try:
        return dns.message.from_wire(wire, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError):
        return None


def records(message):
    """Return all records in the order in which they came, section by section, without their TTLs."""
    return [[(each.name, each.rdclass, each.rdtype, each[0]) for each in section] for section in message.sections[1:]]


def ttls(message):
    return [each.ttl for section in message.sections[1:] for each in section]


def options(message):
    return [(each.otype, each.to_wire()) for each in message.options]


def ask_cache(cache, query, **how):
    """Return the hit as dnspython reads it, or None."""
    wire = cache.lookup(query.to_wire(), **how)
    if wire is None:
        return None
    hit = read(wire)
    assert hit is not None, f"a hit that cannot be read: {wire.hex()}"
    return hit


def assert_same(hit, query, stored, age=0, payload=PAYLOAD):
    """Assert that a hit is the stored response as the client of `query` may see it after `age` seconds."""
    rd, do = dns.flags.RD, dns.flags.DO
    assert (hit.id, hit.question) == (query.id, query.question)
    assert hit.question[0].name.labels == query.question[0].name.labels, "the client's spelling"
    assert hit.flags == stored.flags & ~rd | query.flags & rd
    assert hit.rcode() == stored.rcode()
    assert records(hit) == records(stored)
    assert ttls(hit) == [ttl - age for ttl in ttls(stored)]
    assert hit.edns == query.edns
    if query.edns == 0:
        assert hit.payload == payload
        assert hit.ednsflags & 0xFFFF == stored.ednsflags & 0x7FFF | query.ednsflags & do
        assert options(hit) == [option for option in options(stored) if option[0] in OF_THE_ANSWER]


# ---------------------------------------------------------------- a hit is what was stored

ZONE = "example.com."
TARGETS = [f"{label}.{ZONE}" for label in ("ns1", "NS2", "mail", "a.b.c")]
some_ttls = st.one_of(st.integers(1, 20), st.integers(1, 2 * DAY), st.just(0x7FFFFFFF))
addresses = st.lists(st.integers(1, 254), min_size=1, max_size=4, unique=True)


@st.composite
def address_sets(draw, name):
    rdtype, prefix = draw(st.sampled_from([("A", "192.0.2."), ("AAAA", "2001:db8::")]))
    ttl = draw(some_ttls)
    return rrset("\n".join(f"{name} {ttl} IN {rdtype} {prefix}{number}" for number in draw(addresses)))


@st.composite
def shapes(draw, name):
    """Draw the sections of a response to a question for `name`, and what it says: its rcode and kind."""
    kind = draw(st.sampled_from(["positive", "nxdomain", "nodata", "referral"]))
    sections = {ANSWER: [], AUTHORITY: [], ADDITIONAL: []}
    for hop in range(draw(st.integers(0, 2)) if kind != "referral" else 0):
        sections[ANSWER].append(rrset(f"{name} {draw(some_ttls)} IN CNAME {hop}.alias.{ZONE}"))
        name = f"{hop}.alias.{ZONE}"
    if kind == "positive":
        more = [f"{name} {draw(some_ttls)} IN {rest}" for rest in ("MX 5 mail.example.com.", 'TXT "a" "b"')]
        sections[ANSWER] += [draw(address_sets(name)), *map(rrset, draw(st.lists(st.sampled_from(more), unique=True)))]
    if kind in {"positive", "referral"}:
        servers = "\n".join(f"{ZONE} {draw(some_ttls)} IN NS {target}" for target in TARGETS)
        sections[AUTHORITY] += [rrset(servers)]
        sections[ADDITIONAL] += [draw(address_sets(target)) for target in draw(st.lists(st.sampled_from(TARGETS)))]
        sections[ADDITIONAL] += map(rrset, draw(st.lists(st.just(f"more.{ZONE} 9 IN MX 1 x.more.{ZONE}"), max_size=1)))
    else:
        sections[AUTHORITY] += [soa(draw(some_ttls), min(draw(some_ttls), 2 * DAY))]
    if draw(st.booleans()):
        signed = ANSWER if sections[ANSWER] else AUTHORITY
        sections[signed].append(rrsig(draw(st.sampled_from([5, 1000, 3 * DAY])), ttl=draw(some_ttls)))
    return kind, sections


@st.composite
def exchanges(draw):
    """Draw a query with the response to it, and another query with the same key."""
    name = draw(st.sampled_from(["www.Example.COM.", "x.", "eXample.com.", f"{'y' * 63}.{'z' * 63}.example.com."]))
    kind, sections = draw(shapes(name.lower()))
    edns = draw(st.sampled_from([None, {"use_edns": 0}, {"use_edns": 0, "want_dnssec": True}]))
    flags = draw(st.sampled_from([0, dns.flags.RD, dns.flags.RD | dns.flags.CD]))
    payloads = st.sampled_from([512, 1232, 65535]) if edns else st.none()
    spelling = draw(st.sampled_from([str.lower, str.upper, str.swapcase]))
    crumbs = [dns.edns.GenericOption(COOKIE, bytes(8))] if edns and draw(st.booleans()) else None
    one = make_query(name, payload=draw(payloads), flags=flags, **edns or {})
    other = make_query(spelling(name), ident=65535, payload=draw(payloads), flags=flags, options=crumbs, **edns or {})
    said = st.sampled_from(
        [
            (15, b"\0\3stale"),
            (18, b"\7example\0"),
            (3, b"nsid"),
            (COOKIE, bytes(24)),
            (PADDING, bytes(7)),
            (KEEPALIVE, b""),
        ]
    )
    opt = (
        make_opt(*draw(st.lists(said)), flags=draw(st.sampled_from([0, 0x8000, 0x0001])))
        if draw(st.booleans())
        else None
    )
    at = draw(st.one_of(st.none(), st.integers(0, len(sections[ADDITIONAL]))))
    wire = to_wire(
        one,
        sections,
        flags=0x8000 | draw(st.sampled_from([0x0400, 0x0080, 0x00B0])),
        rcode=dns.rcode.NXDOMAIN if kind == "nxdomain" else dns.rcode.NOERROR,
        opt=opt,
        opt_at=at,
    )
    return one, other, wire, bool(opt) and at is not None


def holding(message):
    """Return for how many seconds a well-formed response may be held by default; 0: not at all."""
    smallest = min(ttls(message))
    negative = [min(each.ttl, each[0].minimum) for each in message.authority if each.rdtype == dns.rdatatype.SOA]
    held = min([smallest, DAY, *negative])
    if negative and (message.rcode() == dns.rcode.NXDOMAIN or not message.answer):
        held = min(held, 3600)
    signed = [
        each[0].expiration for section in message.sections[1:] for each in section if each.rdtype == dns.rdatatype.RRSIG
    ]
    return max(min([held, *(expires - int(time.time()) for expires in signed)]), 0)


@pytest.mark.slow
@THOROUGH
@given(exchanges(), st.floats(0, 0.999))
def test_a_hit_is_what_was_stored(exchange, part):
    query, other, wire, opt_inside = exchange
    clock = Clock()
    cache = Cache(MEMORY, clock)
    stored = read(wire)
    held = holding(stored)
    if not cache.store(query.to_wire(), wire):
        assert opt_inside, "what stands behind an OPT need not be moved; all else is stored"
        assert ask_cache(cache, query) is None
        return
    assert_same(ask_cache(cache, query), query, stored)
    assert_same(ask_cache(cache, other), other, stored)
    age = int((held - 1) * part)
    clock.advance(age)
    assert_same(ask_cache(cache, other), other, stored, age)
    clock.advance(held - 1 - age)
    if not any(each.rdtype == dns.rdatatype.RRSIG for each in stored.answer + stored.authority):
        assert ask_cache(cache, query) is not None
    clock.advance(1)
    assert ask_cache(cache, query) is None


@pytest.mark.parametrize("edns", [None, {"use_edns": 0, "want_dnssec": True, "payload": 4096}], ids=["plain", "EDNS"])
def test_what_does_not_fit_is_cut_to_question_and_opt(edns):
    query = make_query(**edns or {})
    text = "\n".join(f'www.example.com. 60 IN TXT "{number} {"x" * 40}"' for number in range(40))
    opt = make_opt((65001, b"why"), (COOKIE, bytes(8))) if edns else None
    cache = Cache(MEMORY, Clock())
    assert cache.store(query.to_wire(), to_wire(query, {ANSWER: [rrset(text)]}, flags=0x8580, opt=opt))
    whole = cache.lookup(query.to_wire())
    assert len(read(whole).answer) == 40
    assert cache.lookup(query.to_wire(), len(whole)) == whole
    for limit in (512, 1232, len(whole) - 1):
        wire = cache.lookup(query.to_wire(), limit)
        assert len(wire) <= limit
        hit = read(wire)
        assert hit.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA | dns.flags.TC
        assert (hit.id, hit.question, hit.sections[1:]) == (query.id, query.question, [[], [], []])
        assert (hit.edns, hit.payload, hit.options) == ((0, PAYLOAD, ()) if edns else (-1, 0, ()))
        assert bool(hit.ednsflags & dns.flags.DO) == bool(edns)


def test_ttls_are_kept_where_the_operator_says_so():
    clock, query = Clock(), make_query()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, keep_ttl=True, payload=4096)
    assert cache.store(query.to_wire(), to_wire(query, {ANSWER: [ANSWERED]}))
    clock.advance(299)
    assert ttls(ask_cache(cache, query)) == [300]
    clock.advance(1)
    assert ask_cache(cache, query) is None


def test_a_held_answer_never_counts_below_one():
    clock, query = Clock(), make_query()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, shortest=30)
    assert cache.store(query.to_wire(), to_wire(query, {ANSWER: [rrset("www.example.com. 5 IN A 192.0.2.1")]}))
    for seconds, ttl in ((3, 2), (1, 1), (1, 1), (24, 1)):
        clock.advance(seconds)
        assert ttls(ask_cache(cache, query)) == [ttl]
    clock.advance(1)
    assert ask_cache(cache, query) is None


def test_a_ttl_that_counts_as_0_is_not_counted_down():
    clock, query = Clock(), make_query()
    cache = Cache(MEMORY, clock)
    failure = to_wire(query, {ANSWER: [ANSWERED]}, rcode=dns.rcode.SERVFAIL)
    assert cache.store(query.to_wire(), ttl_of(0x80000000)(failure)), "failures are held whatever their TTLs"
    clock.advance(1)
    assert ttls(ask_cache(cache, query)) == [0]


# ---------------------------------------------------------------- what may be stored, and for how long

ANSWERED = rrset("www.example.com. 300 IN A 192.0.2.1")
NS = rrset("example.com. 200 IN NS ns1.example.com.")
GLUE = rrset("ns1.example.com. 100 IN A 192.0.2.53")
CNAME = rrset("www.example.com. 40 IN CNAME www.example.net.")


def says(*answer, authority=(), additional=(), settings=None, spoil=None, **how):
    """Return a row: a response by sections, the settings it meets, and what is done to its octets."""
    sections = {ANSWER: answer, AUTHORITY: authority, ADDITIONAL: additional}
    return lambda query: (spoil or bytes)(to_wire(query, sections, **how)), settings or {}


def ttl_of(value):
    """Return what sets the TTL of the last of the records, an A, to a value that dnspython does not write."""
    return lambda wire: wire[:-10] + pack("!I", value) + wire[-6:]


def counted(section, change):
    """Return what changes the count of a section."""
    at = 4 + 2 * section

    def spoil(wire):
        return wire[:at] + (int.from_bytes(wire[at : at + 2]) + change).to_bytes(2) + wire[at + 2 :]

    return spoil


def with_record(section, octets):
    """Return what appends a record, already octets, to the last section that has any."""
    return lambda wire: counted(section, 1)(wire) + octets


SIG0 = pack("!BHHIH", 0, 24, 255, 9, 19)
BARE_OPT = b"\0\0\x29\x10\0\0\0\0\0\0\0"
NXDOMAIN = {"rcode": dns.rcode.NXDOMAIN}
ROWS = {
    "the smallest TTL is in the answer": (says(ANSWERED, authority=[soa(400, 900)]), 300),
    "the smallest TTL is in authority": (says(ANSWERED, authority=[NS]), 200),
    "the smallest TTL is in additional": (says(ANSWERED, authority=[NS], additional=[GLUE]), 100),
    "OPT has no TTL": (says(ANSWERED, opt=make_opt()), 300),
    "OPT has no TTL, first of all": (says(ANSWERED, authority=[NS], additional=[GLUE], opt=make_opt(), opt_at=0), 100),
    "TTL 1": (says(ANSWERED, spoil=ttl_of(1)), 1),
    "TTL 0": (says(ANSWERED, spoil=ttl_of(0)), 0),
    "TTL 0, held longer by settings": (says(ANSWERED, spoil=ttl_of(0), settings={"shortest": 30}), 0),
    "TTL with the top bit": (says(ANSWERED, spoil=ttl_of(0x80000001)), 0),
    "TTL of all bits": (says(ANSWERED, spoil=ttl_of(0xFFFFFFFF)), 0),
    "the largest TTL": (says(ANSWERED, spoil=ttl_of(0x7FFFFFFF)), DAY),
    "the largest TTL, held a week": (says(ANSWERED, spoil=ttl_of(0x7FFFFFFF), settings={"longest": 7 * DAY}), 7 * DAY),
    "held longer by settings": (says(ANSWERED, settings={"shortest": 1000}), 1000),
    "held shorter by settings": (says(ANSWERED, settings={"longest": 10}), 10),
    "CNAME to what is not here": (says(CNAME), 40),
    "CNAME to NODATA": (says(CNAME, authority=[soa(300, 20)]), 20),
    "CNAME to NXDOMAIN": (says(CNAME, authority=[soa(300, 300)], **NXDOMAIN), 40),
    "NXDOMAIN, by SOA MINIMUM": (says(authority=[soa(300, 60)], **NXDOMAIN), 60),
    "NXDOMAIN, by SOA TTL": (says(authority=[soa(60, 300)], **NXDOMAIN), 60),
    "NXDOMAIN, capped": (says(authority=[soa(DAY, DAY)], **NXDOMAIN), 3600),
    "NXDOMAIN, capped by settings": (says(authority=[soa(DAY, DAY)], settings={"negative": 7}, **NXDOMAIN), 7),
    "NXDOMAIN, SOA TTL and MINIMUM the largest": (says(authority=[soa(2**31 - 1, 2**31 - 1)], **NXDOMAIN), 3600),
    "NXDOMAIN, MINIMUM 0": (says(authority=[soa(300, 0)], **NXDOMAIN), 0),
    "NXDOMAIN without SOA": (says(**NXDOMAIN), 0),
    "NXDOMAIN with NS alone": (says(authority=[NS], **NXDOMAIN), 0),
    "NXDOMAIN, SOA in additional": (says(additional=[soa()], **NXDOMAIN), 0),
    "NODATA, by SOA MINIMUM": (says(authority=[soa(300, 60)]), 60),
    "NODATA, by SOA TTL": (says(authority=[soa(60, 300)]), 60),
    "NODATA with SOA and NS": (says(authority=[soa(300, 60), NS]), 60),
    "NODATA, capped": (says(authority=[NS, soa(DAY, DAY)], settings={"negative": 9}), 9),
    "NODATA without SOA": (says(), 0),
    "NODATA, SOA in additional": (says(additional=[soa()]), 0),
    "referral": (says(authority=[NS]), 200),
    "referral with glue": (says(authority=[NS], additional=[GLUE]), 100),
    "neither answer nor authority": (says(additional=[GLUE]), 0),
    **{f"{rcode}": (says(rcode=dns.rcode.from_text(rcode)), 5) for rcode in ("SERVFAIL", "REFUSED")},
    "SERVFAIL with records": (says(ANSWERED, rcode=dns.rcode.SERVFAIL), 5),
    "SERVFAIL, remembered longer": (says(rcode=dns.rcode.SERVFAIL, settings={"failure": 300}), 300),
    **{
        f"{dns.rcode.to_text(rcode)} ({rcode})": (says(ANSWERED, authority=[soa()], rcode=rcode), 0)
        for rcode in (1, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    },
    **{
        f"{dns.rcode.to_text(rcode)} ({rcode})": (says(ANSWERED, rcode=rcode, opt=make_opt(rcode=rcode)), 0)
        for rcode in (16, 18, 19, 23, 34)
    },
    "TC": (says(ANSWERED, flags=0x8600), 0),
    "an octet behind the last record": (says(ANSWERED, spoil=lambda wire: wire + b"\0"), 0),
    "a record behind the last": (says(ANSWERED, opt=make_opt(), spoil=counted(ADDITIONAL, -1)), 0),
    "a record too few": (says(ANSWERED, spoil=counted(ADDITIONAL, 1)), 0),
    "a record that is cut": (says(ANSWERED, spoil=lambda wire: wire[:-1]), 0),
    "a record that overruns": (says(ANSWERED, spoil=lambda wire: wire[:-5] + b"\5" + wire[-4:]), 0),
    "an owner that points forward": (says(ANSWERED, spoil=lambda wire: wire[:-16] + b"\xc0\xff" + wire[-14:]), 0),
    "an owner that points to itself": (
        says(ANSWERED, spoil=lambda wire: wire[:-16] + pack("!H", 0xC000 + len(wire) - 16) + wire[-14:]),
        0,
    ),
    "an owner that points into no name": (
        says(ANSWERED, spoil=lambda wire: wire.replace(b"\xc0\x0c", b"\xc0\x0d")),
        0,
    ),
    "a signature of the message": (says(ANSWERED, spoil=with_record(ADDITIONAL, pack("!BHHIH", 0, 250, 255, 9, 0))), 0),
    "a signature of nothing": (says(ANSWERED, spoil=with_record(ADDITIONAL, SIG0 + b"\0\0" + bytes(17))), 0),
    "a signature of something": (says(ANSWERED, spoil=with_record(ADDITIONAL, SIG0 + b"\0\1" + bytes(17))), 9),
    **{
        f"a record of meta type {rtype}": (
            says(ANSWERED, spoil=with_record(section, pack("!BHHIH", 0, rtype, 1, 9, 0))),
            0,
        )
        for rtype, section in ((128, ANSWER), (249, ADDITIONAL), (251, AUTHORITY), (255, ANSWER))
    },
    "no meta type": (says(ANSWERED, spoil=with_record(ANSWER, pack("!BHHIH", 0, 65280, 1, 9, 0))), 9),
    "EDNS version 1": (says(ANSWERED, spoil=with_record(ADDITIONAL, BARE_OPT[:6] + b"\1" + BARE_OPT[7:])), 0),
    "two OPTs": (says(ANSWERED, opt=make_opt(), spoil=with_record(ADDITIONAL, BARE_OPT)), 0),
    "OPT with an owner": (says(ANSWERED, spoil=with_record(ADDITIONAL, b"\1a" + BARE_OPT)), 0),
    "OPT in the answer": (says(ANSWERED, spoil=with_record(ANSWER, BARE_OPT)), 0),
    "OPT in authority": (says(ANSWERED, spoil=with_record(AUTHORITY, BARE_OPT)), 0),
    "an option that overruns": (
        says(ANSWERED, spoil=with_record(ADDITIONAL, BARE_OPT[:-1] + b"\5\0\x0f\0\2\0")),
        0,
    ),
    "half an option": (says(ANSWERED, spoil=with_record(ADDITIONAL, BARE_OPT[:-1] + b"\3\0\x0f\0")), 0),
    "an option for one client alone": (says(ANSWERED, opt=make_opt((COOKIE, bytes(24)))), 300),
}


@pytest.mark.parametrize(("row", "seconds"), ROWS.values(), ids=ROWS)
def test_what_may_be_stored_and_for_how_long(row, seconds):
    (respond, settings), clock, query = row, Clock(), make_query(use_edns=0)
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, **settings)
    stored = cache.store(query.to_wire(), respond(query))
    assert stored == bool(seconds)
    assert cache.counters()["entries"] == bool(seconds)
    assert (ask_cache(cache, query) is not None) == bool(seconds)
    if seconds:
        clock.advance(seconds - 1)
        assert ask_cache(cache, query) is not None
        clock.advance(1)
        assert ask_cache(cache, query) is None


def stored_at(part, query, respond, settings):
    """Store what `respond` returns for a second, at this part of it by the wall clock that the cache sees.

    Return the cache, its clock, and whether it is stored; on a busy machine, it takes more than one attempt.
    """
    while True:
        now, clock = time.time(), Clock()
        clock.advance(part - now % 1 + 1)
        cache = Cache(MEMORY, clock)
        cache.zones.configure(0, **settings)
        stored = cache.store(query.to_wire(), to_wire(query, respond(int(now) + 1)))
        if time.time() - now < 0.05:
            return cache, clock, stored


@pytest.mark.parametrize("settings", [{}, {"shortest": 1000}], ids=["by TTL", "held longer"])
@pytest.mark.parametrize("sections", [{ANSWER: (ANSWERED,)}, {AUTHORITY: (NS,)}], ids=["positive", "referral"])
@pytest.mark.parametrize("seconds", [20, 1, 0, -1, -1000])
def test_nothing_is_held_past_the_expiration_of_its_signature(sections, seconds, settings):
    def respond(second):
        return sections | {ADDITIONAL: [signature(second + seconds + later) for later in (50, 0, 100)]}

    query = make_query()
    cache, clock, stored = stored_at(0.05, query, respond, settings)
    assert stored == (seconds > 0)
    if seconds > 0:
        clock.advance(seconds - 1)
        assert ask_cache(cache, query) is not None
        clock.advance(1)
        assert ask_cache(cache, query) is None


def test_nothing_is_held_past_the_expiration_of_its_signature_by_part_of_a_second():
    query = make_query()
    cache, clock, stored = stored_at(0.9, query, lambda second: {ANSWER: [ANSWERED, signature(second + 10)]}, {})
    assert stored
    clock.advance(9.5)  # the signature is valid for 9.1 seconds
    assert ask_cache(cache, query) is None


STRANGERS = {
    "a query": lambda wire: wire[:2] + b"\1\0" + wire[4:],
    "another opcode": lambda wire: wire[:2] + b"\xa4\0" + wire[4:],
    "another name": lambda wire: wire.replace(b"\3www", b"\3wwx", 1),
    "another type": lambda wire: wire.replace(b"\3com\0\0\1", b"\3com\0\0\2", 1),
    "another class": lambda wire: wire.replace(b"\3com\0\0\1\0\1", b"\3com\0\0\1\0\3", 1),
    "two questions": lambda wire: wire[:4] + b"\0\2" + wire[6:],
    "no whole question": lambda wire: wire[:20],
    "no whole header": lambda wire: wire[:11],
    "nothing": lambda _wire: b"",
}


@pytest.mark.parametrize("spoil", STRANGERS.values(), ids=STRANGERS)
def test_what_answers_another_question_is_no_response(spoil):
    cache, query = Cache(MEMORY, Clock()), make_query()
    wire = spoil(to_wire(query, {ANSWER: [ANSWERED]}))
    assert not is_response_to(query.to_wire(), wire)
    with pytest.raises(ValueError, match="no response to this query"):
        cache.store(query.to_wire(), wire)
    assert ask_cache(cache, query) is None


@pytest.mark.parametrize("rcode", range(16))
@pytest.mark.parametrize("behind", [b"", BARE_OPT, b"\5smuggled"], ids=["header", "OPT", "octets"])
def test_a_response_without_question_is_one_if_it_is_an_error_that_has_none(rcode, behind):
    cache, query = Cache(MEMORY, Clock()), make_query()
    wire = query.to_wire()[:2] + pack("!5H", 0x8780 | rcode, 0, 1, 0, 1) + behind
    assert is_response_to(query.to_wire(), wire) == (rcode in (1, 2, 4, 5))
    if rcode in (1, 2, 4, 5):
        assert cache.store(query.to_wire(), wire) == (rcode in (2, 5))
    if rcode in (2, 5):
        held = ask_cache(cache, query)
        assert (held.rcode(), held.question, held.sections[1:]) == (rcode, query.question, [[], [], []])
        assert not held.flags & (dns.flags.AA | dns.flags.TC | dns.flags.RA), "of its octets, the RCODE alone"


def test_a_response_without_question_answers_a_query_without_one_an_update_and_what_was_begun():
    update, bare, transfer = (make_query().to_wire() for _ in range(3))
    update = update[:2] + b"\x28\0" + update[4:]
    bare = bare[:4] + bytes(8)
    for query, flags in ((update, 0xA800), (bare, 0x8000)):
        assert is_response_to(query, query[:2] + pack("!5H", flags, 0, 0, 0, 0))
    said = transfer[:2] + pack("!5H", 0x8000, 0, 0, 0, 0)
    assert (is_response_to(transfer, said), is_response_to(transfer, said, continued=True)) == (False, True)
    assert not is_response_to(transfer, said[:2] + b"\xa8" + said[3:], continued=True)


@pytest.mark.parametrize("old", [ANSWERED, None], ids=["positive", "negative"])
def test_a_failure_never_replaces_what_can_be_served(old):
    clock, query = Clock(), make_query()
    cache, asked = Cache(MEMORY, clock), query.to_wire()
    good = to_wire(query, {ANSWER: [old]} if old else {AUTHORITY: [soa()]}, rcode=0 if old else dns.rcode.NXDOMAIN)
    for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
        assert cache.store(asked, good)
        assert not cache.store(asked, to_wire(query, {}, rcode=rcode))
        assert_same(ask_cache(cache, query), query, read(good))
        clock.advance(300)
        assert cache.store(asked, to_wire(query, {}, rcode=rcode)), "what expired may be replaced"
        assert ask_cache(cache, query).rcode() == rcode
    assert cache.store(asked, to_wire(query, {}, rcode=dns.rcode.SERVFAIL)), "a failure replaces a failure"
    assert cache.store(asked, good)
    assert_same(ask_cache(cache, query), query, read(good))


# ---------------------------------------------------------------- octets that changed on the way

changes = st.lists(
    st.one_of(
        st.tuples(st.integers(2, 500), st.binary(min_size=1, max_size=2)),
        st.tuples(
            st.integers(2, 500), st.sampled_from([b"", b"\xc0", b"\xc0\x0c", b"\0", b"\xff\xff", b"\0\x29", b"\0\x2e"])
        ),
    ),
    min_size=1,
    max_size=3,
)


def framed(wire):
    """Tell whether the records that the header announces are there, whole, and nothing else."""
    parser = dns.wire.Parser(wire)

    def skip_name():
        while size := parser.get_uint8():
            parser.get_bytes(size if size < 0xC0 else 1)
            if size >= 0xC0:
                return

    try:
        *_, questions, answers, authorities, additionals = parser.get_struct("!6H")
        for _ in range(questions):
            skip_name()
            parser.get_struct("!HH")
        for _ in range(answers + authorities + additionals):
            skip_name()
            *_, size = parser.get_struct("!HHIH")
            parser.get_bytes(size)
    except dns.exception.FormError:
        return False
    return parser.remaining() == 0


@pytest.mark.slow
@examples(600)
@given(exchanges(), changes, st.binary(max_size=2))
def test_a_spoilt_response_does_no_harm(exchange, changes, tail):
    query, other, wire, _ = exchange
    for position, octets in changes:
        at = position % len(wire)
        wire = wire[:at] + octets + wire[at + len(octets) :] if octets else wire[: max(at, 12)]
    wire += tail
    asked = query.to_wire()
    assume(is_response_to(asked, wire))
    clock = Clock()
    cache = Cache(MEMORY, clock)
    stored = cache.store(asked, wire)
    clock.advance(0.5)
    hit = cache.lookup(asked)
    if not stored:
        assert hit is None
        return
    assert framed(wire), "what cannot be read is never stored"
    assert framed(hit)
    assert len(cache.lookup(other.to_wire(), 512)) <= 512
    message = read(wire)
    if message is not None:
        assert_same(read(hit), query, message)
