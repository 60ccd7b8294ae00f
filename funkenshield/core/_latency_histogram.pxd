"""Latency histograms with Prometheus' bounds: how many took at most 0.25 ms, 0.5 ms, ... 10 s, or longer."""

from libc.stdint cimport uint64_t

cdef enum:
    BUCKETS = 16                   # one for each bound, and one for what is above all of them

cdef struct LatencyHistogram:      # one writer
    uint64_t[BUCKETS] counts       # of each bucket alone, not cumulative
    uint64_t sum                   # nanoseconds

cdef void observe_latency(LatencyHistogram* histogram, uint64_t latency) noexcept nogil
cdef dict histogram_as_dict(const LatencyHistogram* histogram)
