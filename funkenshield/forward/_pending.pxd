"""Pending queries: who waits for what, in a pool of fixed size."""

cimport cython
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..cache._store cimport Cache
from ..policy._rule_state cimport RuleState
from ..upstream._selection cimport Tried
from ..wire._message cimport Query
from ._outbox cimport Client

cdef enum:
    WIRE_MAX = 384                 # octets of a query that a place has room for
    PENDING_MAX = 1 << 22
    QUOTAS = 4096                  # that names without a zone of their own are counted in
    CHOICES_MAX = 65536            # routes, and limits of TTLs, that rules may choose
    FUNCTION = 0xffff              # in place of a group: a function of Python's answers

cdef enum:                         # of what a client prefix has shares
    EVERYTHING
    OF_ZONE
    OF_GROUP
    SHARES                         # how many there are

cdef enum Stage:
    IDLE                           # in the pool
    WAITING                        # behind the first who asked the same
    QUEUED                         # to be sent, for the first time
    SENT
    FAILED                         # to be sent again, elsewhere
    DECIDING                       # Python answers it, or looks at the answer
    LOOKED_UP                      # in the nodes' cache, before an upstream is asked

cdef enum LastResort:              # a response that serves if nothing better comes
    NO_LAST_RESORT
    TRUNCATED_REPLY
    UNVERIFIED_REPLY               # it came over UDP, and may be forged

cdef struct TtlBounds:             # that a rule set, in seconds; zeros: none
    uint32_t shortest
    uint32_t longest

cdef struct PendingQuery:
    Client client
    int32_t next                   # in the pool, or among those who wait for the same answer
    uint32_t quota                 # which quota it counts against
    uint32_t[SHARES] shares        # where it counts for its client prefix: of everything, its zone, its upstreams
    uint8_t forgeable              # it came over UDP, and nothing proves that its source is real
    uint16_t asked_id              # the client's
    uint16_t limit                 # octets of the largest answer that the client takes
    uint8_t with_cookie            # the client sent one
    uint8_t cookie[8]              # his half of it
    uint8_t keepalive              # he asked how long his connection may be idle
    uint64_t hash                  # of its key; of all but its ID, where it is `uncached`
    uint16_t length
    uint8_t* wire                  # as it goes upstream; each attempt sets its ID
    uint8_t octets[WIRE_MAX]       # where that is, unless it is longer
    # -- what follows is of the first who asked
    int32_t chained                # the next pending query whose hash falls into the same chain
    int32_t attempt                # the last one; -1: none
    uint32_t generation            # tells this use of the place from the next
    uint32_t purges                # how many there had been when it was asked
    # -- and this is zeros at first
    Stage stage
    uint16_t zone
    uint16_t group                 # of upstreams
    Tried tried                    # the upstreams, one after the other
    int16_t chosen                 # the next one
    uint8_t over_stream            # asked over TCP from here on, whatever its upstream is asked over as a rule
    uint8_t tcp_fallback           # asked so besides: if that fails, it is no failure of the name
    uint8_t last_resort            # which LastResort is kept
    uint8_t unverified             # what ends it may be forged, and is not stored
    uint8_t from_udp               # so came the response that Python looks at
    uint8_t unreachable            # an upstream refused it, rather than said nothing
    uint8_t hedging                # the last one is not late yet, but slower than it is as a rule
    uint8_t answered_stale         # clients are served what is stale, whatever comes
    uint8_t resent               # a socket that it went by led nowhere from here: once is no try
    uint8_t regrouped              # a rule chose another group for its response
    uint8_t by_function            # a function of a rule answers it, not an upstream
    uint8_t uncached               # asked for this client, and forgotten: the cache is left alone
    uint8_t verbatim               # what comes back goes to the client as it came
    uint8_t looked_up              # the nodes' cache was, or is, asked
    uint8_t send_once              # never sent again where it may have arrived: it may have done its work
    uint8_t maybe_delivered
    uint16_t ttl_limits            # that a rule set for the response, by number; 0: none
    RuleState response_state       # what rules have made of the response that Python looks at
    uint64_t question              # the hash of name, type and class alone
    uint64_t try_until             # another attempt is made then, nanoseconds
    uint64_t stale_at              # clients are served what is stale then
    uint64_t deadline


@cython.final
cdef class PendingQueries:
    cdef:
        Cache cache
        PendingQuery* pool
        int32_t* chains
        uint32_t* quotas           # clients that wait, by zone, then by names without one
        uint32_t* shares           # by client prefix, and what they are shares of
        uint32_t* forgeable        # by client prefix: whose source nothing proves
        int32_t* repeats           # who waits, by what would be the same query again
        uint32_t* equal            # uncached queries, by client prefix and all octets but the ID
        uint16_t* routes           # groups of upstreams, or FUNCTION, that rules may choose, by number
        TtlBounds* ttl_limits      # that rules may choose, by number
        uint32_t capacity, chain_mask, waiting
        uint32_t long, long_max    # that are longer than WIRE_MAX
        int32_t idle, untouched

    cdef uint32_t quota_of(self, const uint8_t* name, uint16_t zone) noexcept nogil
    cdef void find_shares(self, uint32_t* shares, const Client* client, uint32_t quota, uint16_t group) noexcept nogil
    cdef uint32_t long_share(self, const Client* client) noexcept nogil
    cdef int32_t take(self, const Client* client, uint32_t quota, const uint32_t* shares) noexcept nogil
    cdef bint copy(self, int32_t i, const uint8_t* wire, size_t length) noexcept nogil
    cdef bint is_repeat(self, int32_t i, const Client* client, uint16_t message_id, uint64_t hashed) noexcept nogil
    cdef int32_t* repeat_of(self, uint16_t message_id, uint64_t hashed) noexcept nogil
    cdef uint32_t* equal_to(self, const Client* client, uint64_t hashed) noexcept nogil
    cdef void give_back(self, int32_t i) noexcept nogil
    cdef int32_t find(self, const Query* query) noexcept nogil
    cdef void read(self, int32_t i, Query* query) noexcept nogil
    cdef void read_as_asked(self, int32_t i, Query* query) noexcept nogil
    cdef bint has_stream(self, int32_t i) noexcept nogil
    cdef void release_waiting(self, int32_t i) noexcept nogil
    cdef void index_add(self, int32_t i) noexcept nogil
    cdef void coalesce(self, int32_t i, int32_t first) noexcept nogil
    cdef void index_remove(self, int32_t i) noexcept nogil
    cdef int32_t held(self, uint64_t handle) noexcept nogil
    cdef uint64_t handle(self, int32_t i, uint16_t attempt) noexcept nogil
