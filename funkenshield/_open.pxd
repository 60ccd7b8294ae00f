"""Open queries: who waits for what, in a pool of fixed size."""

cimport cython
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._cache cimport Cache
from ._outbox cimport Client
from ._upstreams cimport Tried
from ._wire cimport Query

cdef enum:
    WIRE_MAX = 384                 # octets of the longest query that is carried here
    OPEN_MAX = 1 << 22
    CROWDS = 4096                  # that names without a zone of their own are counted in

cdef enum Stage:
    IDLE                           # in the pool
    WAITING                        # behind the first who asked the same
    QUEUED                         # to be sent, for the first time
    SENT
    FAILED                         # to be sent again, elsewhere
    DECIDING                       # Python answers it, or looks at the answer

cdef struct Open:
    Client client
    int32_t next                   # in the pool, or among those who wait for the same answer
    uint32_t crowd                 # whose bound it counts against
    uint16_t asked_id              # the client's
    uint16_t limit                 # octets of the largest answer that the client takes
    uint8_t with_cookie            # the client's cookie is ours to answer
    uint8_t cookie[8]              # his half of it
    uint16_t length
    uint8_t wire[WIRE_MAX]         # as it goes upstream; each attempt sets its ID
    # -- what follows is of the first who asked
    int32_t chained                # the next open query whose hash falls into the same chain
    int32_t attempt                # the last one; -1: none
    uint32_t generation            # tells this use of the place from the next
    uint32_t purges                # how many there had been when it was asked
    Stage stage
    uint16_t zone
    uint16_t group                 # of upstreams
    Tried tried                    # the upstreams, one after the other
    int16_t chosen                 # the next one
    uint8_t over_stream            # asked over TCP or TLS, in Python's hands
    uint8_t spare                  # a truncated response is kept that serves if nothing better comes
    uint8_t unreachable            # an upstream refused it, rather than said nothing
    uint8_t hedging                # the last one is not late yet, but slower than it is as a rule
    uint8_t late                   # clients are served what is stale, whatever comes
    uint8_t moved                  # a rule chose another group for its response
    uint8_t by_function            # a function of a rule answers it, not an upstream
    uint16_t bounds                # that a rule set for the response, by number; 0: none
    uint64_t hash
    uint64_t try_until             # another attempt is made then, nanoseconds
    uint64_t stale_at              # clients are served what is stale then
    uint64_t deadline


@cython.final
cdef class OpenQueries:
    cdef:
        Cache cache
        Open* pool
        int32_t* chains
        uint32_t* crowds           # clients that wait, by zone, then by names without one
        uint32_t capacity, chain_mask, waiting
        int32_t idle, untouched

    cdef uint32_t crowd_of(self, const Query* query, uint16_t zone) noexcept nogil
    cdef int32_t take(self, uint32_t crowd) noexcept nogil
    cdef void give_back(self, int32_t i) noexcept nogil
    cdef int32_t find(self, const Query* query) noexcept nogil
    cdef void read(self, int32_t i, Query* query) noexcept nogil
    cdef void lead(self, int32_t i) noexcept nogil
    cdef void follow(self, int32_t i, int32_t first) noexcept nogil
    cdef void resign(self, int32_t i) noexcept nogil
    cdef int32_t held(self, uint64_t handle) noexcept nogil
    cdef uint64_t handle(self, int32_t i, uint16_t attempt) noexcept nogil
