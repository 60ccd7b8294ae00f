"""Know what is served from a nameserver that is a long way off, and that nothing is done twice there."""

import contextlib
import itertools
import time

import dns.edns
import dns.opcode
import dns.query
import dns.rcode
import dns.update
import pytest
from support import nameservers
from support.client import ask, exchange
from support.process import run_shield
from support.relay import RecordingRelay
from support.stopwatch import Stopwatch

LATENCY = 1.2  # seconds; after `forward.timeout`, a second, it is asked again
TOML = 'forward = { allow = { transfers = ["127.0.0.0/8"], updates = ["127.0.0.0/8"] } }'
NSID = dns.edns.GenericOption(3, b"")
UNKNOWN = dns.edns.GenericOption(65432, b"?")
NEW = (f"host{n}.shield.test." for n in itertools.count())  # names that nobody has asked for


@pytest.fixture(scope="module")
def far():
    """Run BIND, which takes updates, twice at the end of a long way."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(nameservers.bind(more="allow-update { any; };")) for _ in range(2)]
        yield [stack.enter_context(RecordingRelay(server, delay=LATENCY)) for server in servers]


@pytest.fixture(scope="module", params=[1, 2], ids=["one", "two"])
def shield(request, far):
    with run_shield(far[: request.param], toml=TOML) as running:
        yield running


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    "options",
    [{}, {"edns": 1232}, {"options": [NSID]}, {"options": [UNKNOWN]}],
    ids=["plain", "edns", "nsid", "unknown"],
)
def test_a_query_is_answered(shield, options, tcp):
    assert len(ask(next(NEW), "TXT", server=shield, tcp=tcp, **options).answer) == 1


def updates(far):
    return sum(query.message.opcode() == dns.opcode.UPDATE for relay in far for query in relay.received)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_an_update_is_carried_out_once(shield, far, tcp):
    before = updates(far)
    update = dns.update.UpdateMessage("shield.test.")
    new = f"new{before}.shield.test."
    update.absent(new)  # carried out twice, it fails
    update.add(new, 300, "A", "192.0.2.77")
    assert exchange(update, server=shield, tcp=tcp).rcode() == dns.rcode.NOERROR
    time.sleep(LATENCY)
    assert updates(far) == before + 1


def test_a_transfer_is_given_its_time(shield):
    messages = dns.query.xfr(
        shield.address.host, "shield.test.", port=shield.address.port, relativize=False, lifetime=20
    )
    assert sum(len(rrset) for message in messages for rrset in message.answer) > 400


def test_what_is_large_is_fetched_whole(far):
    with run_shield(far[:1], toml="forward = { deadline = 8.0 }") as shield:
        assert len(ask("big.shield.test.", "TXT", server=shield, tcp=True, timeout=10).answer[0]) == 12


def test_who_is_there_already_is_served_at_once(shield):
    name = next(NEW)
    assert ask(name, "TXT", server=shield).answer
    stopwatch = Stopwatch()
    assert all(ask(name, "TXT", server=shield, tcp=tcp).answer for tcp in (False, True))
    assert stopwatch.seconds() < LATENCY
