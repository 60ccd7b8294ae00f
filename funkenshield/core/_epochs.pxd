"""Epochs: when what readers may be at can be freed, though readers take no lock and wait for nobody."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from ._atomic cimport barrier, load_seq_cst, store_seq_cst

cdef enum:
    READERS_MAX = 512

cdef struct Reader:                # one cache line, so that readers do not disturb each other
    uint64_t seen                 # the epoch when it entered; 0: it is outside
    const uint64_t* epoch          # the one that goes on
    uint64_t unused[6]


cdef inline void enter(Reader* reader) noexcept nogil:
    """Go inside. What can be replaced is looked up behind this, never before."""
    store_seq_cst(&reader.seen, load_seq_cst(reader.epoch))
    barrier()


cdef inline void leave(Reader* reader) noexcept nogil:
    """Go outside. What was looked up inside may be gone from here on."""
    store_seq_cst(&reader.seen, 0)


@cython.final
cdef class Epochs:
    cdef:
        uint64_t epoch             # the one that goes on
        Reader* readers
        uint32_t reader_count
        uint64_t* copies           # the generation of copies that others have made; NULL: nobody has any
        list retired               # (the epoch that it was replaced in, object), the oldest first

    cdef Reader* join(self) except NULL
    cdef uint64_t end(self) noexcept nogil
    cdef bint have_left(self, uint64_t epoch) noexcept nogil
    cdef void outdate_copies(self) noexcept nogil
    cdef int retire(self, object replaced) except -1
