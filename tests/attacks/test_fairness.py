"""Know that whoever takes all that it can get, from one address or from a thousand, leaves room for everybody else.

A client prefix, or a zone, may take one more only while it holds less than four times what is left free; and nobody can
have the answers to many queries hit an address at one time.
"""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import dns.edns
import dns.rcode
import pytest
from support import quick
from support.client import ask
from support.control import stats
from support.process import run_shield
from support.until import until
from support.upstream import Delayed, ScriptedUpstream, answer

GREEDY, OTHER = "127.8.8.8", "127.9.9.9"
OTHERS = 40  # names that others ask for
TOML = """
forward.max_outstanding = 1000
forward.max_outstanding_per_zone = 1000
forward.deadline = 4.0
forward.timeout = 2.0
[[upstreams]]
address = "{}"
max_outstanding = 600
"""


def silent_under(suffix):
    """Return the script of an upstream that says nothing about names below a suffix."""

    def script(query):
        return None if query.name.to_text().endswith(suffix) else answer(query, "A 192.0.2.1", ttl=0)

    return script


@contextlib.contextmanager
def behind(script, toml=TOML):
    with ScriptedUpstream(script) as upstream, run_shield([], toml=toml.format(upstream.address)) as shield:
        yield shield, upstream


def send(shield, source, wires):
    """Send datagrams from an address, not too fast for anybody, and read nothing; return the socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((source, 0))
    sock.connect(shield.address)
    for n, wire in enumerate(wires):
        sock.send(wire)
        if n % 50 == 49:
            time.sleep(0.005)
    return sock


def with_option(wire):
    """Return a query with an OPT record and an option that nobody knows."""
    return wire[:11] + b"\1" + wire[12:] + bytes([0, 0, 41, 4, 0xD0, 0, 0, 0, 0, 0, 4, 0xFD, 0xE9, 0, 0])


def outcomes(shield, **options):
    """Return the RCODEs that somebody else gets who asks for names that are answered, one after the other."""
    names = [f"name{n}.other{n}.example." for n in range(OTHERS)]
    return {ask(name, server=shield, source=OTHER, **options).rcode() for name in names}


KINDS = {"misses": lambda wire: wire, "never cached": with_option}


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("kind", KINDS)
def test_who_asks_for_what_is_never_answered_keeps_nobody_out(kind, tcp):
    wires = [KINDS[kind](quick.query(f"name{n}.zone{n}.silent.", ident=n)) for n in range(3000)]
    with behind(silent_under(".silent.")) as (shield, _), send(shield, GREEDY, wires):
        until(lambda: stats(shield)["fair_share_exceeded"] > 1000)
        assert outcomes(shield, tcp=tcp) == {dns.rcode.NOERROR}
        assert outcomes(shield, tcp=tcp, options=[dns.edns.GenericOption(65001, b"")]) == {dns.rcode.NOERROR}
        counted = stats(shield)
        assert counted["outstanding_limit_exceeded"] == counted["upstreams_saturated"] == 0
        assert 100 < counted["outstanding_queries"] <= 600


def test_a_thousand_sources_that_ask_for_one_zone_keep_no_other_zone_out():
    with behind(silent_under(".one.silent.")) as (shield, _), contextlib.ExitStack() as stack:
        for n in range(1000):
            wires = [quick.query(f"name{n}x{k}.one.silent.", ident=n) for k in range(3)]
            stack.enter_context(send(shield, f"127.{n // 250}.{n % 250}.7", wires))
        until(lambda: stats(shield)["fair_share_exceeded"] > 1000)
        assert outcomes(shield) == {dns.rcode.NOERROR}


def test_a_datagram_that_comes_again_waits_once():
    wire = quick.query("slow.test.", quick.A, ident=7)
    slow = lambda query: Delayed(0.4, answer(query, "A 192.0.2.1"))  # noqa: E731
    with behind(slow) as (shield, upstream), send(shield, GREEDY, [wire] * 20) as sock:
        sock.settimeout(1.0)
        assert sock.recv(512)[:2] == wire[:2]
        with pytest.raises(TimeoutError):
            sock.recv(512)
        assert stats(shield)["dropped_duplicates"] == 19
        assert upstream.count("slow.test.") == 1


def test_nobody_can_have_the_answers_to_what_takes_long_hit_an_address_at_one_time():
    """As CVE-2024-33655: 2,000 queries under the victim's address, and an answer that comes when all of them wait."""
    large = lambda query: Delayed(1.5, answer(query, *(f'TXT "{n:03}{"x" * 200}"' for n in range(5)), ttl=0))  # noqa: E731
    with_opt = b"\1" + quick.query("slow.test.")[12:] + bytes([0, 0, 41, 4, 208, *[0] * 6])
    wires = [quick.query("slow.test.", ident=n)[:11] + with_opt for n in range(2000)]
    with (
        behind(large, 'upstreams = ["{}"]\nforward.timeout = 2.0') as (shield, upstream),
        send(shield, GREEDY, wires) as victim,
    ):
        until(lambda: stats(shield)["dropped_late_replies"] > 800)
        octets = 0
        victim.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                octets += len(victim.recv(65535))
        assert upstream.count("slow.test.") == 1
        assert octets < (1 << 17) + 2000 * 64, "some of what waited; and who asks for more than may wait is refused"
        with ThreadPoolExecutor(1) as pool:  # a client of another network gets its own
            asked = pool.submit(ask, "slow.test.", "TXT", server=shield, edns=1232, source=OTHER)
            assert asked.result().answer


def test_long_queries_of_one_prefix_leave_places_to_others():
    """What is longer than a place in the pool takes memory of its own, of which there is a bound: four fifths of it."""
    opt = bytes([0, 0, 41, 4, 208, 0, 0, 0, 0, 2, 92, 0xFD, 0xE9, 2, 88]) + bytes(600)
    plain = [quick.query(f"name{n}.zone{n}.silent.", ident=n) for n in range(40)]
    wires = [wire[:11] + b"\1" + wire[12:] + opt for wire in plain]
    toml = "forward.max_uncached = 16\n" + TOML
    with behind(silent_under(".silent."), toml) as (shield, upstream), send(shield, GREEDY, wires):
        until(lambda: stats(shield)["queries"] == 40)
        assert outcomes(shield, options=[dns.edns.GenericOption(65001, bytes(600))]) == {dns.rcode.NOERROR}
        assert 10 < sum(query.name.to_text().endswith(".silent.") for query in upstream.received) < 16


def test_all_that_strangers_can_fill_is_in_one_sum():
    toml = 'cache.memory = "4MiB"\ntcp.memory = "8MiB"\nforward.max_outstanding = 1000\nforward.max_uncached = 16\n'
    with behind(silent_under("."), toml + 'upstreams = ["{}"]') as (shield, _):
        told = stats(shield)["memory_limit_bytes"]
        assert (4 + 8 + 16 + 2) << 20 < told < 40 << 20
