"""Fair shares of what is bounded: who may take one more.

A client prefix, or a zone, may take one more only while it holds less than four times what is left free. So one that
wants all gets four fifths, many share what they take, and whoever comes anew finds room (dynamic thresholds, Choudhury
and Hahne 1998).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ._siphash cimport Secret, siphash
from ._spsc_ring cimport RING_SIZE, Ring
from ._suffix_table cimport last_two_labels

cdef enum:
    SHARE = 4                      # times what is left free
    COUNTERS = 1 << 17             # of what client prefixes hold; few share one with another
    PREFIX_4 = 3                   # octets of an IPv4 address that are its client's: /24
    PREFIX_6 = 7                   # of an IPv6 address: /56
    ZONES = 1 << 12                # counters of zones, where these have no numbers
    TAKEN_MAX = 1 << 13            # records of a ring that are counted at once


cdef inline bint may_take(uint64_t held, uint64_t left) noexcept nogil:
    """Tell whether who holds so much may take one more of what is left."""
    return held < SHARE * left


cdef inline uint64_t hash_prefix(const Secret* secret, const uint8_t* address, uint8_t octets) noexcept nogil:
    """Return a number for a client's prefix that nobody else can tell."""
    return siphash(secret, address, PREFIX_4 if octets == 4 else PREFIX_6)


cdef inline uint32_t counter_of(uint64_t prefix, uint32_t what) noexcept nogil:
    """Return which counter is that of a client prefix for one of several things that it can hold."""
    cdef uint64_t golden = <uint64_t> 0x9e3779b97f4a7c15  # 2**64 divided by the golden ratio
    return <uint32_t> ((prefix ^ what * golden) * golden >> 47)


cdef inline uint32_t zone_number(const Secret* secret, const uint8_t* name, uint32_t counters) noexcept nogil:
    """Return which of so many counters is that of all names with the same last two labels; `name` is in lower case."""
    cdef size_t length
    name = last_two_labels(name, &length)
    return <uint32_t> (siphash(secret, name, length) % counters)


cdef struct Taken:                 # a record in a ring, and whose it is
    uint32_t end                   # octets ever filled, this record included; compared as serial numbers
    uint32_t prefix
    uint32_t size                  # octets
    uint16_t zone

cdef struct RingShares:            # what client prefixes and zones hold of a ring, in octets; its producer's own
    uint64_t first, last           # of those that are counted
    uint32_t[COUNTERS] prefixes
    uint32_t[ZONES + 1] zones      # the last one is of what counts for none
    Taken[TAKEN_MAX] taken


cdef bint ring_has_share(RingShares* shares, const Ring* ring, uint32_t prefix, uint32_t spared) noexcept nogil
cdef bint ring_share(RingShares* shares, const Ring* ring, const Secret* secret, const uint8_t* address, uint8_t octets,
                     const uint8_t* name, uint32_t size) noexcept nogil
