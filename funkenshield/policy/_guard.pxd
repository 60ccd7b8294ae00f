"""The guard: access lists, query rate limits, dynamic blocks, and response rate limiting (RRL), before all rules."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ..core._epochs cimport Epochs
from ..core._prefix_table cimport Prefixes
from ..core._rate_limit cimport Limit
from ._rrl cimport ResponseLimits
from ._rule_state cimport ClientInfo

cdef enum:
    LIMITS_MAX = 8
    DYNBLOCKS_MAX = 16
    ALARMS = 256

cdef enum GuardAction:
    GUARD_ALLOW
    GUARD_DROP                     # no answer at all
    GUARD_REFUSE
    GUARD_TRUNCATE                 # TC=1; over TCP, where the address is real, it is allowed

cdef enum Counted:                 # what a dynamic block counts, for each source prefix
    QUERIES
    NXDOMAINS
    SERVFAILS
    OCTETS

cdef struct GuardCounters:         # what the guard did; counters with one writer, by their names in reports
    uint64_t acl_denied            # by the access list
    uint64_t blocked               # by a block
    uint64_t rate_limited          # over a limit of queries
    uint64_t rrl_dropped           # responses over a limit, not sent
    uint64_t rrl_slipped           # responses over a limit, sent with TC=1

cdef struct Alarm:                 # a source prefix is over a rate
    uint64_t state                 # 0: free, 1: being written, 2: raised
    uint64_t key
    const uint64_t* rates          # of the dynamic block: no other has these
    uint8_t octets                 # of the address: 4 or 16
    uint8_t address[16]

cdef struct GuardTable:            # what is in force; replaced as a whole
    Alarm* alarms
    Prefixes access                # by prefix: a GuardAction; ALLOWED
    GuardAction otherwise          # for who is in none
    Prefixes blocked               # by prefix: a GuardAction
    uint32_t limit_count
    Limit[LIMITS_MAX] limits
    GuardAction[LIMITS_MAX] over   # what is beyond each of them
    ResponseLimits rrl
    uint32_t dynblock_count
    Counted[DYNBLOCKS_MAX] counted
    Limit[DYNBLOCKS_MAX] dynblocks
    Prefixes[DYNBLOCKS_MAX] dynblock_exempt


cdef extern from *:
    # Defined in `_atomic`; here with a type.
    const GuardTable* load_guard_table "FS_LOAD_ACQUIRE"(const GuardTable** place) noexcept nogil
    void store_guard_table "FS_STORE_RELEASE"(const GuardTable** place, const GuardTable* guard_table) noexcept nogil


cdef GuardAction check_query(const GuardTable* guard_table, const ClientInfo* sender, GuardCounters* counters,
                             uint8_t* kind) noexcept nogil
cdef size_t check_response(const GuardTable* guard_table, const ClientInfo* sender, uint8_t* wire, size_t length,
                           GuardCounters* counters) noexcept nogil
cdef dict guard_counters_as_dict(const GuardCounters* counters)


@cython.final
cdef class Guard:
    cdef:
        size_t memory              # octets, for the rates of each limit
        object tables              # of rates, by what is counted there, as long as anybody counts
        const GuardTable* guard_table  # in force; NULL: there is nothing to guard
        object held                # what these are kept in, whether they are asked or not
        Epochs epochs
        Alarm[ALARMS] alarms

    cdef object _anew(self)
    cdef int _publish(self, anew) except -1
