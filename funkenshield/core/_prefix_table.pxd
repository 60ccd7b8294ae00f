"""Values by the longest prefix that an address is in: prefixes cut the line of all addresses into spans.

A look-up is a binary search for the span that an address lies in. A table is made as a whole, and never changed.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef struct Span:                  # of IPv6 addresses; of IPv4, `low` alone counts
    uint64_t high                  # its first address
    uint64_t low
    uint32_t value

cdef struct Prefixes:              # zeros: an empty table
    Span* ipv4                     # in order; the first begins at address 0
    Span* ipv6
    uint32_t ipv4_count            # 0: every address has the value 0
    uint32_t ipv6_count


cdef inline const uint8_t* unmapped(const uint8_t* address, uint8_t* octets) noexcept nogil:
    """Return where an address of so many octets stands as what it is: of a mapped one, its IPv4 (RFC 4291 2.5.5.2)."""
    if octets[0] == 16 and not memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12):
        octets[0] = 4
        return address + 12
    return address


cdef inline uint8_t octets_of(bytes address) except 0:
    """Return the octets of an address; raises ValueError where it has neither 4 nor 16."""
    if len(address) not in (4, 16):
        raise ValueError(f"an address has 4 or 16 octets, not {len(address)}")
    return <uint8_t> len(address)


cdef inline bint is_empty(const Prefixes* table) noexcept nogil:
    """Tell whether every address has the value 0."""
    return not table.ipv4_count and not table.ipv6_count


cdef uint32_t prefix_value(const Prefixes* table, const uint8_t* address, uint8_t octets) noexcept nogil


@cython.final
cdef class PrefixTable:
    cdef Prefixes prefixes
