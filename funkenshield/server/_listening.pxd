"""The listening sockets of a worker that holds connections: what comes to each of them, and when none is taken."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..core._limits cimport LISTENERS_MAX
from ._encryption cimport Encryption, ListenerEncryption
from ._http cimport Http, ListenerHttp

cdef enum:                         # instead of a descriptor
    NONE_CAME = -1
    ONE_LEFT = -2                  # or another reason to ask again


@cython.final
cdef class ListeningSockets:
    cdef:
        int epoll_fd
        uint64_t first             # what epoll says of the first socket; the others follow
        int[LISTENERS_MAX] sockets
        uint8_t[LISTENERS_MAX] numbers  # as rules know them
        const Encryption* encryptions[LISTENERS_MAX]  # NULL: there is none
        const Http* https[LISTENERS_MAX]  # NULL: messages come behind their length
        list kept                  # what these are in
        int32_t count
        bint accepting
        uint64_t accept_again      # when, where there was no descriptor; 0: nothing is wrong

    cdef void accept_from_all(self, bint accepting) noexcept nogil
    cdef int accept(self, int32_t k, uint8_t* peer, uint64_t now) noexcept nogil
    cdef void end(self) noexcept nogil
