"""Know what a nameserver means for clients that is well over UDP, and over TCP is closed, filtered, or ends early."""

from concurrent.futures import ThreadPoolExecutor

import dns.flags
import dns.rcode
import pytest
from support import nameservers, quick
from support.client import ask
from support.network import Network
from support.pipeline import ask_all
from support.process import run_shield
from support.relay import RecordingRelay
from support.stopwatch import Stopwatch

WITHOUT_TCP = {
    "closed": "tcp dport {port} reject with tcp reset",
    "filtered": "tcp dport {port} drop",
}
DEADLINE = 2.5  # seconds, by default
IN_TIME = 2.0  # seconds: not by the deadline


@pytest.fixture(scope="module", params=WITHOUT_TCP.values(), ids=WITHOUT_TCP)
def without_tcp(request):
    """Run a shield, a relay that records, and NSD, in a network where the relay's port takes no TCP."""
    with (
        Network() as own,
        own.entered(),
        nameservers.nsd() as server,
        RecordingRelay(server) as relay,
        own.filtered(request.param.format(port=relay.address.port)),
        run_shield([relay]) as shield,
    ):
        yield shield, relay


def test_a_client_over_tcp_is_served_by_an_upstream_without_tcp(without_tcp):
    shield, relay = without_tcp
    stopwatch = Stopwatch()
    for _ in "cold", "warm":
        assert ask("host0.shield.test.", "TXT", server=shield, tcp=True).answer
    assert stopwatch.seconds() < IN_TIME
    assert (relay.count("host0.shield.test.", transport="udp"), relay.count(transport="tcp")) == (1, 0)


def test_one_client_over_tcp_takes_no_name_from_the_others(without_tcp):
    """It asks first, and 48 who come by UDP ask for the same."""
    shield, _ = without_tcp
    name = "www.shield.test."
    with ThreadPoolExecutor(24) as pool:
        stream = pool.submit(ask, name, server=shield, tcp=True)
        others = [pool.submit(ask, name, server=shield) for _ in range(48)]
        assert [bool(each.result().answer) for each in (stream, *others)] == [True] * 49


def test_what_only_tcp_could_bring_is_told_in_time_and_takes_nothing_from_others(without_tcp):
    shield, _ = without_tcp
    with ThreadPoolExecutor(8) as pool:
        stopwatch = Stopwatch()
        cut, lost = (pool.submit(ask, "big.shield.test.", "TXT", server=shield, tcp=tcp) for tcp in (False, True))
        small = [pool.submit(ask, f"host{n}.shield.test.", "TXT", server=shield, edns=1232) for n in range(32)]
        assert [len(each.result().answer) for each in small] == [1] * 32
        assert cut.result().flags & dns.flags.TC
        told = lost.result()
        assert told.rcode() == dns.rcode.SERVFAIL or told.flags & dns.flags.TC
        assert stopwatch.seconds() < 2 * DEADLINE
    assert all(ask(f"host{n}.shield.test.", "TXT", server=shield, edns=1232).answer for n in range(32, 64))


@pytest.mark.parametrize(
    "most", [1, pytest.param(2, marks=pytest.mark.proof), pytest.param(7, marks=pytest.mark.proof)]
)
def test_a_nameserver_that_ends_its_connections_after_a_few_queries_answers_all(most):
    """As RFC 7766 6.2.4 allows: what was sent behind the last one is asked again on another connection."""
    toml = '[[upstreams]]\naddress = "{}"\ntransport = "tcp"\n'
    with (
        nameservers.nsd(more=f"{nameservers.UNLIMITED}\n    tcp-query-count: {most}") as server,
        run_shield([], toml=toml.format(server.address)) as shield,
    ):
        replies = ask_all(shield, [quick.query(f"host{n}.shield.test", quick.TXT) for n in range(200)])
        assert [reply[3] & 15 for reply in replies].count(0) == 200


@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.proof), 2])
def test_so_is_what_came_truncated(most):
    """Large answers, of which each is fetched over TCP."""
    zone = "$ORIGIN large.test.\n@ 300 SOA ns root 1 3600 600 86400 60\n@ 300 NS ns\n" + "".join(
        f"n{n} 300 TXT {' '.join([chr(34) + 'x' * 200 + chr(34)] * 10)}\n" for n in range(60)
    )
    more = f"{nameservers.UNLIMITED}\n    tcp-query-count: {most}"
    with nameservers.nsd({"large.test": zone}, more=more) as server, run_shield([server]) as shield:
        replies = ask_all(shield, [quick.query(f"n{n}.large.test", quick.TXT) for n in range(60)], tcp=True)
        assert [(reply[3] & 15, len(reply) > 2000) for reply in replies].count((0, True)) == 60
