"""Purges: what was taken out of the cache, noted as rules instead of being looked for.

A rule is one note, whatever the cache holds. An answer carries the number of the last purge that is known
not to concern it; the first look-up after another purge asks the rules, once.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..core._siphash cimport Secret
from ..core._suffix_table cimport Suffixes
from ._entry cimport Answer

cdef enum:
    PLACES = 1 << 16               # for rules in a table; a power of two

cdef enum PurgeScope:                   # what a rule concerns, as summands of its hash
    BELOW                          # a name and all names below it
    EXACT                          # one name
    LET_EXPIRE                     # as BELOW, but what it concerns may still be served stale

cdef struct PurgeRules:            # what a reader needs
    Secret secret
    uint64_t count                 # the number of the last purge
    uint64_t everything            # the number of the last purge of all there is
    uint64_t table                 # the address of the table in force
    uint32_t let_expire_at         # when something was let expire last, ticks: what was is old since then


cdef bint survives_purges(const PurgeRules* rules, const Answer* answer) noexcept nogil
cdef bint is_purged(const PurgeRules* rules, const uint8_t* name, uint64_t since) noexcept nogil


@cython.final
cdef class Purges:
    cdef:
        PurgeRules rules
        Suffixes tables[2]         # one in force, one for when it is tidied up
        uint64_t swapped           # the cache's epoch when the other one was given up

    cdef size_t add(self, const uint8_t* name, size_t length, size_t apex, PurgeScope reach, int32_t qtype,
                    uint32_t now) noexcept nogil
    cdef void retire(self, uint64_t number) noexcept nogil
