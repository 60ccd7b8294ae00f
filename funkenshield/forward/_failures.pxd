"""The last failures that clients felt: which question, whom it was asked, and why there was no answer."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from ..core._siphash cimport Secret

cdef enum:
    KEPT = 100                     # failures
    OF_KIND = 10                   # of one upstream, for one reason, of names with the same last two labels
    NAME_ROOM = 255

cdef struct Failure:
    uint64_t wall                  # when it was the last time, nanoseconds since 1970; 0: a free place
    uint64_t times                 # how often, in a row of the same
    uint64_t kind                  # the hash of what is of one kind
    int32_t upstream               # the last that was asked, by number; -1: there was none
    uint16_t qtype
    uint8_t reason                 # a FailureReason; of no upstream's, where there was none
    uint8_t length                 # octets of the name
    uint8_t[NAME_ROOM] name        # on the wire, as it was asked


@cython.final
cdef class Failures:
    cdef Failure* kept

    cdef void note(self, const Secret* secret, const uint8_t* name, uint16_t qtype, int32_t upstream, uint8_t reason,
                   uint64_t wall) noexcept nogil
