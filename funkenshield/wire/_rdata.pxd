"""Where names stand in the data of records, by type."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef bint has_sound_names(const uint8_t* wire, size_t at, size_t end, uint16_t rtype, uint32_t* steps) noexcept nogil
