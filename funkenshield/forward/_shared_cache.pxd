"""The cache that nodes share, as the miss path sees it: what is looked up there, and what is told to it."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..cache._entry cimport Answer
from ..cache._store cimport Cache
from ..cache._zone_table cimport ZONES_MAX
from ._attempts cimport Attempts
from ._pending cimport PendingQueries, PendingQuery

cdef enum Sharing:                 # what the nodes' cache is to a zone
    NOT_SHARED
    BESIDE                         # asked at the same time as an upstream
    BEFORE                         # asked first

cdef enum:
    SHARED_MAX = 16384             # octets of the largest entry that is shared
    STORES_MAX = 4096              # entries that wait to be stored


@cython.final
cdef class SharedCache:
    cdef:
        Cache cache
        PendingQueries queries
        PendingQuery* pool         # the queries'
        Attempts attempts
        uint8_t[ZONES_MAX] sharing  # by zone: a Sharing
        bint looks_up, stores      # whether somebody takes what is in the lists
        list lookups, stored
        readonly uint64_t store_drops

    cdef int set_aside(self, int32_t* listed, uint32_t count) except -1
    cdef bint _concerns(self, const PendingQuery* pending) noexcept nogil
    cdef int resume(self, uint64_t handle) except -1
    cdef int32_t wanted(self, uint64_t handle) noexcept nogil
    cdef bint read(self, int32_t i, bytes entry, double age, uint64_t now) except -1
    cdef int tell(self, int32_t i, const Answer* answer, uint64_t now) except -1
