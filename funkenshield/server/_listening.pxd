"""The listening sockets of a worker that holds connections: what comes to each of them, and when none is taken."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..core._limits cimport LISTENERS_MAX
from ._listener_table cimport ListenerSocket

cdef enum:                         # instead of a descriptor
    NONE_CAME = -1
    ONE_LEFT = -2                  # or another reason to ask again


@cython.final
cdef class ListeningSockets:
    cdef:
        int epoll_fd
        uint64_t first             # what epoll says of the first listener's; the others follow
        ListenerSocket[LISTENERS_MAX] sockets
        bint accepting, ended
        uint64_t accept_again      # when, where there was no descriptor; 0: nothing is wrong
        uint64_t unheard           # listeners whose socket the kernel does not watch, one bit each

    cdef bint loses(self, const ListenerSocket* table, int32_t number) noexcept nogil
    cdef void follow(self, const ListenerSocket* table) noexcept nogil
    cdef void _watch(self, int32_t number, int fd) noexcept nogil
    cdef void try_again(self, uint64_t now) noexcept nogil
    cdef void begin(self, bint accepting) noexcept nogil
    cdef void accept_from_all(self, bint accepting) noexcept nogil
    cdef int accept(self, int32_t number, uint8_t* peer, uint64_t now) noexcept nogil
    cdef void end(self, bint refuse) noexcept nogil
