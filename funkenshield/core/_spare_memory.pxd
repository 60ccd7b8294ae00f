"""Memory that is needed for a moment, again and again: blocks that a thread keeps by size, and who holds how many.

The functions are called as nghttp2 calls those that it is given.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SMALLEST = 64                  # octets of a block, and twice as many in each size after that
    SIZES = 5

cdef struct Block:                 # what is before the octets
    Block* next                    # the next one that is spare; itself: it is in use
    size_t size                    # of what is behind this

cdef struct SpareMemory:           # of one thread; zeros: there is none
    Block* first[SIZES]
    uint32_t[SIZES] count

cdef struct Holder:
    SpareMemory* spare
    uint64_t held                  # octets, all in all

cdef void* take_block(size_t size, void* holder) noexcept nogil  # NULL: there is no memory
cdef void* take_zeros(size_t count, size_t size, void* holder) noexcept nogil
cdef void* resize_block(void* octets, size_t size, void* holder) noexcept nogil
cdef void give_back(void* octets, void* holder) noexcept nogil
cdef void free_spare(SpareMemory* spare) noexcept nogil
