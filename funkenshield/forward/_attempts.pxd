"""Attempts: what is sent to which upstream, until when its silence is no news, and what is held against whom."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from ..core._timer_wheel cimport Wheel
from ..upstream._selection cimport UpstreamTable
from ..upstream._sockets cimport Attempt, Sockets
from ._client_replies cimport ClientReplies

cdef uint64_t NEVER


cdef class Attempts(ClientReplies):
    cdef:
        readonly Sockets sockets
        readonly UpstreamTable upstreams
        Wheel wheel
        uint64_t timeout, deadline, patience
        uint64_t update_timeout    # in place of the deadline, for what is sent once
        uint16_t tries
        bint hedge
        uint64_t hedged_queries

    cdef void _wait(self, int32_t i, uint64_t until) noexcept nogil
    cdef void _sent(self, int32_t i, int32_t upstream, int32_t attempt, uint64_t now) noexcept nogil
    cdef bint _may_try(self, int32_t i) noexcept nogil
    cdef uint64_t _usual(self, int32_t attempt) noexcept nogil
    cdef bint _is_aside(self, const Attempt* made) noexcept nogil
    cdef void _heard(self, int32_t attempt, uint64_t now) noexcept nogil
    cdef void _lost(self, int32_t attempt, uint8_t trouble, uint64_t now) noexcept nogil
    cdef void _fetch_failed(self, const Attempt* made) noexcept nogil
    cdef void _blame(self, int32_t i, uint64_t now) noexcept nogil
    cdef bint _may_hedge(self, int32_t i) noexcept nogil
    cdef void _end_attempt(self, int32_t attempt) noexcept nogil
