"""One query, one outcome: what becomes of a query, the same for every transport."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .cache._index cimport Index
from .cache._store cimport Cache
from .core._prefix_table cimport Prefixes
from .policy._guard cimport Guard, Orders, Watch
from .policy._rule_program cimport Program, Seen
from .policy._rule_state cimport CHAINS, Course, Sender
from .wire._edns_cookies cimport Cookies
from .wire._message cimport Extra, Ignored, Query, Verdict
from .wire._proxy_protocol cimport Proxies

cdef enum Outcome:
    REPLY                          # it is written; send it
    REPLY_AND_ASK                  # it is written; send it, and have the upstream asked for a fresher one
    MISS                           # nobody here knows; ask the upstream, and remember
    PASS_ON                        # only the upstream can say; ask it, and forget
    DROP                           # no answer at all
    DECIDE                         # a rule wants Python to decide

cdef enum:                         # what a nameserver may do for our address's sake
    TRANSFERS
    UPDATES
    NOTIFIES
    DEPUTIES                       # how many there are

cdef struct House:                 # what holds for every query; replaced as a whole
    const Index* index
    const Orders** orders          # where the guard has its orders in force
    const Program* programs[CHAINS]  # NULL: there are no rules
    uint64_t subnets               # rules of what upstreams are told of clients' subnets; 0: nothing
    uint8_t minimal_any            # ANY is answered here (RFC 8482)
    Cookies cookies
    Ignored ignored                # EDNS options
    uint16_t idle                  # tenths of a second that a connection may be (RFC 7828)
    Prefixes[DEPUTIES] allowed     # whose queries of each kind reach an upstream
    Proxies proxies

cdef struct Tally:                 # counters with one writer
    uint64_t queries
    uint64_t hits
    uint64_t stale                 # hits with an answer past its time
    uint64_t refreshes             # hits that had the upstream asked again
    uint64_t misses
    uint64_t passed_on
    uint64_t not_allowed           # transfers, updates, notifies, answered REFUSED
    uint64_t malformed             # answered FORMERR
    uint64_t bad_cookies           # answered BADCOOKIE
    uint64_t minimal               # ANY, answered here
    uint64_t short_datagrams       # dropped: no header
    uint64_t responses             # dropped: QR=1
    uint64_t truncated             # hits that were cut with TC=1
    uint64_t ring_full             # dropped: the control gear could not take it
    uint64_t over_share            # dropped: its client prefix, or zone, had its share of what the control gear takes
    uint64_t send_failed           # answers that the kernel had no room for
    uint64_t oversized             # queries longer than a buffer, sent to TCP
    uint64_t bad_proxied           # dropped: from a front proxy, without a right header
    uint64_t ruled                 # answered, or dropped, by a rule
    uint64_t decisions             # handed to Python by a rule
    Watch watch                    # what the guard did


cdef extern from *:
    # Defined in `_atomic`; here with a type.
    const House* look_house "FS_LOOK"(const House** place) noexcept nogil
    void publish_house "FS_PUBLISH"(const House** place, const House* house) noexcept nogil


cdef Verdict meet(const House* house, Query* query, const uint8_t* wire, size_t length) noexcept nogil
cdef Verdict meet_from(const House* house, Query* query, const uint8_t* wire, size_t length, const uint8_t* address,
                       uint8_t octets, uint8_t* told) noexcept nogil
cdef Outcome answer(const House* house, Query* query, Verdict verdict, Sender* sender, Course* course, uint8_t* out,
                    size_t limit, uint32_t now, Tally* tally, size_t* length) noexcept nogil
cdef Outcome answer_cut(const House* house, Query* query, Verdict verdict, const Sender* sender, uint8_t* out,
                        Tally* tally, size_t* length) noexcept nogil
cdef Outcome answer_on(const House* house, Query* query, Verdict verdict, Sender* sender, Course* course, uint8_t* out,
                       size_t limit, uint32_t now, Tally* tally, size_t* length) noexcept nogil
cdef Outcome follow(const House* house, const Program* program, const Query* query, const Sender* sender,
                    Course* course, const Seen* seen, const Extra* extra, uint8_t* out, Tally* tally,
                    size_t* length) noexcept nogil
cdef void own_options(const House* house, Extra* extra, const uint8_t* client_cookie, bint keepalive,
                      const Sender* sender) noexcept nogil
cdef dict tally_as_dict(const Tally* tally)


@cython.final
cdef class Reception:
    cdef:
        readonly Cache cache
        readonly Guard guard
        const House* house         # in force; the control gear's own to follow, workers look it up
        object held                # what it is kept in

    cdef object _anew(self)
    cdef int _publish(self, made) except -1
