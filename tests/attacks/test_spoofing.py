"""Forge what an upstream says: no client gets it, no port is learnt by it, and it is told where an operator looks."""

import contextlib
import socket
import time

import pytest
from support import quick
from support.control import stats_of
from support.edns import subnet, with_opt
from support.process import run_shield
from support.until import until
from support.upstream import Delayed
from support.wires import record_wire, reply_wire

from attacks.forging import IDS, PORTS, Impersonated, days_until_right

LIE, TRUTH = bytes([192, 0, 2, 66]), bytes([192, 0, 2, 1])
SECRET = b"\6secret\0"
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 0, 1, 2, 3, 5


def truth(query):
    return reply_wire(query, record_wire(quick.A, TRUTH, 0))


def slowly(query):
    """Say the truth after a while over UDP, and at once over TCP."""
    return truth(query) if query.transport == "tcp" else Delayed(0.3, truth(query))


def lie(query, *, ident=None, question=None):
    """Return a forged answer to a query that the upstream got."""
    ident = int.from_bytes(query.wire[:2]) if ident is None else ident
    asked = query.wire[:12] + (question or query.wire[12:])
    return ident.to_bytes(2) + quick.answer(asked, LIE, rdtype=quick.A)[2:]


class Client:
    """One client of the shield, who may be the forger."""

    def __init__(self, stack, shield):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(shield.address)
        self.sock.settimeout(10)
        stack.callback(self.sock.close)

    def ask(self, name, *options):
        plain = quick.query(name, quick.A)
        self.sock.send(with_opt(plain, *options) if options else plain)

    def heard(self):
        return self.sock.recv(512)


@pytest.fixture
def stage():
    with contextlib.ExitStack() as stack:

        def begin(handle, toml="", **options):
            upstream = stack.enter_context(Impersonated(handle))
            shield = stack.enter_context(run_shield([], toml=toml + upstream.toml(**options)))
            return upstream, shield, Client(stack, shield)

        yield begin


def told(shield, upstream):
    """Return what the shield counted of its upstream."""
    return stats_of(shield, upstream.address)


def ports(upstream, since=0):
    """Return from where the shield asked over UDP."""
    return {query.source.port for query in list(upstream.received)[since:] if query.transport == "udp"}


def ask_many(client, count, label):
    """Ask for so many names, one after the other, and return the last octets of each answer."""
    answers = []
    for n in range(count):
        client.ask(f"{label}{n}.test")
        answers.append(client.heard()[-4:])
    return answers


# ------------------------------------------------------------ what a guess tells


@pytest.mark.parametrize("rcode", [NOERROR, NXDOMAIN, FORMERR, SERVFAIL, REFUSED])
def test_a_response_without_a_question_brings_no_client_an_octet_of_it(stage, rcode):
    """Port and ID are right: nobody guesses better."""
    upstream, shield, client = stage(slowly)
    client.ask("mine.test")
    (query,) = upstream.wait_for(1)
    head = (0x8180 | rcode).to_bytes(2) + bytes(2) + b"\0\1" + bytes(4)
    upstream.forge(query.source.port, query.wire[:2] + head + SECRET + record_wire(quick.A, LIE)[2:])
    heard = client.heard()
    assert SECRET not in heard
    assert LIE not in heard
    if rcode in (NOERROR, NXDOMAIN):
        assert heard[-4:] == TRUTH
        assert told(shield, upstream)["unsolicited_replies"] == 1
    else:
        assert heard == quick.failure(quick.query("mine.test", quick.A), rcode)


def test_a_port_that_was_guessed_is_a_port_no_more(stage):
    """A client asks for its own name and sees whether an unsolicited reply sent it over TCP: that is of no use."""
    upstream, _, client = stage(slowly, "forward.spoof_threshold = 100\n")
    client.ask("mine.test")
    (query,) = upstream.wait_for(1)
    upstream.forge(query.source.port, lie(query, ident=int.from_bytes(query.wire[:2]) ^ 1))
    assert client.heard()[-4:] == TRUTH
    assert upstream.count("mine.test", transport="tcp") == 1
    upstream.handle = truth
    before = len(upstream.received)
    assert ask_many(client, 100, "other") == [TRUTH] * 100
    assert query.source.port not in ports(upstream, before)
    before = len(upstream.received)
    until(lambda: ask_many(client, 50, f"more{len(upstream.received)}-") and len(ports(upstream, before)) == 16)
    assert query.source.port not in ports(upstream, before)
    assert upstream.count(transport="tcp") == 1


def test_wrong_ids_with_a_name_of_ones_own_tell_nothing_of_that_name(stage):
    """Three of them, and every name goes over TCP: the forger's like anybody's."""
    upstream, shield, client = stage(slowly)
    client.ask("mine.test")
    (query,) = upstream.wait_for(1)
    wrong = [lie(query, ident=int.from_bytes(query.wire[:2]) ^ n) for n in (1, 2, 3)]
    upstream.forge(query.source.port, *wrong)
    assert client.heard()[-4:] == TRUTH
    upstream.handle = truth
    assert ask_many(client, 5, "innocent") == [TRUTH] * 5
    assert [upstream.count(f"innocent{n}.test", transport="tcp") for n in range(5)] == [1] * 5
    counted = told(shield, upstream)
    assert (counted["unsolicited_replies"], counted["spoof_detections"], counted["tcp_verification_active"]) == (
        3,
        1,
        1,
    )
    until(lambda: "spoofing suspected" in shield.log)
    upstream.forge(query.source.port, *wrong)
    time.sleep(1.2)
    assert shield.log.count("spoofing suspected") == 1
    assert "tcp_verification_active" in shield.command("stats")


def test_under_suspicion_the_right_guess_is_not_believed(stage):
    upstream, _, client = stage(slowly)
    client.ask("bank.test")
    (query,) = upstream.wait_for(1)
    ident = int.from_bytes(query.wire[:2])
    upstream.forge(query.source.port, *(lie(query, ident=ident ^ n) for n in (1, 2, 3)), lie(query))
    assert client.heard()[-4:] == TRUTH
    client.ask("bank.test")
    assert client.heard()[-4:] == TRUTH


# ------------------------------------------------------------ one guess for many


def test_one_guess_is_never_right_for_many(stage):
    """Two hundred queries for one name, each for another subnet: few are outstanding, and each must be guessed."""
    upstream, shield, client = stage(slowly)
    for n in range(200):
        client.ask("bank.test", subnet(f"10.0.{n}.0", 24))
    upstream.wait_for(4)
    time.sleep(0.1)
    waiting = [query for query in list(upstream.received) if query.transport == "udp"]
    assert len(waiting) == 4
    first = waiting[0]
    plain = quick.query("bank.test", quick.A)
    upstream.forge(first.source.port, first.wire[:2] + quick.answer(plain, LIE, rdtype=quick.A)[2:])
    heard = [client.heard() for _ in range(200)]
    assert sum(LIE in reply for reply in heard) == 1, "the guess that was right"
    for asked in (plain, with_opt(plain), with_opt(plain, subnet("10.200.0.0", 24))):
        assert LIE not in shield.udp_wire(asked)


LOOKING = """from funkenshield.rules import *

@shield.rule(suffix("test"), chain="responses")
def looked_at(query):
    return None
"""


@pytest.fixture
def looked_at(tmp_path):
    """Return the configuration with a rule in Python that looks at every response, and changes none."""
    file = tmp_path / "looking.py"
    file.write_text(LOOKING)
    return f'rules = "{file}"\n'


def held_truth(query):
    return reply_wire(query, record_wire(quick.A, TRUTH, 300))


def test_a_rule_that_looks_at_a_response_makes_it_true_for_nobody_else(stage, looked_at):
    upstream, _, client = stage(held_truth, looked_at)
    for n in range(3):
        client.ask("bank.test", subnet(f"10.0.{n}.0", 24))
        assert TRUTH in client.heard()
    assert upstream.count("bank.test") == 3


def test_a_rule_that_looks_at_a_doubted_response_does_not_have_it_kept(stage, looked_at):
    """There is no TCP to be had, and the upstream is under suspicion."""
    upstream, shield, client = stage(lambda query: None if query.transport == "tcp" else held_truth(query), looked_at)
    client.ask("first.test")
    (query,) = upstream.wait_for(1)
    assert client.heard()[-4:] == TRUTH
    upstream.forge(query.source.port, *(lie(query, ident=int.from_bytes(query.wire[:2]) ^ n) for n in (1, 2, 3)))
    until(lambda: told(shield, upstream)["tcp_verification_active"])
    for times in (1, 2):
        client.ask("bank.test")
        assert client.heard()[-4:] == TRUTH
        assert upstream.count("bank.test", transport="udp") >= times


# ------------------------------------------------------------ what is promised


def test_the_arithmetic_of_the_documentation():
    """With 50,000 a second, one in 1,765 reaches one of 16 ports; without TCP, a guess of port and ID need be right."""
    reached = 50_000 * 16 / PORTS
    days = days_until_right(reached, 1.0, sockets=16, alike=4, threshold=3, suspicion=300)
    assert round(reached, 1) == 28.3
    assert round(PORTS * IDS / 4 / 50_000 / 3600, 1) == 2.6  # hours
    assert 300 < days < 307
    known = days_until_right(50_000, 1.0, sockets=1, alike=1, threshold=3, suspicion=300)
    assert 75 < known < 77
    assert known == pytest.approx(IDS / 3 * 300 / 86400, rel=0.01)
