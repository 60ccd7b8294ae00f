"""The way from a worker to the control thread: a bounded ring of records, one producer, one consumer.

The producer fills records at its own head and publishes them once for a batch; the consumer is woken
only if it said that it sleeps. Neither ever waits for the other: what does not fit is not taken.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._atomic cimport barrier, exchange, load_acquire, load_relaxed, load_seq_cst, store_release, store_seq_cst

cdef enum:
    RING_SIZE = 1 << 20            # octets, a power of two
    SKIP = 0                       # a record of this length stands for the rest of the ring's end

cdef struct Ring:
    uint64_t head                  # octets ever published; written by the producer
    uint64_t filled                # octets ever filled; the producer's own
    uint64_t tail_seen             # the producer's last look at `tail`
    uint64_t unused[5]
    uint64_t tail                  # octets ever taken; written by the consumer
    uint64_t asleep                # the consumer wants to be woken
    uint64_t unused_too[6]
    uint8_t octets[RING_SIZE]


cdef inline uint8_t* ring_reserve(Ring* ring, uint32_t size) noexcept nogil:
    """Return where a record of `size` octets can be written, or NULL where the ring is full."""
    cdef:
        uint64_t at = ring.filled & (RING_SIZE - 1)
        uint64_t needed = (size + 8 + 7) & ~<uint64_t> 7
        uint64_t skipped = RING_SIZE - at if at + needed > RING_SIZE else 0
    if ring.filled + skipped + needed - ring.tail_seen > RING_SIZE:
        ring.tail_seen = load_acquire(&ring.tail)
        if ring.filled + skipped + needed - ring.tail_seen > RING_SIZE:
            return NULL
    if skipped:
        (<uint64_t*> (ring.octets + at))[0] = SKIP
        ring.filled += skipped
        at = 0
    (<uint64_t*> (ring.octets + at))[0] = size
    ring.filled += needed
    return ring.octets + at + 8


cdef inline bint ring_publish(Ring* ring) noexcept nogil:
    """Show what was filled; return whether the consumer must be woken."""
    if ring.filled == load_relaxed(&ring.head):
        return False
    store_release(&ring.head, ring.filled)
    barrier()
    return load_seq_cst(&ring.asleep) and exchange(&ring.asleep, 0)


cdef inline uint8_t* ring_next(Ring* ring, uint32_t* size) noexcept nogil:
    """Return the oldest record and its size, or NULL; it is the consumer's until `ring_taken`."""
    cdef uint8_t* record
    if load_relaxed(&ring.tail) == load_acquire(&ring.head):
        return NULL
    record = ring.octets + (ring.tail & (RING_SIZE - 1))
    if (<uint64_t*> record)[0] == SKIP:
        store_release(&ring.tail, ring.tail + (RING_SIZE - (ring.tail & (RING_SIZE - 1))))
        record = ring.octets
    size[0] = <uint32_t> (<uint64_t*> record)[0]
    return record + 8


cdef inline void ring_taken(Ring* ring, uint32_t size) noexcept nogil:
    store_release(&ring.tail, ring.tail + ((size + 8 + 7) & ~<uint64_t> 7))


cdef inline bint ring_sleep(Ring* ring) noexcept nogil:
    """Ask to be woken; return False where something came meanwhile."""
    store_seq_cst(&ring.asleep, 1)
    return load_seq_cst(&ring.head) == load_relaxed(&ring.tail)
