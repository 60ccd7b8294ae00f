"""Which sockets a worker has, by their listeners' numbers: a table that is replaced as a whole, while it serves.

    control thread:  publish -> wake the worker -> `is_followed`: what is in no table any more can be closed
    worker:          news -> do what the difference asks for -> note

It knows how a table comes to a worker. What comes to a socket, and what becomes of one that is gone, is the workers'.
"""

cimport cython
from collections.abc import Iterable

from libc.errno cimport errno
from libc.stdint cimport uint32_t

from ..core._atomic cimport load_pointer, store_pointer
from ..core._limits cimport LISTENERS_MAX
from ..core._udp_batch cimport PEER_MAX
from ..xdp._queue cimport QueueSocket
from ._encryption cimport ListenerEncryption
from ._http cimport ListenerHttp

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int getsockname(int fd, sockaddr* address, uint32_t* length)


@cython.final
cdef class ListenerTable:
    """The sockets of one worker: (number, descriptor, descriptor to answer from, encryption or None, HTTP or None).

    Over UDP, misses are answered from another descriptor of the same address. All sockets must be bound, and must not
    block. Queues of interfaces, (number, socket), have numbers that are no listeners', and are for those that have a
    socket here. Nothing of it is changed later. Raises ValueError where a number is too large, OSError where a socket
    has no address.
    """

    def __cinit__(self, sockets: Iterable[tuple], queues: Iterable[tuple] = ()) -> None:
        cdef:
            ListenerSocket* made
            ListenerEncryption encryption
            ListenerHttp http
            QueueSocket queue
            uint32_t length
        self.kept = [*sockets, *queues]
        for k in range(LISTENERS_MAX):
            self.sockets[k].fd = -1
        for number, *rest in self.kept:
            if not 0 <= number < LISTENERS_MAX:
                raise ValueError(f"listeners have numbers below {LISTENERS_MAX}")
            made, length = &self.sockets[<int> number], PEER_MAX
            if len(rest) == 1:
                queue = rest[0]
                made.fd, made.answer_from, made.frames = queue.queue.fd, -1, &queue.queue
                continue
            fd, answer_from, encryption, http = rest
            made.fd, made.answer_from = fd, answer_from
            if getsockname(fd, <sockaddr*> made.own, &length):
                raise OSError(errno, "a socket has no address")
            if encryption is not None:
                made.encryption = &encryption.encryption
            if http is not None:
                made.http = &http.http


@cython.final
cdef class FollowedTable:
    """Where one worker finds the table that it is to follow; neither waits for the other.

    Memory ownership: tables live here until the worker follows a later one.
    """

    def __cinit__(self) -> None:
        self.tables = []

    def publish(self, ListenerTable table not None) -> None:
        """Have the worker follow a table, as soon as it is woken."""
        self.tables.append(table)
        store_pointer(&self.published, table.sockets)

    @property
    def is_followed(self) -> bool:
        """Whether the worker follows the table that was published last: it is at no socket that only others have."""
        if load_pointer(&self.followed) != self.published:
            return False
        del self.tables[:len(self.tables) - 1]
        return True

    cdef const ListenerSocket* news(self) noexcept nogil:
        """Return the table that is to be followed from now on; NULL: there is none but the one before."""
        cdef const void* published = load_pointer(&self.published)
        if published == self.followed:
            return NULL
        return <const ListenerSocket*> published

    cdef void note(self, const ListenerSocket* sockets) noexcept nogil:
        """Note that a table is followed."""
        store_pointer(&self.followed, sockets)
