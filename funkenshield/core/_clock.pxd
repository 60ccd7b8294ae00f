"""The clock that everything else is told by: one reading for a batch, and a hand that tests may move."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    TICKS_PER_SECOND = 16          # the unit of ages and expiries: 32 bits of ticks last eight years
    NANOSECONDS = 1000000000


cdef inline uint32_t ticks(uint64_t nanoseconds) noexcept nogil:
    return <uint32_t> (nanoseconds * TICKS_PER_SECOND // NANOSECONDS)


@cython.final
cdef class Clock:
    cdef uint64_t start            # the kernel's clock since boot when this one was made, nanoseconds
    cdef uint64_t moved            # what `advance` added to it, nanoseconds; written by one thread

    cdef uint64_t now(self) noexcept nogil
    cdef uint64_t wall(self) noexcept nogil
