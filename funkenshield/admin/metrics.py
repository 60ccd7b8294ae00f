"""Everything that is counted, under one name each: for `funkenshield stats`, and for Prometheus.

It knows names and meanings. The numbers are kept by those who count; reading them stops nobody.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .. import __version__
from ..upstream.health import STATES

Snapshot = dict[str, Any]


class Meaning(NamedTuple):
    """What a number says."""

    kind: str
    text: str


MEANINGS = {
    "queries": Meaning("counter", "Queries that came, over UDP and TCP, whatever became of them."),
    "hits": Meaning("counter", "Queries answered from the cache."),
    "stale": Meaning("counter", "Of these, with an answer past its time."),
    "refreshes": Meaning("counter", "Of these, such that had the upstream asked again."),
    "misses": Meaning("counter", "Queries that the cache had no fresh answer to."),
    "passed_on": Meaning("counter", "Queries that are never cached: updates, notifies, transfers, signed ones, ..."),
    "not_allowed": Meaning("counter", "Transfers, updates and notifies of who may not ask for them: REFUSED."),
    "coalesced": Meaning("counter", "Misses that waited for the answer to another client's same question."),
    "answered_here": Meaning("counter", "Misses that needed no upstream: identity, and what is known not to exist."),
    "minimal": Meaning("counter", "Queries for ANY, answered with one HINFO record."),
    "malformed": Meaning("counter", "Queries answered FORMERR."),
    "bad_cookies": Meaning("counter", "Queries answered BADCOOKIE."),
    "dropped_short": Meaning("counter", "Datagrams without a whole header: dropped."),
    "dropped_responses": Meaning("counter", "Responses sent to a listener: dropped."),
    "bad_proxied": Meaning("counter", "Datagrams and connections of front proxies, without a right header: dropped."),
    "dropped_ring_full": Meaning("counter", "Misses dropped because the control gear could not take them."),
    "refused": Meaning("counter", "Queries over the bound of open queries: REFUSED, or dropped."),
    "crowded": Meaning("counter", "Queries over the bound of one zone: REFUSED, or dropped, or answered stale."),
    "over_share": Meaning(
        "counter", "Queries of a client prefix, or a zone, that held as much as was left free: REFUSED, or dropped."
    ),
    "repeated": Meaning("counter", "Queries that came again while their first datagram waited: dropped."),
    "late_dropped": Meaning("counter", "Answers a second late, too much at once for one client prefix: dropped."),
    "oversized": Meaning("counter", "Queries over 4,096 octets: sent to TCP."),
    "cut": Meaning("counter", "Hits that were cut to the client's size (TC=1)."),
    "replies_lost": Meaning("counter", "Answers that the kernel had no room for."),
    "failures": Meaning("counter", "Misses that no upstream answered: SERVFAIL."),
    "failures_for_nobody": Meaning("counter", "Of these, such that no upstream could be asked for."),
    "rescued": Meaning("counter", "Refreshes that failed, and left the answer that there was."),
    "busy": Meaning(
        "counter", "Queries whose upstreams all had as many open as they may: REFUSED, dropped, or answered stale."
    ),
    "hedged": Meaning("counter", "Queries sent to a second upstream because the first was slower than usual."),
    "suspected": Meaning("counter", "Responses over UDP that may be forged, and were asked for again over TCP."),
    "retried": Meaning("counter", "Queries sent to an upstream once more, hedged ones included."),
    "truncated": Meaning("counter", "Responses that came truncated and were asked for again over TCP."),
    "open": Meaning("gauge", "Clients that wait for an upstream."),
    "ruled": Meaning("counter", "Queries that a compiled rule answered, or dropped."),
    "decisions": Meaning("counter", "Times that a query or a response was left to Python by a rule."),
    "rules_crowded": Meaning("counter", "Queries refused because too many waited for rules in Python."),
    "denied": Meaning("counter", "Queries from addresses that may not ask."),
    "shut_out": Meaning("counter", "Queries from prefixes that are shut out."),
    "limited": Meaning("counter", "Queries over a limit of their source prefix."),
    "withheld": Meaning("counter", "Responses over a limit, not sent."),
    "slipped": Meaning("counter", "Responses over a limit, sent with TC=1."),
    "blocks": Meaning("gauge", "Prefixes that are shut out."),
    "blocks_raised": Meaning("counter", "Times that a prefix was shut out for its rate."),
    "entries": Meaning("gauge", "Answers in the cache."),
    "cache_octets": Meaning("gauge", "Octets of the cache's memory that were written, denials included."),
    "cache_memory": Meaning("gauge", "Octets that the cache may take, denials included."),
    "denials": Meaning("gauge", "Gaps between names, in which nothing is known to exist."),
    "denial_octets": Meaning("gauge", "Octets that they take."),
    "denial_memory": Meaning("gauge", "Octets that they may take; 0: no zone wants them."),
    "subnet_lengths": Meaning("gauge", "Prefix lengths of clients' subnets that look-ups try, of both families."),
    "memory_limit": Meaning(
        "gauge",
        "Octets that all that strangers can fill may take: the cache, queries that wait, TCP connections, limits.",
    ),
    "stored": Meaning("counter", "Answers that were stored."),
    "evicted": Meaning("counter", "Answers that made room for others."),
    "expired": Meaning("counter", "Answers that were swept out after their time."),
    "purges": Meaning("counter", "Purges, by operators and by changes at the origin."),
    "purged": Meaning("counter", "Answers that were swept out after a purge."),
    "no_room": Meaning("counter", "Answers not stored because readers still held all reusable memory."),
    "tcp_connections": Meaning("gauge", "Clients' TCP connections."),
    "tcp_accepted": Meaning("counter", "TCP connections that were taken."),
    "tcp_refused": Meaning("counter", "TCP connections over the bounds."),
    "tcp_refused_per_client": Meaning("counter", "Of these, such whose client had `tcp.max_connections_per_client`."),
    "tcp_refused_per_prefix": Meaning("counter", "Of these, such whose prefix had as many as were free."),
    "tcp_gave_way": Meaning("counter", "TCP connections, silent the longest, that were closed for another one."),
    "tcp_evicted_waiting": Meaning(
        "counter", "TCP connections, all of which waited for answers, closed for another one."
    ),
    "tcp_evicted_memory": Meaning("counter", "TCP connections closed for what waited in them, over `tcp.memory`."),
    "tcp_buffered_bytes": Meaning("gauge", "Octets that wait in TCP connections."),
    "tcp_timed_out": Meaning("counter", "TCP connections closed for idleness."),
    "tcp_broken": Meaning("counter", "TCP connections closed for a message that cannot be a query."),
    "reloads": Meaning("counter", "Times that the configuration was read again and taken."),
    "uptime": Meaning("gauge", "Seconds since the start."),
}
UPSTREAM_MEANINGS = {
    "open": Meaning("gauge", "Queries that wait for it."),
    "sent": Meaning("counter", "Queries sent to it."),
    "answered": Meaning("counter", "Responses that matched an open query."),
    "timeouts": Meaning("counter", "Queries that were not answered in time."),
    "mismatched": Meaning("counter", "Datagrams that matched no open query: late, foreign or forged."),
    "strays": Meaning("counter", "Of these, such as answer nothing that was asked lately: foreign or forged."),
    "suspicions": Meaning("counter", "Times that strays brought it under suspicion."),
    "suspicious": Meaning("gauge", "1 while what comes from it over UDP is asked for again over TCP."),
    "errors": Meaning("counter", "Errors of the network."),
    "fetches_failed": Meaning("counter", "Queries over TCP, to an upstream that is asked over UDP, in vain."),
    "hedged": Meaning("counter", "Queries for which another was asked too, because it was slower than usual."),
    "in_service": Meaning("gauge", "1 while it is asked."),
}
UPSTREAM_LABELLED = {
    "state": ("state", Meaning("gauge", "1 for the state that it is in, 0 for each other.")),
    "failed": ("reason", Meaning("counter", "Queries to it that failed, by reason; SERVFAIL and REFUSED are reasons.")),
    "felt": ("reason", Meaning("counter", "Of these, such that clients got SERVFAIL or REFUSED, by reason.")),
    "responses": ("rcode", Meaning("counter", "Responses by RCODE.")),
    "latency_seconds": (
        "quantile",
        Meaning("summary", "How long answers took; quantiles are of the last ten to twenty seconds."),
    ),
}
RULE_MEANINGS = {
    "matched": Meaning("counter", "Times that it matched, since the rules were read."),
    "calls": Meaning("counter", "Times that Python did something for it."),
    "errors": Meaning("counter", "Of these, such that failed, or took too long."),
    "seconds": Meaning("counter", "What they took, in all."),
}
TRANSPORT = Meaning("counter", "Of the queries that came, those by transport.")
RESPONSES = Meaning("counter", "Responses to clients, by transport and by the RCODE in their header.")
BUILD = "Which version this is."
LATENCY = "From a miss's arrival to its answer, in seconds."
LATENCY_BOUNDS = [2 ** (k + 1) * 1e-6 for k in range(23)]  # what the compiled part's buckets end at


def documentation() -> str:
    """Return the page of all metrics, in Markdown."""
    lines = [
        "# Metrics",
        "",
        "`funkenshield stats` shows them; with `metrics.listen` set, Prometheus reads them from `/metrics`, each",
        "with `funkenshield_` before its name (and `_total` behind a counter's).",
        "",
        "| name | kind | meaning |",
        "|---|---|---|",
        *(f"| `{name}` | {meaning.kind} | {meaning.text} |" for name, meaning in MEANINGS.items()),
        f"| `transport_queries`, with the label `transport` | {TRANSPORT.kind} | {TRANSPORT.text} |",
        f"| `responses`, with the labels `transport` and `rcode` | {RESPONSES.kind} | {RESPONSES.text} |",
        f"| `miss_latency_seconds` | histogram | {LATENCY} |",
        f"| `build_info`, with the label `version` | gauge | {BUILD} |",
        "",
        "Prometheus also gets the `process_*` metrics that are usual everywhere. On the same port, `/healthz` says 200",
        "while the shield serves, and else 503: whether it has to be started again. How upstreams do is not asked:",
        "what is stored serves without them.",
        "",
        "For each upstream, with the labels `upstream` (its name, or how it is asked where it has none: `192.0.2.1:53`",
        "over UDP, `tcp://192.0.2.1:53`, `tls://192.0.2.1:853#ns.example.com`) and `address`:",
        "",
        "| name | kind | meaning |",
        "|---|---|---|",
        *(f"| `upstream_{name}` | {meaning.kind} | {meaning.text} |" for name, meaning in UPSTREAM_MEANINGS.items()),
        "",
        "And with one label more:",
        "",
        "| name | label | kind | meaning |",
        "|---|---|---|---|",
        *(
            f"| `upstream_{name}` | `{label}` | {meaning.kind} | {meaning.text} |"
            for name, (label, meaning) in UPSTREAM_LABELLED.items()
        ),
        "",
        "For each rule, with the label `rule`:",
        "",
        "| name | kind | meaning |",
        "|---|---|---|",
        *(f"| `rule_{name}` | {meaning.kind} | {meaning.text} |" for name, meaning in RULE_MEANINGS.items()),
    ]
    return "\n".join([*lines, ""])


class _Exporter(Collector):
    """Turns a snapshot into Prometheus' families."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        found = self._snapshot()
        for name, meaning in MEANINGS.items():
            family = _family(f"funkenshield_{name}", meaning, [])
            family.add_metric([], found[name])
            yield family
        yield InfoMetricFamily("funkenshield_build", BUILD, {"version": __version__})
        transports = _family("funkenshield_transport_queries", TRANSPORT, ["transport"])
        for transport, count in found["transport_queries"].items():
            transports.add_metric([transport], count)
        yield transports
        responses = _family("funkenshield_responses", RESPONSES, ["transport", "rcode"])
        for transport, counts in found["responses"].items():
            for rcode, count in counts.items():
                responses.add_metric([transport, rcode], count)
        yield responses
        upstreams: dict[tuple[str, ...], Any] = {
            (each["name"], each["address"]): each for each in found["upstreams"].values()
        }
        yield from _families("upstream", ["upstream", "address"], UPSTREAM_MEANINGS, upstreams)
        yield from _labelled_families(upstreams)
        yield from _families("rule", ["rule"], RULE_MEANINGS, {(name,): each for name, each in found["rules"].items()})
        yield _latencies(found["latencies"], found["latency_sum"])

    def describe(self) -> Iterable[Metric]:
        return []


def _family(name: str, meaning: Meaning, labels: list[str]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if meaning.kind == "counter" else GaugeMetricFamily
    return kind(name, meaning.text, labels=labels)


def _families(
    kind: str, labels: list[str], meanings: dict[str, Meaning], counted: Mapping[tuple[str, ...], dict[str, Any]]
) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield what is counted for each of a kind of things."""
    for name, meaning in meanings.items():
        family = _family(f"funkenshield_{kind}_{name}", meaning, labels)
        for each, counters in counted.items():
            family.add_metric(each, counters[name])
        yield family


def _labelled_families(upstreams: Mapping[tuple[str, ...], dict[str, Any]]) -> Iterator[Metric]:
    for name, (label, meaning) in UPSTREAM_LABELLED.items():
        if meaning.kind == "summary":
            yield _summary(f"funkenshield_upstream_{name}", meaning, upstreams)
            continue
        family = _family(f"funkenshield_upstream_{name}", meaning, ["upstream", "address", label])
        for each, counters in upstreams.items():
            for value, number in _labelled(name, counters):
                family.add_metric([*each, value], number)
        yield family


def _summary(name: str, meaning: Meaning, upstreams: Mapping[tuple[str, ...], dict[str, Any]]) -> SummaryMetricFamily:
    """Return the latencies of upstreams: quantiles, sum and count."""
    family = SummaryMetricFamily(name, meaning.text, labels=["upstream", "address"])
    for each, counters in upstreams.items():
        labels = dict(zip(("upstream", "address"), each, strict=True))
        for share, seconds in counters["latency"].items():
            family.add_sample(name, {**labels, "quantile": str(int(share[1:]) / 100)}, seconds)
        family.add_metric(each, counters["answered"], counters["latency_sum"])
    return family


def _labelled(name: str, counters: dict[str, Any]) -> Iterable[tuple[str, float]]:
    """Return pairs of a label's value and a number."""
    match name:
        case "state":
            return [(state, float(state == counters["state"])) for state in STATES]
        case "failed" | "felt":
            return list(counters[name].items())
    return [(rcode, count) for rcode, count in counters["rcodes"].items()]


def _latencies(counts: list[int], total: float) -> HistogramMetricFamily:
    buckets = []
    so_far = 0
    for bound, count in zip([*map(str, LATENCY_BOUNDS), "+Inf"], counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    family = HistogramMetricFamily("funkenshield_miss_latency_seconds", LATENCY)
    family.add_metric([], buckets, total)
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
