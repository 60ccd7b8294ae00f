"""Know that bits which mean nothing make no keys: what differs in them alone is one question, and one answer.

RFC 6895 2 and RFC 6891 6.1.4 leave them to later standards; until then a client can set them as it likes.
"""

import signal
import struct
from random import Random

import dns.flags
import dns.rcode
import dns.rrset
import pytest
from support import quick
from support.control import stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer, respond

RD, AD, CD = 0x0100, 0x0020, 0x0010
DO, CO = 0x8000, 0x4000
MEANINGLESS = [1 << bit for bit in (10, 9, 7, 6, 3, 2, 1, 0)]  # AA, TC, RA, Z, the RCODE
EDNS_MEANINGLESS = [1 << bit for bit in range(14)]
CUT = "[cache]\nnxdomain_cut = true\n"


def ask_wire(name, flags=RD, edns_flags=0, rcode=0):
    """Return a query with an OPT, whose upper octet of the RCODE may be another than 0."""
    plain = quick.query(name, quick.A, flags=flags)
    return plain[:10] + b"\0\1" + plain[12:] + struct.pack("!BHHBBHH", 0, 41, 1232, rcode, 0, edns_flags, 0)


def told(query):
    """Return header flags, EDNS flags and extended RCODE of a query with an OPT, as an upstream received it."""
    return (*struct.unpack_from("!H", query.wire, 2), *struct.unpack_from("!H", query.wire, -4), query.wire[-6])


def address(query):
    return answer(query, "A 192.0.2.1")


def denied(query):
    response = respond(query, dns.rcode.NXDOMAIN)
    response.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", "ns.test. host.test. 1 2 3 4 300"))
    return response


def test_bits_that_mean_nothing_make_no_keys_and_end_here():
    chance = Random(1)
    with ScriptedUpstream(address) as upstream, run_shield([upstream]) as shield:
        for _ in range(200):
            flags = RD | sum(bit for bit in MEANINGLESS if chance.random() < 0.5)
            edns_flags = sum(bit for bit in EDNS_MEANINGLESS if chance.random() < 0.5)
            response = shield.udp_wire(ask_wire("www.test", flags, edns_flags, chance.randrange(256)))
            assert response[3] & 0x0F == 0
            assert response[6:8] == b"\0\1"
        assert [told(query) for query in upstream.received] == [(RD, 0, 0)]
        assert (stats(shield)["cache_entries"], stats(shield)["cache_hits"]) == (1, 199)


def test_over_tcp_they_end_here_too():
    with ScriptedUpstream(address) as upstream, run_shield([upstream]) as shield:
        for flags in (RD, *(RD | bit for bit in MEANINGLESS)):
            shield.tcp_wire(ask_wire("www.test", flags, 0x3FFF, 7))
        assert [told(query) for query in upstream.received] == [(RD, 0, 0)]


def test_what_asks_for_something_is_another_question():
    asked = [(flags, edns) for flags in (0, RD, AD, CD, RD | CD) for edns in (0, DO, CO, DO | CO)]
    with ScriptedUpstream(address) as upstream, run_shield([upstream]) as shield:
        for _ in "miss", "hit":
            for flags, edns_flags in asked:
                shield.udp_wire(ask_wire("www.test", flags, edns_flags))
        assert [told(query) for query in upstream.received] == [(*each, 0) for each in asked]


def test_a_response_is_as_the_upstream_said():
    def handle(query):
        response = address(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        return response

    with ScriptedUpstream(handle) as upstream, run_shield([upstream]) as shield:
        for flags in (RD, RD | 0x0400, RD | 0x0080 | 0x0040):
            response = shield.udp_wire(ask_wire("www.test", flags))
            assert struct.unpack_from("!H", response, 2)[0] == 0x8000 | RD | 0x0400 | 0x0080
        assert upstream.count() == 1


@pytest.mark.parametrize("transport", ["udp_wire", "tcp_wire"])
def test_what_is_known_not_to_exist_is_known_whatever_bits_are_set(transport):
    chance = Random(2)
    with ScriptedUpstream(denied) as upstream, run_shield([upstream], toml=CUT) as shield:
        shield.udp_wire(ask_wire("gone.test"))
        for number in range(100):
            flags = RD | sum(bit for bit in MEANINGLESS if chance.random() < 0.5)
            response = getattr(shield, transport)(ask_wire(f"x{number}.gone.test", flags, chance.randrange(1 << 14)))
            assert response[3] & 0x0F == dns.rcode.NXDOMAIN
        assert [str(query.name) for query in upstream.received] == ["gone.test."]
        assert stats(shield)["nsec_cache_entries"] == 1


def test_what_is_denied_counts_in_the_memory_of_the_cache():
    toml = 'cache = { memory = "4MiB", nxdomain_cut = true }\n'
    with ScriptedUpstream(denied) as upstream, run_shield([upstream], toml=toml) as shield:
        for number in range(1500):
            shield.udp_wire(ask_wire(f"gone{number}.test"))
        found = stats(shield)
        assert found["cache_limit_bytes"] == 4 << 20
        assert found["nsec_cache_limit_bytes"] == 512 << 10
        assert 0.9 * found["nsec_cache_limit_bytes"] < found["nsec_cache_bytes"] <= found["nsec_cache_limit_bytes"]
        assert found["cache_bytes"] <= found["cache_limit_bytes"]
        shield.udp_wire(ask_wire("x.gone1499.test"))
        assert upstream.count("x.gone1499.test.") == 0, "the newest is known"


def test_a_reload_that_wants_denial_first_is_told_that_it_takes_a_restart():
    with ScriptedUpstream(denied) as upstream, run_shield([upstream]) as shield:
        config = shield.folder / "funkenshield.toml"
        config.write_text(config.read_text() + CUT)
        shield.process.send_signal(signal.SIGHUP)
        assert until(lambda: stats(shield)["reloads"] == 1)
        until(lambda: "take effect after a restart" in shield.log)
        shield.udp_wire(ask_wire("gone.test"))
        assert shield.udp_wire(ask_wire("x.gone.test"))[3] & 0x0F == dns.rcode.NXDOMAIN
        assert (upstream.count(), stats(shield)["nsec_cache_entries"]) == (2, 0)


def test_where_no_zone_denies_all_memory_is_for_answers():
    with ScriptedUpstream(address) as upstream, run_shield([upstream], toml='cache.memory = "4MiB"\n') as shield:
        assert (stats(shield)["cache_limit_bytes"], stats(shield)["nsec_cache_limit_bytes"]) == (4 << 20, 0)
