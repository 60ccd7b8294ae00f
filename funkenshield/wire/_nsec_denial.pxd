"""A negative response: the records by which it denies that something exists (RFC 2308, 4034)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ._message cimport Query, Record

cdef enum:
    SECTION_MAX = 32               # records of an authority section that is learnt from: few names, each followed alone
    TTL_MAX = 0x7fffffff           # seconds (RFC 2181 8)

cdef enum:  # record types that tell what exists
    NXNAME = 128                   # the owner of this NSEC does not exist (RFC 9824)

cdef struct Negative:
    const uint8_t* wire            # the whole message; not owned
    size_t length
    size_t apex                    # octets of the SOA's owner
    uint16_t flags                 # of the header
    uint16_t count                 # records in authority; there are none elsewhere, but for an OPT
    uint16_t soa                   # which of them
    Record[SECTION_MAX] records
    double hold                    # how long it may be held, seconds
    double expires                 # that on the clock of who keeps it, seconds; for him to set


cdef size_t expand(uint8_t* out, const uint8_t* wire, size_t at) noexcept nogil
cdef bint read_negative(Negative* found, const Query* query, const uint8_t* wire, size_t length,
                        double wall) noexcept nogil
cdef size_t copy_record(uint8_t* out, size_t room, const Negative* found, const Record* record) noexcept nogil
cdef size_t finish_records(uint8_t* out, size_t at, uint16_t count, uint16_t apex, uint32_t ttl) noexcept nogil
