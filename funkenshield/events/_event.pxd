"""What became of a query, or of an exchange with an upstream: one record, and how a thread makes it.

A record is made where the outcome is known, by the thread that knows it, in a ring of its own. Nobody waits: what does
not fit is counted.
"""

cimport cython
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._atomic cimport load_relaxed
from ..core._clock cimport Clock
from ..core._limits cimport EDNS_UDP_SIZE
from ..core._spsc_ring cimport Ring
from ..policy._rule_state cimport ClientInfo
from ..wire._message cimport HEADER, QUESTION_MAX

cdef enum:
    NAMED = HEADER + QUESTION_MAX  # octets of a message that tell its name and type
    LONG = EDNS_UDP_SIZE           # octets; a message of more may not take the room that others need
    NO_RULE = 0xffff

cdef enum Reason:                  # why a query was dropped, where its Kind does not say it
    NO_REASON
    PROXY_HEADER                   # there was none before it, or a wrong one
    REASONS                        # how many there are

cdef struct Wanted:                # what is recorded: written by the control thread, read by all
    uint64_t kinds                 # one bit for each Kind; 0: nobody listens
    uint64_t chance                # of 2**32 queries, so many are recorded
    uint64_t octets                # of a message, at most; of a long one, if there is little room, NAMED
    uint64_t queries               # messages of queries that are answered, too

cdef struct Event:                 # followed by the octets of the query, and by those of the response
    uint64_t wall                  # when the record was made, nanoseconds since 1970
    uint64_t took                  # from the query to here, nanoseconds
    uint16_t query, response       # octets that follow of each, maybe only the first ones; 0: it is not there
    uint16_t query_size, response_size  # octets that each has
    uint16_t port                  # the client's
    int16_t upstream               # by number; -1: none was asked
    uint16_t rule                  # by number in its chain, or NO_RULE
    uint16_t generation            # of rules
    uint32_t draw                  # of the lot: who wants one in so many looks at this
    uint8_t kind                   # a Kind
    uint8_t transport              # the client's, or that to the upstream
    uint8_t listener
    uint8_t octets                 # of the address: 4 or 16
    uint8_t chain                  # of the rule
    uint8_t[16] address            # the client's
    uint8_t told                   # the query was recorded before
    uint8_t reason                 # a Reason


cdef inline const uint8_t* query_of(const Event* event) noexcept nogil:
    return <const uint8_t*> (event + 1)


cdef inline const uint8_t* response_of(const Event* event) noexcept nogil:
    return <const uint8_t*> (event + 1) + event.query


@cython.final
cdef class Tap:
    cdef:
        Clock clock
        const Wanted* wanted
        Ring* ring
        int wake_fd
        uint64_t random            # where the sequence of draws is
        uint64_t offset            # of the time of day to the clock, nanoseconds
        uint64_t lost              # records that did not fit

    cdef uint32_t draw(self) noexcept nogil
    cdef size_t _kept(self, size_t size) noexcept nogil
    cdef Event* note(self, uint8_t kind, const ClientInfo* client, const uint8_t* query, size_t query_size,
                     const uint8_t* response, size_t response_size) noexcept nogil
    cdef Event* _begin(self, uint8_t kind, uint32_t draw, const uint8_t* query, size_t query_size,
                       const uint8_t* response, size_t response_size) noexcept nogil
    cdef void note_exchange(self, uint32_t draw, int16_t upstream, uint8_t transport, uint64_t sent,
                            const uint8_t* query, size_t query_size, const uint8_t* response,
                            size_t response_size) noexcept nogil
    cdef void publish(self) noexcept nogil


cdef inline uint64_t wanted_kinds(Tap tap) noexcept nogil:
    """Return what is recorded, one bit for each Kind; 0: nothing."""
    return load_relaxed(&tap.wanted.kinds)
