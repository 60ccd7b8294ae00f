"""Know what happens when addresses are others than they were, or than they should be, and when the wire is cut."""

import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dns.rcode
import pytest
from support import nameservers, quick
from support.client import Address, ask
from support.control import stats
from support.network import Network
from support.pipeline import ask_all
from support.process import run_shield
from support.stopwatch import Stopwatch
from support.until import until

HERE, ALSO_HERE, THERE, ALSO_THERE = (f"10.77.0.{n}" for n in (1, 7, 53, 54))
NOERROR, SERVFAIL = 0, 2


@pytest.fixture
def joined():
    """Join two networks, and be in the nearer; yield both and the name of the wire."""
    with Network() as near, Network() as far:
        wire = near.join(far, f"{HERE}/24", f"{THERE}/24")
        with near.entered():
            yield near, far, wire


@contextlib.contextmanager
def nsd_in(network, host=THERE):
    with contextlib.ExitStack() as stack:
        with network.entered():
            server = stack.enter_context(nameservers.nsd(host=host))
        yield server


def upstream(server, transport="udp", **options):
    lines = [f'address = "{server}"', f'transport = "{transport}"']
    return "\n".join(["[[upstreams]]", *lines, *(f"{name} = {value}" for name, value in options.items()), ""])


def told(shield, first, count=40):
    """Return how often which RCODE came for so many names that nobody has asked for."""
    queries = [quick.query(f"host{first + n}.shield.test", quick.TXT) for n in range(count)]
    return Counter(reply[3] & 15 for reply in ask_all(shield, queries))


# ------------------------------------------------------------ our own


@pytest.mark.parametrize(
    ("transport", "port_life"), [pytest.param("udp", 20.0, marks=pytest.mark.proof), ("udp", 3600.0), ("tcp", 20.0)]
)
def test_a_new_local_address_costs_nobody_an_answer(joined, transport, port_life):
    """As of a lease that is not renewed, or a tunnel that is made anew."""
    near, far, wire = joined
    with (
        nsd_in(far) as server,
        run_shield(
            [], toml=upstream(server.address, transport) + f"[forward]\nsource_port_lifetime = {port_life}\n"
        ) as shield,
    ):
        assert told(shield, 0) == {NOERROR: 40}
        near.run("ip", "address", "del", f"{HERE}/24", "dev", wire)
        near.run("ip", "address", "add", f"{ALSO_HERE}/24", "dev", wire)
        for turn in 1, 2, 3:
            assert told(shield, 40 * turn) == {NOERROR: 40}
        (counted,) = stats(shield)["upstreams"].values()
        assert counted["state"] == "up"


def test_when_the_wire_is_whole_again_all_are_served(joined):
    """While it is cut, who asks is told."""
    near, far, wire = joined
    with nsd_in(far) as server, run_shield([server]) as shield:
        assert told(shield, 0) == {NOERROR: 40}
        near.run("ip", "link", "set", wire, "down")
        assert told(shield, 40, 8) == {SERVFAIL: 8}
        near.run("ip", "link", "set", wire, "up")
        until(lambda: told(shield, round(time.monotonic() * 1000) % 300 + 100, 1) == {NOERROR: 1})
        assert told(shield, 60) == {NOERROR: 40}


def test_a_new_address_is_listened_on_and_answered_from(joined):
    """By a shield that listens on all there are."""
    near, far, wire = joined
    with nsd_in(far) as server, run_shield([server], listen=[("0.0.0.0", 5353), ("::", 5353)]) as shield:
        assert ask("host0.shield.test.", "TXT", server=shield).answer
        for address in f"{ALSO_HERE}/24", "fd77::7/64":
            near.run("ip", "address", "add", address, "dev", wire, *(["nodad"] if ":" in address else []))
        far.run("ip", "address", "add", "fd77::53/64", "dev", wire, "nodad")
        with far.entered():
            for host in HERE, ALSO_HERE, "fd77::7":
                for name in "host0", "host1":
                    for tcp in False, True:
                        reply = ask(f"{name}.shield.test.", "TXT", server=Address(host, 5353), tcp=tcp)
                        assert reply.answer


# ------------------------------------------------------------ an upstream's


def test_what_comes_from_another_address_is_nobodys_and_is_told(joined):
    """A nameserver with two addresses that answers from the first, whichever was asked."""
    _, far, wire = joined
    far.run("ip", "address", "add", f"{ALSO_THERE}/24", "dev", wire)
    with nsd_in(far, "0.0.0.0") as server, run_shield([Address(ALSO_THERE, server.address.port)]) as shield:
        stopwatch = Stopwatch()
        with ThreadPoolExecutor(4) as pool:
            replies = pool.map(lambda n: ask(f"host{n}.shield.test.", "TXT", server=shield), range(4))
            assert {reply.rcode() for reply in replies} == {dns.rcode.SERVFAIL}
        assert stopwatch.seconds() < 5.0
        (counted,) = stats(shield)["upstreams"].values()
        assert counted["timeouts"] >= 4
        assert counted["responses"] == 0
        until(lambda: f"{ALSO_THERE}:{server.address.port}" in shield.log.partition("ready")[2].partition("\n")[2])


def test_another_upstream_answers_in_its_place(joined):
    _, far, wire = joined
    far.run("ip", "address", "add", f"{ALSO_THERE}/24", "dev", wire)
    with nsd_in(far, "0.0.0.0") as server:
        port = server.address.port
        with run_shield([Address(ALSO_THERE, port), Address(THERE, port)]) as shield:
            assert told(shield, 0) == {NOERROR: 40}


def test_an_upstream_without_a_road_to_it_is_passed_over_at_once(joined):
    """Of an upstream with addresses of both families, in a network that has one."""
    near, far, _ = joined
    near.without_ipv6()
    with nsd_in(far) as server:
        addresses = [Address("2001:db8::53", 53), Address("203.0.113.53", 53), server.address]
        with run_shield(addresses) as shield:
            stopwatch = Stopwatch()
            assert told(shield, 0) == {NOERROR: 40}
            assert stopwatch.seconds() < 1.0
