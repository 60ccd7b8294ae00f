"""What is known not to exist: gaps between names, each with the records that say so (RFC 8020, 8198).

Names are compared by keys: the labels from the root down, in lower case, each ended by a zero octet. So keys
sort as names do (RFC 4034 6.1), and what is below a name starts with its key.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from ..wire._message cimport NAME_MAX, Query
from ..wire._nsec_denial cimport Negative
from ._purges cimport Purges

cdef enum:
    RECORDS_MAX = 4096             # octets of the records of one gap
    KEYED_MAX = 2 * NAME_MAX       # octets of a name's key
    PAGE_MAX = 512                 # gaps of a page
    IN = 1                         # the class that is signed
    GAP_COST = 720                 # octets that a gap takes beside those of its names and records, at most
    LIST_COST = 1024               # octets that a list takes beside its gaps and records, at most
    PURGES = 4096                  # places for purges that concern something


cdef class Records:
    """Records on the wire, as `copy_record` writes them."""
    cdef bytes wire
    cdef uint16_t count
    cdef uint16_t flags            # of the response that they came in
    cdef double expires


cdef class Gap:
    """Names from `first` up to, not including, `past`; none of them exists, but for the owner of an NSEC."""
    cdef bytes first               # keys
    cdef bytes past
    cdef Records records           # that say so; none where it may not be told on
    cdef bytes types               # the bitmap of an NSEC: what its owner has
    cdef bytes list_key            # of the list that it is in
    cdef size_t apex               # octets of the apex
    cdef size_t octets             # that it takes
    cdef uint64_t number           # gaps are numbered as they are learnt
    cdef uint64_t purges           # how many there had been when it was learnt
    cdef bint has(self, uint16_t rtype)
    cdef bint is_cut_above(self, bytes name)


cdef class GapList:
    """Gaps in order; no two of them overlap."""
    cdef dict gaps                 # by where they start
    cdef list pages                # of where they start, in order
    cdef list starts               # of the pages
    cdef Records soa               # of a zone whose NSEC chain this is, and the signatures of it
    cdef Records signatures
    cdef size_t octets             # that it takes beside its gaps
    cdef Gap before(self, bytes key)
    cdef int put(self, Gap gap) except -1
    cdef int remove(self, Gap gap) except -1


cdef class NsecCache:
    cdef readonly size_t limit     # octets that all may take,
    cdef readonly size_t octets    # and those that they take
    cdef Purges purges
    cdef Py_ssize_t deepest        # octets of the longest key of an apex
    cdef dict lists                # of cuts, and of the chains of zones, by what keeps them apart
    cdef dict ages                 # all gaps by their numbers
    cdef uint64_t learnt           # the next number
    cdef uint64_t oldest           # no gap has one below this
    cdef Gap _covering(self, GapList known, bytes name, const uint8_t* wire, double now)
    cdef GapList _chain_of(self, const Query* query, bytes name, bytes top)
    cdef bytes _cut(self, const Query* query, bytes name, size_t top, double now)
    cdef bytes _between(self, const Query* query, bytes name, bytes top, double now)
    cdef int _learn_cut(self, const Negative* found, const Query* query, bytes name, list gaps, double now) except -1
    cdef int _learn_chain(self, const Negative* found, const Query* query, list owners, list gaps) except -1
    cdef int _put(self, Gap gap, Records soa=*, Records signatures=*) except -1
    cdef int _clear(self, GapList known, bytes first, bytes past) except -1
    cdef int _drop(self, Gap gap) except -1
    cdef Gap _first(self)
