"""Know that resolvers trust the shield as they trust the nameserver behind it: none of them asks again over TCP."""

import contextlib
import time

import pytest
from support import nameservers, quick, resolvers
from support.control import stats
from support.pipeline import ask_all
from support.process import run_shield
from support.relay import RecordingRelay

NAMES, TURNS = 40, 3
TTL = 1  # a resolver asks anew in each turn
KEPT = "ttl = { min = 600, serve_original = true }"
ROADS = "direct", "shielded"
WAYS = "stub", "forward"


def zone(authority, road, way):
    return f"{authority}.{road}.{way}.example"


def master(name):
    """Return a zone: a third of its names has few records, a third has none, a third is large but fits a datagram."""
    lines = [f"$ORIGIN {name}.", f"$TTL {TTL}", f"@ SOA ns root 1 3600 600 86400 {TTL}", "@ NS ns", "ns A 192.0.2.53"]
    for n in range(NAMES):
        lines.append(f"n{n} A 192.0.2.{n}")
        if n % 3 == 0:
            lines += [f'n{n} TXT "{record} {"x" * (80 + n)}"' for record in range(8)]
    return "\n".join(lines) + "\n"


def asked(n):
    return quick.TXT if n % 3 == 0 else quick.A


@contextlib.contextmanager
def roads():
    """Run nameservers, a relay before each and one before a shield; yield the relays by their kind, and the shields."""
    relays, shields = {}, []
    with contextlib.ExitStack() as stack:
        for number, (name, run) in enumerate({"nsd": nameservers.nsd, "bind": nameservers.bind}.items()):
            zones = [zone(name, road, way) for road in ROADS for way in WAYS]
            server = stack.enter_context(run({each: master(each) for each in zones}))
            shield = stack.enter_context(run_shield([server], toml=KEPT))
            shields.append(shield)
            for road, target in zip(ROADS, (server, shield), strict=True):
                host = f"127.0.{number + 1}.{ROADS.index(road) + 1}"
                relays[name, road] = stack.enter_context(RecordingRelay(target, host, 53))
        yield relays, shields


RESOLVERS = {
    "bind": resolvers.bind,
    "unbound": resolvers.unbound,
    "knot-resolver": resolvers.kresd,
    "powerdns": resolvers.pdns,
}


@pytest.mark.parametrize("resolver", RESOLVERS.values(), ids=RESOLVERS)
def test_no_resolver_turns_to_tcp_whatever_comes_from_the_cache(resolver):
    with contextlib.ExitStack() as stack:
        relays, shields = stack.enter_context(roads())
        hosts = {
            way: {zone(authority, road, way): relay.address.host for (authority, road), relay in relays.items()}
            for way in WAYS
        }
        running = stack.enter_context(resolver(hosts["stub"], hosts["forward"]))
        for turn in range(TURNS):
            time.sleep(TTL + 1 if turn else 0)
            for name in running.zones:
                queries = [quick.query(f"n{n}.{name}", asked(n)) for n in range(NAMES)]
                assert {reply[3] & 15 for reply in ask_all(running, queries)} == {0}
        for (authority, road), relay in relays.items():
            assert relay.count(transport="udp") >= TURNS * NAMES * len(WAYS), "some came from the resolver's own cache"
            assert (authority, road, relay.count(transport="tcp")) == (authority, road, 0)
        for shield in shields:
            assert stats(shield)["cache_hits"] >= (TURNS - 1) * NAMES * len(WAYS)
