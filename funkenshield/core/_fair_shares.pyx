"""Fair shares of what is bounded: who may take one more of a ring."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._atomic cimport load_acquire
from ._siphash cimport Secret
from ._spsc_ring cimport RING_SIZE, Ring


cdef bint ring_has_share(RingShares* shares, const Ring* ring, uint32_t prefix, uint32_t spared) noexcept nogil:
    """Tell whether one more record of a client prefix, by its counter, may go into the ring.

    So many octets (`spared`) are left in any case. What the consumer has taken out meanwhile is nobody's any more.
    """
    cdef:
        uint64_t tail = load_acquire(&ring.tail)
        uint64_t left = RING_SIZE - (ring.filled - tail)
        Taken* oldest = &shares.taken[shares.first % TAKEN_MAX]
    while shares.first != shares.last and <int32_t> (<uint32_t> tail - oldest.end) >= 0:
        shares.prefixes[oldest.prefix] -= oldest.size
        shares.zones[oldest.zone] -= oldest.size
        shares.first += 1
        oldest = &shares.taken[shares.first % TAKEN_MAX]
    return (shares.last - shares.first != TAKEN_MAX and left > spared
            and may_take(shares.prefixes[prefix], left - spared))


cdef bint ring_share(RingShares* shares, const Ring* ring, const Secret* secret, const uint8_t* address, uint8_t octets,
                     const uint8_t* name, uint32_t size) noexcept nogil:
    """Tell whether a query of `size` octets may go into the ring, for its client prefix and its zone; count it if so.

    `name` is the question's, in lower case; NULL: it counts for no zone. Caller must ensure that what may go is put
    into the ring, if there is room, and that nobody else fills it.
    """
    cdef:
        uint32_t prefix = counter_of(hash_prefix(secret, address, octets), 0)
        uint32_t zone = ZONES if name == NULL else zone_number(secret, name, ZONES)
    if not ring_has_share(shares, ring, prefix, 0) or name != NULL and not may_take(
            shares.zones[zone], RING_SIZE - (ring.filled - load_acquire(&ring.tail))):
        return False
    shares.taken[shares.last % TAKEN_MAX] = Taken(<uint32_t> (ring.filled + size), prefix, size, <uint16_t> zone)
    shares.last += 1
    shares.prefixes[prefix] += size
    shares.zones[zone] += size
    return True
