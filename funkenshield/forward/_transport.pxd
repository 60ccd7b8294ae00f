"""Queries over UDP: sent to upstreams in batches, through random sockets, and matched with what comes back."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..core._udp_batch cimport Datagrams
from ..upstream._selection cimport Upstream, UpstreamTable
from ..upstream._sockets_and_ids cimport Sockets
from ..wire._message cimport Query
from ._attempts cimport Attempts
from ._pending cimport PendingQuery
from ._resolution cimport Resolution


@cython.final
cdef class Transport:
    cdef:
        PendingQuery* pool         # the queries'
        Attempts attempts
        Sockets sockets            # the attempts'
        UpstreamTable upstreams    # the attempts'
        Resolution resolution
        Datagrams inbox, outgoing
        object renew               # who opens new sockets to an upstream that has none left
        uint64_t spoof_suspected

    cdef bint may_send(self, int32_t i, int32_t upstream, uint64_t now) noexcept nogil
    cdef int send(self, int32_t* listed, uint32_t count, uint64_t now) except -1
    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, int32_t upstream, uint64_t now) noexcept nogil
    cdef bint _attempt(self, int32_t i, int32_t upstream, int32_t socket, uint64_t now) noexcept nogil
    cdef void _put(self, int32_t place, int32_t i, const Upstream* to) noexcept nogil
    cdef int32_t _push(self, int32_t socket, int32_t count, uint64_t now) noexcept nogil
    cdef int receive(self, int32_t socket, uint64_t now) except -1
    cdef int _take_reply(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef void _count_unexpected_reply(self, int32_t socket, const uint8_t* wire, size_t length,
                                      uint64_t now) noexcept nogil
    cdef void learn_spelling(self, int32_t attempt, const Query* query, const uint8_t* wire) noexcept nogil
    cdef void _failed(self, int32_t socket, int error, uint64_t now) noexcept nogil
    cdef void _refused(self, int32_t socket, int error, uint64_t now) noexcept nogil
    cdef void abandon(self, int32_t socket, uint64_t now) noexcept nogil
