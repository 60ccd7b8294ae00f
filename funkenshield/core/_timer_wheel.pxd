"""A timing wheel: what is due when, in constant time, for as many things as there are numbers."""

cimport cython
from libc.stdint cimport int32_t, uint64_t

cdef enum:
    WHEEL = 2048                   # turns before it comes round
    TURN = 16000000                # nanoseconds: 2,048 turns are 32 seconds


@cython.final
cdef class Wheel:
    cdef:
        int32_t[WHEEL] heads       # the first of each turn; -1: none
        int32_t* earlier           # neighbours in a turn; -1: none
        int32_t* later
        int32_t* turns             # which turn, plus one; 0: none
        uint64_t turned            # the turn that it is now

    cdef void begin(self, uint64_t now) noexcept nogil
    cdef void schedule(self, int32_t i, uint64_t when) noexcept nogil
    cdef void unschedule(self, int32_t i) noexcept nogil
    cdef int32_t due(self, uint64_t now) noexcept nogil
