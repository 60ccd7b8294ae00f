"""One query, one outcome: what becomes of a query, the same for every transport."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .cache._index cimport Index
from .cache._store cimport Cache
from .core._prefix_table cimport Prefixes
from .policy._guard cimport Guard, GuardCounters, GuardTable
from .policy._rule_program cimport MessageFacts, Program
from .policy._rule_state cimport CHAINS, ClientInfo, RuleState
from .wire._edns_cookies cimport Cookies
from .wire._message cimport EdnsOptions, Ignored, Query, Verdict

cdef enum Outcome:                 # two bits; NEXT is of a step on the way, and never the end
    DROP = 0                       # nobody gets anything
    SEND = 1                       # the client gets a reply: it is written
    ASK = 2                        # the control thread has it: an upstream is asked, or Python where rules have stopped
    NEXT = 4                       # the next step decides

cdef enum:                         # what a nameserver may do for our address's sake
    TRANSFERS
    UPDATES
    NOTIFIES
    DEPUTIES                       # how many there are

cdef struct Settings:              # what holds for every query; replaced as a whole
    const Index* index
    const GuardTable** guard_table  # where the guard has its table in force
    const Program* programs[CHAINS]  # NULL: there are no rules
    uint64_t subnets               # rules of what upstreams are told of clients' subnets; 0: nothing
    uint8_t minimal_any            # ANY is answered here (RFC 8482)
    Cookies cookies
    Ignored ignored                # EDNS options
    uint16_t idle                  # tenths of a second that a connection may be (RFC 7828)
    Prefixes[DEPUTIES] allowed     # whose queries of each kind reach an upstream
    Prefixes proxies               # whose PROXY protocol headers are believed

cdef struct Counters:              # counters with one writer, by their names in reports
    uint64_t queries
    uint64_t cache_hits
    uint64_t stale_answers         # hits with an answer past its time
    uint64_t prefetches            # hits that had the upstream asked again
    uint64_t cache_misses
    uint64_t uncached_queries
    uint64_t forward_denied   # transfers, updates, notifies, answered REFUSED
    uint64_t malformed_queries     # answered FORMERR
    uint64_t badcookie_responses   # answered BADCOOKIE
    uint64_t minimal_any_answers   # ANY, answered here
    uint64_t dropped_short         # dropped: no header
    uint64_t dropped_responses     # dropped: QR=1
    uint64_t replies_truncated     # hits that were truncated: TC=1
    uint64_t dropped_queue_full    # dropped: the control thread could not take it
    uint64_t queue_share_exceeded  # dropped: its client prefix, or zone, had its share of what the control thread takes
    uint64_t reply_send_errors     # answers that the kernel had no room for
    uint64_t oversized_queries     # queries longer than a buffer, sent to TCP
    uint64_t proxy_protocol_invalid  # dropped: from a front proxy, without a right header
    uint64_t rule_replies          # answered, or dropped, by a rule
    uint64_t rule_python_calls     # handed to Python by a rule
    GuardCounters guard            # what the guard did


cdef struct QueryContext:          # a query on its way: what is asked, by whom, and what was made of it so far
    const Settings* settings       # what holds for it
    Query* query
    ClientInfo client
    RuleState rule_state           # zeros, where it begins
    EdnsOptions options            # of ours, for this client alone
    uint8_t* reply                 # where a reply is written; there is room for an error at least
    size_t limit                   # octets that it may have
    size_t length                  # octets that it has
    uint32_t now                   # ticks
    Verdict verdict                # the parser's
    Counters* counters


cdef extern from *:
    # Defined in `_atomic`; here with a type.
    const Settings* load_settings "FS_LOAD_ACQUIRE"(const Settings** place) noexcept nogil
    void store_settings "FS_STORE_RELEASE"(const Settings** place, const Settings* settings) noexcept nogil


cdef Verdict parse_and_hash(const Settings* settings, Query* query, const uint8_t* wire, size_t length) noexcept nogil
cdef Verdict parse_with_ecs(const Settings* settings, Query* query, const uint8_t* wire, size_t length,
                            const uint8_t* address, uint8_t octets, uint8_t* room) noexcept nogil
cdef Outcome process_query(QueryContext* context) noexcept nogil
cdef Outcome process_oversized(QueryContext* context) noexcept nogil
cdef Outcome resume_query(QueryContext* context) noexcept nogil
cdef Outcome run_rules(QueryContext* context, const Program* program, const MessageFacts* facts) noexcept nogil
cdef void add_own_options(const Settings* settings, EdnsOptions* options, const uint8_t* client_cookie, bint keepalive,
                          const ClientInfo* client) noexcept nogil
cdef dict counters_as_dict(const Counters* counters)


@cython.final
cdef class SettingsWriter:
    cdef:
        readonly Cache cache
        readonly Guard guard
        const Settings* settings   # in force; the control thread's own to follow, workers look it up
        object held                # what it is kept in

    cdef tuple chains(self)
    cdef object _anew(self)
    cdef int _publish(self, made) except -1
