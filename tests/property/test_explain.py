"""What `explain` says of a question, and what then becomes of it: the same, under random rules, zones, guards, entries.

A daemon's parts, without its event loop's tasks: a worker's thread that gets datagrams, or the control thread for what
comes over a stream, and upstreams that only listen. What became of a question is told by what was counted, by what
arrived at upstreams, and by the reply.
"""

import asyncio
import contextlib
import random
import select
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address

import dns.message
import dns.rcode
import dns.rrset
import pytest
from support.client import free_port

from funkenshield.admin.explain import Asked, explain
from funkenshield.cache._listing import entries
from funkenshield.config import Config
from funkenshield.daemon import Daemon

WORLDS, QUESTIONS = 25, 40
SOURCES = ["127.0.0.1", "127.1.2.3", "127.1.2.4", "127.1.9.9", "127.2.0.1"]
PREFIXES = ["127.0.0.0/8", "127.1.0.0/16", "127.1.2.0/24", "127.2.0.0/16", "127.1.2.3/32", "0.0.0.0/0"]
NAMES = ["a.test", "b.a.test", "www.b.a.test", "c.test", "www1.c.test", "d.example", "example", "x.y.example"]
SUFFIXES = ["test", "a.test", "b.a.test", "c.test", "example", "y.example", "."]
TYPES = ["A", "AAAA", "TXT", "MX", "ANY"]
SLOW = {"limit": 0.002, "window": 1500}  # three at once, and no other while this runs
FIRST = {  # what ends before the cache, by what is counted
    "acl_denied": "denied", "blocked": "blocked", "rate_limited": "limited", "malformed_queries": "malformed",
    "badcookie_responses": "badcookie", "forward_denied": "refused", "minimal_any_answers": "local",
    "rule_replies": "rule", "stale_answers": "stale", "prefetches": "prefetch", "cache_hits": "hit",
    "stale_on_refresh_failure": "stale",
}  # fmt: skip
LAST = {"no_upstream_available": "failed", "coalesced_queries": "coalesced", "local_answers": "local"}
REFUSED = 5
NO_QUERY = bytes([0, 0, 0x80, 0, *bytes(8)])  # but a response, which is dropped
REJECTED = ("zone_limit_exceeded", "outstanding_limit_exceeded", "upstreams_saturated", "fair_share_exceeded")


def some(draw, values, most=2):
    return draw.sample(values, draw.randint(1, most))


def conditions(draw, depth=0):
    """Draw a table of conditions."""
    kinds = {
        "suffix": lambda: some(draw, SUFFIXES),
        "name": lambda: some(draw, NAMES),
        "qtype": lambda: some(draw, TYPES),
        "source": lambda: some(draw, PREFIXES),
        "transport": lambda: draw.choice(["udp", "tcp"]),
        "regex": lambda: draw.choice(["^www", r"[0-9]\.", "a.test$"]),
        "do": lambda: draw.random() < 0.5,
        "edns": lambda: draw.random() < 0.5,
        "flags": lambda: some(draw, ["RD", "CD"]),
        "tag": lambda: some(draw, ["x", "y"]),
        "rate": lambda: SLOW | {"per": draw.choice(["source", "zone", "name", "all"])},
        "source_ratio": draw.random,
    }
    if depth < 2:
        kinds["not"] = lambda: conditions(draw, depth + 1)
        kinds["any"] = kinds["all"] = lambda: [conditions(draw, depth + 1) for _ in range(draw.randint(1, 2))]
    return {kind: kinds[kind]() for kind in draw.sample(sorted(kinds), draw.randint(1, 2))}


def rule(draw, number):
    chain = draw.choice(["queries", "queries", "cache-hits"])
    actions = ["allow", "refused", "nxdomain", "nodata", "servfail", "drop", "truncate", "continue", {"tag": "x"}]
    if chain == "queries":
        actions += [
            {"log": "{source} asks {qname}"},
            {"tag": "y"},
            "skip_cache",
            {"ttl": {"max": 60}},
            {"forward": "b"},
            {"answer": ["A 192.0.2.7"]},
        ]
    action = draw.choice(actions)
    match = conditions(draw)
    if chain == "cache-hits" and draw.random() < 0.3:
        match["rcode"] = draw.choice(["NOERROR", "NXDOMAIN"])
    return {"name": f"rule {number}", "chain": chain, "match": match, "action": action}


def zone(draw, name):
    made = {"name": name, "stale": {"mode": draw.choice(["off", "on-failure", "immediate"])}}
    if draw.random() < 0.4:
        made["group"] = "b"
    if draw.random() < 0.3:
        made["max_outstanding"] = draw.randint(1, 3)
    return made


@dataclass
class World:
    """A daemon that is built, and followed by new configurations."""

    draw: random.Random
    upstreams: list
    port: int
    clients: dict
    daemon: Daemon = None
    replies: list = field(default_factory=list)
    ids: int = 0

    def config(self):
        """Draw a configuration."""
        draw = self.draw
        guard = {}
        if draw.random() < 0.3:
            guard["access"] = {"deny": some(draw, PREFIXES[1:5]), "action": draw.choice(["drop", "refuse"])}
        if draw.random() < 0.3:
            guard["rate_limits"] = [
                {"queries_per_second": 0.01, "window": 1000, "action": draw.choice(["drop", "refuse", "truncate"])}
            ]
        tables = [
            {
                "address": f"127.0.0.1:{each.getsockname()[1]}", "name": f"upstream {number}",
                "groups": ["default"] if number < 3 else ["b"], "order": draw.randint(1, 2),
                "state": draw.choice(["auto", "auto", "up", "up", "down"]),
            }
            for number, each in enumerate(self.upstreams)
        ]  # fmt: skip
        policies = ["order", "round-robin", "hash", "least-outstanding", "random"]
        modes = ["off", "on-failure", "immediate"]
        return Config.model_validate({
            "listen": [f"127.0.0.1:{self.port}"], "workers": 1, "control": {"socket": ""}, "upstreams": tables,
            "forward": {"policy": draw.choice(policies), "timeout": 20, "deadline": 25, "retry_after": 20},
            "health": {"check": "off"}, "minimal_any": draw.random() < 0.5, "guard": guard,
            "stale": {"mode": draw.choice(modes)}, "log": {"level": "error"},
            "zones": [zone(draw, name) for name in draw.sample(["test", "a.test", "example"], draw.randint(0, 2))],
            "rules": [rule(draw, number) for number in range(draw.randint(0, 8))],
            "client_subnet": {"add": draw.random() < 0.2, "private": True},
            "cookies": {"mode": draw.choice(["off", "off", "serve"])},
        })  # fmt: skip

    def begin(self):
        """Follow another configuration, with other entries, all but at their boundaries."""
        draw, daemon = self.draw, self.daemon
        daemon.clock.advance(200_000)  # whatever waited is given up, whatever was stored is dead
        daemon.miss_path.tick()
        daemon.forwarder.ready()
        daemon.blocks.update()
        daemon.configure(self.config())
        for prefix in draw.sample(SOURCES, draw.random() < 0.3):
            daemon.blocks.add(prefix, 3600, draw.choice(["drop", "refuse", "truncate"]))
        left = 400
        for age in sorted((draw.choice([0, 280, 310, 350, 400]) for _ in range(50)), reverse=True):
            daemon.clock.advance(left - age)
            left = age
            self.store()
        daemon.clock.advance(left + 0.5)  # half a second from where any of them becomes another
        for each in daemon.upstreams.all:
            daemon.upstreams.steer(each.member.title, "")
        for each in draw.sample(daemon.upstreams.all, draw.randint(0, 1)):
            daemon.upstreams.steer(each.member.title, draw.choice(["down", "draining"]))
        for name in [each["name"] for each in daemon.rules.listed()]:
            daemon.rules.enable(name, enabled=draw.random() < 0.9)

    def store(self):
        """Store the response to a question, and use it now and then."""
        query = dns.message.from_wire(self.question().wire())
        response = dns.message.make_response(query)
        asked = query.question[0]
        if self.draw.random() < 0.2:
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", "a. b. 1 2 3 4 300"))
        elif data := {"A": "192.0.2.1", "AAAA": "2001:db8::1", "TXT": "x", "MX": "1 a."}.get(asked.rdtype.name):
            response.answer.append(dns.rrset.from_text(asked.name, 300, "IN", asked.rdtype, data))
        with contextlib.suppress(ValueError):  # none that a cache may answer
            self.daemon.cache.store(query.to_wire(), response.to_wire())
            for _ in range(self.draw.choice([0, 0, 3])):
                self.daemon.cache.lookup(query.to_wire())

    def question(self):
        draw = self.draw
        flags = [flag for flag, often in (("RD", 0.95), ("AD", 0.95), ("CD", 0.05)) if draw.random() < often]
        return Asked(
            draw.choice(NAMES), draw.choice(TYPES), draw.choice(SOURCES), draw.choice(["udp", "udp", "tcp"]),
            flags=flags, edns=draw.random() < 0.9, do=draw.random() < 0.1,
        )  # fmt: skip

    # ---------------------------------------------------------------- explained, and asked

    def explained(self, asked):
        """Return what is said of a question, after asserting that saying it changes nothing."""
        daemon, before = self.daemon, self.state()
        said = explain(daemon.miss_path, daemon.rules, daemon.upstreams, daemon.listeners.open, asked)
        assert self.state() == before
        return said

    def state(self):
        """Return all that is counted, and all marks of entries, but for what passes by itself."""
        counted = self.daemon.snapshot() if self.ids % 10 == 0 else self.counted()
        counted = {name: value for name, value in counted.items() if name != "uptime_seconds"}
        passing = {"age", "ttl", "served_for", "refresh_due"}
        kept = [
            {key: value for key, value in each.items() if key not in passing}
            for each in entries(self.daemon.cache, 0, 0, b"\0", below=True)[0]
        ]
        return counted, kept

    def counted(self):
        """Return what the fast path and the miss path have counted, and the rules."""
        found = Counter()
        for counters in (self.daemon.udp.workers[0].counters(), self.daemon.miss_path.counters()):
            found.update({name: value for name, value in counters.items() if isinstance(value, int)})
        for name, each in self.daemon.rules.counters().items():
            found[name] = each["matches"]
            found[f"called {name}"] = each["handler_calls"]
        found.update({each.member.title: each.counters()["queries"] for each in self.daemon.upstreams.all})
        return found

    def ask(self, asked):
        """Ask a question; return what was counted for it, and the reply (None: there is none)."""
        before = self.counted()
        self.ids = (self.ids + 1) % 65536
        wire = self.ids.to_bytes(2) + asked.wire()[2:]
        if asked.transport == "udp":
            reply = self._ask_over_udp(self.clients[asked.source], wire)
        else:
            self.replies.clear()
            self.daemon.miss_path.submit(self.ids + 1, ip_address(asked.source).packed, wire)
            self.daemon.forwarder.ready()
            reply = next((reply for _, reply in self.replies if reply), None)
        return self.counted() - before, reply

    def _ask_over_udp(self, client, wire):
        self._count_one_more("queries", client, wire)
        self._count_one_more("dropped_responses", client, NO_QUERY)  # in a batch behind that: it was done with
        self.daemon.forwarder.ready()
        while select.select([client], [], [], 0.002)[0]:
            reply = client.recv(65535)
            if reply[:2] == wire[:2]:  # or else one who waited in another world was given up
                return reply
        return None

    def _count_one_more(self, counter, client, wire):
        """Send a datagram, and wait until the worker has counted it."""
        worker = self.daemon.udp.workers[0]
        before, end = worker.counters()[counter], time.monotonic() + 10
        client.send(wire)
        while worker.counters()[counter] == before:
            assert time.monotonic() < end


def outcome_of(counted, reply, upstreams):
    """Tell from what was counted what has become of a question."""
    for name, outcome in FIRST.items():
        if counted[name]:
            return outcome
    if any(counted[name] for name in REJECTED):
        return "stale" if reply is not None and reply[3] & 15 != REFUSED else "rejected"
    for name, outcome in LAST.items():
        if counted[name]:
            return outcome
    if any(counted[name] for name in upstreams):
        return "forwarded"
    return "rule" if any(name.startswith("called ") for name in +counted) else "nothing"


def same(said, asked, counted, reply, upstreams):
    """Assert that what was said of a question is what has become of it."""
    assert said["outcome"] == outcome_of(counted, reply, upstreams)
    matched = {each["rule"] for step in said["steps"] for each in step.get("rules", []) if each["verdict"] == "matched"}
    assert matched == {name for name in +counted if name.startswith("rule ")}
    assert not said.get("rule") or said["rule"] in matched
    sent = {name for name in upstreams if counted[name]}
    if said["outcome"] == "forwarded":
        assert sent <= set(said["candidates"])
        assert len(sent) == 1
        assert len(said["candidates"]) > 1 or said["upstream"] in sent
    elif said["outcome"] not in ("prefetch", "stale"):
        assert not sent
    if "rcode" in said:
        assert reply is not None
        assert dns.rcode.to_text(dns.rcode.Rcode(reply[3] & 15)) == said["rcode"]
        assert bool(reply[2] & 2) == said.get("truncated", False)
    elif said["outcome"] in ("denied", "blocked", "limited"):
        assert reply is None


@contextlib.contextmanager
def world(seed):
    """Yield a world whose worker runs."""
    with contextlib.ExitStack() as stack:

        def opened(host):
            return stack.enter_context(bound(host))

        draw, port = random.Random(seed), free_port()
        made = World(draw, [opened("127.0.0.1") for _ in range(5)], port, {host: opened(host) for host in SOURCES})
        made.daemon = Daemon(made.config())
        stack.enter_context(made.daemon._bound)
        made.daemon.rules.executor.take_answer = lambda stream, reply: made.replies.append((stream, reply))
        for client in made.clients.values():
            client.connect(("127.0.0.1", port))
        worker = made.daemon.udp.workers[0]
        thread = threading.Thread(target=worker.run)
        thread.start()
        stack.callback(made.daemon.upstreams.close)
        stack.callback(thread.join)
        stack.callback(worker.stop)
        yield made


def bound(host):
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((host, 0))
    return opened


@pytest.mark.slow
def test_what_is_said_of_a_question_is_what_becomes_of_it():
    async def story():
        seen = Counter()
        with world(20110402) as made:
            for _ in range(WORLDS):
                made.begin()
                upstreams = [each.member.title for each in made.daemon.upstreams.all]
                for _ in range(QUESTIONS):
                    asked = made.question()
                    said = made.explained(asked)
                    counted, reply = made.ask(asked)
                    same(said, asked, counted, reply, upstreams)
                    seen[said["outcome"]] += 1
                for opened in made.upstreams:
                    while select.select([opened], [], [], 0)[0]:
                        opened.recv(65535)
        return seen

    seen = asyncio.run(story())
    assert sum(seen.values()) == WORLDS * QUESTIONS
    assert {"denied", "blocked", "limited", "rule", "hit", "stale", "forwarded", "coalesced", "rejected"} <= seen.keys()
