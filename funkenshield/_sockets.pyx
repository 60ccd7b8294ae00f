"""Sockets to upstreams, and which query went through which of them under which ID.

It knows descriptors, IDs and numbers of queries; what a query is, and what becomes of it, is
`_waiting`'s. A response is matched by the socket that it came through and by its ID (RFC 5452): the
ports are random and turn over, and the IDs are drawn anew for each attempt.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int16_t, int32_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close

from ._epoll cimport EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, epoll_wait
from ._random cimport random16

cdef enum:
    EVENTS_MAX = 64
    DRAWS = 16                     # of an ID, before a socket counts as full


@cython.final
cdef class Sockets:
    """All sockets to all upstreams, and at most `capacity` attempts through them.

    Memory ownership: tables and descriptors are its own, and so is every socket added to it.
    """

    def __cinit__(self, uint32_t capacity) -> None:
        cdef int32_t s
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, "no descriptor for the sockets to upstreams")
        self.attempts = <Attempt*> calloc(capacity, sizeof(Attempt))
        self.sockets = <Socket*> calloc(SOCKETS_MAX, sizeof(Socket))
        self.upstreams = <Upstream*> calloc(UPSTREAMS_MAX, sizeof(Upstream))
        if not (self.attempts and self.sockets and self.upstreams):
            raise MemoryError(f"no memory for {capacity} attempts")
        for s in range(SOCKETS_MAX):
            self.sockets[s].fd = -1
        self.idle = -1

    def __dealloc__(self) -> None:
        cdef int32_t s
        if self.sockets != NULL:
            for s in range(SOCKETS_MAX):
                if self.sockets[s].fd >= 0:
                    close(self.sockets[s].fd)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        free(self.attempts)
        free(self.sockets)
        free(self.upstreams)

    # ------------------------------------------------------------ descriptors

    def fileno(self) -> int:
        """Return the descriptor that is readable when one of the watched ones is."""
        return self.epoll_fd

    cdef int watch(self, int fd, int32_t which, uint32_t events) except -1:
        """Have `wait` tell `which` when there is something to read."""
        cdef epoll_event event
        event.events = events
        event.data.which = which
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event):
            raise OSError(errno, "a descriptor cannot be watched")
        return 0

    cdef int32_t wait(self, int32_t* which, int32_t count) noexcept nogil:
        """Say which of the watched can be read now, at most `count` of them; never wait for one."""
        cdef:
            epoll_event[EVENTS_MAX] events
            int32_t k, ready = epoll_wait(self.epoll_fd, events, min(count, <int32_t> EVENTS_MAX), 0)
        for k in range(ready):
            which[k] = events[k].data.which
        return ready

    def add(self, int32_t upstream, int fd) -> int:
        """Take over a connected, non-blocking UDP socket; return its number. Raises OSError where full."""
        cdef:
            Upstream* owner = self._upstream(upstream)
            int32_t s, c
        for s in range(SOCKETS_MAX):
            if self.sockets[s].fd < 0:
                break
        else:
            raise OSError("too many sockets to upstreams")
        if owner.socket_count == SOCKETS_EACH:
            raise OSError("too many sockets to this upstream")
        self.watch(fd, s, EPOLLIN)
        self.sockets[s].fd = fd
        self.sockets[s].upstream = <int16_t> upstream
        self.sockets[s].retired = False
        self.sockets[s].open = 0
        for c in range(CHAINS):
            self.sockets[s].chains[c] = -1
        owner.sockets[owner.socket_count] = s
        owner.socket_count += 1
        return s

    def retire(self, int32_t s) -> None:
        """Send nothing more through a socket; it is closed when its last attempt has ended."""
        cdef:
            Upstream* owner
            uint32_t k
        if not 0 <= s < SOCKETS_MAX or self.sockets[s].fd < 0 or self.sockets[s].retired:
            raise ValueError(f"no socket {s} in use")
        owner = &self.upstreams[self.sockets[s].upstream]
        for k in range(owner.socket_count):
            if owner.sockets[k] == s:
                owner.socket_count -= 1
                owner.sockets[k] = owner.sockets[owner.socket_count]
                break
        self.sockets[s].retired = True
        self._close_if_done(s)

    cdef void _close_if_done(self, int32_t socket) noexcept nogil:
        if self.sockets[socket].retired and self.sockets[socket].open == 0 and self.sockets[socket].fd >= 0:
            close(self.sockets[socket].fd)
            self.sockets[socket].fd = -1

    cdef int32_t pick(self, int32_t upstream) noexcept nogil:
        """Return one of an upstream's sockets, at random; -1: it has none."""
        cdef Upstream* owner = &self.upstreams[upstream]
        return owner.sockets[random16(&self.randomness) % owner.socket_count] if owner.socket_count else -1

    # ------------------------------------------------------------ attempts

    cdef int32_t begin(self, int32_t query, int32_t before, int32_t socket, uint64_t now) noexcept nogil:
        """Return a new attempt, with an ID that no other has on this socket; -1: no ID is free to draw."""
        cdef:
            Socket* through = &self.sockets[socket]
            uint16_t drawn = random16(&self.randomness)
            uint32_t draws = 0
            int32_t a = self.idle
        while self.match(socket, drawn) >= 0:
            draws += 1
            if draws == DRAWS:
                return -1
            drawn = random16(&self.randomness)
        if a >= 0:
            self.idle = self.attempts[a].next
        else:
            a = self.untouched
            self.untouched += 1
        self.attempts[a] = Attempt(query=query, next=through.chains[drawn % CHAINS], before=before,
                                   socket=<int16_t> socket, id=drawn, sent=now)
        through.chains[drawn % CHAINS] = a
        through.open += 1
        return a

    cdef int32_t match(self, int32_t socket, uint16_t message_id) noexcept nogil:
        """Return the attempt that waits for this ID on this socket, or -1."""
        cdef int32_t a = self.sockets[socket].chains[message_id % CHAINS]
        while a >= 0 and self.attempts[a].id != message_id:
            a = self.attempts[a].next
        return a

    cdef int32_t any_attempt(self, int32_t socket) noexcept nogil:
        """Return one of the attempts that wait on a socket, or -1."""
        cdef int32_t c
        if self.sockets[socket].fd >= 0 and self.sockets[socket].open:
            for c in range(CHAINS):
                if self.sockets[socket].chains[c] >= 0:
                    return self.sockets[socket].chains[c]
        return -1

    cdef void end(self, int32_t attempt) noexcept nogil:
        """End an attempt: a response to it is nobody's from now on."""
        cdef:
            Attempt* ended = &self.attempts[attempt]
            Socket* through = &self.sockets[ended.socket]
            int32_t* link = &through.chains[ended.id % CHAINS]
        while link[0] != attempt:
            link = &self.attempts[link[0]].next
        link[0] = ended.next
        ended.next = self.idle
        self.idle = attempt
        through.open -= 1
        self._close_if_done(ended.socket)

    # ------------------------------------------------------------ counters

    cdef Upstream* _upstream(self, int32_t upstream) except NULL:
        if not 0 <= upstream < UPSTREAMS_MAX:
            raise ValueError(f"upstreams are numbered below {UPSTREAMS_MAX}")
        return &self.upstreams[upstream]

    def counters(self, int32_t upstream) -> dict:
        """Return what happened between the shield and an upstream over UDP, as numbers by name."""
        cdef Upstream* found = self._upstream(upstream)
        return {
            "sent": found.sent, "answered": found.answered, "timeouts": found.timeouts,
            "mismatched": found.mismatched, "errors": found.errors, "latency_sum": found.latency / 1e9,
        }

    def forget(self, int32_t upstream) -> None:
        """Start an upstream's counters anew, for its number is given to another. Its sockets must be retired."""
        cdef Upstream* owner = self._upstream(upstream)
        if owner.socket_count:
            raise ValueError(f"upstream {upstream} has sockets")
        owner.sent = owner.answered = owner.timeouts = owner.mismatched = owner.errors = owner.latency = 0
