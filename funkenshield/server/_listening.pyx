"""The listening sockets of a worker that holds connections: what comes to each of them, and when none is taken."""

cimport cython
from libc.errno cimport ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._atomic cimport load_relaxed, store_relaxed
from ..core._epoll cimport EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_ctl, epoll_event
from ..core._limits cimport LISTENERS_MAX
from ..core._udp_batch cimport PEER_MAX
from ._listener_table cimport ListenerSocket, has_socket

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
        self.epoll_fd, self.first = epoll_fd, first
        for k in range(LISTENERS_MAX):
            self.sockets[k].fd = -1

    @property
    def unheard_listeners(self) -> int:
        """Return the listeners whose socket the kernel does not watch, one bit each."""
        return load_relaxed(&self.unheard)

    cdef bint loses(self, const ListenerSocket* table, int32_t number) noexcept nogil:
        """Tell whether the socket of a listener is in a table no more; another listener may have it there."""
        return self.sockets[number].fd >= 0 and not has_socket(table, self.sockets[number].fd)

    cdef void follow(self, const ListenerSocket* table) noexcept nogil:
        """Take connections from the sockets of a table; to those that are in it no more, the kernel refuses them."""
        cdef int32_t k
        for k in range(LISTENERS_MAX):
            if 0 <= self.sockets[k].fd != table[k].fd:
                epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, self.sockets[k].fd, NULL)
                if self.loses(table, k):
                    shutdown(self.sockets[k].fd, SHUT_RD)
        for k in range(LISTENERS_MAX):
            if table[k].fd != self.sockets[k].fd:
                self._watch(k, table[k].fd)
        memcpy(self.sockets, table, sizeof(self.sockets))

    cdef void _watch(self, int32_t number, int fd) noexcept nogil:
        """Have the kernel tell what comes to the socket of a listener, if there is one, or have that tried again."""
        cdef:
            epoll_event event
            uint64_t bit = <uint64_t> 1 << number
        event.events, event.data.number = EPOLLIN if self.accepting else 0, self.first + <uint64_t> number
        if fd >= 0 and epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event):
            store_relaxed(&self.unheard, self.unheard | bit)
        else:
            store_relaxed(&self.unheard, self.unheard & ~bit)

    cdef void try_again(self, uint64_t now) noexcept nogil:
        """Take connections again after a while without descriptors, and from sockets that the kernel did not watch."""
        cdef int32_t k
        if self.accept_again and self.accept_again < now:
            self.accept_from_all(True)
        for k in range(LISTENERS_MAX if self.unheard else 0):
            if self.unheard >> k & 1:
                self._watch(k, self.sockets[k].fd)

    cdef void begin(self, bint accepting) noexcept nogil:
        """Take connections from now on, or later, also after `end`."""
        cdef int32_t k
        self.accepting = accepting
        for k in range(LISTENERS_MAX if self.ended else 0):
            self._watch(k, self.sockets[k].fd)
        self.ended = False

    cdef void accept_from_all(self, bint accepting) noexcept nogil:
        """Begin to take connections, or stop it for a while."""
        cdef:
            epoll_event event
            int32_t k
        self.accept_again, self.accepting = 0, accepting
        event.events = EPOLLIN if accepting else 0
        for k in range(LISTENERS_MAX):
            if self.sockets[k].fd >= 0:
                event.data.number = self.first + <uint64_t> k
                epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, self.sockets[k].fd, &event)

    cdef int accept(self, int32_t number, uint8_t* peer, uint64_t now) noexcept nogil:
        """Take a connection that came to a listener, with its peer's address; NONE_CAME, ONE_LEFT: there is none."""
        cdef:
            uint32_t length = PEER_MAX
            int fd
        if not self.accepting or self.sockets[number].fd < 0:
            return NONE_CAME
        fd = accept4(self.sockets[number].fd, <sockaddr*> peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            return fd
        if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            self.accept_from_all(False)
            self.accept_again = now + ACCEPT_PAUSE
            return NONE_CAME
        return ONE_LEFT if errno == EINTR or errno == ECONNABORTED else NONE_CAME

    cdef void end(self, bint refuse) noexcept nogil:
        """Take no more; with `refuse`, have the kernel refuse whoever comes from now on, or has not been taken yet."""
        cdef int32_t k
        for k in range(LISTENERS_MAX):
            if self.sockets[k].fd >= 0:
                epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, self.sockets[k].fd, NULL)
                if refuse:
                    shutdown(self.sockets[k].fd, SHUT_RD)
        self.ended, self.accepting, self.accept_again = True, False, 0
        store_relaxed(&self.unheard, 0)
