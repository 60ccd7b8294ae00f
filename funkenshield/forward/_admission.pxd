"""How a miss comes in: to its answer, behind the first who asked the same, or into the queue."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..cache._store cimport Cache
from ..wire._message cimport Query
from ._attempts cimport Attempts
from ._client_replies cimport ClientReplies
from ._outbox cimport Client
from ._pending cimport PendingQueries, PendingQuery


@cython.final
cdef class Admission:
    cdef:
        Cache cache
        PendingQueries queries
        PendingQuery* pool         # the queries'
        ClientReplies replies
        Attempts attempts
        list notifies_and_transfers          # for Python: NOTIFY (several upstreams), transfers (several responses)
        uint32_t most_forgeable    # queries of one client prefix that came over UDP and are not proven to be its own
        # who knows without an upstream
        object chaos, discovery, nsec_cache
        object loops               # who tells whether a query that comes again and again is a loop
        # counters
        uint64_t coalesced_queries, dropped_duplicates, local_answers
        uint64_t outstanding_limit_exceeded, zone_limit_exceeded, fair_share_exceeded, upstreams_saturated

    cdef int admit(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef int admit_uncached(self, const Client* client, const Query* query, uint64_t now) except -1
    cdef object _local_response(self, const Query* query, uint16_t zone, uint64_t now)
    cdef object _tell_of_resolver(self, const Query* query, const uint8_t* name)
    cdef int _answer_locally(self, const Client* client, Query* query, uint16_t zone, bytes response,
                             uint64_t now, bint stores) except -1
    cdef int _add_pending(self, const Client* client, const Query* query, uint16_t zone, bint has_stale,
                          uint64_t now) except -1
    cdef bint _is_repeat(self, const Client* client, const Query* query, int32_t first, uint64_t hashed) noexcept nogil
    cdef bint _is_loop(self, const Client* client, uint64_t hashed) except -1
    cdef int32_t _take_place(self, const Client* client, const Query* query, uint16_t zone, uint16_t group,
                             bint asks) noexcept nogil
    cdef uint64_t* objection(self, const Client* client, const Query* query, uint16_t zone, uint16_t group, bint asks,
                             uint32_t* quota, uint32_t* shares) noexcept nogil
    cdef bint _put_query(self, int32_t i, const Query* query, bint uncached) noexcept nogil
