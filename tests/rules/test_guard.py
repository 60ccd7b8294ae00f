"""The guard at the wire: who may ask, how often, how much is answered, and who is shut out."""

import itertools
import socket
import subprocess
import sys

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from faults.stage import behind, toml
from support.client import free_port
from support.proc import resident
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, nxdomain

from rules.stage import SILENCE, answering, ask, asked, data, rcode

_serial = itertools.count()


def fresh(suffix="test"):
    """Return a name that nobody has asked for."""
    return f"n{next(_serial)}.{suffix}"


def command(shield, *words):
    """Return what a command of `funkenshield` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "funkenshield", *words, "--control", str(shield.control)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return done.stdout or done.stderr


@pytest.mark.parametrize(("action", "gets"), [("refuse", "REFUSED"), ("drop", "silence")])
def test_the_longest_prefix_says_who_may_ask(action, gets):
    access = {"deny": ["127.0.1.0/24", "127.0.2.9/32"], "allow": ["127.0.1.8/30"], "action": action}
    with behind(answering("192.0.2.1"), guard={"access": access}) as (shield, upstream):
        for source, expected in (
            ("127.0.1.1", gets),
            ("127.0.1.9", "NOERROR"),
            ("127.0.2.9", gets),
            ("127.0.2.8", "NOERROR"),
        ):
            for tcp in (False, True):
                found = ask(shield, "x.test", source=source, tcp=tcp, timeout=SILENCE if expected == "silence" else 3)
                assert rcode(found) == expected, (source, tcp)
        assert len(upstream.received) == 1
        assert shield.stats()["denied"] == 4


def test_nobody_may_ask_but_a_few():
    access = {"default": "deny", "allow": ["::1/128"]}
    places = [("127.0.0.1", free_port()), ("::1", free_port())]
    with (
        ScriptedUpstream(answering("192.0.2.1")) as upstream,
        run_shield([upstream], listen=places, toml=toml(guard={"access": access})) as shield,
    ):
        assert [rcode(ask(address, "x.test")) for address in shield.addresses] == ["REFUSED", "NOERROR"]


def test_limits_of_several_prefix_lengths():
    limits = [
        {"queries": 0.01, "burst": 300.0, "action": "refuse"},
        {"queries": 0.01, "burst": 500.0, "ipv4": 24, "action": "truncate"},
    ]
    with behind(answering("192.0.2.1"), guard={"limits": limits}) as (shield, _):
        assert [rcode(ask(shield, "x.test", source="127.0.3.1")) for _ in range(4)] == ["NOERROR"] * 3 + ["REFUSED"]
        got = [ask(shield, "x.test", source="127.0.3.2") for _ in range(3)]
        assert [bool(each.flags & dns.flags.TC) for each in got] == [False, False, True]
        assert data(ask(shield, "x.test", source="127.0.3.3", tcp=True)) == ["192.0.2.1"]
        assert data(ask(shield, "x.test", source="127.0.4.1")) == ["192.0.2.1"]
        assert shield.stats()["limited"] == 2


def test_what_is_over_a_limit_is_dropped():
    with behind(answering("192.0.2.1"), guard={"limits": [{"queries": 0.1, "burst": 1.0}]}) as (shield, upstream):
        assert rcode(ask(shield, "a.test")) == "NOERROR"
        assert ask(shield, "b.test", timeout=SILENCE) is None
        assert len(upstream.received) == 1


# ------------------------------------------------------------ response rate limiting


def test_equal_answers_are_limited_and_a_real_client_comes_by_tcp():
    guard = {"responses": {"answers": 0.01, "burst": 300.0, "slip": 1}}
    with behind(answering("192.0.2.1"), guard=guard) as (shield, upstream):
        got = [ask(shield, asked("x.test", edns=True)) for _ in range(5)]
        assert [bool(each.flags & dns.flags.TC) for each in got] == [False] * 3 + [True] * 2
        assert [(each.answer, each.edns) for each in got[3:]] == [([], 0)] * 2
        assert data(ask(shield, "x.test", tcp=True)) == ["192.0.2.1"]
        assert data(ask(shield, "y.test")) == ["192.0.2.1"]
        assert data(ask(shield, "x.test", source="127.1.0.1")) == ["192.0.2.1"]
        assert ask(shield, "X.TEST").flags & dns.flags.TC
        assert len(upstream.received) == 3  # x.test with EDNS and without, and y.test
        assert shield.stats()["slipped"] == 3


def test_without_slip_there_is_nothing():
    guard = {"responses": {"answers": 0.1, "burst": 10.0, "slip": 0, "exempt": ["127.0.9.0/24"]}}
    with behind(answering("192.0.2.1"), guard=guard) as (shield, _):
        assert data(ask(shield, "x.test")) == ["192.0.2.1"]
        assert ask(shield, "x.test", timeout=SILENCE) is None
        for _ in range(3):
            assert data(ask(shield, "x.test", source="127.0.9.1")) == ["192.0.2.1"]
        assert shield.stats()["withheld"] == 1


def test_random_names_that_do_not_exist_are_limited_together():
    guard = {"responses": {"nxdomains": 0.01, "burst": 300.0, "slip": 0}}
    with behind(lambda query: nxdomain(query, zone="test."), guard=guard) as (shield, upstream):
        assert [rcode(ask(shield, fresh(), timeout=SILENCE)) for _ in range(5)] == ["NXDOMAIN"] * 3 + ["silence"] * 2
        assert len(upstream.received) == 5


def test_a_valid_cookie_is_not_limited():
    guard = {"responses": {"answers": 0.01, "burst": 200.0, "slip": 0}}
    with behind(answering("192.0.2.1"), guard=guard, cookies={"mode": "serve"}) as (shield, _):
        mine = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"01234567")
        query = dns.message.make_query("x.test", "A", use_edns=0, options=[mine])
        cookie = ask(shield, query).options[0].to_wire()
        assert len(cookie) == 24
        whole = dns.message.make_query("x.test", "A", use_edns=0, options=[dns.edns.GenericOption(10, cookie)])
        for name in ("x.test", fresh()):
            whole.question[0].name = dns.name.from_text(name)
            for _ in range(4):
                assert data(ask(shield, whole)) == ["192.0.2.1"]
        assert rcode(ask(shield, "x.test")) == "NOERROR"
        assert ask(shield, "x.test", timeout=SILENCE) is None


# ------------------------------------------------------------ blocks


@pytest.mark.parametrize("what", ["queries", "nxdomains", "servfails", "octets"])
def test_who_is_over_a_rate_is_shut_out_for_a_while(what):
    def upstream(query):
        if what == "nxdomains":
            return nxdomain(query, zone="test.")
        if what == "servfails":
            response = dns.message.make_response(query.message)
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        return answering("192.0.2.1")(query)

    block = {"name": "too much", "what": what, "rate": 5.0 if what != "octets" else 200.0, "seconds": 2.0,
             "block": 2.0, "action": "refuse"}  # fmt: skip
    with behind(upstream, guard={"blocks": [block]}) as (shield, _):
        for _ in range(25):
            ask(shield, fresh(), source="127.0.5.5")
        until(lambda: rcode(ask(shield, "x.test", source="127.0.5.5")) == "REFUSED")
        assert rcode(ask(shield, "x.test", source="127.0.5.6")) != "REFUSED"
        assert "127.0.5.5/32" in command(shield, "blocks")
        assert "too much" in command(shield, "blocks")
        assert "127.0.5.5/32 is shut out for 2 s: too much" in shield.log
        until(lambda: rcode(ask(shield, "x.test", source="127.0.5.5")) != "REFUSED")
        assert shield.stats()["blocks_raised"] == 1
        assert command(shield, "blocks") == ""


def test_an_operator_shuts_out_and_lets_in_again():
    with behind(answering("192.0.2.1")) as (shield, upstream):
        assert command(shield, "block", "127.0.6.0/24", "--for", "60") == "shut out\n"
        assert ask(shield, "x.test", source="127.0.6.1", timeout=SILENCE) is None
        assert data(ask(shield, "x.test", source="127.0.7.1")) == ["192.0.2.1"]
        assert "by hand" in command(shield, "blocks")
        assert command(shield, "unblock", "127.0.0.0/8") == "1 lifted\n"
        assert data(ask(shield, "x.test", source="127.0.6.1")) == ["192.0.2.1"]
        assert "not" in command(shield, "block", "home")
        assert len(upstream.received) == 1


# ------------------------------------------------------------ floods


def test_a_flood_of_forged_sources_takes_no_memory_and_lets_nobody_off():
    guard = {"memory": 65536, "limits": [{"queries": 0.01, "burst": 500.0, "action": "refuse"}],
             "responses": {"answers": 0.01, "burst": 1000.0, "slip": 0}}  # fmt: skip
    with behind(answering("192.0.2.1"), guard=guard) as (shield, _):
        heavy = [rcode(ask(shield, fresh(), source="127.0.8.8", timeout=SILENCE)) for _ in range(8)]
        assert heavy == ["NOERROR"] * 5 + ["REFUSED"] * 3
        before = resident(shield.process)
        wire = asked("x.test").to_wire()
        for number in range(20_000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                opened.bind((f"127.{10 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}", 0))
                opened.sendto(wire, shield.address)
        until(lambda: shield.stats()["queries"] >= 19_000)
        assert resident(shield.process) < before + (4 << 20)
        assert rcode(ask(shield, "x.test", source="127.0.8.8")) == "REFUSED"
