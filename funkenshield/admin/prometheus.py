"""The metrics as Prometheus reads them."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .. import __version__
from ..core._latency_histogram import LATENCY_BOUNDS
from ..upstream.health import STATES
from .metrics import BUILD, LATENCY, METRICS, RULE_METRICS, UPSTREAM_LABELS, UPSTREAM_METRICS, Metric

OPENMETRICS = "application/openmetrics-text"

Counted = Mapping[tuple[str, ...], dict[str, Any]]  # by the values of labels


class _Exporter(Collector):
    """Turns a snapshot into Prometheus' families."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Family]:
        found = self._snapshot | {"queries": self._snapshot["queries_by_transport"]}
        upstreams: Counted = {
            (each["name"], each["address"]): each
            | {"responses": each["rcodes"], "state": {state: float(state == each["state"]) for state in STATES}}
            for each in found["upstreams"].values()
        }
        rules: Counted = {(name,): each for name, each in found["rules"].items()}
        yield InfoMetricFamily("funkenshield_build", BUILD.help, {"version": __version__})
        yield from _families("", METRICS, (), {(): found})
        yield _histogram("cache_miss_latency_seconds", LATENCY, (), {(): found["cache_miss_latency_histogram"]})
        yield from _families("upstream_", UPSTREAM_METRICS, UPSTREAM_LABELS, upstreams)
        yield from _families("rule_", RULE_METRICS, ("rule",), rules)


def _families(
    prefix: str, metrics: Mapping[str, Metric], labels: tuple[str, ...], counted: Counted
) -> Iterator[Family]:
    """Yield what is counted for each of a kind of things."""
    for name, metric in metrics.items():
        if metric.type == "histogram":
            histograms = {each: counters["latency_histogram"] for each, counters in counted.items()}
            yield _histogram(f"{prefix}{name}", metric, labels, histograms)
            continue
        kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
        family = kind(f"funkenshield_{prefix}{name}", metric.help, labels=(*labels, *metric.labels))
        for each, counters in counted.items():
            for values, number in _parts(counters[name]):
                family.add_metric((*each, *values), number)
        yield family


def _parts(counted: Any, *labels: str) -> Iterator[tuple[tuple[str, ...], float]]:  # noqa: ANN401 - numbers by labels
    """Yield pairs of the values of a number's own labels, and the number."""
    if not isinstance(counted, dict):
        yield labels, counted
        return
    for label, below in counted.items():
        yield from _parts(below, *labels, label)


def _histogram(name: str, metric: Metric, labels: tuple[str, ...], counted: Counted) -> HistogramMetricFamily:
    """Return a histogram of latencies for each of a kind of things."""
    family = HistogramMetricFamily(f"funkenshield_{name}", metric.help, labels=labels)
    bounds = [*map(floatToGoString, LATENCY_BOUNDS), "+Inf"]
    for each, histogram in counted.items():
        family.add_metric(each, list(zip(bounds, accumulate(histogram["counts"]), strict=True)), histogram["sum"])
    return family


def wants_openmetrics(accept: str) -> bool:
    """Tell whether an Accept field asks for OpenMetrics; all others get Prometheus' own text."""
    return any(each.partition(";")[0].strip() == OPENMETRICS for each in accept.split(","))


def render(snapshot: dict[str, Any], *, openmetrics: bool) -> tuple[str, bytes]:
    """Return the content type and the page of a snapshot of all counters."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exporter(snapshot))
    ProcessCollector(registry=registry)
    encode, kind = choose_encoder(f"{OPENMETRICS}; version=1.0.0" if openmetrics else "")
    return kind, encode(registry)
