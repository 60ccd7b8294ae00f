"""Names that attract answers which nobody asked for: somebody may be guessing (RFC 5452)."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._siphash cimport Secret

cdef enum:
    NAMES = 4096

cdef struct Attraction:
    uint32_t tag                   # which name: the rest of its hash
    uint32_t count
    uint64_t since                 # the count's first, nanoseconds


@cython.final
cdef class Forgeries:
    cdef:
        Attraction* names
        Secret secret
        uint32_t bound             # answers that make a name suspect; 0: none do
        uint64_t alert_until       # no name is suspect after this, nanoseconds

    cdef void note(self, const uint8_t* wire, size_t length, uint64_t now) noexcept nogil
    cdef bint suspects(self, const uint8_t* wire, size_t length, uint64_t now) noexcept nogil
    cdef Attraction* _find(self, const uint8_t* wire, size_t length, uint32_t* tag) noexcept nogil
