"""TC=1: what a client gets who must come by TCP."""

from libc.stdint cimport uint8_t, uint16_t

from ._message cimport EdnsOptions, Query


cdef size_t put_truncated(uint8_t* out, const Query* query, uint16_t flags, uint16_t payload, uint8_t rcode_high,
                          uint16_t edns_flags, const EdnsOptions* extra) noexcept nogil
cdef size_t truncate(uint8_t* wire, size_t length) noexcept nogil
