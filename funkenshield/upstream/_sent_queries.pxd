"""What is asked over UDP: how many queries for a question are outstanding at once, and what was asked lately."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._siphash cimport Secret

cdef enum:
    ALIKE_MAX = 4                  # outstanding for one name, type and class at once, whatever else their keys say
    COUNTED = 1                    # the bit of a question's hash that says so
    LATE = 30                      # seconds after which an answer is unsolicited, and not late any more
    ANSWERED = 8192                # that have ended with their answer are remembered: it may come twice, but soon

cdef struct Ended:                 # an attempt that nobody waits for any more
    uint32_t tag                   # of socket, ID and question
    uint32_t sent                  # ticks; 0: never


@cython.final
cdef class SentQueries:
    cdef:
        uint8_t* outstanding       # attempts, by question; several may share a place
        Ended* answered
        Ended* given_up
        uint64_t outstanding_mask, given_up_mask
        Secret secret

    cdef uint64_t hash(self, const uint8_t* wire, size_t length) noexcept nogil
    cdef bint enter(self, uint64_t question) noexcept nogil
    cdef void leave(self, uint64_t question) noexcept nogil
    cdef void remember(self, uint64_t question, int32_t socket, uint16_t message_id, uint64_t sent,
                       bint answered) noexcept nogil
    cdef bint is_late(self, uint64_t question, int32_t socket, uint16_t message_id, uint64_t now) noexcept nogil
