"""Queries that a front of our own relays: frames with a number, between its process and a worker for connections."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from ..core._limits cimport LISTENERS_MAX
from ._connections cimport Connections
from ._http cimport Http, ListenerHttp


@cython.final
cdef class RelayedListener(ListenerHttp):
    cdef readonly uint8_t transport    # as rules know it


@cython.final
cdef class Relays:
    cdef:
        list kept                      # listeners that connections may be at
        const Http* https[LISTENERS_MAX]
        uint8_t[LISTENERS_MAX] transports
        uint64_t[LISTENERS_MAX] offered  # the descriptor of a connection, plus one, until that is taken
        int epoll_fd, told_fd

    cdef void take_all(self, Connections connections, uint64_t now) noexcept nogil
    cdef void _take(self, int fd, uint8_t number, Connections connections, uint64_t now) noexcept nogil
