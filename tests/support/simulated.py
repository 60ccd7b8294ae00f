"""Know what a page shows: a shield that is simulated, with an hour behind it, and its page served."""

import asyncio
import contextlib
import math
import random
import socket
import threading
import time
from types import SimpleNamespace

from funkenshield.admin.metrics import METRICS, RULE_METRICS, UPSTREAM_METRICS
from funkenshield.config import Config
from funkenshield.core._latency_histogram import LATENCY_BOUNDS
from funkenshield.web.monitor import HOUR, INTERVAL
from funkenshield.web.site import Site


class Simulated:
    """Counters of a shield with a day's ups and downs, an outage and an attack."""

    def __init__(self, *, busy):
        zones = [{"name": name, "watch": True} for name in ("example.com", "example.net")]
        self.config = Config.model_validate({"web": {"page": True}, "zones": zones})
        self.blocks = SimpleNamespace(listed=self._listed)
        self.stats = SimpleNamespace(sinks=SimpleNamespace(top=self.top), failures=self.failures)
        self.upstreams, self.rules, self.log_level = SimpleNamespace(steered={}), SimpleNamespace(disabled=set()), None
        self.watchers = SimpleNamespace(serials={"example.com. 192.0.2.10:53": 2026113001})
        self._random, self._busy, self._seconds = random.Random(1), busy, 0.0
        self._upstreams = [("ams-1", "192.0.2.10:53"), ("fra-2", "tls://192.0.2.20:853"), ("lhr-1", "198.51.100.7:53")]
        self._counted = dict.fromkeys(METRICS, 0)
        self._counted |= {
            "cache_limit_bytes": 256 << 20,
            "start_time_seconds": time.time() - 400000,
            "uptime_seconds": 0,
        }
        self._transports = dict.fromkeys(("udp", "tcp", "tls", "https", "http"), 0)
        self._rcodes = dict.fromkeys(("NOERROR", "SERVFAIL", "NXDOMAIN", "REFUSED"), 0)
        self._latencies = [0] * (len(LATENCY_BOUNDS) + 1)
        self._of = {name: dict.fromkeys(UPSTREAM_METRICS, 0) for name, _ in self._upstreams}
        self._rules = {
            name: dict.fromkeys(RULE_METRICS, 0)
            for name in ("no-any", "ads and trackers", "internal only", "old-resolvers")
        }

    def go_on(self, seconds):
        """Let time pass."""
        self._seconds += seconds
        now, draw, counted = self._seconds, self._random.uniform, self._counted
        wave = 1 + 0.25 * math.sin(now / 700) + 0.1 * math.sin(now / 90) + draw(-0.05, 0.05)
        rate = (41_000 if self._busy else 0.0) * wave
        outage, attack = 1500 < now % 3600 < 1740, 2640 < now % 3600 < 2940
        misses = rate * (0.07 + 0.02 * math.sin(now / 400)) * seconds
        stale = misses * (0.7 if outage else 0.01)
        limited = rate * (0.55 if attack else 0.002) * seconds
        failed = misses * (0.04 if outage else 0.0002)
        hits = rate * seconds - misses
        parts = {
            "queries": rate * seconds + limited, "cache_hits": hits, "stale_answers": stale, "cache_misses": misses,
            "coalesced_queries": misses * 0.12, "rule_replies": rate * 0.012 * seconds, "rate_limited": limited,
            "resolution_failures": failed, "prefetches": hits * 0.001, "cache_inserts": misses * 0.9,
        }  # fmt: skip
        for name, more in parts.items():
            counted[name] += round(more)
        counted["cache_entries"] = min(612_000, counted["cache_inserts"] // 3)
        counted["cache_bytes"] = counted["cache_entries"] * 214 + 2_300_000
        counted |= {
            "outstanding_queries": round(misses / seconds * (0.3 if outage else 0.02)),
            "uptime_seconds": 400_000 + now,
        }
        counted |= {"tcp_connections": 812 if self._busy else 0, "dynamic_blocks": len(self._listed())}
        for name, share in {"udp": 0.86, "tcp": 0.03, "tls": 0.08, "https": 0.03, "http": 0}.items():
            self._transports[name] += round(parts["queries"] * share)
        for name, share in {"NOERROR": 0.88, "NXDOMAIN": 0.115, "REFUSED": 0.005}.items():
            self._rcodes[name] += round(rate * seconds * share)
        self._rcodes["SERVFAIL"] += round(failed)
        for bucket, share in enumerate((0.02, 0.1, 0.16, 0.2, 0.16, 0.12, 0.1, 0.07, 0.04, 0.02, 0.006, 0.002, 0.001)):
            slower = min(bucket + (3 if outage else 0), len(self._latencies) - 1)
            self._latencies[slower] += round(misses * share * draw(0.7, 1.3))
        for (name, _), share in zip(self._upstreams, (0.58, 0.42, 0.0), strict=True):
            self._of[name]["queries"] += round(misses * 0.9 * share)
            self._of[name]["timeouts"] += round(misses * (0.3 if outage else 0.0004) * share)
        for rule, share in zip(self._rules.values(), (0.002, 0.009, 0.0001, 0.0009), strict=True):
            rule["matches"] += round(rate * seconds * share)

    def snapshot(self):
        """Return all counters."""
        upstreams = {
            name: {
                **self._of[name], "name": name, "address": address, "failures": {"timeout": self._of[name]["timeouts"]},
                "state": "down" if name == "lhr-1" else "up", "up": name != "lhr-1", "tcp_verification_active": 0,
                "outstanding_queries": 24 if self._busy and name != "lhr-1" else 0,
                "latency": {"p50": 0.0042, "p95": 0.031} if name != "lhr-1" else {"p50": 0.0, "p95": 0.0},
            }
            for name, address in self._upstreams
        }  # fmt: skip
        return {
            **self._counted, "queries_by_transport": dict(self._transports), "responses": {"udp": dict(self._rcodes)},
            "listener_messages": {}, "upstreams": upstreams,
            "rules": {name: dict(each) for name, each in self._rules.items()},
            "cache_miss_latency_histogram": {"counts": list(self._latencies), "sum": 0.0},
        }  # fmt: skip

    def _listed(self):
        rows = [("198.51.100.0/24", 312.0, "more than 200 NXDOMAIN/s"), ("2001:db8:77::/56", 2710.0, "by hand")]
        return (
            [{"prefix": p, "seconds": s, "action": "drop", "reason": why} for p, s, why in rows] if self._busy else []
        )

    def top(self, most=20):
        """Return what is asked for most."""
        names = ["www.example.com", "api.example.com", "cdn.example.net", "mail.example.org", "_dns.resolver.arpa"]
        names += [f"{each}.example.{tld}" for tld in ("net", "org") for each in ("ns1", "login", "img", "mx1")]
        clients = ["192.0.2.17", "2001:db8:4::53", "198.51.100.200", "192.0.2.80"]
        clients += [f"192.0.2.{number}" for number in (5, 81, 96, 133)] + ["2001:db8:9::1", "203.0.113.8"]
        zones = ["example.com", "example.net", "example.org", "resolver.arpa"]
        shown = {"names": ("name", names), "clients": ("client", clients), "zones": ("zone", zones)}
        counts = [61_000 // (place + 2) for place in range(most)]
        return {"seconds": 5.0} | {
            subject: [{key: each, "queries": count, "error": 3} for each, count in zip(found, counts, strict=False)]
            for subject, (key, found) in shown.items()
            if self._busy
        }

    def status(self):
        """Return what a screen asks for."""
        counted = self.snapshot() | {"tls_certificate_expiry_timestamp_seconds": {}}
        reasons = {"down": "5 queries in a row timed out"}
        actions = {
            "no-any": ("qtype = ANY", "refused"), "ads and trackers": ("suffix = 2 lists", "nxdomain"),
            "internal only": ("suffix = internal.example.", "refused"),
            "old-resolvers": ("edns = false", "delay 0.1 s"),
        }  # fmt: skip
        return {
            "about": {"version": "1.0.0", "host": "ns1.example.net", "pid": 4711},
            "stats": counted,
            "upstreams": [
                {"name": each["name"], "state": each["state"], "why": reasons.get(each["state"], "")}
                for each in counted["upstreams"].values()
            ],
            "rules": [
                {"name": name, "match": match, "action": action, "enabled": True, "matches": 0}
                for name, (match, action) in actions.items()
            ],
            "steered": {"log level": None, "upstreams": {}, "rules disabled": []},
            "top": {"outcomes": {"hit": 205_000}, "names": [], "clients": [], "zones": []} | self.top(),
            "failures": self.failures(), "blocks": self._listed(), "log": self._log(),
        }  # fmt: skip

    def _log(self):
        at = time.time() - 300
        lines = [
            ("warning", "upstream lhr-1 (198.51.100.7:53) marked down: 5 queries in a row timed out"),
            ("warning", "198.51.100.0/24 blocked for 600 s: more than 200 NXDOMAIN/s"),
            ("info", "zone example.com: serial changed from 2026113000 to 2026113001"), ("info", "reloaded"),
            ("info", "ready: listening on 192.0.2.1:53, forwarding to ams-1, fra-2, lhr-1"),
        ]  # fmt: skip
        return [
            {"time": at - 400 * place**2, "level": level, "text": text}
            for place, (level, text) in enumerate(lines if self._busy else lines[-1:])
        ]

    def failures(self):
        """Return the last failures that clients felt."""
        at, text = time.time() - 400, "no answer in time"
        rows = [("api.example.com", "AAAA", "fra-2"), ("www.example.net", "HTTPS", "fra-2"), ("a.example.org", "A", "")]
        return [
            {"time": at - 7 * place, "times": 1, "name": name, "type": kind, "upstream": upstream, "text": text}
            for place, (name, kind, upstream) in enumerate(rows)
            if self._busy
        ]

    async def handle(self, request):
        """Steer nothing."""
        return {}


class Clock:
    """A time that passes as in the world, but for the hour before."""

    def __init__(self):
        self.back = HOUR

    def elapsed(self):
        return time.monotonic() - self.back

    def now(self):
        return time.time() - self.back


@contextlib.contextmanager
def page(shield):
    """Serve the page of a simulated shield that has worked for an hour; yield where it is."""
    clock, loop, ready, stop = Clock(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports = []

    async def main():
        site = Site(shield, shield.handle, {}, now=clock.now, elapsed=clock.elapsed)
        while clock.back > 0:
            site.monitor.update(shown=False)
            shield.go_on(INTERVAL)
            clock.back -= INTERVAL
        site.start()
        listening = socket.create_server(("127.0.0.1", 0))
        door = site.serve(listening)
        ports.append(listening.getsockname()[1])
        ready.set()
        while not stop.is_set():
            shield.go_on(0.5)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)
        site.close()
        door.close()
        await asyncio.sleep(0.05)  # for connections to end

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{ports[0]}/"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
