"""The listening sockets of a worker that holds connections: what comes to each of them, and when none is taken."""

cimport cython
from libc.errno cimport ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ..core._epoll cimport EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_ctl, epoll_event
from ..core._limits cimport LISTENERS_MAX
from ..core._udp_batch cimport PEER_MAX
from ._encryption cimport ListenerEncryption
from ._http cimport ListenerHttp

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int accept4(int fd, sockaddr* address, uint32_t* length, int flags)
    int shutdown(int fd, int how)
    int SHUT_RD, SOCK_NONBLOCK, SOCK_CLOEXEC

cdef uint64_t ACCEPT_PAUSE = <uint64_t> 100000000  # nanoseconds without descriptors


@cython.final
cdef class ListeningSockets:
    """The listening sockets of one worker, which has an epoll(7) of its own; each is closed by whoever opened it."""

    def __cinit__(self, int epoll_fd, uint64_t first) -> None:
        self.epoll_fd, self.first, self.kept = epoll_fd, first, []

    def add(self, int fd, uint8_t number, ListenerEncryption encryption, ListenerHttp http) -> None:
        """Take connections from a listening, non-blocking socket from the first `accept_from_all` on.

        Raises ValueError where there are too many, OSError where the kernel refuses.
        """
        cdef epoll_event event
        if self.count == LISTENERS_MAX or number >= LISTENERS_MAX:
            raise ValueError(f"a worker listens on at most {LISTENERS_MAX} addresses")
        event.events, event.data.number = 0, self.first + <uint64_t> self.count
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event):
            raise OSError(errno, "a socket cannot be watched")
        self.sockets[self.count], self.numbers[self.count] = fd, number
        if encryption is not None:
            self.encryptions[self.count] = &encryption.encryption
        if http is not None:
            self.https[self.count] = &http.http
        self.kept.append((encryption, http))
        self.count += 1

    cdef void accept_from_all(self, bint accepting) noexcept nogil:
        """Begin to take connections, or stop it for a while."""
        cdef:
            epoll_event event
            int32_t k
        self.accept_again, self.accepting = 0, accepting
        event.events = EPOLLIN if accepting else 0
        for k in range(self.count):
            event.data.number = self.first + <uint64_t> k
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, self.sockets[k], &event)

    cdef int accept(self, int32_t k, uint8_t* peer, uint64_t now) noexcept nogil:
        """Take a connection that came to a socket, with its peer's address; NONE_CAME, ONE_LEFT: there is none."""
        cdef:
            uint32_t length = PEER_MAX
            int fd
        if not self.accepting:
            return NONE_CAME
        fd = accept4(self.sockets[k], <sockaddr*> peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            return fd
        if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            self.accept_from_all(False)
            self.accept_again = now + ACCEPT_PAUSE
            return NONE_CAME
        return ONE_LEFT if errno == EINTR or errno == ECONNABORTED else NONE_CAME

    cdef void end(self) noexcept nogil:
        """Have the kernel refuse whoever comes from now on, and whoever has not been taken yet."""
        cdef int32_t k
        for k in range(self.count):
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, self.sockets[k], NULL)
            shutdown(self.sockets[k], SHUT_RD)
        self.count = 0
        self.accepting, self.accept_again = False, 0
