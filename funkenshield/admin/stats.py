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
        udp = _sums(by_datagram, *(worker.rcodes() for worker in self.workers))
        tcp = _sums(over_stream, *(worker.rcodes() for worker in self.tcp.workers))
        return {
            transport: {rcode_name(code): count for code, count in enumerate(counts) if count or code in COMMON}
            for transport, counts in (("udp", udp), ("tcp", tcp))
        }

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, by the names that `metrics` gives a meaning."""
        counted = self.counted()
        return {name: counted[name] for name in (*METRICS, *MORE)}

    def counted(self) -> dict[str, Any]:
        """Return all counters, those included that only count for another one."""
        udp, tcp = ([worker.counters() for worker in workers] for workers in (self.workers, self.tcp.workers))
        inflight, nsec_cache, connections = self.inflight.counters(), self.nsec_cache, self.tcp.counters()
        over_tcp = inflight["queries"] + sum(each["queries"] for each in tcp)
        counted = inflight | {name: inflight[name] + sum(each[name] for each in udp + tcp) for name in udp[0]}
        counted |= {f"cache_{name}": count for name, count in self.cache.counters().items()}
        return counted | {
            "queries_by_transport": {"udp": counted["queries"] - over_tcp, "tcp": over_tcp},
            "responses": self._responses(),
            "proxy_protocol_invalid": counted["proxy_protocol_invalid"] + connections["proxy_protocol_invalid"],
            "outstanding_limit_exceeded": counted["outstanding_limit_exceeded"] + self.forwarder.limit_exceeded,
            "fair_share_exceeded": counted["fair_share_exceeded"] + counted["queue_share_exceeded"],
            "reply_send_errors": counted["reply_send_errors"] + counted["outbox_send_errors"],
            "rule_python_rejected": self.rules.executor.rejected,
            "dynamic_blocks": len(self.blocks), "dynamic_blocks_added": self.blocks.added,
            "cache_bytes": counted["cache_bytes"] + nsec_cache.octets,
            "cache_limit_bytes": counted["cache_limit_bytes"] + nsec_cache.limit,
            "cache_purges": self.cache.purges_total, "ecs_prefix_lengths": counted["cache_ecs_prefix_lengths"],
            "nsec_cache_entries": len(nsec_cache), "nsec_cache_bytes": nsec_cache.octets,
            "nsec_cache_limit_bytes": nsec_cache.limit,
            "memory_limit_bytes": (
                self.cache_memory + self.inflight.memory_limit + self.tcp.limits.memory_limit
                + self.inflight.settings_writer.guard.memory_limit
            ),
            **{name: count for name, count in connections.items() if name != "proxy_protocol_invalid"},
            "reloads": self.reloads, "start_time_seconds": self._started_at,
            "uptime_seconds": round(self.clock.seconds() - self._born, 3),
            "cache_miss_latency_histogram": counted["latency_histogram"],
            "rules": self.rules.counters(),
            "upstreams": {str(each): each.counters() for each in self.upstreams.all},
        }  # fmt: skip


def _sums(*counts: list[int]) -> list[int]:
    return [sum(each) for each in zip(*counts, strict=True)]
