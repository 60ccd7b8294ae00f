"""Names of what events tell by number."""

from libc.stdint cimport uint8_t, uint16_t


cdef const char* kind_name(uint8_t kind) noexcept nogil
cdef const char* transport_name(uint8_t transport) noexcept nogil
cdef const char* type_name(uint16_t number) noexcept nogil
cdef const char* reason_name(uint8_t reason) noexcept nogil
cdef const char* rcode_name(uint8_t rcode) noexcept nogil
