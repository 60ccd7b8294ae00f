"""The index, for whole batches and for clients' subnets; what is asked for each query alone is in `_index.pxd`."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

from ..core._atomic cimport LINE, load_acquire, load_relaxed, prefetch_by_load
from ..wire._message cimport SUBNET_FAMILY, Query, drop_subnet, hash_key, set_subnet, source_prefix
from ._entry cimport Answer


cdef extern from * nogil:
    int __builtin_popcountll(unsigned long long)


cdef void fetch(const Index* index, Query* queries, int32_t count) noexcept nogil:
    """Have what is likely to answer a batch come from memory, all at once; caller has entered, and `find`s within.

    The rounds are short, so that the CPU has as many lines on their way as it can: the sets of all, then the
    answers that these lead to. An answer of usual size is in three cache lines; the mapping goes on behind the last.
    """
    cdef:
        Query* query
        const uint64_t* slots
        const uint8_t* answer
        uint64_t slot
        int32_t i, k
    for i in range(count):
        if queries[i].key_length:
            slots = find_set(index, queries[i].hash)
            prefetch_by_load(slots)
            prefetch_by_load(slots + SLOTS // 2)
    for i in range(count):
        query = &queries[i]
        if not query.key_length:
            continue
        slots = find_set(index, query.hash)
        for k in range(SLOTS):
            slot = load_acquire(slots + k)
            if tag_matches(slot, tag_of(query.hash)):
                query.likely = answer_at(index, slot)
                break
    for i in range(count):
        answer = <const uint8_t*> queries[i].likely
        if answer != NULL:
            prefetch_by_load(answer)
            prefetch_by_load(answer + LINE)
            prefetch_by_load(answer + 2 * LINE)


cdef int32_t lengths_in_use(const Index* index, size_t first) noexcept nogil:
    """Return how many prefix lengths of a family are in use; its first word tells which."""
    cdef:
        int32_t used = 0
        size_t i
    for i in range(first, SUBNET_WORDS if first else 1):
        used += __builtin_popcountll(load_relaxed(&index.subnets[i]))
    return used


cdef bint may_use(const Index* index, uint8_t family, uint8_t prefix) noexcept nogil:
    """Tell whether a prefix length is in use, or can come into use."""
    return (lengths_in_use(index, subnet_word(family, 0)) < LENGTHS_MAX
            or load_relaxed(&index.subnets[subnet_word(family, prefix)]) >> prefix % 64 & 1)


cdef const Answer* find_subnet(const Index* index, const Query* query) noexcept nogil:
    """Return the answer for the longest prefix of the client's subnet that there is one for (RFC 7871 7.3.1).

    What was asked about is tried, and then the shorter prefix lengths in use: LENGTHS_MAX of them at most. An answer
    whose scope is longer than what was asked about serves those alone who ask about just as much; last comes what is
    true for everybody.
    """
    cdef:
        Query narrowed = query[0]
        const Answer* answer
        uint8_t family = query.wire[query.subnet + SUBNET_FAMILY + 1]
        int32_t source = source_prefix(query)
        int32_t prefix = source
    while True:
        set_subnet(&narrowed, <uint8_t> prefix)
        hash_key(&narrowed, &index.secret)
        answer = find_key(index, narrowed.key, narrowed.key_length, narrowed.hash)
        if answer != NULL and (prefix == source or answer.scope <= prefix):
            return answer
        prefix = shorter_length(index, family, prefix)
        if not prefix:
            break
    if not source:
        return NULL
    drop_subnet(&narrowed)
    hash_key(&narrowed, &index.secret)
    answer = find_key(index, narrowed.key, narrowed.key_length, narrowed.hash)
    return answer if answer != NULL and answer.everybody else NULL
