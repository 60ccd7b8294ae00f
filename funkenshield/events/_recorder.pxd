"""Who records what, and the thread that reads it."""

cimport cython
from libc.stdint cimport uint64_t

from ..core._clock cimport Clock
from ..core._epochs cimport READERS_MAX, Epochs, Reader
from ..core._spsc_ring cimport Ring
from ._event cimport Tap, Wanted
from ._sink cimport Plan
from ._top cimport Sketches


@cython.final
cdef class Recorder:
    cdef:
        Clock clock
        Epochs epochs              # of its own reader
        Reader* reader
        Wanted wanted
        const void* plan           # in force
        object held                # what that is kept in
        Wanted of_sinks            # what the sinks want recorded
        Sketches* sketches         # NULL: nobody has asked for them yet
        uint64_t watched_until     # they are counted until then, nanoseconds
        list taps
        Tap own                    # of who records in Python
        Ring* rings[READERS_MAX]
        uint64_t ring_count        # written with release
        uint64_t reopened          # how often files were to be opened again
        uint64_t stopped
        int wake_fd

    cdef Tap join(self)
    cdef tuple _left_out(self, tuple outputs)
    cdef void _put_in_force(self, object replacement, tuple outputs) except *
    cdef void _set_wanted(self) noexcept
    cdef void _wake(self) noexcept nogil
    cdef void _serve(self) noexcept nogil
    cdef void _wait(self, bint taken, int patience) noexcept nogil
    cdef void _lock(self) noexcept nogil
    cdef bint _drain(self, const Plan* plan, uint64_t now) noexcept nogil
    cdef void _finish(self) noexcept nogil
