"""The index: how an answer is found, by any number of readers that never wait.

    sets of sixteen slots; a slot is 24 bits of the hash and where in the arena the answer is

A reader enters before it looks and leaves when it has copied what it found (`_epochs`). What the writer takes
out of the index is reused only when every reader that was inside at that time has left: so an answer that a reader
sees never changes under its eyes, and nothing has to be checked afterwards.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ..core._atomic cimport load_acquire, load_relaxed, load_relaxed32
from ..core._siphash cimport Secret, siphash
from ..wire._message cimport Query
from ._entry cimport Answer, answer_key
from ._purges cimport PurgeRules, survives_purges
from ._zone_settings cimport ZoneSettings

cdef enum:
    SLOTS = 16                     # in a set: two cache lines
    TAG_SHIFT = 40                 # a slot: hash tag above, offset in units of 8 octets below
    SUBNET_WORDS = 4               # 33 prefix lengths of IPv4 in the first, 129 of IPv6 in the others
    LENGTHS_MAX = 8                # of each, that are in use at once

cdef struct Index:                 # what a reader needs; but for `subnets`, it never changes once the cache is made
    uint8_t* arena
    uint64_t* slots
    uint64_t sets
    Secret secret
    const ZoneSettings* zone_settings  # by zone
    const PurgeRules* rules        # of purges
    uint64_t subnets[SUBNET_WORDS]  # a bit for each prefix length of client subnets in use: IPv4, then IPv6


cdef extern from * nogil:
    int __builtin_clzll(unsigned long long)


cdef inline size_t subnet_word(uint8_t family, uint8_t prefix) noexcept nogil:
    """Return in which word the bit of a prefix length is; it is bit `prefix % 64` there."""
    return 0 if family < 2 else 1 + prefix // 64


cdef inline int32_t shorter_length(const Index* index, uint8_t family, int32_t prefix) noexcept nogil:
    """Return the longest prefix length in use that is shorter than this one; 0: there is none."""
    cdef uint64_t below
    while prefix > 0:
        prefix -= 1
        below = load_relaxed(&index.subnets[subnet_word(family, <uint8_t> prefix)]) << (63 - prefix % 64)
        if below:
            return prefix - __builtin_clzll(below)
        prefix -= prefix % 64
    return 0


cdef inline uint64_t* find_set(const Index* index, uint64_t key_hash) noexcept nogil:
    return index.slots + ((key_hash >> 32) * index.sets >> 32) * SLOTS


cdef inline uint64_t tag_of(uint64_t key_hash) noexcept nogil:
    return key_hash << TAG_SHIFT


cdef inline uint64_t tag_in(uint64_t slot) noexcept nogil:
    return slot >> TAG_SHIFT << TAG_SHIFT


cdef inline const Answer* answer_at(const Index* index, uint64_t slot) noexcept nogil:
    return <const Answer*> (index.arena + ((slot & ((<uint64_t> 1 << TAG_SHIFT) - 1)) << 3))


cdef inline uint64_t hash_of(const Index* index, const Answer* answer) noexcept nogil:
    return siphash(&index.secret, answer_key(answer), answer.key_length)


cdef inline bint tag_matches(uint64_t slot, uint64_t tag) noexcept nogil:
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
        slot = load_acquire(slots + i)
        if tag_matches(slot, tag):
            answer = answer_at(index, slot)
            if has_key(answer, key, key_length):
                return answer if not_purged(index, answer) else NULL
    return NULL


cdef inline bint has_key(const Answer* answer, const uint8_t* key, uint16_t key_length) noexcept nogil:
    """Tell whether an answer is stored under a key."""
    return answer.key_length == key_length and memcmp(answer_key(answer), key, key_length) == 0


cdef inline bint not_purged(const Index* index, const Answer* answer) noexcept nogil:
    """Tell whether an answer is left by all purges."""
    return (load_relaxed32(&answer.marks.purges) == <uint32_t> load_acquire(&index.rules.count)
            or survives_purges(index.rules, answer))


cdef int32_t lengths_in_use(const Index* index, size_t first) noexcept nogil
cdef bint may_use(const Index* index, uint8_t family, uint8_t prefix) noexcept nogil
cdef const Answer* find_subnet(const Index* index, const Query* query) noexcept nogil


cdef inline const Answer* find(const Index* index, const Query* query) noexcept nogil:
    """Return the answer that serves a query, fresh or not, or NULL; see `find_key`."""
    cdef const Answer* likely = <const Answer*> query.likely
    if query.subnet:
        return find_subnet(index, query)
    if likely != NULL and has_key(likely, query.key, query.key_length) and not_purged(index, likely):
        return likely
    return find_key(index, query.key, query.key_length, query.hash)


cdef void fetch(const Index* index, Query* queries, int32_t count) noexcept nogil
