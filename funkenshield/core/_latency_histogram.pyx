"""Latency histograms with Prometheus' bounds: how many took at most 0.25 ms, 0.5 ms, ... 10 s, or longer.

The bounds are Prometheus' defaults, continued downwards for upstreams that are near. They are fixed: histograms of
several instances can be added up. Nothing is allocated or locked to count.
"""

from libc.stdint cimport uint32_t, uint64_t

LATENCY_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s

cdef uint64_t[BUCKETS - 1] BOUNDS  # nanoseconds
BOUNDS = [round(bound * 1e9) for bound in LATENCY_BOUNDS]


cdef void observe_latency(LatencyHistogram* histogram, uint64_t latency) noexcept nogil:
    """Count one latency, in nanoseconds."""
    cdef uint32_t bucket = 0
    while bucket < BUCKETS - 1 and latency > BOUNDS[bucket]:
        bucket += 1
    histogram.counts[bucket] += 1
    histogram.sum += latency


cdef dict histogram_as_dict(const LatencyHistogram* histogram):
    """Return the counts of all buckets, not cumulative, and the sum in seconds."""
    cdef uint32_t k
    return {"counts": [histogram.counts[k] for k in range(BUCKETS)], "sum": histogram.sum / 1e9}
