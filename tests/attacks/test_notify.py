"""Know that a NOTIFY, whose source is all that tells who sent it, makes nobody's cache old: the serial decides.

A forger sends them from the notifier's address: to the shield these tests are that notifier.
"""

import socket
import time

import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from support.client import ask
from support.control import request, stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer, respond, servfail

ZONES = '[[zones]]\nname = "ours.test"\n[[zones]]\nname = "theirs.test"\n'
TRUSTED = 'allow_notify_from = ["127.0.0.1"]\n' + ZONES
NAMES = ["ours.test.", "www.ours.test.", "www.theirs.test.", "www.other."]


class Origin:
    """An authoritative server whose zones have a serial, which its addresses end in; 0: it does not tell."""

    def __init__(self):
        self.serial = 1

    def __call__(self, query):
        if query.message.opcode() != dns.opcode.QUERY:
            return respond(query)
        if query.rdtype == dns.rdatatype.SOA:
            if not self.serial:
                return servfail(query)
            return answer(query, f"SOA ns.test. hostmaster.test. {self.serial} 3600 600 86400 60")
        return answer(query, f"A 192.0.2.{self.serial}", ttl=86400)


def notify_wire(name, ident=0):
    query = dns.message.make_query(name, "SOA", flags=0, id=ident)
    query.set_opcode(dns.opcode.NOTIFY)
    return query.to_wire()


def polled(upstream, name="ours.test."):
    """Return how often a serial was asked for: no client does."""
    return sum(
        query.rdtype == dns.rdatatype.SOA and query.message.opcode() == dns.opcode.QUERY
        for query in list(upstream.received)
        if query.name == dns.name.from_text(name)
    )


def held(shield, upstream):
    """Return the names whose answers are still fresh: the upstream is not asked for them again."""
    found = []
    for name in NAMES:
        before = upstream.count(name, "A")
        ask(name, server=shield)
        time.sleep(0.02)
        if upstream.count(name, "A") == before:
            found.append(name)
    return found


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture
def upstream(origin):
    with ScriptedUpstream(origin) as running:
        yield running


@pytest.fixture
def shield(upstream):
    with run_shield([upstream], toml=TRUSTED) as running:
        until(lambda: polled(upstream) == polled(upstream, "theirs.test.") == 1)
        for name in NAMES:
            ask(name, server=running)
        yield running


def flood(shield, names):
    """Send NOTIFYs, and wait until the last was answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(shield.address)
        for number, name in enumerate(names):
            sock.send(notify_wire(name, number % 65536))
            if number % 100 == 99:
                time.sleep(0.01)
    assert until(lambda: ask("alive.other.", server=shield).answer)


@pytest.mark.parametrize(
    "names",
    [["."], ["test."], ["www.ours.test."], [f"n{number}.ours.test." for number in range(2000)], ["other."]],
    ids=["the root", "above", "below", "many below", "of no zone"],
)
def test_a_notify_that_is_not_for_the_apex_of_a_zone_is_none(shield, upstream, origin, names):
    origin.serial = 2
    flood(shield, names)
    assert held(shield, upstream) == NAMES
    assert polled(upstream) == polled(upstream, "theirs.test.") == 1
    assert stats(shield)["cache_purges"] == 0


def test_a_notify_costs_a_query_for_the_serial_a_second_and_nothing_else(shield, upstream):
    began = time.monotonic()
    flood(shield, ["OURS.test."] * 500)
    until(lambda: polled(upstream) >= 2)
    assert held(shield, upstream) == NAMES
    assert polled(upstream) <= 2 + time.monotonic() - began
    assert polled(upstream, "theirs.test.") == 1
    assert stats(shield)["cache_purges"] == 0


def test_a_notify_of_a_change_has_its_zone_refreshed_and_no_other(shield, upstream, origin):
    origin.serial = 2
    assert ask("www.ours.test.", server=shield).answer[0][0].address == "192.0.2.1"
    assert shield.udp(dns.message.from_wire(notify_wire("ours.test."))).rcode() == dns.rcode.NOERROR
    until(lambda: stats(shield)["cache_purges"] == 1)
    assert ask("www.ours.test.", server=shield).answer[0][0].address == "192.0.2.2"
    assert held(shield, upstream) == ["www.ours.test.", "www.theirs.test.", "www.other."]
    until(lambda: "zone ours.test.: serial increased from 1 to 2" in shield.log)


def test_where_no_upstream_tells_the_serial_all_stays_as_it_is(shield, upstream, origin):
    origin.serial = 0
    flood(shield, ["ours.test."])
    until(lambda: "zone ours.test.: SOA query failed" in shield.log)
    assert held(shield, upstream) == NAMES
    assert stats(shield)["cache_purges"] == 0


def test_the_root_is_a_zone_where_it_is_configured(upstream, origin):
    toml = 'allow_notify_from = ["127.0.0.1"]\n[[zones]]\nname = "."\n[[zones]]\nname = "ours.test"\n'
    with run_shield([upstream], toml=toml) as shield:
        until(lambda: polled(upstream, ".") == 1)
        ask("www.other.", server=shield)
        origin.serial = 2
        flood(shield, ["."])
        until(lambda: stats(shield)["cache_purges"] == 1)
        assert ask("www.other.", server=shield).answer[0][0].address == "192.0.2.2"


def test_an_operators_purges_of_very_many_names_become_purges_of_their_zone(shield, upstream):
    lines = [b'{"command": "purge", "name": "n%d.ours.test", "below": false}' % number for number in range(51_000)]
    assert all(response["ok"] for response in request(shield, *lines))
    assert held(shield, upstream) == NAMES[2:]
    until(lambda: "purging ours.test. instead of n49150.ours.test" in shield.log)
    assert shield.log.count("too many purges") < 100
