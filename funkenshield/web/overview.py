"""What the page shows, from two readings of all counters: rates, shares and latencies between them.

It knows numbers and their names. When readings are made, and who is shown them, is for `monitor`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..config import DEFAULT_GROUP, Config
from ..core._latency_histogram import LATENCY_BOUNDS

Counted = Mapping[str, Any]
Table = list[dict[str, Any]]

LISTED = 100  # rows of a table that are shown, at most
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
LIMITED = ("acl_denied", "blocked", "rate_limited", "rrl_dropped", "rrl_slipped")
OVERLOAD = (
    "outstanding_limit_exceeded", "zone_limit_exceeded", "fair_share_exceeded", "upstreams_saturated",
    "dropped_queue_full", "dropped_late_replies", "rule_python_rejected",
)  # fmt: skip
OUTCOMES = {  # what became of queries: what is counted for each, and what of that counts for another one
    "hits": (("cache_hits",), ("stale_answers",)),
    "stale": (("stale_answers",), ()),
    "forwarded": (("cache_misses", "uncached_queries"), ("coalesced_queries", "local_answers")),
    "coalesced": (("coalesced_queries",), ()),
    "local": (("local_answers", "minimal_any_answers"), ()),
    "rules": (("rule_replies",), ()),
    "limited": (LIMITED, ()),
    "overload": (OVERLOAD, ()),
    "malformed": (("malformed_queries", "dropped_short", "dropped_responses", "badcookie_responses"), ()),
    "failed": (("resolution_failures",), ()),
}
MORE = ("queries", "prefetches", "retries", "hedged_queries", "cache_inserts", "cache_evictions", "cache_expirations")
GAUGES = (
    "cache_entries", "cache_bytes", "cache_limit_bytes", "outstanding_queries", "tcp_connections", "tls_connections",
    "dynamic_blocks", "uptime_seconds", "start_time_seconds", "reloads",
)  # fmt: skip
SAMPLE = (  # what is kept of the last hour
    "time", "hits", "stale", "forwarded", "coalesced", "local", "rules", "limited", "overload", "failed", "servfail",
    "timeouts", "p50", "p95", "p99", "entries", "bytes", "outstanding", "connections",
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """All counters, as they were at a moment."""

    at: float  # seconds, of a clock that is never set
    time: float  # Unix time
    counted: Counted

    def sum_of(self, names: Sequence[str]) -> int:
        """Return how often any of these was counted."""
        return sum(self.counted[name] for name in names)

    def outcome(self, name: str) -> int:
        """Return how many queries that became of."""
        counted, others = OUTCOMES[name]
        return self.sum_of(counted) - self.sum_of(others)

    def rcodes(self) -> dict[str, int]:
        """Return how many responses there were, by RCODE."""
        sums: dict[str, int] = {}
        for by_rcode in self.counted["responses"].values():
            for rcode, count in by_rcode.items():
                sums[rcode] = sums.get(rcode, 0) + count
        return sums

    def timeouts(self) -> int:
        """Return how often an upstream did not answer in time."""
        return sum(each["timeouts"] for each in self.counted["upstreams"].values())


def overview(before: Reading, now: Reading) -> dict[str, Any]:
    """Return what the page shows of the time between two readings: rates are per second, latencies in seconds."""
    seconds = max(now.at - before.at, 0.001)
    counted, earlier = now.counted, before.counted

    def rates(after: Mapping[str, int], past: Mapping[str, int]) -> dict[str, float]:
        return {name: _rate(count - past.get(name, 0), seconds) for name, count in after.items()}

    return {
        "time": round(now.time, 3),
        "seconds": round(seconds, 3),
        "rates": {name: _rate(counted[name] - earlier[name], seconds) for name in MORE},
        "outcomes": {name: _rate(now.outcome(name) - before.outcome(name), seconds) for name in OUTCOMES},
        "transports": rates(counted["queries_by_transport"], earlier["queries_by_transport"]),
        "listeners": rates(counted["listener_messages"], earlier["listener_messages"]),
        "rcodes": rates(now.rcodes(), before.rcodes()),
        "timeouts": _rate(now.timeouts() - before.timeouts(), seconds),
        "latency": _quantiles(counted["cache_miss_latency_histogram"], earlier["cache_miss_latency_histogram"]),
        "gauges": {name: counted[name] for name in GAUGES},
        "totals": {name: counted[name] for name in ("queries", "cache_hits", "cache_misses", "resolution_failures")},
        "upstreams": _upstreams(counted["upstreams"], earlier["upstreams"], seconds),
        "rules": _rules(counted["rules"], earlier["rules"], seconds),
    }


def sample(shown: Counted) -> tuple[float | None, ...]:
    """Return what is kept of an overview, in the order of SAMPLE."""
    gauges = shown["gauges"]
    found = {
        **shown["outcomes"], **shown["latency"],
        "time": round(shown["time"]), "servfail": shown["rcodes"].get("SERVFAIL", 0), "timeouts": shown["timeouts"],
        "entries": gauges["cache_entries"], "bytes": gauges["cache_bytes"],
        "outstanding": gauges["outstanding_queries"], "connections": gauges["tcp_connections"],
    }  # fmt: skip
    return tuple(found[name] for name in SAMPLE)


def _rate(count: int, seconds: float) -> float:
    """Return a rate per second; never below 0, for what counts and what is left out are not read at the same time."""
    return round(max(count, 0) / seconds, 2)


def _quantiles(histogram: Counted, earlier: Counted) -> dict[str, float | None]:
    """Return quantiles in seconds of what came between, interpolated within a bucket; None where nothing came."""
    counts = [max(now - before, 0) for now, before in zip(histogram["counts"], earlier["counts"], strict=True)]
    sums = [0, *accumulate(counts)]
    bounds = (0.0, *LATENCY_BOUNDS, LATENCY_BOUNDS[-1])

    def quantile(share: float) -> float | None:
        wanted = share * sums[-1]
        bucket = next((k for k, count in enumerate(counts) if count and sums[k + 1] >= wanted), None)
        if bucket is None:
            return None
        low, high = bounds[bucket], bounds[bucket + 1]
        return float(f"{low + (high - low) * (wanted - sums[bucket]) / counts[bucket]:.3g}")

    return {name: quantile(share) for name, share in QUANTILES.items()}


def _upstreams(counted: Counted, earlier: Counted, seconds: float) -> Table:
    """Return a row for each upstream: those out of service first, then the busiest."""
    rows = [
        {
            "name": each["name"], "address": each["address"], "state": each["state"], "why": each.get("why", ""),
            "up": bool(each["up"]),
            "outstanding": each["outstanding_queries"], "latency": each["latency"],
            "suspected": bool(each["tcp_verification_active"]),
            **{
                name: _rate(each[name] - earlier.get(key, each)[name], seconds)
                for name in ("queries", "timeouts", "network_errors")
            },
            "failures": _rate(_failures(each) - _failures(earlier.get(key, each)), seconds),
        }
        for key, each in counted.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row["up"], -row["queries"]))[:LISTED]


def _failures(counted: Counted) -> int:
    return sum(counted["failures"].values())


def _rules(counted: Counted, earlier: Counted, seconds: float) -> Table:
    """Return a row for each rule, in the order in which they are asked; of many, those that match most."""
    rows = [
        {
            "name": name, "matches": each["matches"],
            "rate": _rate(each["matches"] - earlier.get(name, each)["matches"], seconds),
            "errors": each["handler_errors"],
        }
        for name, each in counted.items()
    ]  # fmt: skip
    if len(rows) <= LISTED:
        return rows
    return sorted(rows, key=lambda row: -row["matches"])[:LISTED]


def zones(config: Config, serials: Mapping[str, int]) -> Table:
    """Return a row for each zone that has settings of its own; `serials` are by zone and upstream."""
    rows = []
    for zone in config.zones[:LISTED]:
        known = {serial for watched, serial in serials.items() if watched.startswith(f"{zone.name} ")}
        upstreams = ", ".join(map(str, zone.upstreams or ())) or zone.group or DEFAULT_GROUP
        rows.append(
            {
                "name": zone.name.rstrip(".") or ".",
                "upstreams": upstreams,
                "watched": zone.watch_interval if zone.watch else None,
            }
            | {"serials": sorted(known)}
        )
    return rows
