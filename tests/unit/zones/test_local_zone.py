"""What a zone answers: to what it has, to what it has not, and to nonsense; octets in and octets out.

The mistakes of its ancestor of 2011 have tests of their own.
"""

import logging
import random

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.update
import pytest

from funkenshield.core._limits import EDNS_UDP_SIZE
from funkenshield.tools.nameserver import ZONE
from funkenshield.zones.local_zone import SERVED_BY, Zone

TXT = dns.rdatatype.TXT
NOERROR, NXDOMAIN, REFUSED = dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.REFUSED
SOA = "miek.nl. 300 IN SOA ns.miek.nl. hostmaster.miek.nl. 2011080800 14400 3600 604800 300"


@pytest.fixture(scope="module")
def zone():
    return Zone.from_text(ZONE)


def ask(zone, name, rdtype="A", *, tcp=False, **options):
    """Ask on the wire; what comes back must be a response to just this."""
    query = dns.message.make_query(name, rdtype, **options)
    response = dns.message.from_wire(zone.respond(query.to_wire(), tcp))
    assert response.id == query.id
    assert response.flags & dns.flags.QR
    assert not response.flags & dns.flags.RA
    assert response.question == query.question
    return response


def lines(section):
    return sorted(line for rrset in section for line in rrset.to_text().splitlines())


def assert_answers(response, *records, rcode=NOERROR, aa=True):
    assert response.rcode() == rcode
    assert bool(response.flags & dns.flags.AA) == aa
    assert lines(response.answer) == sorted(records)


def assert_denies(response, rcode):
    assert_answers(response, rcode=rcode)
    assert [line.lower() for line in lines(response.authority)] == [SOA.lower()]


# ---------------------------------------------------------------- what the zone says


@pytest.mark.parametrize(
    ("name", "rdtype", "records"),
    [
        ("miek.nl", "A", ["miek.nl. 3600 IN A 192.0.2.1"]),
        ("miek.nl", "AAAA", ["miek.nl. 3600 IN AAAA 2001:db8::1"]),
        ("miek.nl", "NS", ["miek.nl. 3600 IN NS ns.miek.nl.", "miek.nl. 3600 IN NS ns2.miek.nl."]),
        ("miek.nl", "SOA", [SOA.replace(" 300 ", " 3600 ", 1)]),
        ("a.miek.nl", "A", ["a.miek.nl. 3600 IN A 192.0.2.10", "a.miek.nl. 3600 IN A 192.0.2.11"]),
        ("txt.miek.nl", "TXT", ['txt.miek.nl. 3600 IN TXT "several" "strings" "in one record"']),
        ("deep.ent.miek.nl", "A", ["deep.ent.miek.nl. 3600 IN A 192.0.2.20"]),
    ],
)
def test_answers_what_the_zone_has(zone, name, rdtype, records):
    response = ask(zone, name, rdtype)
    assert_answers(response, *records)
    assert not response.authority
    assert not response.additional


def test_mx_are_those_of_2011_and_the_boast_outlives_none_of_them(zone):
    response = ask(zone, "miek.nl", "MX")
    assert_answers(response, "miek.nl. 345600 IN MX 20 mail.atoom.net.", "miek.nl. 345600 IN MX 40 mx-ext.tjeb.nl.")
    assert lines(response.additional) == [f"miek.nl. 345600 IN TXT {SERVED_BY}"]
    assert not ask(zone, "alias.miek.nl", "MX").additional
    assert not ask(zone, "miek.nl", "ANY").additional


def test_any_answers_all_records_of_a_name(zone):
    kinds = {"A", "AAAA", "MX", "NS", "SOA"}
    assert {dns.rdatatype.to_text(rrset.rdtype) for rrset in ask(zone, "miek.nl", "ANY").answer} == kinds
    assert_answers(ask(zone, "alias.miek.nl", "ANY"), "alias.miek.nl. 3600 IN CNAME www.miek.nl.")
    assert_denies(ask(zone, "ent.miek.nl", "ANY"), NOERROR)
    assert_denies(ask(zone, "no.miek.nl", "ANY"), NXDOMAIN)


@pytest.mark.parametrize("name", ["no.miek.nl", "no.www.miek.nl", "no.deep.ent.miek.nl", "no.ent.miek.nl"])
def test_no_such_name(zone, name):
    assert_denies(ask(zone, name), NXDOMAIN)


@pytest.mark.parametrize("name", ["www.miek.nl", "ent.miek.nl", "wild.miek.nl", "load.miek.nl", "x.wild.miek.nl"])
def test_nodata_is_not_nxdomain(zone, name):
    assert_denies(ask(zone, name, "MX"), NOERROR)


def test_wildcards(zone):
    assert_answers(ask(zone, "x.wild.miek.nl", "TXT"), 'x.wild.miek.nl. 3600 IN TXT "whatever you ask"')
    assert_answers(ask(zone, "x.y.wild.miek.nl", "TXT"), 'x.y.wild.miek.nl. 3600 IN TXT "whatever you ask"')
    assert_answers(ask(zone, "*.wild.miek.nl", "TXT"), '*.wild.miek.nl. 3600 IN TXT "whatever you ask"')
    for number in range(3):
        assert_answers(ask(zone, f"h{number}.load.miek.nl"), f"h{number}.load.miek.nl. 3600 IN A 192.0.2.100")


def test_the_longest_name_under_a_wildcard(zone):
    name = dns.name.from_text(f"{'a.' * 119}b.load.miek.nl.")
    assert len(name.to_wire()) == 254
    assert ask(zone, name).answer[0].name == name


def test_a_wildcard_gives_way_to_names_that_exist():
    zone = Zone.from_text(f"{ZONE}\n*.y TXT wild\nhere.y A 192.0.2.7\nunder.here.y A 192.0.2.8\n*.c CNAME www\n")
    assert_denies(ask(zone, "here.y.miek.nl", "TXT"), NOERROR)
    assert_denies(ask(zone, "x.here.y.miek.nl", "TXT"), NXDOMAIN)
    assert_answers(
        ask(zone, "x.c.miek.nl"), "x.c.miek.nl. 3600 IN CNAME www.miek.nl.", "www.miek.nl. 3600 IN A 192.0.2.80"
    )


def test_cname_is_followed_in_the_zone(zone):
    alias = "alias.miek.nl. 3600 IN CNAME www.miek.nl."
    assert_answers(ask(zone, "alias.miek.nl"), alias, "www.miek.nl. 3600 IN A 192.0.2.80")
    assert_answers(ask(zone, "alias.miek.nl", "CNAME"), alias)
    response = ask(zone, "alias.miek.nl", "MX")
    assert_answers(response, alias)
    assert lines(response.authority) == [SOA]


def test_cname_out_of_the_zone_ends_there(zone):
    response = ask(zone, "away.miek.nl")
    assert_answers(response, "away.miek.nl. 3600 IN CNAME www.example.net.")
    assert not response.authority


def test_cname_to_nowhere_to_a_delegation_and_in_circles():
    zone = Zone.from_text(f"{ZONE}\ngone CNAME no\ndown CNAME x.sub\nround CNAME about\nabout CNAME round\n")
    gone = ask(zone, "gone.miek.nl")
    assert_answers(gone, "gone.miek.nl. 3600 IN CNAME no.miek.nl.", rcode=NXDOMAIN)
    assert lines(gone.authority) == [SOA]
    down = ask(zone, "down.miek.nl")
    assert_answers(down, "down.miek.nl. 3600 IN CNAME x.sub.miek.nl.")
    assert lines(down.authority) == ["sub.miek.nl. 3600 IN NS ns1.sub.miek.nl."]
    circle = ("round.miek.nl. 3600 IN CNAME about.miek.nl.", "about.miek.nl. 3600 IN CNAME round.miek.nl.")
    assert_answers(ask(zone, "round.miek.nl"), *circle)


@pytest.mark.parametrize("name", ["sub.miek.nl", "x.y.sub.miek.nl", "ns1.sub.miek.nl", "X.SUB.miek.nl"])
@pytest.mark.parametrize("rdtype", ["A", "NS", "ANY"])
def test_delegations_are_referred_with_glue(zone, name, rdtype):
    response = ask(zone, name, rdtype)
    assert_answers(response, aa=False)
    servers, glue = response.authority[0], response.additional[0]
    assert servers == dns.rrset.from_text("sub.miek.nl.", 3600, "IN", "NS", "ns1.sub.miek.nl.")
    assert glue == dns.rrset.from_text("ns1.sub.miek.nl.", 3600, "IN", "A", "192.0.2.30")
    assert (servers.ttl, glue.ttl, len(response.authority), len(response.additional)) == (3600, 3600, 1, 1)


def test_the_parent_answers_for_the_ds_of_a_delegation(zone):
    assert_denies(ask(zone, "sub.miek.nl", "DS"), NOERROR)
    assert not ask(zone, "x.sub.miek.nl", "DS").flags & dns.flags.AA


@pytest.mark.parametrize("name", [".", "nl", "example.net", "miek.nl.example.net", "iek.nl"])
def test_refuses_what_is_out_of_the_zone(zone, name):
    response = ask(zone, name)
    assert_answers(response, rcode=REFUSED, aa=False)
    assert not response.authority


def test_refuses_other_classes(zone):
    assert_answers(ask(zone, "miek.nl", rdclass="HS"), rcode=REFUSED, aa=False)
    assert_answers(ask(zone, "miek.nl", rdclass="ANY"), rcode=REFUSED, aa=False)


@pytest.mark.parametrize("name", ["version.bind", "version.server", "id.server", "HOSTNAME.bind", "authors.bind"])
def test_chaos_says_who_serves(zone, name):
    response = ask(zone, name, "TXT", rdclass="CH")
    assert response.rcode() == NOERROR
    assert response.flags & dns.flags.AA
    assert [(str(rrset.name), rrset.rdtype, len(rrset)) for rrset in response.answer] == [(f"{name}.", TXT, 1)]


@pytest.mark.parametrize(("name", "rdtype"), [("miek.nl", "TXT"), (".", "TXT"), ("version.bind", "A")])
def test_chaos_refuses_the_rest(zone, name, rdtype):
    assert_answers(ask(zone, name, rdtype, rdclass="CH"), rcode=REFUSED, aa=False)


# ---------------------------------------------------------------- what 2011 got wrong


def test_2011_nxdomain_for_nodata_cname_targets_and_wildcards(zone):
    for name, rdtype in (("www.miek.nl", "TXT"), ("alias.miek.nl", "A"), ("x.wild.miek.nl", "TXT")):
        assert ask(zone, name, rdtype).rcode() == NOERROR


def test_2011_refused_upper_case(zone):
    query = dns.message.make_query("WwW.mIeK.Nl", "A").to_wire()
    wire = zone.respond(query, False)
    assert wire[12 : len(query)] == query[12:], "the question is spelled as it was asked"
    assert_answers(dns.message.from_wire(wire), "WwW.mIeK.Nl. 3600 IN A 192.0.2.80")
    assert_denies(ask(zone, "NO.MIEK.NL"), NXDOMAIN)
    assert_answers(ask(zone, "X.LOAD.MIEK.NL"), "X.LOAD.MIEK.NL. 3600 IN A 192.0.2.100")


def test_2011_took_a_neighbour_for_the_zone(zone):
    assert_answers(ask(zone, "xmiek.nl"), rcode=REFUSED, aa=False)
    assert_answers(ask(zone, "www.xmiek.nl"), rcode=REFUSED, aa=False)


def test_2011_forgot_its_ns_after_one_nxdomain(zone):
    """Nothing that is asked changes what is answered, nor does who answers by changing what it got."""
    before = lines(ask(zone, "miek.nl", "AXFR", tcp=True).answer)
    for name in ("no.miek.nl", "x.wild.miek.nl", "alias.miek.nl", "sub.miek.nl", "miek.nl", "ent.miek.nl"):
        for rdtype in ("A", "NS", "MX", "SOA", "ANY", "AXFR"):
            response = zone.answer(dns.message.make_query(name, rdtype), True)
            for rrset in (*response.answer, *response.authority, *response.additional):
                rrset.ttl = 1
                rrset.clear()
    zone.respond(dns.update.UpdateMessage("miek.nl").to_wire(), True)
    assert_answers(ask(zone, "miek.nl", "NS"), "miek.nl. 3600 IN NS ns.miek.nl.", "miek.nl. 3600 IN NS ns2.miek.nl.")
    assert lines(ask(zone, "miek.nl", "AXFR", tcp=True).answer) == before


# ---------------------------------------------------------------- transfers


@pytest.mark.parametrize("rdtype", ["AXFR", "IXFR"])
def test_a_transfer_over_tcp_is_the_whole_zone_between_two_soa(zone, rdtype):
    query = dns.message.make_query("miek.nl", rdtype)
    response = zone.answer(query, True)
    assert response.flags & dns.flags.AA
    assert response.answer[0].rdtype == response.answer[-1].rdtype == dns.rdatatype.SOA
    sent = [line for rrset in response.answer for line in rrset.to_text().splitlines()]
    given = [line for line in ZONE.splitlines() if line and not line.startswith("$")]
    assert len(sent) == len(given) + 1
    assert len(set(sent)) == len(given)
    wire = dns.message.from_wire(zone.respond(query.to_wire(), True), one_rr_per_rrset=True)
    assert [rrset.to_text() for rrset in wire.answer] == sent, "the wire keeps the order"


def test_transfers_over_udp(zone):
    assert_answers(ask(zone, "miek.nl", "AXFR"), rcode=REFUSED, aa=False)
    query = dns.message.make_query("miek.nl", "IXFR")
    query.authority.append(dns.rrset.from_text("miek.nl.", 0, "IN", "SOA", "ns hostmaster 1 2 3 4 5"))
    response = dns.message.from_wire(zone.respond(query.to_wire(origin=zone.origin), False))
    assert_answers(response, SOA.replace(" 300 ", " 3600 ", 1))


@pytest.mark.parametrize(("name", "rcode"), [("www.miek.nl", dns.rcode.NOTAUTH), ("example.net", REFUSED)])
def test_only_the_zone_is_transferred(zone, name, rcode):
    assert_answers(ask(zone, name, "AXFR", tcp=True), rcode=rcode, aa=False)


# ---------------------------------------------------------------- header, EDNS, size


@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.RD | dns.flags.AD | dns.flags.CD])
def test_rd_is_copied_and_nothing_else(zone, flags):
    assert ask(zone, "miek.nl", flags=flags).flags == dns.flags.QR | dns.flags.AA | (flags & dns.flags.RD)


def test_opt_is_there_if_asked_for_with_do_copied(zone):
    assert ask(zone, "miek.nl").edns == -1
    plain = ask(zone, "miek.nl", use_edns=0, payload=4096)
    assert (plain.edns, plain.payload, plain.ednsflags) == (0, EDNS_UDP_SIZE, 0)
    options = [dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(9)), dns.edns.GenericOption(65001, b"x")]
    dnssec = ask(zone, "no.miek.nl", want_dnssec=True, options=options)
    assert (dnssec.edns, dnssec.payload, dnssec.ednsflags) == (0, EDNS_UDP_SIZE, dns.flags.DO)
    assert not dnssec.options
    assert ask(zone, "example.net", use_edns=0).edns == 0


def test_edns_of_the_future_is_badvers(zone):
    response = ask(zone, "miek.nl", use_edns=1, ednsflags=dns.flags.DO)
    assert_answers(response, rcode=dns.rcode.BADVERS, aa=False)
    assert (response.edns, response.payload, response.ednsflags & dns.flags.DO) == (0, EDNS_UDP_SIZE, dns.flags.DO)


@pytest.mark.parametrize("payload", [None, 0, 512, 1232, 4096, 65535])
def test_what_is_too_big_for_udp_comes_whole_over_tcp(zone, payload):
    options = {} if payload is None else {"use_edns": 0, "payload": payload, "want_dnssec": True}
    truncated = ask(zone, "big.miek.nl", "TXT", **options)
    assert truncated.flags & dns.flags.TC
    assert truncated.flags & dns.flags.AA
    assert [*truncated.answer, *truncated.authority, *truncated.additional] == []
    assert (truncated.edns, truncated.ednsflags) == ((-1, 0) if payload is None else (0, dns.flags.DO))
    whole = ask(zone, "big.miek.nl", "TXT", tcp=True, **options)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 13
    assert 2900 < sum(len(text) for rdata in whole.answer[0] for text in rdata.strings) < 3200


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (0, 512), (511, 512), (700, 700), (1232, 1232), (1233, 1232), (65535, 1232)]
)
def test_an_answer_may_be_as_big_as_its_client_takes_and_not_an_octet_more(payload, limit):
    options = {} if payload is None else {"use_edns": 0, "payload": payload}
    head = len(dns.message.make_query("t.miek.nl", "TXT", **options).to_wire()) + 12  # and the record without RDATA
    for excess in (0, 1):
        size = limit - head + excess
        strings = [255] * (size // 256) + [size % 256 - 1]
        text = " ".join(f'"{"x" * length}"' for length in strings)
        zone = Zone.from_text(f"{ZONE}\nt TXT {text}\n")
        wire = zone.respond(dns.message.make_query("t.miek.nl", "TXT", **options).to_wire(), False)
        response = dns.message.from_wire(wire)
        assert bool(response.flags & dns.flags.TC) == bool(excess)
        assert bool(response.answer) != bool(excess)
        assert (len(wire) == limit) != bool(excess)


def test_records_keep_their_order(zone):
    query = dns.message.make_query("a.miek.nl", "A", id=1).to_wire()
    assert len({zone.respond(query, False) for _ in range(20)}) == 1


# ---------------------------------------------------------------- nonsense


QUERY = dns.message.make_query("miek.nl", "A", id=0x1234, flags=dns.flags.RD).to_wire()


@pytest.mark.parametrize("wire", [b"", b"\x12", QUERY[:11], bytes((*QUERY[:2], QUERY[2] | 0x80, *QUERY[3:]))])
def test_drops_responses_and_less_than_a_header(zone, wire):
    assert zone.respond(wire, False) is None
    assert zone.respond(wire, True) is None


@pytest.mark.parametrize(
    "wire",
    [
        QUERY[:12],
        QUERY[:-1],
        QUERY + b"junk",
        QUERY[:12] + b"\xc0\x0c\0\1\0\1",
        QUERY[:12] + b"\x7fmiek\0\0\1\0\1",
        QUERY[:6] + b"\0\1" + QUERY[8:] + b"\0\0\1\0\1\0\0\0\0\0\x04\1\2",
        QUERY[:10] + b"\0\2" + QUERY[12:] + b"\0\0\x29\4\xd0\0\0\0\0\0\0" * 2,
    ],
    ids=["no question", "half a question", "junk behind", "pointer loop", "label type", "short RDATA", "two OPT"],
)
def test_what_cannot_be_parsed_is_formerr(zone, wire):
    assert zone.respond(wire, False) == b"\x12\x34\x81\x01" + bytes(8)


@pytest.mark.parametrize("count", [0, 2])
def test_a_query_has_one_question(zone, count):
    wire = QUERY[:4] + count.to_bytes(2) + QUERY[6:12] + QUERY[12:] * count
    response = dns.message.from_wire(zone.respond(wire, False))
    assert (response.id, response.rcode(), len(response.question)) == (0x1234, dns.rcode.FORMERR, count)
    assert not response.answer


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes_are_not_implemented(zone, opcode):
    wire = zone.respond(bytes((*QUERY[:2], opcode << 3 | 1, *QUERY[3:])), False)
    assert wire[:4] == bytes((0x12, 0x34, 0x80 | opcode << 3 | 1, dns.rcode.NOTIMP))
    assert wire[6:12] == bytes(6)


def test_notify_and_update_get_their_question_back(zone):
    notify = dns.message.make_query("miek.nl", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    update = dns.update.UpdateMessage("miek.nl")
    update.delete("miek.nl.", "NS")
    for query in (notify, update):
        response = dns.message.from_wire(zone.respond(query.to_wire(), True))
        assert (response.opcode(), response.rcode()) == (query.opcode(), dns.rcode.NOTIMP)
        assert response.question == query.question
    assert len(ask(zone, "miek.nl", "NS").answer[0]) == 2


def test_a_name_of_many_labels_is_looked_for_no_deeper_than_the_zone_is(zone, monkeypatch):
    split, seen = dns.name.Name.split, []
    monkeypatch.setattr(dns.name.Name, "split", lambda name, depth: seen.append(name) or split(name, depth))
    parent = dns.name.Name.parent
    monkeypatch.setattr(dns.name.Name, "parent", lambda name: seen.append(name) or parent(name))
    for name, rcode in ((120 * "x." + "miek.nl", NXDOMAIN), (118 * "x." + "wild.miek.nl", NOERROR)):
        assert ask(zone, name, "TXT").rcode() == rcode
    assert len(seen) < 20


def test_an_error_inside_is_servfail_and_one_line_in_the_log(zone, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("what now")

    monkeypatch.setattr(zone, "_look_up", fail)
    response = ask(zone, "www.miek.nl", use_edns=0)
    assert_answers(response, rcode=dns.rcode.SERVFAIL, aa=False)
    assert response.edns == 0
    assert [record.getMessage() for record in caplog.records] == [
        "internal error, SERVFAIL for www.miek.nl. IN A: RuntimeError('what now')"
    ]
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info is None


def test_a_zone_too_big_for_one_message_is_not_transferred(caplog):
    many = "\n".join(f'h{number} TXT "{"x" * 250}"' for number in range(260))
    response = ask(Zone.from_text(f"{ZONE}\n{many}\n"), "miek.nl", "AXFR", tcp=True)
    assert_answers(response, rcode=dns.rcode.SERVFAIL, aa=False)
    assert "TooBig" in caplog.text


def test_nothing_at_all_makes_it_fail(zone, caplog):
    dice = random.Random(2011)
    seeds = [
        dns.message.make_query(name, "TXT", want_dnssec=True).to_wire() for name in ("big.miek.nl", "x.sub.miek.nl")
    ]
    for number in range(1000):
        wire = bytearray(seeds[number % 2])
        for _ in range(dice.randint(1, 6)):
            wire[dice.randrange(2, len(wire))] = dice.choice([dice.randrange(256), 0, 1, 0xC0, 0xFF])
        wire[2] &= 0x7F
        del wire[dice.choice([len(wire), len(wire), dice.randrange(12, len(wire))]) :]
        response = zone.respond(bytes(wire), False)
        assert len(response) <= EDNS_UDP_SIZE
        assert response[:2] == wire[:2]
        assert response[2] & 0x80
        assert response[3] & 15 != dns.rcode.SERVFAIL
    assert not caplog.records


# ---------------------------------------------------------------- zones from elsewhere


def test_a_zone_from_a_file(tmp_path):
    path = tmp_path / "zone"
    path.write_text("@ 60 SOA ns h 1 2 3 4 900\n@ 60 NS ns.other.\nwww 60 TXT Grüße\n", encoding="utf-8")
    zone = Zone.from_file(path, "example.org.")
    assert zone.origin == dns.name.from_text("example.org.")
    assert ask(zone, "www.example.org", "TXT").answer[0][0].strings == ("Grüße".encode(),)
    assert ask(zone, "no.example.org").authority[0].ttl == 60, "the lesser of the SOA's TTL and its minimum"
    assert ask(zone, "miek.nl").rcode() == REFUSED
    path.write_text("$ORIGIN example.com.\n@ 60 SOA ns h 1 2 3 4 900\n@ 60 NS ns.other.\n", encoding="utf-8")
    assert ask(Zone.from_file(path), "example.com", "NS").answer


@pytest.mark.parametrize("text", ["", "www A 192.0.2.1", "$ORIGIN a.\n@ 1 NS b.", "$ORIGIN a.\n@ 1 A 192.0.2.999"])
def test_what_is_no_zone(text, tmp_path):
    with pytest.raises(dns.exception.DNSException):
        Zone.from_text(text)
    with pytest.raises(FileNotFoundError):
        Zone.from_file(tmp_path / "nowhere")
