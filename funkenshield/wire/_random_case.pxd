"""Names whose letters are in upper or lower case at random (0x20): one more thing that a forger would have to guess."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t


cdef void respell(uint8_t* wire, uint64_t spelling) noexcept nogil
cdef bint is_spelled(const uint8_t* wire, uint16_t question, uint64_t spelling) noexcept nogil
cdef bint is_mixed(const uint8_t* wire, uint16_t question) noexcept nogil
