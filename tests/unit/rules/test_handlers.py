"""What the actions do that Python does, each with a query and whoever answers what it asks."""

import asyncio
import logging
import socket

import dns.edns
import dns.flags
import dns.message
import pytest

from funkenshield.config import action as actions
from funkenshield.rules import handlers
from funkenshield.rules.query import ClientInfo, Query

EXPIRE = dns.edns.GenericOption(9, b"")
OWN = dns.edns.GenericOption(65001, b"x")


class Upstream:
    """Answers every question with the same records, and remembers what it was asked."""

    def __init__(self, *records, authority=()):
        self.asked = []
        self.records, self.authority = records, authority

    async def __call__(self, wire):
        self.asked.append(dns.message.from_wire(wire))
        return Query(wire, ClientInfo(b"")).respond(*self.records, authority=self.authority).to_wire()


def query(name="www.example.", rdtype="A", upstream=None, **how):
    sender = ClientInfo(bytes([192, 0, 2, 1]), "udp", "127.0.0.1:53", frozenset({"b", "a"}))
    return Query(dns.message.make_query(name, rdtype, **how).to_wire(), sender, upstream)


def do(action, asked):
    """Return what the handler of an action returns."""
    done = handlers.HANDLERS[action.kind](action, asked)
    return asyncio.run(done) if asyncio.iscoroutine(done) else done


def texts(section):
    return [rrset.to_text() for rrset in section]


# ---------------------------------------------------------------- answer


def test_records_of_the_type_are_the_answer():
    action = actions.answer("A 192.0.2.1", "5 A 192.0.2.2", "AAAA 2001:db8::1")
    assert texts(do(action, query()).answer) == ["www.example. 5 IN A 192.0.2.1\nwww.example. 5 IN A 192.0.2.2"]
    assert texts(do(action, query(rdtype="AAAA")).answer) == ["www.example. 60 IN AAAA 2001:db8::1"]
    assert len(do(action, query(rdtype="ANY")).answer) == 2


def test_other_types_are_none_for_as_long_as_an_soa_says():
    made = do(actions.answer("A 192.0.2.1"), query(rdtype="MX"))
    assert (made.rcode().name, texts(made.answer)) == ("NOERROR", [])
    assert texts(made.authority) == ["www.example. 60 IN SOA . . 1 3600 600 86400 60"]


def test_an_alias_is_the_answer_whatever_the_type():
    made = do(actions.answer("CNAME other.example."), query(rdtype="MX"))
    assert texts(made.answer) == ["www.example. 60 IN CNAME other.example."]


# ---------------------------------------------------------------- log, delay, tee


def test_a_line_is_logged_with_what_a_query_has(caplog):
    line = "{source:>12} asks {qname} {qtype} {qclass} {id:05d} by {transport} [{tags}]{rcode}"
    with caplog.at_level(logging.INFO):
        assert do(actions.log(line), query(id=42)) is None
    assert caplog.messages == ["   192.0.2.1 asks www.example. A IN 00042 by udp [a b]"]


def test_a_name_cannot_write_lines_of_its_own(caplog):
    with caplog.at_level(logging.INFO):
        do(actions.log("{qname}"), query("a\\010b%s{x}.example."))
    assert caplog.messages == ["a\\010b%s{x}.example."]


def test_a_delay_is_waited_for():
    async def play():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await handlers.delay(actions.delay(0.02), query()) is None
        return loop.time() - begun

    assert 0.02 <= asyncio.run(play()) < 1


def test_a_copy_goes_to_a_server_through_one_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        action = actions.tee(f"127.0.0.1:{server.getsockname()[1]}")
        asked = query()
        assert [do(action, asked) for _ in range(2)] == [None, None]
        first, second = server.recvfrom(512), server.recvfrom(512)
        assert first == second
        assert first[0] == asked.wire
        handlers.close()
        assert not handlers._copies


def test_a_copy_that_cannot_be_sent_is_lost(monkeypatch):
    def full(*_):
        raise OSError("too many open files")

    monkeypatch.setattr(handlers.socket, "socket", full)
    assert do(actions.tee("192.0.2.53:53"), query()) is None
    assert not handlers._copies


# ---------------------------------------------------------------- rename, and options


def test_another_name_is_asked_for_and_turned_back_in_the_answer():
    upstream = Upstream(
        "CNAME web.inner.test.", "web.inner.test. A 192.0.2.1", authority=["inner.test. NS ns.inner.test."]
    )
    made = do(actions.rename("example.", "inner.test."), query("Www.Example.", "MX", upstream))
    assert texts(upstream.asked[0].question) == ["Www.inner.test. IN MX"]
    assert texts(made.question) == ["Www.Example. IN MX"]
    assert [rrset.name.to_text().lower() for rrset in (*made.answer, *made.authority)] == [
        "www.example.", "web.example.", "example.",
    ]  # fmt: skip
    assert made.answer[0][0].to_text() == "web.inner.test."


def test_who_is_not_below_the_old_name_goes_on():
    upstream = Upstream()
    assert do(actions.rename("example.", "inner.test."), query("notexample.", upstream=upstream)) is None
    assert upstream.asked == []


def test_who_asks_nothing_goes_on():
    asked = Query(bytes.fromhex("1234 0100 0000 0000 0000 0000"), ClientInfo(b""), Upstream())
    assert do(actions.rename("example.", "inner.test."), asked) is None


def test_options_are_taken_out():
    upstream = Upstream()
    asked = query(upstream=upstream, use_edns=0, payload=1400, want_dnssec=True, options=[EXPIRE, OWN])
    made = do(actions.remove_option("EXPIRE"), asked)
    (seen,) = upstream.asked
    assert [option.otype for option in seen.options] == [65001]
    assert (seen.payload, seen.ednsflags & dns.flags.DO, made.edns) == (1400, dns.flags.DO, 0)


@pytest.mark.parametrize("how", [{}, {"use_edns": 0}, {"use_edns": 0, "options": [OWN]}])
def test_who_has_none_of_the_options_goes_on(how):
    upstream = Upstream()
    assert do(actions.remove_option("EXPIRE", "ECS"), query(upstream=upstream, **how)) is None
    assert upstream.asked == []


def test_an_option_is_put_in():
    upstream = Upstream("A 192.0.2.1")
    made = do(actions.add_option(65002, b"yz"), query(upstream=upstream, use_edns=0, payload=1400, options=[OWN]))
    (seen,) = upstream.asked
    assert [(option.otype, option.to_wire()) for option in seen.options] == [(65001, b"x"), (65002, b"yz")]
    assert (seen.payload, made.edns) == (1400, 0)


def test_who_sent_no_opt_record_gets_none():
    upstream = Upstream("A 192.0.2.1")
    made = do(actions.add_option(65002), query(upstream=upstream))
    assert [option.otype for option in upstream.asked[0].options] == [65002]
    assert (made.edns, texts(made.answer)) == (-1, ["www.example. 60 IN A 192.0.2.1"])
