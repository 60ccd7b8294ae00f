"""How queries travel: from the workers to the queue, to an upstream and back.

    worker -> ring -> collect -> [waiting] -> choose -> send -> upstream -> receive -> cache, and all who wait

Python decides who may be asked; choosing among them, and carrying queries there and back, is done here.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._epochs cimport READERS_MAX
from ..core._spsc_ring cimport Ring
from ..core._udp_batch cimport Datagrams
from ..upstream._selection cimport Upstream
from ..wire._message cimport Query
from ._pending cimport Stage
from ._python_rules cimport PythonRules
from ._resolution cimport Response


@cython.final
cdef class Inflight(PythonRules):
    cdef:
        Datagrams inbox, outgoing
        Ring* rings[READERS_MAX]
        uint32_t ring_count
        int wake_fd
        object renew               # who opens new sockets to an upstream that has none left
        Stage walked               # of the queries that are being sent

    cdef Ring* join(self) except NULL
    cdef void wake(self) noexcept nogil
    cdef int32_t _send(self, int32_t* listed, uint32_t count, Stage stage) except -1
    cdef bint _may_go(self, int32_t i, int32_t upstream, uint64_t now) noexcept nogil
    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, int32_t upstream, uint64_t now) noexcept nogil
    cdef int32_t _push(self, int32_t socket, int32_t count, uint64_t now) noexcept nogil
    cdef bint _attempt(self, int32_t i, int32_t upstream, int32_t socket, uint64_t now) noexcept nogil
    cdef void _put(self, int32_t place, int32_t i, const Upstream* to) noexcept nogil
    cdef int _receive_from(self, int32_t socket, uint64_t now) except -1
    cdef int _take_reply(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef int _take_mismatch(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) noexcept nogil
    cdef int _doubt(self, int32_t i, int32_t upstream, const Response* response, bint serves, uint64_t now) except -1
    cdef void _learn_spelling(self, int32_t attempt, const Query* query, const uint8_t* wire) noexcept nogil
    cdef void _failed(self, int32_t socket, int error, uint64_t now) noexcept nogil
    cdef void _unreachable(self, int32_t socket, int error, uint64_t now) noexcept nogil
    cdef void _strand(self, int32_t socket, uint64_t now) noexcept nogil
    cdef void _again(self, int32_t i, uint64_t now) noexcept nogil
    cdef int32_t _carried_attempt(self, int32_t i, uint64_t handle) noexcept nogil
