"""The cache: one arena of answers behind an index (`_index`), one writer, any number of readers.

    arena:   segments, filled from front to back, emptied as a whole
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..core._clock cimport Clock
from ..core._epochs cimport Epochs
from ..wire._message cimport Query
from ._entry cimport Answer
from ._index cimport SUBNET_WORDS, Index
from ._purges cimport Purges
from ._zone_table cimport Zones

cdef struct Segment:               # the writer's own
    uint32_t used                  # octets written
    uint32_t live                  # answers that the index leads to
    uint64_t left                  # the epoch in which it was taken out
    uint32_t soonest               # when the first of its answers is dead, ticks
    uint32_t checked               # the number of the last purge that its answers were held against
    int32_t next                   # in its queue; -1: the last
    uint8_t in_use                 # the index may lead to its answers; else it is free, or readers may still be inside

cdef struct Queue:                 # of segments, linked by `next`
    int32_t first
    int32_t last                   # of the small and the main queue: the one being filled
    uint32_t length

cdef enum Put:
    STORED
    KEPT_OLD                       # a failure does not replace what can still be served
    OUTDATED                       # something that concerns it was purged while it was on its way
    NO_ROOM                        # readers hold all that could be reused; try again with the next


@cython.final
cdef class Cache:
    cdef:
        Index index
        void* mapped               # with room for the alignment of what is used
        size_t memory, segment_size
        size_t prepared            # octets, from the index on, that the kernel has given before they are written
        Segment* segments
        readonly uint32_t segments_total  # in use or not
        uint64_t touched           # segments, from the lowest on, that were ever used
        Queue small, main          # segments in the order in which they were filled
        Queue leaving, free        # those that left, in that order; those to be filled
        uint32_t[SUBNET_WORDS * 64] lengths  # answers that a subnet's prefix length leads to, by where its bit is
        Answer* scratch            # where the writer builds an answer before it is stored
        readonly Clock clock
        readonly Epochs epochs
        readonly Zones zones
        Purges purges
        # counters
        uint64_t stored, evicted, expired, purged, insert_failures

    cdef Put put(self, Answer* answer, uint32_t now) noexcept nogil
    cdef Put put_for(self, const Query* query, Answer* answer, uint32_t now) noexcept nogil
    cdef void drop(self, const Query* query) noexcept nogil
    cdef void _fit_subnet(self, const Query* query, Answer* answer) noexcept nogil
    cdef void _count_subnet(self, const Answer* answer, int32_t change) noexcept nogil
    cdef uint32_t _servable_until(self, const Answer* answer) noexcept nogil
    cdef int32_t _room(self, Queue* queue, size_t size, uint32_t now) noexcept nogil
    cdef void _reclaim(self) noexcept nogil
    cdef void _evict(self, uint32_t now) noexcept nogil
    cdef const Answer* _next_live(self, int32_t segment, size_t* at, uint64_t** slot) noexcept nogil
    cdef int32_t _append_free(self, Queue* queue) noexcept nogil
    cdef void _enqueue(self, Queue* queue, int32_t segment) noexcept nogil
    cdef void _free(self, int32_t segment) noexcept nogil
    cdef void _append(self, int32_t segment, const Answer* answer, size_t size, uint64_t* slot,
                      uint64_t tag) noexcept nogil
    cdef bint _has_room(self, int32_t segment, size_t size) noexcept nogil
    cdef Segment* _segment(self, int32_t segment) except NULL
    cdef int _parse(self, Query* parsed, bytes query) except -1
    cdef void _collect(self, Queue* queue) noexcept nogil
    cdef int32_t _take_first(self, Queue* queue) noexcept nogil
    cdef void _let_go(self, int32_t segment) noexcept nogil
    cdef uint64_t* _choose_slot(self, uint64_t key_hash, uint32_t now) noexcept nogil
    cdef uint64_t* _slot_of(self, const Answer* answer) noexcept nogil
    cdef uint64_t* _slot_under(self, uint64_t key_hash, const Answer* answer) noexcept nogil
    cdef size_t _wanted(self) noexcept nogil
    cdef uint64_t _offset(self, int32_t segment) noexcept nogil
    cdef int32_t _segment_of(self, uint64_t slot) noexcept nogil
    cdef void _unlink(self, uint64_t* slot) noexcept nogil
