"""How a pending query ends: with a response, with what is stale, or with SERVFAIL."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..cache._entry cimport Answer, BuildResult
from ..cache._store cimport Cache
from ..policy._rule_program cimport Program
from ..policy._rule_state cimport RuleState
from ..upstream._selection cimport UpstreamTable
from ..wire._message cimport Query
from ._attempts cimport Attempts
from ._client_replies cimport ClientReplies
from ._failures cimport Failures
from ._pending cimport PendingQueries, PendingQuery
from ._shared_cache cimport SharedCache

cdef enum:
    LAST_RESORTS_MAX = 1 << 24     # octets of responses that are kept in case nothing better comes

cdef struct Response:              # to a pending query, taken apart
    const uint8_t* wire
    size_t length
    bint over_stream
    BuildResult built                    # what the answer in the cache's scratch is good for


@cython.final
cdef class Resolution:
    cdef:
        Cache cache
        PendingQueries queries
        PendingQuery* pool         # the queries'
        ClientReplies replies
        Attempts attempts
        UpstreamTable upstreams
        list stopped_responses           # responses that stopped at a rule
        dict last_resorts          # responses that serve if nothing better comes, by number of the query
        size_t last_resort_octets
        uint32_t retry_on          # one bit for each RCODE with which another upstream is asked
        bint retry_truncated
        SharedCache shared         # that is told what is stored here
        object nsec_cache          # who learns what does not exist
        Failures failures          # that clients felt
        uint64_t no_upstream_available  # queries that failed because no upstream could be asked
        uint64_t resolution_failures, stale_on_refresh_failure, upstream_truncated, upstreams_saturated

    # a response
    cdef bint read(self, int32_t i, Query* query, Response* response, const uint8_t* wire, size_t length,
                   bint over_stream, uint64_t now) noexcept nogil
    cdef void _build(self, int32_t i, Query* query, Response* response, uint64_t now) noexcept nogil
    cdef const Program* program(self) noexcept nogil
    cdef int consider(self, int32_t i, int32_t upstream, const Query* query, Response* response, uint64_t now) except -1
    cdef int run(self, int32_t i, int32_t upstream, const Query* query, Response* response, RuleState* rule_state,
                 uint64_t now) except -1
    cdef int finish_by_rules(self, int32_t i, int32_t upstream, Query* query, Response* response,
                             const RuleState* rule_state, uint64_t now) except -1
    cdef int _stop_response(self, int32_t i, const Query* query, const Response* response, const RuleState* rule_state,
                            uint64_t now) except -1
    cdef int resolve(self, int32_t i, int32_t upstream, const Query* query, const Response* response,
                     uint64_t now) except -1
    cdef int serve_shared(self, int32_t i, uint64_t now) except -1
    cdef bint _is_truncated(self, int32_t i, const Response* response) noexcept nogil
    cdef int _learn(self, int32_t i, const Query* query, const Response* response, uint64_t now) except -1
    # none, or none that is wanted
    cdef int ignore(self, int32_t i, uint64_t now) except -1
    cdef int fail(self, int32_t i, uint64_t now) except -1
    cdef void _count_failure(self, int32_t i) noexcept nogil
    cdef void _note_failure(self, int32_t i, int32_t upstream, uint8_t reason) noexcept nogil
    cdef int no_upstream(self, int32_t i, int32_t why, uint64_t now) except -1
    cdef int reject_all(self, int32_t i, uint64_t now) except -1
    cdef int time_is_up(self, int32_t i, uint64_t now) except -1
    cdef int close(self, int32_t i) except -1
    # over TCP
    cdef int hand_over(self, int32_t i, int32_t upstream, uint64_t now) except -1
    cdef int ask_over_tcp(self, int32_t i, int32_t upstream, uint64_t now) except -1
    cdef int verify_over_tcp(self, int32_t i, int32_t upstream, const Response* response, bint serves,
                             uint64_t now) except -1
    # replies of last resort
    cdef int _keep_last_resort(self, int32_t i, const Response* response, uint8_t kind) except -1
    cdef bytes take_last_resort(self, int32_t i)
    cdef int _serve_truncated(self, int32_t i, uint64_t now) except -1
    cdef int _serve_unverified(self, int32_t i, uint64_t now) except -1
    # stale answers
    cdef const Answer* _stale_answer(self, int32_t i, uint64_t now) noexcept nogil
    cdef int _serve_stale(self, int32_t i, const Answer* stored, uint64_t now) except -1
    cdef int _serve_stale_meanwhile(self, int32_t i, uint64_t now) except -1
