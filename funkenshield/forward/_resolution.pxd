"""What open queries wait for, and what ends their waiting."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..cache._entry cimport Answer, Built
from ..cache._zone_settings cimport TtlLimits
from ..wire._message cimport Query
from ._outbox cimport Client
from ._attempts cimport Attempts

cdef enum:
    WAYS_MAX = 65536               # numbers of ways, and of bounds
    FALLBACKS_MAX = 1 << 24           # octets of responses that are kept in case nothing better comes
    FUNCTION = 0xffff              # who is asked is no group, but a function of Python's

cdef struct TtlBounds:             # that a rule set, in seconds; zeros: none
    uint32_t shortest
    uint32_t longest

cdef struct Response:              # to an open query, taken apart
    const uint8_t* wire
    size_t length
    bint over_stream
    Built built                    # what the answer in the cache's scratch is good for

cdef void narrow(TtlLimits* ttl_limits, const TtlBounds* by) noexcept nogil


cdef class Resolution(Attempts):
    cdef:
        # what Python is asked about: queries to send, to send again, to carry, that are special
        int32_t* queued
        int32_t* failed
        uint32_t queued_count, failed_count
        list carried, specials
        dict fallbacks                # responses that serve if nothing better comes, by number of the query
        size_t fallback_octets
        # limits
        uint32_t most_forgeable    # queries of one client prefix that came over UDP and are not proven to be its own
        uint16_t* routes           # the groups that rules may choose, by number
        TtlBounds* ttl_limits
        uint32_t try_next          # one bit for each RCODE with which another upstream is asked
        bint retry_truncated
        # who knows without an upstream
        object identity, denials
        object loops               # who tells whether a query that comes again and again is a loop
        # counters
        uint64_t no_upstream_available  # queries that failed because no upstream could be asked
        uint64_t coalesced_queries, dropped_duplicates, local_answers, resolution_failures, retries
        uint64_t outstanding_limit_exceeded, zone_limit_exceeded, fair_share_exceeded
        uint64_t stale_on_refresh_failure, upstream_truncated, spoof_suspected

    cdef int admit(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef object _known(self, const Query* query, uint16_t zone, uint64_t now)
    cdef int _answer_from(self, const Client* client, Query* query, uint16_t zone, bytes response,
                          uint64_t now) except -1
    cdef int _open_query(self, const Client* client, const Query* query, uint16_t zone, bint has_stale,
                         uint64_t now) except -1
    cdef int32_t _take_place(self, const Client* client, const Query* query, uint16_t zone, uint16_t group,
                             bint asks) noexcept nogil
    cdef bint _put_query(self, int32_t i, const Query* query, bint alone) noexcept nogil
    cdef bint _has_stream(self, int32_t i) noexcept nogil
    cdef bint _is_in_part(self, int32_t i, const Response* response) noexcept nogil
    cdef void _queue(self, int32_t i) noexcept nogil
    cdef void _build(self, int32_t i, Query* query, Response* response, uint64_t now) noexcept nogil
    cdef int _resolve(self, int32_t i, int32_t upstream, const Query* query, const Response* response,
                      uint64_t now) except -1
    cdef int _learn(self, int32_t i, const Query* query, const Response* response, uint64_t now) except -1
    cdef int _fail(self, int32_t i, uint64_t now) except -1
    cdef const Answer* _reserve(self, int32_t i, uint64_t now) noexcept nogil
    cdef int _serve_stale(self, int32_t i, const Answer* stored, uint64_t now) except -1
    cdef int _serve_meanwhile(self, int32_t i, uint64_t now) except -1
    cdef void _release_followers(self, int32_t i) noexcept nogil
    cdef int _close(self, int32_t i) except -1
    cdef int _expired(self, int32_t i, uint64_t now) except -1
    cdef void _try_elsewhere(self, int32_t i) noexcept nogil
    cdef int _turn_all_away(self, int32_t i, uint64_t now) except -1
    cdef int _serve_doubted(self, int32_t i, uint64_t now) except -1
    cdef int consider(self, int32_t i, int32_t upstream, const Query* query, Response* response, uint64_t now) except -1
    cdef void _note_client_visible_failure(self, int32_t i) noexcept nogil
    cdef int _keep_fallback(self, int32_t i, const Response* response, uint8_t kind) except -1
    cdef bytes _take_fallback(self, int32_t i)
    cdef int _serve_fallback(self, int32_t i, uint64_t now) except -1
    cdef int _hand_over(self, int32_t i, int32_t upstream, uint64_t now) except -1
    cdef int _fetch(self, int32_t i, int32_t upstream, uint64_t now) except -1
    cdef int _go_without(self, int32_t i, int32_t why, uint64_t now) except -1
    cdef int _set_aside(self, const Client* client, const uint8_t* wire, size_t length) except -1
