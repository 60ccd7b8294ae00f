"""Know what the page asks of a shield: counters that a test sets, and what was steered."""

from types import SimpleNamespace

from funkenshield.admin.metrics import METRICS, RULE_METRICS, UPSTREAM_METRICS
from funkenshield.config import Config
from funkenshield.core._latency_histogram import LATENCY_BOUNDS
from funkenshield.errors import FunkenShieldError


class Clock:
    """A time that passes when a test says so."""

    def __init__(self):
        self.at = 100.0

    def __call__(self):
        return self.at


def counted(**changed):
    """Return counters: nothing happened but this."""
    return dict.fromkeys(METRICS, 0) | {
        "queries_by_transport": {"udp": 0, "tcp": 0}, "responses": {"udp": {"NOERROR": 0, "SERVFAIL": 0}},
        "listener_messages": {}, "upstreams": {}, "rules": {}, "uptime_seconds": 1.0,
        "cache_miss_latency_histogram": histogram(),
    } | changed  # fmt: skip


def histogram(**counts):
    """Return a histogram: so many in the buckets `b0`, `b1`, ..."""
    return {"counts": [counts.get(f"b{number}", 0) for number in range(len(LATENCY_BOUNDS) + 1)], "sum": 0.0}


def upstream(name, **changed):
    """Return an upstream's counters."""
    return dict.fromkeys(UPSTREAM_METRICS, 0) | {
        "name": name, "address": name, "state": "up", "up": 1, "latency": {"p50": 0.001}, "failures": {},
    } | changed  # fmt: skip


def rule(matches):
    """Return a rule's counters."""
    return dict.fromkeys(RULE_METRICS, 0) | {"matches": matches}


class Steered:
    """A shield, as far as a page knows it."""

    def __init__(self, toml=None):
        self.config = Config.model_validate({"web": {"page": True, **(toml or {})}})
        self.blocks = SimpleNamespace(listed=list)
        self.stats = SimpleNamespace(sinks=SimpleNamespace(top=lambda most: {"seconds": 0.0}), failures=list)
        self.upstreams, self.rules, self.log_level = SimpleNamespace(steered={}), SimpleNamespace(disabled=set()), None
        self.watchers = SimpleNamespace(serials={})
        self.counted = counted()
        self.requests = []

    def snapshot(self):
        return self.counted

    async def handle(self, request):
        self.requests.append(request)
        if request.get("name") == "wrong":
            raise FunkenShieldError("purge: that is no name")
        return {"done": request["command"]}
