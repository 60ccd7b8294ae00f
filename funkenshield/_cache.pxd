"""The cache: one arena of answers, one writer, any number of readers that never wait.

    index:   sets of sixteen slots; a slot is 24 bits of the hash and where in the arena the answer is
    arena:   segments, filled from front to back, emptied as a whole

A reader enters before it looks and leaves when it has copied what it found. What the writer takes out
of the index is reused only when every reader that was inside at that time has left: so an answer that
a reader sees never changes under its eyes, and nothing has to be checked afterwards.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ._answer cimport Answer, answer_key
from ._atomic cimport LINE, announce, barrier, look, peek, peek32, prefetch, witness
from ._clock cimport Clock
from ._policy cimport Policy
from ._purges cimport Purges, Rules, survives
from ._siphash cimport Secret
from ._wire cimport Query
from ._zones cimport Zones

cdef enum:
    SLOTS = 16                     # in a set: two cache lines, of which a key has one that comes first
    TAG_SHIFT = 40                 # a slot: hash tag above, offset in units of 8 octets below
    READERS_MAX = 256
    SUBNET_WORDS = 4               # 33 prefix lengths of IPv4 in the first, 129 of IPv6 in the others

cdef struct Index:                 # what a reader needs; never changes once the cache is made
    uint8_t* arena
    uint64_t* slots
    uint64_t sets
    Secret secret
    uint64_t* epoch
    const Policy* policies         # by zone
    const Rules* rules             # of purges
    uint64_t subnets[SUBNET_WORDS]  # prefix lengths of client subnets that were ever stored: IPv4, then IPv6

cdef struct Reader:                # one cache line, so that readers do not disturb each other
    uint64_t seen                  # the epoch when it entered; 0: it is outside
    uint64_t unused[7]

cdef enum State:
    FREE
    FILLING
    FULL
    LEAVING                        # out of the index, but readers may still be inside

cdef struct Segment:               # the writer's own
    uint32_t used                  # octets written
    uint32_t live                  # answers that the index leads to
    uint64_t left                  # the epoch in which it was taken out
    uint32_t soonest               # when the first of its answers is dead, ticks
    uint32_t checked               # the number of the last purge that its answers were held against
    int32_t next                   # in its queue; -1: the last
    State state

cdef struct Queue:                 # segments in the order in which they were filled
    int32_t first
    int32_t last                   # the one being filled
    uint32_t length

cdef enum Put:
    STORED
    KEPT_OLD                       # a failure does not replace what can still be served
    OUTDATED                       # something that concerns it was purged while it was on its way
    NO_ROOM                        # readers hold all that could be reused; try again with the next


cdef inline uint64_t* find_set(const Index* index, uint64_t key_hash) noexcept nogil:
    return index.slots + ((key_hash >> 32) * index.sets >> 32) * SLOTS


cdef inline uint64_t* slot_at(uint64_t* slots, uint64_t key_hash, size_t i) noexcept nogil:
    """Return a slot of a set, in the order in which a key takes them: by a bit that neither set nor tag has."""
    return slots + (i ^ (key_hash >> 24 & 1) * (SLOTS // 2))


cdef inline uint64_t tag_of(uint64_t key_hash) noexcept nogil:
    return key_hash << TAG_SHIFT


cdef inline const Answer* answer_at(const Index* index, uint64_t slot) noexcept nogil:
    return <const Answer*> (index.arena + ((slot & ((<uint64_t> 1 << TAG_SHIFT) - 1)) << 3))


cdef inline bint leads_to(uint64_t slot, uint64_t tag) noexcept nogil:
    return slot and not (slot ^ tag) >> TAG_SHIFT


cdef inline const Answer* find_key(const Index* index, const uint8_t* key, uint16_t key_length,
                                   uint64_t key_hash) noexcept nogil:
    """Return the answer stored under a key that no purge took out, fresh or not, or NULL.

    Caller must have entered (or be the writer). The hash finds, the full key decides.
    """
    cdef:
        uint64_t* slots = find_set(index, key_hash)
        uint64_t tag = tag_of(key_hash)
        uint64_t slot
        const Answer* answer
        size_t i
    for i in range(SLOTS):
        slot = look(slot_at(slots, key_hash, i))
        if leads_to(slot, tag):
            answer = answer_at(index, slot)
            if is_under(answer, key, key_length, key_hash):
                return answer if stands(index, answer) else NULL
    return NULL


cdef inline bint is_under(const Answer* answer, const uint8_t* key, uint16_t key_length,
                          uint64_t key_hash) noexcept nogil:
    """Tell whether an answer is stored under a key."""
    return (answer.hash == key_hash and answer.key_length == key_length
            and memcmp(answer_key(answer), key, key_length) == 0)


cdef inline bint stands(const Index* index, const Answer* answer) noexcept nogil:
    """Tell whether an answer is left by all purges."""
    return peek32(&answer.marks.purges) == <uint32_t> look(&index.rules.count) or survives(index.rules, answer)


cdef const Answer* find_subnet(const Index* index, const Query* query) noexcept nogil


cdef inline const Answer* find(const Index* index, const Query* query) noexcept nogil:
    """Return the answer that serves a query, fresh or not, or NULL; see `find_key`."""
    cdef const Answer* likely = <const Answer*> query.likely
    if query.subnet:
        return find_subnet(index, query)
    if (likely != NULL and is_under(likely, query.key, query.key_length, query.hash)
            and stands(index, likely)):
        return likely
    return find_key(index, query.key, query.key_length, query.hash)


cdef inline void find_soon(const Index* index, uint64_t key_hash) noexcept nogil:
    """Fetch where a key is likely to be into the CPU's cache while the rest of the batch is being parsed."""
    prefetch(slot_at(find_set(index, key_hash), key_hash, 0))


cdef inline void look_ahead(const Index* index, Query* query) noexcept nogil:
    """Fetch what is likely to be a query's answer, once its set was fetched; caller has entered, and `find`s within.

    An answer of usual size is in three cache lines.
    """
    cdef:
        uint64_t* slots = find_set(index, query.hash)
        uint64_t tag = tag_of(query.hash)
        uint64_t slot
        const uint8_t* answer
        size_t i
    for i in range(SLOTS // 2):
        slot = look(slot_at(slots, query.hash, i))
        if leads_to(slot, tag):
            answer = <const uint8_t*> answer_at(index, slot)
            query.likely = answer
            prefetch(answer)
            prefetch(answer + LINE)
            prefetch(answer + 2 * LINE)
            return
    prefetch(slot_at(slots, query.hash, SLOTS // 2))


cdef inline void enter(const Index* index, Reader* reader) noexcept nogil:
    announce(&reader.seen, witness(index.epoch))
    barrier()


cdef inline void leave(Reader* reader) noexcept nogil:
    announce(&reader.seen, 0)


@cython.final
cdef class Cache:
    cdef:
        Index index
        uint64_t epoch
        void* mapped               # with room for the alignment of what is used
        size_t memory, segment_size
        size_t prepared            # octets, from the index on, that the kernel has given before they are written
        Segment* segments
        uint32_t segment_count
        uint64_t touched           # segments, from the lowest on, that were ever used
        int32_t free, leaving      # stacks of segments, linked by `next`
        uint32_t free_count, leaving_count
        Queue newcomers, residents
        Reader* readers
        uint32_t reader_count
        Answer* scratch            # where the writer builds an answer before it is stored
        readonly Clock clock
        readonly Zones zones
        Purges purges
        # counters
        uint64_t stored, evicted, displaced, expired, purged, no_room

    cdef Reader* join(self) except NULL
    cdef Put put(self, Answer* answer, uint32_t now) noexcept nogil
    cdef Put put_for(self, const Query* query, Answer* answer, uint32_t now) noexcept nogil
    cdef void drop(self, const Query* query) noexcept nogil
    cdef void _note_subnet(self, const Answer* answer) noexcept nogil
    cdef uint32_t _dies(self, const Answer* answer) noexcept nogil
    cdef bint _readers_left(self, uint64_t epoch) noexcept nogil
    cdef int32_t _room(self, Queue* queue, size_t size, uint32_t now) noexcept nogil
    cdef void _reclaim(self) noexcept nogil
    cdef void _evict(self, uint32_t now) noexcept nogil
    cdef int32_t _append_free(self, Queue* queue) noexcept nogil
    cdef void _append(self, int32_t segment, const Answer* answer, size_t size, uint64_t* slot) noexcept nogil
    cdef bint _has_room(self, int32_t segment, size_t size) noexcept nogil
    cdef Segment* _segment(self, int32_t segment) except NULL
    cdef int _parse(self, Query* parsed, bytes query) except -1
    cdef void _collect(self, Queue* queue) noexcept nogil
    cdef int32_t _take_first(self, Queue* queue) noexcept nogil
    cdef void _let_go(self, int32_t segment) noexcept nogil
    cdef uint64_t* _choose_slot(self, const Answer* answer, uint32_t now) noexcept nogil
    cdef uint64_t* _slot_of(self, const Answer* answer) noexcept nogil
    cdef size_t _wanted(self) noexcept nogil
    cdef uint64_t _offset(self, int32_t segment) noexcept nogil
    cdef int32_t _segment_of(self, uint64_t slot) noexcept nogil
    cdef void _unlink(self, uint64_t* slot) noexcept nogil
