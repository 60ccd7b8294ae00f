"""How queries travel: from the workers to the queue, to an upstream and back.

    worker -> ring -> collect -> [waiting] -> send -> upstream -> receive -> cache, and all who wait

Python decides where a batch of queries goes; carrying it there and back is done here.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._cache cimport READERS_MAX
from ._datagrams cimport Datagrams
from ._open cimport Stage
from ._outcome cimport Tally
from ._ring cimport Ring
from ._waiting cimport Waiting


@cython.final
cdef class Inflight(Waiting):
    cdef:
        Datagrams inbox, outgoing
        Ring* rings[READERS_MAX]
        uint32_t ring_count
        int wake_fd
        Tally tally                # of queries that came over streams

    cdef Ring* join(self) except NULL
    cdef void wake(self) noexcept nogil
    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, Stage stage, uint32_t group, int32_t tried,
                            int32_t upstream) noexcept nogil
    cdef bint _attempt(self, int32_t i, int32_t socket, uint64_t now) noexcept nogil
    cdef int _receive_from(self, int32_t socket, uint64_t now) except -1
    cdef int _take_reply(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef void _unreachable(self, int32_t socket, uint64_t now) noexcept nogil
