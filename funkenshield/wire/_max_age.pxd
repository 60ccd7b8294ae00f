"""For how long a cache of HTTP's may keep a response (RFC 8484 5.1)."""

from libc.stdint cimport uint8_t, uint32_t


cdef uint32_t max_age_of(const uint8_t* wire, size_t length) noexcept nogil
