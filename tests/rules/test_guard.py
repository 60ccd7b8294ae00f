"""Know that the guard holds for whoever asks the real process: who may ask, how much, and how much is answered."""

import contextlib
import json
import time
from collections import Counter

import pytest
from faults.load import Load
from support import quick
from support.client import free_port
from support.control import advance, request, stats
from support.edns import COOKIE, option, split_opt, with_opt
from support.forked import command
from support.proc import resident
from support.process import run_shield
from support.rig import behind, good, toml
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import reply_wire

from rules.flood import flood, fresh, outcome, outcomes, over_tcp, same, send

SLOWLY = 0.01  # a second: only what may come at once counts in a test
NOTHING, REFUSED, NOERROR, TC = "nothing", "REFUSED", "NOERROR", "TC"


def zoned(query):
    """Answer by the name: NXDOMAIN below nx.test., SERVFAIL below fail.test., an address everywhere else."""
    name = query.name.to_text().lower()
    if name.endswith("nx.test."):
        return reply_wire(query, counts=(0, 0, 0), flags=0x8403)
    if name.endswith("fail.test."):
        return reply_wire(query, counts=(0, 0, 0), flags=0x8402)
    return good(query)


def both_ways(shield, source, wire=None):
    """Return what a client gets over UDP and over TCP."""
    wire = wire or fresh(1)[0]
    return outcome(send(shield, [wire], source)[0]), outcome(over_tcp(shield, wire, source, timeout=0.5))


# ------------------------------------------------------------ who may ask at all


@contextlib.contextmanager
def listening_twice(**options):
    """Run a shield that listens on 127.0.0.1 and on ::1; yield it, and the one upstream."""
    port = free_port()
    places = [("127.0.0.1", port), ("::1", port)]
    with ScriptedUpstream(zoned) as upstream, run_shield([upstream], listen=places, toml=toml(**options)) as shield:
        yield shield, upstream


ACCESS = {
    "default": "deny",
    "allow": ["127.1.0.0/16", "127.1.2.3/32", "::1/128"],
    "deny": ["127.1.2.0/24"],
}


@pytest.mark.parametrize(("action", "turned_back"), [("refuse", REFUSED), ("drop", NOTHING)])
def test_the_longest_prefix_decides_who_may_ask(action, turned_back):
    with listening_twice(guard={"access": ACCESS | {"action": action}}) as (shield, upstream):
        for source in ("127.1.9.9", "127.1.2.3"):
            assert both_ways(shield, source) == (NOERROR, NOERROR)
        assert both_ways(shield.addresses[1], "::1") == (NOERROR, NOERROR)
        known = len(upstream.received)
        for source in ("127.0.0.1", "127.1.2.4", "127.2.0.1"):
            assert both_ways(shield, source) == (turned_back, turned_back)
        assert len(upstream.received) == known == 3
        assert stats(shield)["acl_denied"] == 6


def test_ipv6_is_denied_by_its_prefix():
    with listening_twice(guard={"access": {"deny": ["::/64"]}}) as (shield, _):
        assert both_ways(shield.addresses[1], "::1") == (REFUSED, REFUSED)
        assert both_ways(shield, "127.0.0.1") == (NOERROR, NOERROR)


def test_who_may_not_ask_gets_nothing_for_a_query_that_is_too_long_either():
    with behind(zoned, guard={"access": {"deny": ["127.9.0.0/16"], "action": "drop"}}) as (shield, _):
        long = fresh(1)[0] + bytes(5000)
        assert outcomes(send(shield, [long], "127.9.0.1") + send(shield, [long])) == {NOTHING: 1, TC: 1}
        assert stats(shield)["acl_denied"] == 1


# ------------------------------------------------------------ how much they may ask

LIMITS = [
    {"queries_per_second": SLOWLY, "window": 1000.0, "action": "drop"},  # 10 of an address
    {"queries_per_second": SLOWLY, "window": 2500.0, "ipv4_prefix_length": 24, "action": "refuse"},  # 25 of a /24
    {"queries_per_second": SLOWLY, "window": 3500.0, "ipv4_prefix_length": 16, "action": "truncate"},  # 35 of a /16
]


def test_several_limits_bound_several_prefix_lengths():
    with behind(zoned, guard={"rate_limits": LIMITS}) as (shield, _):
        assert outcomes(send(shield, fresh(14), "127.3.1.1")) == {NOERROR: 10, NOTHING: 4}
        assert outcomes(send(shield, fresh(10), "127.3.1.2")) == {NOERROR: 10}
        assert outcomes(send(shield, fresh(10), "127.3.1.3")) == {NOERROR: 5, REFUSED: 5}
        assert outcomes(send(shield, fresh(5), "127.3.2.1")) == {NOERROR: 5}
        assert outcomes(send(shield, fresh(10), "127.3.3.1")) == {NOERROR: 5, TC: 5}
        assert outcome(over_tcp(shield, fresh(1)[0], "127.3.4.1")) == NOERROR  # who was told to come by TCP
        assert outcome(over_tcp(shield, fresh(1)[0], "127.3.1.1")) == NOTHING
        assert outcomes(send(shield, fresh(10), "127.4.1.1")) == {NOERROR: 10}
        assert stats(shield)["rate_limited"] == 4 + 5 + 5 + 1


def test_any_is_answered_here_and_counted_by_the_limits():
    limits = [{"queries_per_second": SLOWLY, "window": 500.0}]
    with behind(zoned, minimal_any=True, guard={"rate_limits": limits}) as (shield, upstream):
        replies = send(shield, same(7, rdtype=255))
        assert outcomes(replies) == {NOERROR: 5, NOTHING: 2}
        assert b"\x07RFC8482" in replies[0]
        assert upstream.received == []
        assert stats(shield)["minimal_any_answers"] == 5


# ------------------------------------------------------------ how much is answered


def limited(rate=SLOWLY, window=1000.0, **options):
    """Return a guard that answers so little: 10 responses at once, and then hardly any."""
    return {"rrl": {"window": window, "slip": 0} | dict.fromkeys(options.pop("of"), rate) | options}


@pytest.fixture(scope="module")
def silent():
    """Run a shield that withholds what is too much."""
    guard = limited(of=["responses_per_second", "nxdomains_per_second", "errors_per_second"], exempt=["127.8.0.0/16"])
    with behind(zoned, guard=guard, cookies={"mode": "serve"}) as (shield, upstream):
        yield shield, upstream


def test_equal_answers_are_limited_and_others_are_not(silent):
    shield, upstream = silent
    before = stats(shield)
    assert outcomes(send(shield, same(30, "equal.test."), "127.5.1.1")) == {NOERROR: 10, NOTHING: 20}
    assert outcomes(send(shield, same(1, "EQUAL.test."), "127.5.1.99")) == {NOTHING: 1}
    assert outcomes(send(shield, same(10, "other.test."), "127.5.1.1")) == {NOERROR: 10}
    assert outcomes(send(shield, same(10, "equal.test."), "127.5.2.1")) == {NOERROR: 10}
    assert outcome(over_tcp(shield, same(1, "equal.test.")[0], "127.5.1.1")) == NOERROR
    after = stats(shield)
    assert (upstream.count("equal.test."), after["rrl_dropped"] - before["rrl_dropped"]) == (1, 21)
    assert after["rrl_slipped"] == 0


def test_answers_to_misses_are_limited_like_hits(silent):
    shield, upstream = silent
    wires = [with_opt(quick.query("miss.test.", quick.A), option(65001, bytes([k]))) for k in range(20)]  # never cached
    assert outcomes(send(shield, wires, "127.5.3.1")) == {NOERROR: 10, NOTHING: 10}
    assert upstream.count("miss.test.") == 20
    assert outcomes(send(shield, fresh(20), "127.5.3.1")) == {NOERROR: 20}


@pytest.mark.parametrize(("zone", "rcode"), [("nx.test.", "NXDOMAIN"), ("fail.test.", "SERVFAIL")])
def test_a_flood_of_names_is_limited_for_its_prefix(silent, zone, rcode):
    shield, _ = silent
    number = 1 + ["NXDOMAIN", "SERVFAIL"].index(rcode)
    assert outcomes(send(shield, fresh(30, zone), f"127.6.{number}.1")) == {rcode: 10, NOTHING: 20}
    assert outcomes(send(shield, fresh(3, zone), f"127.6.{number}.2")) == {NOTHING: 3}
    assert outcomes(send(shield, fresh(10, zone), f"127.7.{number}.1")) == {rcode: 10}
    assert outcomes(send(shield, fresh(10), f"127.6.{number}.1")) == {NOERROR: 10}


def test_who_is_exempt_is_not_limited(silent):
    shield, _ = silent
    assert outcomes(send(shield, same(30), "127.8.1.1")) == {NOERROR: 30}


@pytest.mark.parametrize("zone", ["test.", "nx.test."])
def test_who_has_a_cookie_is_not_limited(silent, zone):
    shield, _ = silent
    source, client = f"127.9.{len(zone)}.1", b"mycookie"
    [wire] = fresh(1, zone)
    _, options = split_opt(send(shield, [with_opt(wire, option(COOKIE, client))], source)[0])
    cookie = options[options.index(client) :][:24]
    proven = [with_opt(wire, option(COOKIE, cookie)) for _ in range(30)]
    proven += [with_opt(each, option(COOKIE, cookie)) for each in fresh(30, zone)]
    assert NOTHING not in outcomes(send(shield, proven, source))
    false = [with_opt(wire, option(COOKIE, client + bytes(16)))] * 30
    assert outcomes(send(shield, false, source))[NOTHING] >= 20


def test_what_slips_tells_a_client_to_come_by_tcp():
    with behind(zoned, guard=limited(of=["responses_per_second"], slip=1)) as (shield, upstream):
        replies = send(shield, same(30), "127.5.1.1")
        assert outcomes(replies) == {NOERROR: 10, TC: 20}
        assert all(len(reply) <= len(same(1)[0]) for reply in replies if outcome(reply) == TC)
        assert outcome(over_tcp(shield, same(1)[0], "127.5.1.1")) == NOERROR
        assert (stats(shield)["rrl_slipped"], stats(shield)["rrl_dropped"], len(upstream.received)) == (20, 0, 1)


def test_one_in_so_many_slips_and_all_responses_can_be_limited():
    with behind(zoned, guard=limited(of=["all_per_second"], slip=2)) as (shield, _):
        found = Counter(outcomes(send(shield, fresh(40) + fresh(20, "nx.test."), "127.5.1.1")))
        assert (found[NOERROR], found["NXDOMAIN"]) == (10, 0)
        assert 20 <= found[TC] <= 30
        assert found[TC] + found[NOTHING] == 50


# ------------------------------------------------------------ who is shut out

WATCHES = [
    {
        "name": "asks too much",
        "type": "queries",
        "rate": 150.0,
        "seconds": 1.0,
        "duration": 300.0,
        "exempt": ["127.14.0.0/16", "127.21.0.0/16"],
    },
    {"type": "nxdomains", "rate": 20.0, "seconds": 1.0, "duration": 60.0, "action": "refuse"},
    {
        "type": "servfails",
        "rate": 20.0,
        "seconds": 1.0,
        "duration": 60.0,
        "action": "truncate",
        "ipv4_prefix_length": 24,
    },
    {"type": "octets", "rate": 10000.0, "seconds": 1.0, "duration": 60.0, "exempt": ["127.11.0.0/16", "127.21.0.0/16"]},
]


LONG = f"{'long.' * 20}test."


@pytest.fixture(scope="module")
def watchful():
    """Run a shield that shuts out who floods it; each test has sources of its own."""
    with behind(zoned, guard={"dynamic_blocks": WATCHES}) as (shield, _):
        yield shield


def listed(shield, prefix):
    """Return the line about a prefix in what the command lists; "" where there is none."""
    return next((line for line in shield.command("block", "list").splitlines() if line.split()[0] == prefix), "")


@pytest.mark.parametrize(
    ("wires", "source", "prefix", "reason", "fate"),
    [
        (lambda: fresh(60, "nx.test."), "127.12.0.1", "127.12.0.1/32", "over 20 nxdomains a second", REFUSED),
        (lambda: fresh(60, "fail.test."), "127.13.0.1", "127.13.0.0/24", "over 20 servfails a second", TC),
        (lambda: same(300, LONG), "127.14.0.1", "127.14.0.1/32", "over 10000 octets a second", NOTHING),
    ],
    ids=["nxdomains", "servfails", "octets"],
)
def test_who_floods_is_shut_out(watchful, wires, source, prefix, reason, fate):
    shut_out = stats(watchful)["blocked"]
    send(watchful, wires(), source)
    until(lambda: outcomes(send(watchful, fresh(1), source)) == {fate: 1}, within=1.0)
    assert reason in listed(watchful, prefix)
    assert stats(watchful)["blocked"] > shut_out
    neighbour = source[:-1] + "2"
    assert outcomes(send(watchful, fresh(1), neighbour)) == {fate if prefix.endswith("/24") else NOERROR: 1}
    assert outcomes(send(watchful, fresh(1), "127.12.1.1")) == {NOERROR: 1}
    assert outcome(over_tcp(watchful, fresh(1)[0], source)) == (NOERROR if fate == TC else fate)


def test_who_asks_too_much_is_shut_out_for_a_while(watchful):
    raised = stats(watchful)["dynamic_blocks_added"]
    flood(watchful, same(1)[0], ["127.11.0.1"] * 400)
    until(lambda: stats(watchful)["dynamic_blocks_added"] > raised, within=0.6)
    assert outcomes(send(watchful, same(1), "127.11.0.1")) == {NOTHING: 1}
    assert "asks too much" in listed(watchful, "127.11.0.1/32")
    advance(watchful, 290)
    assert outcomes(send(watchful, same(1), "127.11.0.1")) == {NOTHING: 1}
    advance(watchful, 10)
    until(lambda: outcomes(send(watchful, same(1), "127.11.0.1")) == {NOERROR: 1})
    until(lambda: "127.11.0.1/32 blocked for 300 s: asks too much" in watchful.log)


def test_who_is_exempt_is_never_shut_out(watchful):
    send(watchful, same(300, LONG), "127.21.0.1")
    time.sleep(0.3)
    assert outcomes(send(watchful, fresh(1), "127.21.0.1")) == {NOERROR: 1}


def test_an_operator_shuts_out_and_lets_in(watchful):
    assert watchful.command("block", "add", "127.15.0.0/16", "--for", "600") == "127.15.0.0/16: blocked for 600 s\n"
    assert watchful.command("block", "add", "127.15.1.1", "--refuse") == "127.15.1.1: blocked for 3600 s\n"
    wide = command("block", "add", "0.0.0.0/0", "--control", watchful.control)
    assert wide.returncode == 1
    assert wide.stderr == "funkenshield: 0.0.0.0/0 has 2^32 addresses; to block it nevertheless, add --yes\n"
    assert outcomes(send(watchful, fresh(1), "127.15.9.9")) == {NOTHING: 1}
    assert outcomes(send(watchful, fresh(1), "127.15.1.1")) == {REFUSED: 1}
    assert "by hand" in listed(watchful, "127.15.0.0/16")
    assert watchful.command("block", "remove", "127.15.1.1") == "127.15.1.1: 1 removed\n"
    assert outcomes(send(watchful, fresh(1), "127.15.1.1")) == {NOTHING: 1}
    assert watchful.command("block", "remove", "127.15.0.0/16") == "127.15.0.0/16: 1 removed\n"
    for source in ("127.15.9.9", "127.15.1.1"):
        assert outcomes(send(watchful, fresh(1), source)) == {NOERROR: 1}


def test_a_block_by_hand_ends(watchful):
    watchful.command("block", "add", "127.16.0.1", "--for", "60")
    assert outcomes(send(watchful, fresh(1), "127.16.0.1")) == {NOTHING: 1}
    advance(watchful, 60)
    until(lambda: outcomes(send(watchful, fresh(1), "127.16.0.1")) == {NOERROR: 1})
    assert not listed(watchful, "127.16.0.1/32")


def test_many_blocks_in_a_row_disturb_nobody():
    prefixes = [f"127.{60 + number // 250}.{number % 250}.0/24" for number in range(500)]
    lines = [json.dumps({"command": "block add", "prefix": prefix, "seconds": 60}).encode() for prefix in prefixes]
    with behind(zoned) as (shield, _), Load(shield) as load:
        assert request(shield, *lines) == [{"ok": True}] * 500
        assert outcomes(send(shield, fresh(1), "127.61.249.1")) == {NOTHING: 1}
        assert outcomes(send(shield, fresh(1), "127.62.0.1")) == {NOERROR: 1}
        assert stats(shield)["dynamic_blocks"] == 500
        assert request(shield, b'{"command": "block remove", "prefix": "127.0.0.0/8"}') == [
            {"ok": True, "removed": 500}
        ]
    assert load.outcome == load.flawless


# ------------------------------------------------------------ floods


def test_a_flood_of_sources_takes_no_memory_and_frees_nobody():
    limits = [{"queries_per_second": SLOWLY, "window": 1000.0}]
    guard = {"rate_limits": limits, "dynamic_blocks": [{"type": "queries", "rate": 1000.0}], "memory": "64KiB"}
    with behind(zoned, guard=guard | limited(of=["responses_per_second"])) as (shield, _):
        sources = [f"127.40.{k // 250}.{1 + k % 250}" for k in range(40_000)]
        assert outcomes(send(shield, same(30), "127.30.0.1")) == {NOERROR: 10, NOTHING: 20}
        flood(shield, same(1)[0], sources[:5000])
        before = resident(shield.process), stats(shield)["queries"]
        flood(shield, same(1)[0], sources)
        after = resident(shield.process), stats(shield)["queries"]
        assert after[0] - before[0] < 1 << 20
        assert after[1] - before[1] > 30_000
        assert outcomes(send(shield, same(5), "127.30.0.1")) == {NOTHING: 5}
        assert stats(shield)["dynamic_blocks"] == 0
