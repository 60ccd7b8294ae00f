"""Epochs: when what readers may be at can be freed, though readers take no lock and wait for nobody.

    writer:  replace the pointer -> end the epoch -> free, once all who were inside in that epoch have left
    reader:  enter -> look pointers up, follow them -> leave

This is the one way in which memory that readers are led to is freed or used again: the cache's segments, the tables
of purges, and settings that are replaced as a whole. These are objects that own all that they lead to; one that is
replaced is retired, and lives until nobody can be at it, however long a thread is stopped.

One thread replaces things, with the GIL: the control thread. It reads as workers do, but need not enter: it is never in
the midst of reading while it replaces something.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from ._atomic cimport barrier, load_seq_cst, store_seq_cst
from ._memory cimport free, zeros


cdef class Epochs:
    """The epoch, its readers, and what was retired.

    Memory ownership: readers' places are its own, and it holds what is retired; whoever reads must be gone before it.
    """

    def __cinit__(self) -> None:
        self.epoch = 1
        self.retired = []
        self.readers = <Reader*> zeros(READERS_MAX, sizeof(Reader))

    def __dealloc__(self) -> None:
        free(self.readers)

    cdef Reader* join(self) except NULL:
        """Return a place for one more reader."""
        cdef Reader* reader
        if self.reader_count == READERS_MAX:
            raise ValueError(f"there are at most {READERS_MAX} readers")
        reader = &self.readers[self.reader_count]
        reader.epoch = &self.epoch
        self.reader_count += 1
        return reader

    cdef uint64_t end(self) noexcept nogil:
        """End the epoch, and return it: what nothing leads to by now is free once its readers `have_left`."""
        cdef uint64_t ended = self.epoch
        barrier()
        store_seq_cst(&self.epoch, ended + 1)
        return ended

    cdef bint have_left(self, uint64_t epoch) noexcept nogil:
        """Tell whether every reader that was inside in an epoch has left since."""
        cdef:
            uint64_t seen
            uint32_t i
        for i in range(self.reader_count):
            seen = load_seq_cst(&self.readers[i].seen)
            if seen and seen <= epoch:
                return False
        return True

    cdef void outdate_copies(self) noexcept nogil:
        """Outdate what was copied, for who enters nowhere, out of what is replaced now or has just been."""
        if self.copies != NULL:
            store_seq_cst(self.copies, load_seq_cst(self.copies) + 1)

    def outdate(self) -> None:
        """See `outdate_copies`."""
        self.outdate_copies()

    cdef int retire(self, object replaced) except -1:
        """Keep an object that nothing leads to any more, until all have left who may have found it before."""
        self.outdate_copies()
        self.retired.append((self.end(), replaced))
        self.reclaim()
        return 0

    def reclaim(self) -> int:
        """Free what was retired and nobody can be at; return how much is kept still."""
        cdef list kept = [(epoch, replaced) for epoch, replaced in self.retired if not self.have_left(epoch)]
        self.retired = kept
        return len(kept)


# ---------------------------------------------------------------- for Python

@cython.final
cdef class Visitor:
    """A reader that is inside as long as its context is entered."""

    cdef:
        Epochs epochs
        Reader* reader

    def __cinit__(self, Epochs epochs not None) -> None:
        self.epochs = epochs
        self.reader = epochs.join()

    def __enter__(self) -> Visitor:
        enter(self.reader)
        return self

    def __exit__(self, *_) -> None:
        leave(self.reader)
