"""All counters of a shield, from those who keep them, under the names that `metrics` gives a meaning."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cache._nsec_cache import NsecCache
from ..cache._store import Cache
from ..cluster.node import NODE_COUNTERS, Node
from ..core._clock import Clock
from ..events.sinks import Sinks
from ..forward._miss_path import MissPath
from ..forward.forwarder import Forwarder
from ..policy.dynblocks import Blocks
from ..quic.process import QuicFront
from ..rules.compiler import TRANSPORTS
from ..rules.engine import RuleEngine
from ..server._kernel_answers import KernelAnswers
from ..server._udp_worker import Worker
from ..server.listeners import Listeners
from ..server.tcp import TcpServer
from ..server.tls import TlsListeners
from ..upstream.hosts import Hosts
from ..upstream.pool import FAILURE_TEXTS, Upstreams, rcode_name
from ..wire.names import name_from_wire, type_name
from .metrics import METRICS

HANDSHAKE, FAILED, VERSION = "tls_handshakes_", "tls_handshakes_failed_", "tls_version_"  # that names begin with
RESPONSES, ERRORS = "http_responses_", "http_errors_"
COMMON = (0, 2, 3, 5)  # RCODEs that are always shown, however few they are
MORE = ("queries_by_transport", "uptime_seconds", "cache_miss_latency_histogram", "rules", "upstreams")


@dataclass
class Stats:
    """Who counts; reading stops nobody."""

    workers: Sequence[Worker | KernelAnswers]  # who answers over UDP; the last one is the kernel
    cache: Cache
    nsec_cache: NsecCache
    miss_path: MissPath
    upstreams: Upstreams
    forwarder: Forwarder
    tcp: TcpServer
    rules: RuleEngine
    blocks: Blocks
    cache_memory: int  # octets, of both caches together
    clock: Clock
    listeners: Listeners
    tls: Sequence[TlsListeners]
    hosts: Hosts
    quic: QuicFront
    sinks: Sinks
    node: Node | None = None  # of a cluster

    def __post_init__(self) -> None:
        self.reloads = self.reload_failures = 0
        self._born, self._started_at = self.clock.seconds(), round(time.time(), 3)  # monotonic, and Unix time

    def _responses(self) -> dict[str, dict[str, int]]:
        """Return how many responses clients got, by transport and by the RCODE in their header."""
        answering = (worker.answering.rcodes() for worker in self.tcp.workers)
        sent = [_sums(*each) for each in zip(self.miss_path.outbox.rcodes(), *answering, strict=True)]
        sent[0] = _sums(sent[0], *(worker.rcodes() for worker in self.workers))
        return {
            transport: {rcode_name(code): count for code, count in enumerate(counts) if count or code in COMMON}
            for transport, counts in zip(TRANSPORTS, sent, strict=True)
        }

    def _expiries(self) -> dict[str, float]:
        """Return when each certificate expires, by its file."""
        return {file: until for each in self.tls for file, until in each.expiries().items()}

    def _statuses(self, connections: Mapping[str, int]) -> dict[str, int]:
        """Return how many responses there were of each status of HTTP, over TCP and QUIC."""
        over_quic = self.quic.statuses()
        return {status: count + over_quic[int(status)] for status, count in _labelled(connections, RESPONSES).items()}

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, by the names that `metrics` gives a meaning."""
        counted = self.counted()
        return {name: counted[name] for name in (*METRICS, *MORE)}

    def failures(self) -> list[dict[str, Any]]:
        """Return the last failures that clients felt, the latest first."""
        known = {each.number: str(each) for each in self.upstreams.all}
        return [
            {
                "time": round(wall, 3), "times": times, "name": name_from_wire(name), "type": type_name(qtype),
                "upstream": known.get(upstream, ""), "reason": reason,
                "text": FAILURE_TEXTS.get(reason, "no upstream is available"),
            }
            for wall, times, name, qtype, upstream, reason in self.miss_path.failures()
        ]  # fmt: skip

    def counted(self) -> dict[str, Any]:
        """Return all counters, those included that only count for another one."""
        udp = [worker.counters() for worker in self.workers]
        tcp = [worker.answering.counters() for worker in self.tcp.workers]
        sinks, interfaces = self.sinks.counters(), self.listeners.interfaces.counters()
        misses, nsec_cache, connections = self.miss_path.counters(), self.nsec_cache, self.tcp.counters()
        over_stream = misses["queries"] + sum(each["queries"] for each in tcp)
        over = {name: sum(each[f"queries_over_{name}"] for each in tcp) for name in TRANSPORTS[2:]}
        counted = misses | {name: misses[name] + sum(each[name] for each in udp + tcp) for name in udp[0]}
        counted |= {f"cache_{name}": count for name, count in self.cache.counters().items()}
        return counted | {
            "queries_by_transport": {
                "udp": counted["queries"] - over_stream, "tcp": over_stream - sum(over.values()), **over,
            },
            "responses": self._responses(), "kernel_answers": udp[-1]["queries"],
            "listener_messages": self.listeners.messages(),
            "proxy_protocol_invalid": counted["proxy_protocol_invalid"] + connections["proxy_protocol_invalid"],
            "outstanding_limit_exceeded": counted["outstanding_limit_exceeded"] + self.forwarder.limit_exceeded,
            "fair_share_exceeded": counted["fair_share_exceeded"] + counted["queue_share_exceeded"],
            "reply_send_errors": counted["reply_send_errors"] + counted["outbox_send_errors"],
            "unresolved_hosts": self.hosts.failing,
            "rule_python_rejected": self.rules.executor.rejected,
            "dynamic_blocks": len(self.blocks), "dynamic_blocks_added": self.blocks.added,
            "cache_bytes": counted["cache_bytes"] + nsec_cache.octets,
            "cache_limit_bytes": counted["cache_limit_bytes"] + nsec_cache.limit,
            "cache_purges": self.cache.purges_total, "ecs_prefix_lengths": counted["cache_ecs_prefix_lengths"],
            "nsec_cache_entries": len(nsec_cache), "nsec_cache_bytes": nsec_cache.octets,
            "nsec_cache_limit_bytes": nsec_cache.limit,
            "memory_limit_bytes": (
                self.cache_memory + self.miss_path.memory_limit + self.tcp.limits.memory_limit
                + self.miss_path.settings_writer.guard.memory_limit + self.sinks.memory_limit
            ),
            **{
                name: count for name, count in connections.items()
                if name != "proxy_protocol_invalid" and not name.startswith((HANDSHAKE, VERSION, RESPONSES, ERRORS))
            },
            **self.quic.counters(),
            "http_responses": self._statuses(connections), "http_errors": _labelled(connections, ERRORS),
            **_handshakes(connections), "tls_certificate_expiry_timestamp_seconds": self._expiries(),
            "xdp_attached": {name: count["attached"] for name, count in interfaces.items()},
            "xdp_frames": {
                name: {what: count[what] for what in count if what != "attached"} for name, count in interfaces.items()
            },
            **{
                f"events_{what}": {name: each[what] for name, each in sinks.items()}
                for what in ("written", "waiting", "lost", "shortened")
            },
            "events_unread": self.sinks.lost,
            **(self.node.counters() if self.node else dict.fromkeys(NODE_COUNTERS, 0)),
            "reloads": self.reloads, "reload_failures": self.reload_failures, "start_time_seconds": self._started_at,
            "uptime_seconds": round(self.clock.seconds() - self._born, 3),
            "cache_miss_latency_histogram": counted["latency_histogram"],
            "rules": self.rules.counters(),
            "upstreams": {str(each): each.counters() for each in self.upstreams.all},
        }  # fmt: skip


def _handshakes(counted: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return what became of handshakes, from counters that have the labels in their names."""
    failures = _labelled(counted, FAILED)
    return {
        "tls_handshakes": {
            "full": counted["tls_handshakes_full"], "resumed": counted["tls_handshakes_resumed"],
            "failed": sum(failures.values()), "limited": counted["tls_handshakes_limited"],
        },
        "tls_failures": failures,
        "tls_versions": {version: counted[f"{VERSION}{version.replace('.', '_')}"] for version in ("1.2", "1.3")},
    }  # fmt: skip


def _labelled(counted: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return the counters whose names begin so, by the rest."""
    return {name.removeprefix(prefix): count for name, count in counted.items() if name.startswith(prefix)}


def _sums(*counts: list[int]) -> list[int]:
    return [sum(each) for each in zip(*counts, strict=True)]
