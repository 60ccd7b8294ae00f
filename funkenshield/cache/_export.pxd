"""An entry on its way to the disk and back: octets that say nothing of this process."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from ._entry cimport Answer

cdef size_t write_entry(uint8_t* out, const Answer* answer, uint32_t now) noexcept nogil
cdef size_t read_entry(Answer* answer, const uint8_t* wire, size_t left, uint32_t now, int64_t aged) except 0
