"""Know that shields which ask each other, or themselves, send a few queries for one, and say so."""

import contextlib
import itertools
import socket
import subprocess
import sys
import time

import dns.edns
import dns.message
import dns.opcode
import dns.rcode
import dns.update
import pytest
from support.client import Address, ask, exchange, free_port
from support.process import run_shield
from support.relay import RecordingRelay
from support.rig import names
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import Delayed, ScriptedUpstream, respond

NSID = (dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),)
REFUSED, SERVFAIL = dns.rcode.REFUSED, dns.rcode.SERVFAIL


ALLOWED = """
allow_notify_from = ["127.0.0.0/8"]
[forward]
allow = { transfers = ["127.0.0.0/8"], updates = ["127.0.0.0/8"], notifies = ["127.0.0.0/8"] }
"""


@pytest.fixture(scope="module")
def ring():
    """Run two shields that ask each other; what they ask goes through two relays."""
    ports = [Address("127.0.0.1", free_port()) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(RecordingRelay(port)) for port in ports]
        shields = [stack.enter_context(run_shield([relays[1 - n]], listen=[ports[n]], toml=ALLOWED)) for n in range(2)]
        yield shields, relays


def asked(relays):
    return sum(len(relay.received) for relay in relays)


def update(name):
    made = dns.update.UpdateMessage(name)
    made.add("www", 300, "A", "192.0.2.1")
    return made


def notify(name):
    made = dns.message.make_query(name, "SOA")
    made.set_opcode(dns.opcode.NOTIFY)
    return made


def with_nsid(name):
    return dns.message.make_query(name, "A", use_edns=0, options=NSID)


def transfer(name):
    return dns.message.make_query(name, "AXFR")


@pytest.mark.parametrize(
    ("make", "tcp"),
    [*itertools.product([with_nsid, update, notify], [False, True]), (transfer, True)],
    ids=lambda value: getattr(value, "__name__", "tcp" if value else "udp"),
)
def test_a_query_that_is_passed_on_goes_round_a_few_times_and_is_refused(ring, make, tcp):
    shields, relays = ring
    for relay in relays:
        relay.received.clear()
    stopwatch = Stopwatch()
    assert exchange(make(names(1)[0]), server=shields[0], tcp=tcp).rcode() == REFUSED
    assert stopwatch.seconds() < 1.0
    time.sleep(0.2)
    assert 2 <= asked(relays) <= 8


def test_a_query_that_is_cached_waits_behind_itself(ring):
    shields, relays = ring
    for relay in relays:
        relay.received.clear()
    assert ask(names(1)[0], server=shields[0]).rcode() == SERVFAIL
    assert 2 <= asked(relays) <= 8


def test_the_log_says_so_once(ring):
    shields, _ = ring
    for name in names(20):
        assert ask(name, server=shields[0], options=NSID).rcode() == REFUSED
    told = until(lambda: [shield.log.count("forwarding loop") for shield in shields])
    assert sorted(told) in ([0, 1], [1, 1])


def test_who_is_no_loop_may_ask_the_same_again_and_again():
    """Many at once from elsewhere; one after another even from where an upstream is."""

    def slow(query):
        return Delayed(0.3, respond(query))

    (name,) = names(1)
    with ScriptedUpstream(slow) as upstream, run_shield([upstream]) as shield:
        wire = dns.message.make_query(name, "A", use_edns=0, options=NSID).to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.bind(("127.0.0.9", 0))
            sock.connect(shield.address)
            for ident in range(20):
                sock.send(ident.to_bytes(2) + wire[2:])
            assert {sock.recv(512)[3] & 15 for _ in range(20)} == {0}
        upstream.handle = respond
        for _ in range(20):
            assert ask(name, server=shield, options=NSID).rcode() == 0
        assert upstream.count(name) == 40


# ------------------------------------------------------------ its own upstream


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        ("127.0.0.1:{}", "127.0.0.1:{}"),
        ("0.0.0.0:{}", "127.0.0.1:{}"),
        ("0.0.0.0:{}", "127.3.2.1:{}"),
        ("127.0.0.1:{}", "0.0.0.0:{}"),
        ("[::]:{}", "[::1]:{}"),
        ("[::1]:{}", "[::1]:{}"),
    ],
)
@pytest.mark.parametrize("where", ["upstreams", "zones"])
def test_a_shield_that_is_its_own_upstream_is_told_and_does_not_start(tmp_path, listen, upstream, where):
    port = free_port()
    listen, upstream = listen.format(port), upstream.format(port)
    file = tmp_path / "shield.toml"
    text = f'listen = ["{listen}"]\ncontrol.socket = "{tmp_path}/control"\n'
    if where == "upstreams":
        text += f'upstreams = ["192.0.2.1:53", "{upstream}"]\n'
    else:
        text += f'[[zones]]\nname = "zone.test"\nupstreams = ["{upstream}"]\n'
    file.write_text(text)
    for command in "check", "run":
        done = subprocess.run(
            [sys.executable, "-m", "funkenshield", command, *(["-c"]), file], capture_output=True, text=True, timeout=15
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(
            f"upstreams: {upstream} is the shield itself, which listens on {listen}"
        )
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [("127.0.0.1:5300", "127.0.0.1:5301"), ("127.0.0.1:5300", "127.0.0.2:5300"), ("0.0.0.0:5300", "192.0.2.1:5300"),
     ("0.0.0.0:5300", "[::1]:5300")],
)  # fmt: skip
def test_another_port_or_address_is_none(tmp_path, listen, upstream):
    file = tmp_path / "shield.toml"
    file.write_text(f'listen = ["{listen}"]\nupstreams = ["{upstream}"]\n')
    done = subprocess.run([sys.executable, "-m", "funkenshield", "check", "-c", file], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
