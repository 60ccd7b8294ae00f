"""Which network a client is in, as upstreams are told of it where he did not say so himself (RFC 7871)."""

from libc.stdint cimport uint8_t, uint64_t

from ._message cimport Ignored, Query

cdef enum:
    ECS_QUERY_MAX = 384                 # octets of a query that was added to; no more than a pending query may have

cdef uint64_t subnet_rules(uint8_t ipv4, uint8_t ipv6, bint private) noexcept nogil
cdef void add_ecs(Query* query, uint64_t rules, const uint8_t* address, uint8_t octets,
                  const Ignored* ignored, uint8_t* out) noexcept nogil
cdef size_t strip_added(uint8_t* wire, size_t length, uint8_t added) noexcept nogil
