"""Attempts: what is sent to which upstream, until when its silence is no news, and what is held against whom."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._timer_wheel cimport Wheel
from ..events._event cimport Tap
from ..upstream._selection cimport UpstreamTable
from ..upstream._sockets_and_ids cimport Attempt, Sockets
from ._pending cimport PendingQueries, PendingQuery, Stage

cdef uint64_t NEVER


@cython.final
cdef class Attempts:
    cdef:
        PendingQueries queries
        PendingQuery* pool         # the queries'
        Sockets sockets
        UpstreamTable upstreams
        Wheel wheel
        Tap tap                    # of those who want to know what is sent where
        # queries to send, to send again elsewhere, and for Python to send
        int32_t* queued
        int32_t* failed
        uint32_t queued_count, failed_count
        Stage walked               # of the list that is being sent
        list stream_queries
        # limits, in nanoseconds
        uint64_t timeout, deadline, retry_after
        uint64_t update_timeout    # in place of the deadline, for what is sent once
        uint16_t most              # attempts for a query
        bint hedge
        uint64_t hedged_queries

    cdef void queue(self, int32_t i) noexcept nogil
    cdef void retry(self, int32_t i) noexcept nogil
    cdef void resend(self, int32_t i, uint64_t now) noexcept nogil
    cdef void schedule(self, int32_t i, uint64_t until) noexcept nogil
    cdef void sent(self, int32_t i, int32_t upstream, int32_t attempt, uint64_t now) noexcept nogil
    cdef bint hand_over(self, int32_t i, int32_t upstream, uint64_t now) except -1
    cdef bint may_retry(self, int32_t i) noexcept nogil
    cdef bint may_ask_another(self, int32_t i) noexcept nogil
    cdef bint may_hedge(self, int32_t i) noexcept nogil
    cdef uint64_t retransmission_timeout(self, int32_t attempt) noexcept nogil
    cdef bint is_tcp_fallback(self, const Attempt* made) noexcept nogil
    cdef bint is_over_tcp(self, int32_t i, int32_t upstream) noexcept nogil
    cdef int32_t stream_attempt(self, int32_t i, uint64_t handle) noexcept nogil
    cdef void answered(self, int32_t attempt, uint64_t now) noexcept nogil
    cdef void lost(self, int32_t attempt, uint8_t reason, uint64_t now) noexcept nogil
    cdef void timed_out(self, int32_t i, uint64_t now) noexcept nogil
    cdef void _tcp_fallback_failed(self, const Attempt* made) noexcept nogil
    cdef void note_query(self, int32_t i, int32_t upstream, uint8_t transport, const uint8_t* wire,
                         size_t length) noexcept nogil
    cdef void note_response(self, int32_t attempt, uint8_t transport, const uint8_t* wire,
                            size_t length) noexcept nogil
    cdef void end(self, int32_t attempt) noexcept nogil
    cdef void end_all(self, int32_t i) noexcept nogil
