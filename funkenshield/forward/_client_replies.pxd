"""Answers as clients take them: each in his own size and spelling."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from .._fastpath cimport Counters, SettingsWriter
from ..cache._entry cimport Answer
from ..cache._store cimport Cache
from ..core._latency_histogram cimport LatencyHistogram
from ..core._rate_limit cimport RateTable
from ..wire._message cimport EdnsOptions, Query
from ._outbox cimport Client, Outbox
from ._pending cimport PendingQueries, PendingQuery

cdef enum:
    LATE_MEMORY = 1 << 18          # octets, for the rates of late answers
    LATE_RATE = 1 << 20            # octets of late answers a second to one client prefix,
    LATE_BURST = 1 << 17           # and at once


cdef inline bint is_cached(const Client* client, const Query* query) noexcept nogil:
    """Tell whether the cache is asked for a query's answer, and keeps it."""
    return query.key_length > 0 and not client.rule_state.skip_cache


@cython.final
cdef class ClientReplies:
    cdef:
        Cache cache
        SettingsWriter settings_writer
        Outbox outbox
        PendingQueries queries
        bint refuse_overload       # what is over a bound is refused, or else dropped
        RateTable late             # answers, by client prefix
        Counters counts            # of queries that a worker does not answer: they came over streams, or go on
        uint64_t dropped_late_replies
        LatencyHistogram latency

    cdef uint16_t payload(self) noexcept nogil
    cdef uint16_t limit(self, const Client* client, const Query* query) noexcept nogil
    cdef bint is_dead(self, const Answer* stored, uint64_t now) noexcept nogil
    cdef void add_own(self, EdnsOptions* extra, const Client* client, const Query* query) noexcept nogil
    cdef void _add_waiting(self, EdnsOptions* extra, const PendingQuery* pending) noexcept nogil
    cdef int answer_now(self, const Client* client, const Query* query, const Answer* answer, uint8_t kind,
                        uint64_t now) except -1
    cdef int answer_all(self, int32_t i, const Answer* answer, uint8_t kind, uint64_t now,
                        int32_t upstream=?) except -1
    cdef int answer_one(self, int32_t i, const Answer* answer, uint8_t kind, uint64_t now,
                        int32_t upstream=?) except -1
    cdef int _answer(self, const Client* client, uint16_t limit, const Answer* answer, const Query* query,
                     const EdnsOptions* extra, uint8_t kind, int32_t upstream, uint64_t now) except -1
    cdef size_t put_own(self, uint8_t* out, size_t length, size_t limit, const Query* query, uint8_t rcode_high,
                        const EdnsOptions* extra) noexcept nogil
    cdef bint _exceeds_late_limit(self, const Client* client, size_t length, uint64_t now) noexcept nogil
    cdef int reject(self, const Client* client, const Query* query, uint64_t now) except -1
    cdef int refuse(self, const Client* client, const Query* query, uint8_t kind=?) except -1
    cdef int reject_waiting(self, int32_t i) except -1
    cdef int _post_refused(self, const Client* client, const Query* query, const EdnsOptions* extra,
                           uint8_t kind) except -1
    cdef void _note_dropped(self, const Client* client, const Query* query) noexcept nogil
