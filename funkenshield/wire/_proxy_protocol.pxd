"""Whose query it is, where a front proxy tells: PROXY protocol version 2, as HAProxy's specification has it.

It knows one header in front of a query. Who is trusted to write one, and what is done with a query whose header is
missing, is decided elsewhere.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ._message cimport get16

cdef enum:
    PROXIED_MAX = 16 + 36          # octets of the longest header that we write
    HEADER_FIXED = 16              # octets before the addresses
    HEADER_REST = 14               # where the octets behind these are told

cdef enum ProxyHeaderStatus:
    NO_HEADER                      # it begins with something else
    BAD_HEADER                     # it begins as a header, and goes on in a way that none does
    PART_OF_HEADER                 # all that is there may be the beginning of one
    WHOLE_HEADER

cdef struct ProxyHeader:           # what a header tells
    size_t header                  # its octets, whatever it tells
    const uint8_t* address         # the client's, in network order; not owned
    uint8_t octets                 # of the address: 4 or 16
    uint8_t to_octets              # of where it was sent to; 0: that is not known
    uint16_t port, to_port
    const uint8_t* to


cdef inline uint32_t missing_of_header(const uint8_t* wire, uint32_t length) noexcept nogil:
    """Return how many octets of a header must be read next, and nothing behind it; no more than 65,535."""
    return HEADER_FIXED - length if length < HEADER_FIXED else HEADER_FIXED + get16(wire + HEADER_REST) - length


cdef ProxyHeaderStatus read_header(ProxyHeader* found, const uint8_t* wire, size_t length) noexcept nogil
cdef size_t put_header(uint8_t* out, const ProxyHeader* source, uint16_t port, const ProxyHeader* destination,
                       uint16_t to_port, bint datagram) noexcept nogil
