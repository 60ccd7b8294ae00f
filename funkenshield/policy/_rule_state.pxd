"""Whose query it is, and what was decided about it so far."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:                         # chains of rules
    QUERIES                        # asked of queries
    RESPONSES                      # asked of responses that come from an upstream
    ANSWERS                        # asked of answers from the cache
    CHAINS                         # how many there are

cdef enum:                         # transports, as rules know them
    OVER_UDP
    OVER_TCP
    OVER_TLS
    OVER_HTTPS
    OVER_HTTP                      # to a proxy, which clients ask
    OVER_QUIC
    OVER_H3                        # HTTP over QUIC
    TRANSPORTS                     # how many there are

cdef enum Kind:                    # what became of a query, as events tell it
    KIND_HIT                       # answered from the cache; zero, so that a hit has nothing to set
    KIND_PREFETCH                  # so, and its refresh is under way
    KIND_STALE                     # answered with what had expired
    KIND_FORWARDED                 # an upstream answered it
    KIND_COALESCED                 # an upstream answered the same query of another client
    KIND_SYNTHESISED               # answered from what is known not to exist
    KIND_LOCAL                     # answered here otherwise: CHAOS, ANY, discovery, TC=1
    KIND_RULE                      # answered, or dropped, by a rule
    KIND_BLOCKED                   # by a dynamic block
    KIND_LIMITED                   # over a rate limit
    KIND_DENIED                    # the client may not ask
    KIND_REFUSED                   # nor have this asked of an upstream
    KIND_MALFORMED
    KIND_BADCOOKIE
    KIND_REJECTED                  # refused, or dropped, because a bound was reached
    KIND_FAILED                    # SERVFAIL: no upstream answered
    KIND_DROPPED                   # what was no query
    KIND_ASKED                     # nothing yet: it goes to the control thread
    KIND_EXCHANGE                  # not a client's query: one with an upstream
    KINDS                          # how many there are

cdef enum:
    START = 0                      # nothing of a chain was asked yet
    END = 0xffffffff               # nothing of it is left

cdef struct ClientInfo:            # where a query came from
    const uint8_t* address         # the client's, in network order; not owned
    uint64_t now                   # when, nanoseconds
    uint32_t wall                  # when, seconds since 1970
    uint32_t draw                  # of the lot that decides who records it; 0: nobody does
    uint8_t octets                 # of the address: 4 or 16
    uint8_t datagram               # by UDP, whose source can be forged
    uint8_t transport
    uint8_t proven                 # and yet it is not: a cookie of ours came with it
    uint8_t listener               # to which it came, by number
    uint64_t server_names          # with TLS, the lists of rules that the name asked for is in, one bit each

cdef inline bint has_server_name(uint8_t transport) noexcept nogil:
    """Tell whether clients ask for a server by its name, in a handshake."""
    return transport == OVER_TLS or transport == OVER_HTTPS


cdef struct RuleState:             # what rules made of a query so far; zeros where there are none
    uint64_t tags                  # one bit each
    uint32_t at                    # the node of its chain that comes next
    uint16_t route                 # who is asked instead of the zone's upstreams, by number; 0: they are
    uint16_t ttl_limits            # limits of TTLs, by number; 0: the zone's alone
    uint16_t generation            # of the rules that it was asked by
    uint8_t chain
    uint8_t skip_cache             # the cache is left alone
    uint8_t stopped                # Python decides, at the node `at`
    uint8_t by_function            # who is asked instead is no group, but a function of Python's
    uint8_t kind                   # what became of the query, as far as it is known: a Kind
