"""One query, one outcome: what becomes of a query, the same for every transport."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._answer cimport Manner
from ._cache cimport Index
from ._wire cimport Query, Verdict

cdef enum Outcome:
    REPLY                          # it is written; send it
    MISS                           # nobody here knows; ask the upstream, and remember
    PASS_ON                        # only the upstream can say; ask it, and forget
    DROP                           # no answer at all

cdef struct Tally:                 # counters with one writer
    uint64_t queries
    uint64_t hits
    uint64_t misses
    uint64_t passed_on
    uint64_t malformed             # answered FORMERR
    uint64_t short_datagrams       # dropped: no header
    uint64_t responses             # dropped: QR=1
    uint64_t truncated             # hits that were cut with TC=1
    uint64_t ring_full             # dropped: the control gear could not take it
    uint64_t send_failed           # answers that the kernel had no room for
    uint64_t oversized             # queries longer than a buffer, sent to TCP


cdef Verdict meet(const Index* index, Query* query, const uint8_t* wire, size_t length) noexcept nogil
cdef Outcome answer(const Index* index, const Query* query, Verdict verdict, uint8_t* out, size_t limit,
                    const Manner* manner, uint32_t now, Tally* tally, size_t* length) noexcept nogil
cdef dict tally_as_dict(const Tally* tally)
