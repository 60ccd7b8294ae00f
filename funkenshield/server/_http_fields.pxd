"""What the fields of a request say, octet by octet: its path, the query in it, its type, whom it was forwarded for."""

from libc.stdint cimport int32_t, uint8_t, uint32_t


cdef size_t path_end(const uint8_t* target, size_t length) noexcept nogil
cdef const uint8_t* dns_parameter(const uint8_t* target, size_t length, size_t* found) noexcept nogil
cdef size_t decoded_length(size_t length) noexcept nogil
cdef bint decode(uint8_t* out, const uint8_t* text, size_t length) noexcept nogil
cdef bint is_dns_message(const uint8_t* value, size_t length) noexcept nogil
cdef uint32_t read_number(const uint8_t* value, size_t length) noexcept nogil
cdef uint8_t last_forwarded_for(const uint8_t* value, size_t length, uint8_t* address) noexcept nogil
cdef size_t put_number(uint8_t* out, uint32_t number) noexcept nogil
