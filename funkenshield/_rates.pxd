"""How much came lately, by key, in memory of fixed size: one word for each key (GCRA, ITU-T I.371).

A word is a tag of the key and its due time: when all that came would have come, at the allowed rate. Who is furthest
ahead of his due time is forgotten last, so a flood of forged sources pushes out nobody who asks much.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._siphash cimport Secret

cdef enum:
    CELLS = 8                      # in a line: one cache line

cdef struct Rates:                 # shared by all threads, without a lock
    uint64_t* cells
    uint64_t lines                 # of cells, a power of two
    Secret secret

cdef struct Limit:
    uint64_t cost                  # of one, in 2**-40 s
    uint64_t tolerance             # how far its due time may lie ahead, in 2**-20 s
    uint64_t debt                  # how much further what does not fit may move it; 0: that is not charged
    uint64_t salt                  # tells the keys of one limit from those of another
    uint8_t ipv4                   # bits of a source prefix that count
    uint8_t ipv6


cdef uint64_t key_of(const Rates* rates, const Limit* limit, const uint8_t* address, uint8_t octets,
                     uint64_t more) noexcept nogil
cdef bint exceeds(const Rates* rates, const Limit* limit, uint64_t key, uint64_t weight, uint64_t now) noexcept nogil
cdef Limit make_limit(double rate, double burst, uint64_t salt, uint8_t ipv4, uint8_t ipv6) noexcept nogil
cdef int rates_make(Rates* rates, size_t memory) except -1
cdef void rates_free(Rates* rates) noexcept nogil
