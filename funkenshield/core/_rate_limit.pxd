"""How much came lately, by key, in memory of fixed size: one word for each key (GCRA, ITU-T I.371).

A word is a tag of the key and its due time: when all that came would have come, at the allowed rate. Who is furthest
ahead of his due time is forgotten last, so a flood of forged sources pushes out nobody who asks much. That compares
words of one rate only: each limit has a table of its own.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._siphash cimport Secret

cdef enum:
    CELLS = 8                      # in a line: one cache line

cdef struct Limit:                 # its table is shared by all threads, without a lock
    uint64_t* cells
    uint64_t lines                 # of cells, a power of two
    Secret secret
    uint64_t cost                  # of one, in 2**-40 s
    uint64_t tolerance             # how far its due time may lie ahead, in 2**-20 s
    uint64_t debt                  # how much further what does not fit may move it; 0: that is not charged
    uint8_t ipv4                   # bits of a source prefix that count
    uint8_t ipv6


cdef uint64_t key_of(const Limit* limit, const uint8_t* address, uint8_t octets, uint64_t more) noexcept nogil
cdef bint exceeds(const Limit* limit, uint64_t key, uint64_t weight, uint64_t now) noexcept nogil
cdef void set_aside(Limit* limit, uint64_t key, uint64_t* line) noexcept nogil


cdef inline bint source_exceeds(const Limit* limit, const uint8_t* address, uint8_t octets, uint64_t more,
                                uint64_t weight, uint64_t now) noexcept nogil:
    """Charge the prefix of a source with so much, of what else is counted by itself; tell whether that does not fit."""
    return exceeds(limit, key_of(limit, address, octets, more), weight, now)


@cython.final
cdef class RateTable:
    cdef:
        Limit limit
        void* memory
        object __weakref__
