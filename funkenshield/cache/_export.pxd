"""An entry on its way to the disk and back: octets that say nothing of this process."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from ..wire._message cimport ADDITIONAL
from ._entry cimport Answer

# Followed by what follows an Answer. Another version of it has another number in `Cache.layout`, however entries are
# laid out in memory.
cdef packed struct Exported:
    uint32_t age         # since the response came, ticks
    int32_t left         # until it is no longer fresh, ticks
    uint16_t ttls, key_length, body, options
    uint16_t flags
    uint16_t[ADDITIONAL + 1] counts
    uint16_t edns_flags
    uint8_t rcode_high, opt, kind, form, scope, everybody, bare

cdef size_t write_entry(uint8_t* out, const Answer* answer, uint32_t now) noexcept nogil
cdef size_t read_entry(Answer* answer, const uint8_t* wire, size_t left, uint32_t now, int64_t aged) except 0
