"""Everything that is counted, under one name each: for `funkenshield stats`, and for Prometheus.

It knows names and their help texts. The numbers are kept by those who count.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ..core._latency_histogram import LATENCY_BOUNDS


class Metric(NamedTuple):
    """A metric's help text, its type in Prometheus' words, and labels that tell its parts apart."""

    help: str
    type: str = "counter"
    labels: tuple[str, ...] = ()


METRICS = {
    "queries": Metric("Queries received from clients, by transport.", labels=("transport",)),
    "responses": Metric(
        "Responses sent to clients, by transport and by the RCODE in the header.", labels=("transport", "rcode")
    ),
    "listener_messages": Metric(
        "Messages from clients, malformed ones included, by the address that they came to, since that is open.",
        labels=("listener",),
    ),
    "cache_hits": Metric("Queries answered from the cache, stale answers included."),
    "kernel_answers": Metric("Queries answered from the cache by the program in the kernel (`kernel_answers`)."),
    "cache_misses": Metric("Queries without a usable answer in the cache."),
    "stale_answers": Metric("Cache hits answered with an expired entry (serve-stale)."),
    "prefetches": Metric("Cache hits that triggered a refresh from an upstream."),
    "stale_on_refresh_failure": Metric("Refreshes that failed, so that the cached entry was kept in use."),
    "uncached_queries": Metric(
        "Queries forwarded without a cache lookup: UPDATE, NOTIFY, zone transfers, signed queries and the like."
    ),
    "forward_denied": Metric(
        "Zone transfers, UPDATEs and NOTIFYs answered REFUSED because the client may not have them forwarded."
    ),
    "coalesced_queries": Metric("Cache misses that waited for an outstanding query with the same question."),
    "local_answers": Metric("Cache misses answered without an upstream: CHAOS names and aggressive NSEC."),
    "minimal_any_answers": Metric("ANY queries answered with a single HINFO record (RFC 8482)."),
    "malformed_queries": Metric("Queries answered FORMERR."),
    "badcookie_responses": Metric("Queries answered BADCOOKIE."),
    "oversized_queries": Metric("Queries over UDP longer than 4096 bytes, answered with TC=1."),
    "dropped_short": Metric("Datagrams dropped because they are shorter than a DNS header."),
    "dropped_responses": Metric("Datagrams dropped because they are responses (QR=1)."),
    "dropped_queue_full": Metric(
        "Cache misses dropped because the queue from a worker to the control thread was full."
    ),
    "dropped_duplicates": Metric(
        "Queries dropped because the same client had already sent them and they were outstanding."
    ),
    "dropped_late_replies": Metric(
        "Replies more than a second late, dropped because their client prefix had too many of them at once."
    ),
    "proxy_protocol_invalid": Metric(
        "Datagrams and connections dropped for a missing or invalid PROXY protocol header."
    ),
    "outstanding_queries": Metric("Queries of clients that are waiting for an upstream.", "gauge"),
    "outstanding_limit_exceeded": Metric(
        "Queries refused or dropped because the limit of outstanding queries was reached."
    ),
    "zone_limit_exceeded": Metric(
        "Queries refused, dropped or answered stale because their zone's limit of outstanding queries was reached."
    ),
    "fair_share_exceeded": Metric(
        "Queries refused or dropped because their client prefix or zone had its share of outstanding queries."
    ),
    "upstreams_saturated": Metric(
        "Queries refused, dropped or answered stale because every upstream had its maximum of outstanding queries."
    ),
    "resolution_failures": Metric("Cache misses answered SERVFAIL because no upstream answered."),
    "no_upstream_available": Metric("Resolution failures without any upstream that could be queried."),
    "unresolved_hosts": Metric("Host names of upstreams that could not be resolved when last looked up.", "gauge"),
    "retries": Metric("Queries sent to an upstream again, hedged queries included."),
    "hedged_queries": Metric(
        "Queries sent to a second upstream because the first took longer than its 95th percentile."
    ),
    "upstream_truncated": Metric("Truncated upstream responses that were retried over TCP."),
    "spoof_suspected": Metric("Upstream responses over UDP that were verified over TCP on suspicion of spoofing."),
    "replies_truncated": Metric("Cache hits truncated to the client's UDP payload size (TC=1)."),
    "reply_send_errors": Metric("Replies lost because the kernel did not accept them."),
    "rule_replies": Metric("Queries that a rule answered or dropped without Python."),
    "rule_python_calls": Metric("Queries and responses that a rule passed to Python."),
    "rule_python_rejected": Metric("Queries refused because too many were waiting for rules in Python."),
    "acl_denied": Metric("Queries denied by the access list."),
    "blocked": Metric("Queries from prefixes with a dynamic block."),
    "rate_limited": Metric("Queries over a rate limit of their source prefix."),
    "rrl_dropped": Metric("Responses dropped by response rate limiting."),
    "rrl_slipped": Metric("Responses sent with TC=1 by response rate limiting."),
    "dynamic_blocks": Metric("Dynamic blocks in force, those added by hand included.", "gauge"),
    "dynamic_blocks_added": Metric("Dynamic blocks added because a source prefix exceeded a rate."),
    "cache_entries": Metric("Entries in the cache.", "gauge"),
    "cache_bytes": Metric("Memory in use for cache entries and the NSEC cache.", "gauge"),
    "cache_limit_bytes": Metric("Memory limit of cache entries and the NSEC cache.", "gauge"),
    "cache_inserts": Metric("Entries inserted into the cache."),
    "cache_insert_failures": Metric(
        "Answers not inserted because all reusable memory was still being read by workers."
    ),
    "cache_evictions": Metric("Entries evicted to make room for others."),
    "cache_expirations": Metric("Entries removed after they expired."),
    "cache_purges": Metric("Purges by operators and by changed zones."),
    "cache_purged_entries": Metric("Entries removed after a purge."),
    "nsec_cache_entries": Metric(
        "Ranges of names that are known not to exist (aggressive NSEC, NXDOMAIN cut).", "gauge"
    ),
    "nsec_cache_bytes": Metric("Memory in use for the NSEC cache.", "gauge"),
    "nsec_cache_limit_bytes": Metric("Memory limit of the NSEC cache; 0 if no zone uses it.", "gauge"),
    "ecs_prefix_lengths": Metric(
        "EDNS Client Subnet prefix lengths that cache lookups try, of both families.", "gauge"
    ),
    "memory_limit_bytes": Metric(
        "Memory limit of all that clients can fill: cache, outstanding queries, TCP buffers and rate limits.", "gauge"
    ),
    "tcp_connections": Metric("Open TCP connections of clients, those with TLS or HTTP included.", "gauge"),
    "tcp_accepted": Metric("TCP connections accepted."),
    "tcp_refused": Metric("TCP connections refused because a limit was reached."),
    "tcp_refused_per_client": Metric(
        "TCP connections refused because the client had `tcp.max_connections_per_client`."
    ),
    "tcp_refused_per_prefix": Metric("TCP connections refused because the client prefix had its share."),
    "tcp_evicted_idle": Metric("Idle TCP connections closed to make room for new ones."),
    "tcp_evicted_waiting": Metric(
        "TCP connections with outstanding queries closed to make room for new ones, none being idle."
    ),
    "tcp_evicted_memory": Metric("TCP connections closed because their buffers exceeded `tcp.memory`."),
    "tcp_buffered_bytes": Metric("Memory in use for the buffers of TCP connections.", "gauge"),
    "tcp_idle_timeouts": Metric("TCP connections closed after the idle timeout."),
    "tcp_protocol_errors": Metric("TCP connections closed for a message that is not a query."),
    "quic_connections": Metric("Open QUIC connections of clients.", "gauge"),
    "quic_buffered_bytes": Metric("Memory in use for the buffers of QUIC connections.", "gauge"),
    "quic_accepted": Metric("QUIC connections whose handshake was begun."),
    "quic_refused": Metric("QUIC connections not begun because a limit was reached."),
    "quic_evicted": Metric("QUIC connections closed to make room for new ones."),
    "quic_retries": Metric("QUIC clients asked to prove their address first (Retry)."),
    "quic_resets": Metric("Packets of unknown QUIC connections answered by a stateless reset."),
    "quic_dropped": Metric(
        "QUIC packets of new or unknown clients dropped because these had their part of the process's time."
    ),
    "quic_excessive_load": Metric("QUIC connections closed for what they held, or sent without a query."),
    "quic_internal_errors": Metric("QUIC connections dropped because of an internal error."),
    "quic_handshakes": Metric(
        "QUIC handshakes, by result; `limited`: refused because the client had `tls.handshakes_per_second_per_client`.",
        labels=("result",),
    ),
    "tls_connections": Metric("Open connections of clients with TLS, handshakes included.", "gauge"),
    "tls_handshakes": Metric(
        "TLS handshakes of clients: `full`, `resumed` (by a session ticket), `failed`, or `limited`: closed at once"
        " because the client had `tls.handshakes_per_second_per_client`.",
        labels=("result",),
    ),
    "tls_failures": Metric(
        "Failed TLS handshakes, by reason: the client `closed` the connection, or sent an `alert`; `timeout`;"
        " `crowded`: it was the oldest of too many at once; no common `version` or `cipher`; it came for another"
        " `protocol`, or HTTP without HTTP/2; what came is `not_tls`;"
        " `other`.",
        labels=("reason",),
    ),
    "tls_certificate_expiry_timestamp_seconds": Metric(
        "Unix time at which a certificate for clients expires, by its file.", "gauge", ("certificate",)
    ),
    "tls_versions": Metric("TLS handshakes that succeeded, by version of TLS.", labels=("version",)),
    "http_responses": Metric(
        "Responses to requests of DNS over HTTPS, by HTTP status; with 200, the RCODE tells more.", labels=("status",)
    ),
    "http_errors": Metric(
        "Connections closed for what is not HTTP/2 as it should be (`protocol`), or for a `flood` of resets, pings,"
        " settings or headers.",
        labels=("reason",),
    ),
    "xdp_attached": Metric(
        '1 while queries are taken from a network interface (`transport = "xdp"`), 0 while sockets alone serve.',
        "gauge",
        ("interface",),
    ),
    "xdp_frames": Metric(
        "Frames of an interface, by what became of them: `received`; `sent`: answers, and all else got its answer by a"
        " socket; `ignored`: no query for a listener after all; `dropped`: workers were busy, or nothing was sent.",
        labels=("interface", "event"),
    ),
    "events_written": Metric(
        "Messages that a collector of dnstap took, or lines that a query log did.", labels=("sink",)
    ),
    "events_waiting": Metric("Messages, or lines, that were not taken yet.", "gauge", labels=("sink",)),
    "events_lost": Metric("Messages, or lines, that were lost, because they were not taken in time.", labels=("sink",)),
    "events_shortened": Metric(
        "Messages of dnstap without the octets of a long DNS message, which would have left no room for others.",
        labels=("sink",),
    ),
    "events_unread": Metric("Events that nobody was told of, because they came faster than they could be told."),
    "cluster_in_use": Metric(
        "1 while misses are looked up in the cache that nodes share: the store answers, and all purges are known.",
        "gauge",
    ),
    "shared_cache_lookups": Metric("Cache misses looked up in the cache that nodes share."),
    "shared_cache_hits": Metric("Cache misses answered with what another node had stored."),
    "shared_cache_rejected": Metric(
        "Values of the store that were not believed: no node signed them for this name, they are too old, or from a"
        " clock that is ahead."
    ),
    "shared_cache_late": Metric("Look-ups without a reply within `cluster.timeout`."),
    "shared_cache_skipped": Metric("Cache misses not looked up because too many look-ups had no reply yet."),
    "shared_cache_writes": Metric("Entries written to the store."),
    "shared_cache_write_drops": Metric("Entries not written because the store did not take them in time."),
    "cluster_messages": Metric("Purges by other nodes that were carried out here."),
    "cluster_messages_rejected": Metric("Messages that were not believed: no node signed them, or they are old ones."),
    "cluster_cache_emptied": Metric("Times that the whole cache was purged because purges had been missed."),
    "cluster_name_conflict": Metric("1 while another process has this node's name, for two minutes or more.", "gauge"),
    "reloads": Metric("Successful reloads of the configuration."),
    "reload_failures": Metric("Reloads that failed, so that the previous configuration stayed in force."),
    "start_time_seconds": Metric("Unix time at which the daemon started.", "gauge"),
}
UPSTREAM_METRICS = {
    "queries": Metric("Queries sent to the upstream."),
    "responses": Metric("Responses that matched an outstanding query, by RCODE.", labels=("rcode",)),
    "outstanding_queries": Metric("Queries that wait for a response.", "gauge"),
    "timeouts": Metric("Queries without a response in time."),
    "failures": Metric("Failed queries, by reason; SERVFAIL and REFUSED responses included.", labels=("reason",)),
    "client_visible_failures": Metric(
        "Failed queries that clients got SERVFAIL or REFUSED for, by reason.", labels=("reason",)
    ),
    "network_errors": Metric("Network errors while sending or receiving."),
    "tcp_fallback_failures": Metric("Failed queries over TCP to an upstream whose transport is UDP."),
    "unexpected_replies": Metric("Datagrams that match no outstanding query: late, unsolicited or spoofed."),
    "unsolicited_replies": Metric("Unexpected replies that match no recent query either: possibly spoofed."),
    "spoof_detections": Metric("Times that unsolicited replies exceeded the threshold for spoofing."),
    "tcp_verification_active": Metric(
        "1 while responses over UDP are verified over TCP on suspicion of spoofing.", "gauge"
    ),
    "hedged_queries": Metric("Queries also sent to another upstream because this one was slow."),
    "latency_seconds": Metric("Time from query to response.", "histogram"),
    "up": Metric("1 while the upstream is in service.", "gauge"),
    "state": Metric("1 for the current health state, 0 for each other state.", "gauge", ("state",)),
}
RULE_METRICS = {
    "matches": Metric("Queries and responses that matched, since the rules were loaded."),
    "handler_calls": Metric("Calls of the rule's handler in Python."),
    "handler_errors": Metric("Calls that failed or timed out."),
    "handler_seconds": Metric("Total time taken by calls."),
}
BUILD = Metric("Version of FunkenShield.", "info", ("version",))
LATENCY = Metric("Time from a cache miss to its response.", "histogram")
UPSTREAM_LABELS = ("upstream", "address")


def documentation() -> str:
    """Return the page of all metrics, in Markdown."""
    overall = METRICS | {"cache_miss_latency_seconds": LATENCY, "build_info": BUILD}
    lines = [
        "# Metrics",
        "",
        "`funkenshield stats` shows them; with `metrics.listen` set, Prometheus reads them from `/metrics`, each",
        "with `funkenshield_` before its name (and `_total` behind a counter's).",
        "",
        *_table("", overall, ()),
        "",
        "Prometheus also gets the `process_*` metrics that are usual everywhere.",
        "",
        "On the same port are probes, which say 200 or 503. `/ready`: it serves, from the start until it is told to",
        "end; for readiness probes and load balancers. `/live`: all its threads run; for liveness probes. `/healthz`",
        "is `/ready` by another name. None depends on upstreams: the cache answers without them.",
        "",
        f"The buckets of histograms end at {', '.join(f'{bound:g}' for bound in LATENCY_BOUNDS)}",
        "seconds, in every shield, so that quantiles over several of them can be computed:",
        "`histogram_quantile(0.99, sum by (le, upstream) (rate(funkenshield_upstream_latency_seconds_bucket[5m])))`.",
        "`funkenshield stats` shows quantiles of the last ten to twenty seconds.",
        "",
        "For each upstream (the label `upstream` is its name, or else how it is reached: `192.0.2.1:53`",
        "over UDP, `tcp://192.0.2.1:53`, `tls://192.0.2.1:853#ns.example.com`):",
        "",
        *_table("upstream_", UPSTREAM_METRICS, UPSTREAM_LABELS),
        "",
        "For each rule:",
        "",
        *_table("rule_", RULE_METRICS, ("rule",)),
    ]
    return "\n".join([*lines, ""])


def _table(prefix: str, metrics: Mapping[str, Metric], labels: tuple[str, ...]) -> list[str]:
    """Return a table of what is counted, line by line."""
    lines = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for name, metric in metrics.items():
        named = ", ".join(f"`{label}`" for label in labels + metric.labels)
        lines.append(f"| `{prefix}{name}` | {metric.type} | {named} | {metric.help} |")
    return lines
