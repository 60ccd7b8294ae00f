"""Which connections of a worker have to end, for their listeners are gone, and which of them are waited for."""

cimport cython
from libc.stdint cimport int32_t, uint64_t

from ._connections cimport Connection, Connections
from ._listening cimport ListeningSockets


@cython.final
cdef class Dismissals:
    cdef:
        Connections connections
        ListeningSockets listening
        int32_t place              # of the connection that is looked at next; -1: all have been
        int32_t left               # so many more are looked at before others have their turn
        uint64_t newcomers         # whose first query was on its way; 1 until that is known
        uint64_t passed_over       # these, as they are counted
        uint64_t again_at          # when they are looked at again, nanoseconds

    cdef void begin(self) noexcept nogil
    cdef void go_on(self, uint64_t now) noexcept nogil
    cdef Connection* next(self, uint64_t now) noexcept nogil
    cdef bint concern(self, const Connection* connection) noexcept nogil
    cdef int patience(self) noexcept nogil
