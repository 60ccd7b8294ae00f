"""Which sockets a worker has, by their listeners' numbers: a table that is replaced as a whole, while it serves."""

cimport cython
from libc.stdint cimport uint8_t

from ..core._limits cimport LISTENERS_MAX
from ..core._udp_batch cimport PEER_MAX
from ..xdp._queue cimport Queue
from ._encryption cimport Encryption
from ._http cimport Http

cdef struct ListenerSocket:
    int fd                         # -1: there is none
    int answer_from                # over UDP, the socket that the control thread answers from
    uint8_t[PEER_MAX] own          # its address
    const Encryption* encryption   # NULL: there is none
    const Http* http               # NULL: messages come behind their length
    Queue* frames                  # NULL: it is a socket of the kernel's network stack


@cython.final
cdef class ListenerTable:
    cdef:
        ListenerSocket[LISTENERS_MAX] sockets
        list kept                  # what these are in


@cython.final
cdef class FollowedTable:
    cdef:
        const void* published      # the sockets of the table that is to be followed; NULL: there is none yet
        const void* followed       # that the worker follows
        list tables                # that these are in

    cdef const ListenerSocket* news(self) noexcept nogil
    cdef void note(self, const ListenerSocket* sockets) noexcept nogil


cdef inline bint has_socket(const ListenerSocket* sockets, int fd) noexcept nogil:
    """Tell whether a socket is in a table, whatever its number is there."""
    cdef int number
    for number in range(LISTENERS_MAX):
        if sockets[number].fd == fd:
            return True
    return False
