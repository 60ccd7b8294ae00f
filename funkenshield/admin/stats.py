"""All counters of a shield, from those who keep them, under the names that `metrics` gives a meaning."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..cache._nsec_cache import NsecCache
from ..cache._store import Cache
from ..core._clock import Clock
from ..forward._inflight import Inflight
from ..forward.forwarder import Forwarder
from ..policy.dynblocks import Blocks
from ..rules.engine import RuleEngine
from ..server._udp_worker import Worker
from ..server.tcp import TcpServer
from ..upstream.pool import Upstreams, rcode_name
from .metrics import METRICS

COMMON = (0, 2, 3, 5)  # RCODEs that are always shown, however few they are
MORE = ("queries_by_transport", "uptime_seconds", "cache_miss_latency_histogram", "rules", "upstreams")


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
    cache_memory: int  # octets, of both caches together
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
        counted = self.counted()
        return {name: counted[name] for name in (*METRICS, *MORE)}

    def counted(self) -> dict[str, Any]:
        """Return all counters, those included that only count for another one."""
        workers = [worker.counters() for worker in self.workers]
        inflight, tcp, nsec_cache = self.inflight.counters(), self.tcp, self.nsec_cache
        counted = inflight | {name: inflight[name] + sum(each[name] for each in workers) for name in workers[0]}
        counted |= {f"cache_{name}": count for name, count in self.cache.counters().items()}
        return counted | {
            "queries_by_transport": {"udp": counted["queries"] - inflight["queries"], "tcp": inflight["queries"]},
            "responses": self._responses(),
            "proxy_protocol_invalid": counted["proxy_protocol_invalid"] + tcp.proxy_protocol_invalid,
            "outstanding_limit_exceeded": counted["outstanding_limit_exceeded"] + self.forwarder.limit_exceeded,
            "fair_share_exceeded": counted["fair_share_exceeded"] + counted["queue_share_exceeded"],
            "reply_send_errors": counted["reply_send_errors"] + counted["outbox_send_errors"],
            "rule_python_rejected": self.rules.executor.rejected,
            "dynamic_blocks": len(self.blocks.listed()), "dynamic_blocks_added": self.blocks.added,
            "cache_bytes": counted["cache_bytes"] + nsec_cache.octets,
            "cache_limit_bytes": counted["cache_limit_bytes"] + nsec_cache.limit,
            "cache_purges": self.cache.purges_total, "ecs_prefix_lengths": counted["cache_ecs_prefix_lengths"],
            "nsec_cache_entries": len(nsec_cache), "nsec_cache_bytes": nsec_cache.octets,
            "nsec_cache_limit_bytes": nsec_cache.limit,
            "memory_limit_bytes": (
                self.cache_memory + self.inflight.memory_limit + tcp.settings.memory
                + self.inflight.settings_writer.guard.memory_limit
            ),
            "tcp_connections": len(tcp.connections), "tcp_accepted": tcp.accepted, "tcp_refused": tcp.refused,
            "tcp_refused_per_client": tcp.refused_per_client, "tcp_refused_per_prefix": tcp.refused_per_prefix,
            "tcp_evicted_idle": tcp.evicted_idle, "tcp_evicted_waiting": tcp.evicted_waiting,
            "tcp_evicted_memory": tcp.evicted_memory, "tcp_buffered_bytes": tcp.memory.taken,
            "tcp_idle_timeouts": tcp.idle_timeouts, "tcp_protocol_errors": tcp.protocol_errors,
            "reloads": self.reloads, "start_time_seconds": self._started_at,
            "uptime_seconds": round(self.clock.seconds() - self._born, 3),
            "cache_miss_latency_histogram": counted["latency_histogram"],
            "rules": self.rules.counters(),
            "upstreams": {str(each): each.counters() for each in self.upstreams.all},
        }  # fmt: skip
