"""A listener whose queries come from an interface, as its clients on the other end of a wire find it."""

import contextlib

import pytest
from support import quick
from support.client import Address, udp_wire
from support.network import Network
from support.process import run_shield
from support.rig import numbered
from support.upstream import ScriptedUpstream

HERE, THERE = "192.0.2.1", "192.0.2.9"
HERE_6, THERE_6 = "2001:db8::1", "2001:db8::9"


@pytest.fixture(scope="module")
def networks():
    """Yield the shield's network and its clients', and the wire between them."""
    with Network() as near, Network() as far:
        wire = near.join(far, f"{HERE}/24", f"{THERE}/24")
        for network, address in (near, HERE_6), (far, THERE_6):
            network.run("ip", "address", "add", f"{address}/64", "dev", wire, "nodad")
        yield near, far, wire


def listener(wire, *addresses, **options):
    lines = [f"address = {[str(each) for each in addresses]}", 'transport = "xdp"', f'interface = "{wire}"']
    return "\n".join(["[[listeners]]", *lines, *(f"{key} = {value}" for key, value in options.items()), ""])


@pytest.fixture(scope="module")
def shield(networks):
    near, _, wire = networks
    with near.entered(), ScriptedUpstream(numbered(1)) as upstream:
        toml = listener(wire, f"{HERE}:53", f"[{HERE_6}]:53")
        with run_shield([upstream], toml=toml) as running:
            yield running, upstream


def ask(networks, wire, server):
    """Return what a client on the other end gets."""
    with networks[1].entered():
        return udp_wire(Address(server, 53), wire)


@pytest.mark.parametrize("server", [HERE, HERE_6])
def test_queries_are_answered(networks, shield, server):
    running, upstream = shield
    print(running.log)
    for k in range(3):
        reply = ask(networks, quick.query("www.example.com", quick.A), server)
        assert reply is not None, k
    print(running.stats())
