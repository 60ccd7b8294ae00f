"""All counters of a shield, from those who keep them, under the names that `metrics` gives a meaning."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..cache._nsec_cache import NsecCache
from ..cache._store import Cache
from ..core._clock import Clock
from ..forward._inflight import Inflight
from ..forward.uncached import Forwarder
from ..policy.dynblocks import Blocks
from ..rules.engine import RuleEngine
from ..server._udp_worker import Worker
from ..server.tcp import TcpServer
from ..upstream.pool import Upstreams, rcode_name

COMMON = (0, 2, 3, 5)  # RCODEs that are always told of, however few they are


@dataclass
class Stats:
    """Who counts; reading stops nobody."""

    workers: Sequence[Worker]
    cache: Cache
    nsec_cache: NsecCache
    inflight: Inflight
    upstreams: Upstreams
    forwarder: Forwarder
    tcp: TcpServer
    rules: RuleEngine
    blocks: Blocks
    cache_memory: int  # octets, of cache and denials together
    clock: Clock

    def __post_init__(self) -> None:
        self.reloads = 0
        self._born, self._started_at = self.clock.seconds(), round(time.time(), 3)  # monotonic, and Unix time

    def _responses(self) -> dict[str, dict[str, int]]:
        """Return how many responses clients got, by transport and by the RCODE in their header."""
        by_datagram, over_stream = self.inflight.outbox.rcodes()
        by_worker = [worker.rcodes() for worker in self.workers]
        udp = [sum(counts) for counts in zip(by_datagram, *by_worker, strict=True)]
        return {
            transport: {rcode_name(code): count for code, count in enumerate(counts) if count or code in COMMON}
            for transport, counts in (("udp", udp), ("tcp", over_stream))
        }

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, by the names that `metrics` gives a meaning."""
        tallies = [worker.counters() for worker in self.workers]
        held, missed, tcp = self.cache.counters(), self.inflight.counters(), self.tcp
        total = {key: missed[key] + sum(tally[key] for tally in tallies) for key in tallies[0]}
        return {
            "queries": total["queries"], "queries_by_transport": _by_transport(total["queries"], missed["queries"]),
            "responses": self._responses(),
            "cache_hits": total["cache_hits"], "cache_misses": total["cache_misses"],
            "stale_answers": total["stale_answers"], "prefetches": total["prefetches"],
            "stale_on_refresh_failure": missed["stale_on_refresh_failure"],
            "uncached_queries": total["uncached_queries"], "forward_not_allowed": total["forward_not_allowed"],
            "coalesced_queries": missed["coalesced_queries"], "local_answers": missed["local_answers"],
            "minimal_any_answers": total["minimal_any_answers"],
            "malformed_queries": total["malformed_queries"], "badcookie_responses": total["badcookie_responses"],
            "oversized_queries": total["oversized_queries"],
            "dropped_short": total["dropped_short"], "dropped_responses": total["dropped_responses"],
            "dropped_queue_full": total["dropped_queue_full"], "dropped_duplicates": missed["dropped_duplicates"],
            "dropped_late_replies": missed["dropped_late_replies"],
            "proxy_protocol_invalid": total["proxy_protocol_invalid"] + tcp.proxy_protocol_invalid,
            "outstanding_queries": missed["outstanding_queries"],
            "outstanding_limit_exceeded": missed["outstanding_limit_exceeded"] + self.forwarder.limit_exceeded,
            "zone_limit_exceeded": missed["zone_limit_exceeded"],
            "fair_share_exceeded": missed["fair_share_exceeded"] + total["queue_share_exceeded"],
            "upstreams_saturated": missed["upstreams_saturated"],
            "resolution_failures": missed["resolution_failures"],
            "no_upstream_available": missed["no_upstream_available"],
            "retries": missed["retries"], "hedged_queries": missed["hedged_queries"],
            "upstream_truncated": missed["upstream_truncated"], "spoof_suspected": missed["spoof_suspected"],
            "replies_truncated": total["replies_truncated"],
            "reply_send_errors": total["reply_send_errors"] + missed["outbox_send_errors"],
            "rule_replies": total["rule_replies"], "rule_python_calls": total["rule_python_calls"],
            "rule_python_rejected": self.rules.executor.rejected,
            "acl_denied": total["acl_denied"], "blocked": total["blocked"], "rate_limited": total["rate_limited"],
            "rrl_dropped": total["rrl_dropped"], "rrl_slipped": total["rrl_slipped"],
            "dynamic_blocks": len(self.blocks.listed()), "dynamic_blocks_added": self.blocks.raised,
            "cache_entries": held["entries"], "cache_bytes": held["bytes"] + self.nsec_cache.octets,
            "cache_limit_bytes": held["limit_bytes"] + self.nsec_cache.limit,
            "cache_inserts": held["inserts"], "cache_insert_failures": held["insert_failures"],
            "cache_evictions": held["evictions"], "cache_expirations": held["expirations"],
            "cache_purges": self.cache.purges_total, "cache_purged_entries": held["purged_entries"],
            "nsec_cache_entries": len(self.nsec_cache), "nsec_cache_bytes": self.nsec_cache.octets,
            "nsec_cache_limit_bytes": self.nsec_cache.limit, "ecs_prefix_lengths": held["ecs_prefix_lengths"],
            "memory_limit_bytes": (
                self.cache_memory + self.inflight.memory_limit + self.tcp.settings.memory
                + self.inflight.settings_writer.guard.memory_limit
            ),
            "tcp_connections": len(tcp.connections), "tcp_accepted": tcp.accepted,
            "tcp_refused": tcp.refused, "tcp_refused_per_client": tcp.refused_per_client,
            "tcp_refused_per_prefix": tcp.refused_per_prefix, "tcp_evicted_idle": tcp.evicted_idle,
            "tcp_evicted_waiting": tcp.evicted_waiting, "tcp_evicted_memory": tcp.evicted_memory,
            "tcp_buffered_bytes": tcp.memory.taken, "tcp_idle_timeouts": tcp.idle_timeouts,
            "tcp_protocol_errors": tcp.protocol_errors,
            "reloads": self.reloads, "start_time_seconds": self._started_at,
            "uptime_seconds": round(self.clock.seconds() - self._born, 3),
            "cache_miss_latency_histogram": missed["latency_histogram"],
            "rules": self.rules.counters(),
            "upstreams": {str(each): each.counters() for each in self.upstreams.all},
        }  # fmt: skip


def _by_transport(all_queries: int, over_tcp: int) -> dict[str, int]:
    return {"udp": all_queries - over_tcp, "tcp": over_tcp}
