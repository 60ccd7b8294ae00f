"""Everything that is counted, under one name each: for `funkenshield stats`, and for Prometheus.

It knows names and meanings. The numbers are kept by those who count; reading them stops nobody.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .. import __version__
from ..core._latency_histogram import LATENCY_BOUNDS
from ..upstream.health import STATES

Snapshot = dict[str, Any]
Counted = Mapping[tuple[str, ...], dict[str, Any]]  # by the values of labels


class Meaning(NamedTuple):
    """What a number says: its type in Prometheus' words, its help text, and labels that tell its parts apart."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()


MEANINGS = {
    "queries": Meaning("counter", "Queries received from clients, by transport.", ("transport",)),
    "responses": Meaning(
        "counter", "Responses sent to clients, by transport and by the RCODE in the header.", ("transport", "rcode")
    ),
    "cache_hits": Meaning("counter", "Queries answered from the cache, stale answers included."),
    "cache_misses": Meaning("counter", "Queries without a usable answer in the cache."),
    "stale_answers": Meaning("counter", "Cache hits answered with an expired entry (serve-stale)."),
    "prefetches": Meaning("counter", "Cache hits that triggered a refresh from an upstream."),
    "stale_on_refresh_failure": Meaning("counter", "Refreshes that failed, so that the cached entry was kept in use."),
    "uncached_queries": Meaning(
        "counter",
        "Queries forwarded without a cache lookup: UPDATE, NOTIFY, zone transfers, signed queries and the like.",
    ),
    "forward_not_allowed": Meaning(
        "counter",
        "Zone transfers, UPDATEs and NOTIFYs answered REFUSED because the client may not have them forwarded.",
    ),
    "coalesced_queries": Meaning(
        "counter", "Cache misses that waited for an outstanding query with the same question."
    ),
    "local_answers": Meaning("counter", "Cache misses answered without an upstream: CHAOS names and aggressive NSEC."),
    "minimal_any_answers": Meaning("counter", "ANY queries answered with a single HINFO record (RFC 8482)."),
    "malformed_queries": Meaning("counter", "Queries answered FORMERR."),
    "badcookie_responses": Meaning("counter", "Queries answered BADCOOKIE."),
    "oversized_queries": Meaning("counter", "Queries over UDP longer than 4096 bytes, answered with TC=1."),
    "dropped_short": Meaning("counter", "Datagrams dropped because they are shorter than a DNS header."),
    "dropped_responses": Meaning("counter", "Datagrams dropped because they are responses (QR=1)."),
    "dropped_queue_full": Meaning(
        "counter", "Cache misses dropped because the queue from a worker to the main thread was full."
    ),
    "dropped_duplicates": Meaning(
        "counter", "Queries dropped because the same client had already sent them and they were outstanding."
    ),
    "dropped_late_replies": Meaning(
        "counter", "Replies more than a second late, dropped because their client prefix had too many of them at once."
    ),
    "proxy_protocol_invalid": Meaning(
        "counter", "Datagrams and connections dropped for a missing or invalid PROXY protocol header."
    ),
    "outstanding_queries": Meaning("gauge", "Queries of clients that are waiting for an upstream."),
    "outstanding_limit_exceeded": Meaning(
        "counter", "Queries refused or dropped because the limit of outstanding queries was reached."
    ),
    "zone_limit_exceeded": Meaning(
        "counter",
        "Queries refused, dropped or answered stale because their zone's limit of outstanding queries was reached.",
    ),
    "fair_share_exceeded": Meaning(
        "counter",
        "Queries refused or dropped because their client prefix or zone had its share of outstanding queries.",
    ),
    "upstreams_saturated": Meaning(
        "counter",
        "Queries refused, dropped or answered stale because every upstream had its maximum of outstanding queries.",
    ),
    "resolution_failures": Meaning("counter", "Cache misses answered SERVFAIL because no upstream answered."),
    "no_upstream_available": Meaning("counter", "Resolution failures without any upstream that could be queried."),
    "retries": Meaning("counter", "Queries sent to an upstream again, hedged queries included."),
    "hedged_queries": Meaning(
        "counter", "Queries sent to a second upstream because the first took longer than its 95th percentile."
    ),
    "upstream_truncated": Meaning("counter", "Truncated upstream responses that were retried over TCP."),
    "spoof_suspected": Meaning(
        "counter", "Upstream responses over UDP that were verified over TCP on suspicion of spoofing."
    ),
    "replies_truncated": Meaning("counter", "Cache hits truncated to the client's UDP payload size (TC=1)."),
    "reply_send_errors": Meaning("counter", "Replies lost because the kernel did not accept them."),
    "rule_replies": Meaning("counter", "Queries that a rule answered or dropped without Python."),
    "rule_python_calls": Meaning("counter", "Queries and responses that a rule passed to Python."),
    "rule_python_rejected": Meaning("counter", "Queries refused because too many were waiting for rules in Python."),
    "acl_denied": Meaning("counter", "Queries denied by the access list."),
    "blocked": Meaning("counter", "Queries from prefixes with a dynamic block."),
    "rate_limited": Meaning("counter", "Queries over a rate limit of their source prefix."),
    "rrl_dropped": Meaning("counter", "Responses dropped by response rate limiting."),
    "rrl_slipped": Meaning("counter", "Responses sent with TC=1 by response rate limiting."),
    "dynamic_blocks": Meaning("gauge", "Dynamic blocks in force, those added by hand included."),
    "dynamic_blocks_added": Meaning("counter", "Dynamic blocks added because a source prefix exceeded a rate."),
    "cache_entries": Meaning("gauge", "Entries in the cache."),
    "cache_bytes": Meaning("gauge", "Memory in use for cache entries and the NSEC cache."),
    "cache_limit_bytes": Meaning("gauge", "Memory limit of cache entries and the NSEC cache."),
    "cache_inserts": Meaning("counter", "Entries inserted into the cache."),
    "cache_insert_failures": Meaning(
        "counter", "Answers not inserted because all reusable memory was still being read by workers."
    ),
    "cache_evictions": Meaning("counter", "Entries evicted to make room for others."),
    "cache_expirations": Meaning("counter", "Entries removed after they expired."),
    "cache_purges": Meaning("counter", "Purges by operators and by changed zones."),
    "cache_purged_entries": Meaning("counter", "Entries removed after a purge."),
    "nsec_cache_entries": Meaning(
        "gauge", "Ranges of names that are known not to exist (aggressive NSEC, NXDOMAIN cut)."
    ),
    "nsec_cache_bytes": Meaning("gauge", "Memory in use for the NSEC cache."),
    "nsec_cache_limit_bytes": Meaning("gauge", "Memory limit of the NSEC cache; 0 if no zone uses it."),
    "ecs_prefix_lengths": Meaning(
        "gauge", "EDNS Client Subnet prefix lengths that cache lookups try, of both families."
    ),
    "memory_limit_bytes": Meaning(
        "gauge", "Memory limit of all that clients can fill: cache, outstanding queries, TCP buffers and rate limits."
    ),
    "tcp_connections": Meaning("gauge", "Open TCP connections of clients."),
    "tcp_accepted": Meaning("counter", "TCP connections accepted."),
    "tcp_refused": Meaning("counter", "TCP connections refused because a limit was reached."),
    "tcp_refused_per_client": Meaning(
        "counter", "TCP connections refused because the client had `tcp.max_connections_per_client`."
    ),
    "tcp_refused_per_prefix": Meaning("counter", "TCP connections refused because the client prefix had its share."),
    "tcp_evicted_idle": Meaning("counter", "Idle TCP connections closed to make room for new ones."),
    "tcp_evicted_waiting": Meaning(
        "counter", "TCP connections with outstanding queries closed to make room for new ones, none being idle."
    ),
    "tcp_evicted_memory": Meaning("counter", "TCP connections closed because their buffers exceeded `tcp.memory`."),
    "tcp_buffered_bytes": Meaning("gauge", "Memory in use for the buffers of TCP connections."),
    "tcp_idle_timeouts": Meaning("counter", "TCP connections closed after the idle timeout."),
    "tcp_protocol_errors": Meaning("counter", "TCP connections closed for a message that is not a query."),
    "reloads": Meaning("counter", "Successful reloads of the configuration."),
    "start_time_seconds": Meaning("gauge", "Unix time at which the daemon started."),
}
UPSTREAM_MEANINGS = {
    "queries": Meaning("counter", "Queries sent to the upstream."),
    "responses": Meaning("counter", "Responses that matched an outstanding query, by RCODE.", ("rcode",)),
    "outstanding_queries": Meaning("gauge", "Queries that wait for a response."),
    "timeouts": Meaning("counter", "Queries without a response in time."),
    "failures": Meaning("counter", "Failed queries, by reason; SERVFAIL and REFUSED responses included.", ("reason",)),
    "client_visible_failures": Meaning(
        "counter", "Failed queries that clients got SERVFAIL or REFUSED for, by reason.", ("reason",)
    ),
    "network_errors": Meaning("counter", "Network errors while sending or receiving."),
    "tcp_fallback_failures": Meaning("counter", "Failed queries over TCP to an upstream whose transport is UDP."),
    "unexpected_replies": Meaning(
        "counter", "Datagrams that match no outstanding query: late, unsolicited or spoofed."
    ),
    "unsolicited_replies": Meaning(
        "counter", "Unexpected replies that match no recent query either: possibly spoofed."
    ),
    "spoof_detections": Meaning("counter", "Times that unsolicited replies exceeded the threshold for spoofing."),
    "spoof_tcp_fallback": Meaning(
        "gauge", "1 while responses over UDP are verified over TCP on suspicion of spoofing."
    ),
    "hedged_queries": Meaning("counter", "Queries also sent to another upstream because this one was slow."),
    "latency_seconds": Meaning("histogram", "Time from query to response."),
    "up": Meaning("gauge", "1 while the upstream is in service."),
    "state": Meaning("gauge", "1 for the current health state, 0 for each other state.", ("state",)),
}
RULE_MEANINGS = {
    "matches": Meaning("counter", "Queries and responses that matched, since the rules were loaded."),
    "handler_calls": Meaning("counter", "Calls of the rule's handler in Python."),
    "handler_errors": Meaning("counter", "Calls that failed or timed out."),
    "handler_seconds": Meaning("counter", "Total time taken by calls."),
}
BUILD = Meaning("info", "Version of FunkenShield.", ("version",))
LATENCY = Meaning("histogram", "Time from a cache miss to its response.")
UPSTREAM_LABELS = ("upstream", "address")


def documentation() -> str:
    """Return the page of all metrics, in Markdown."""
    overall = MEANINGS | {"cache_miss_latency_seconds": LATENCY, "build_info": BUILD}
    lines = [
        "# Metrics",
        "",
        "`funkenshield stats` shows them; with `metrics.listen` set, Prometheus reads them from `/metrics`, each",
        "with `funkenshield_` before its name (and `_total` behind a counter's).",
        "",
        *_table("", overall, ()),
        "",
        "Prometheus also gets the `process_*` metrics that are usual everywhere. On the same port, `/healthz` says 200",
        "while the shield serves, and else 503: whether it has to be started again. How upstreams do is not asked:",
        "what is stored serves without them.",
        "",
        f"The buckets of histograms end at {', '.join(f'{bound:g}' for bound in LATENCY_BOUNDS)}",
        "seconds, in every shield, so that quantiles over several of them can be computed:",
        "`histogram_quantile(0.99, sum by (le, upstream) (rate(funkenshield_upstream_latency_seconds_bucket[5m])))`.",
        "`funkenshield stats` shows quantiles of the last ten to twenty seconds.",
        "",
        "For each upstream (the label `upstream` is its name, or how it is asked where it has none: `192.0.2.1:53`",
        "over UDP, `tcp://192.0.2.1:53`, `tls://192.0.2.1:853#ns.example.com`):",
        "",
        *_table("upstream_", UPSTREAM_MEANINGS, UPSTREAM_LABELS),
        "",
        "For each rule:",
        "",
        *_table("rule_", RULE_MEANINGS, ("rule",)),
    ]
    return "\n".join([*lines, ""])


def _table(prefix: str, meanings: Mapping[str, Meaning], labels: tuple[str, ...]) -> list[str]:
    """Return a table of what is counted, line by line."""
    lines = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for name, meaning in meanings.items():
        told = ", ".join(f"`{label}`" for label in labels + meaning.labels)
        lines.append(f"| `{prefix}{name}` | {meaning.kind} | {told} | {meaning.text} |")
    return lines


class _Exporter(Collector):
    """Turns a snapshot into Prometheus' families."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        found = self._snapshot()
        upstreams: Counted = {(each["name"], each["address"]): each for each in found["upstreams"].values()}
        rules: Counted = {(name,): each for name, each in found["rules"].items()}
        yield InfoMetricFamily("funkenshield_build", BUILD.text, {"version": __version__})
        yield from _families("", MEANINGS, (), {(): found})
        yield _histogram("cache_miss_latency_seconds", LATENCY, (), {(): found["cache_miss_latency_histogram"]})
        yield from _families("upstream_", UPSTREAM_MEANINGS, UPSTREAM_LABELS, upstreams)
        yield from _families("rule_", RULE_MEANINGS, ("rule",), rules)

    def describe(self) -> Iterable[Metric]:
        return []


def _families(
    prefix: str,
    meanings: Mapping[str, Meaning],
    labels: tuple[str, ...],
    counted: Counted,
) -> Iterator[Metric]:
    """Yield what is counted for each of a kind of things."""
    for name, meaning in meanings.items():
        if meaning.kind == "histogram":
            histograms = {each: counters["latency_histogram"] for each, counters in counted.items()}
            yield _histogram(f"{prefix}{name}", meaning, labels, histograms)
            continue
        kind = CounterMetricFamily if meaning.kind == "counter" else GaugeMetricFamily
        family = kind(f"funkenshield_{prefix}{name}", meaning.text, labels=(*labels, *meaning.labels))
        for each, counters in counted.items():
            for values, number in _parts(name, meaning, counters):
                family.add_metric((*each, *values), number)
        yield family


def _parts(name: str, meaning: Meaning, counters: dict[str, Any]) -> Iterable[tuple[tuple[str, ...], float]]:
    """Return pairs of the values of a number's own labels, and the number."""
    match meaning.labels:
        case ("transport",):
            return [((transport,), count) for transport, count in counters["queries_by_transport"].items()]
        case ("transport", "rcode"):
            return [
                ((transport, rcode), count)
                for transport, counts in counters[name].items()
                for rcode, count in counts.items()
            ]
        case ("rcode",):
            return [((rcode,), count) for rcode, count in counters["rcodes"].items()]
        case ("reason",):
            return [((reason,), count) for reason, count in counters[name].items()]
        case ("state",):
            return [((state,), float(state == counters["state"])) for state in STATES]
    return [((), counters[name])]


def _histogram(name: str, meaning: Meaning, labels: tuple[str, ...], counted: Counted) -> HistogramMetricFamily:
    """Return a histogram of latencies for each of a kind of things."""
    family = HistogramMetricFamily(f"funkenshield_{name}", meaning.text, labels=labels)
    bounds = [*map(floatToGoString, LATENCY_BOUNDS), "+Inf"]
    for each, histogram in counted.items():
        family.add_metric(each, list(zip(bounds, accumulate(histogram["counts"]), strict=True)), histogram["sum"])
    return family


def render(snapshot: Callable[[], Snapshot], accept: str) -> Callable[[], tuple[str, bytes]]:
    """Take a snapshot now; return what makes a page of it, wherever it is called: its content type, and itself."""
    found = snapshot()

    def page() -> tuple[str, bytes]:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Exporter(lambda: found))
        ProcessCollector(registry=registry)
        encode, kind = choose_encoder(accept)
        return kind, encode(registry)

    return page
