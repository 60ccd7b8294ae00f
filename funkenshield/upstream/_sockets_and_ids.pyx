"""Sockets to upstreams, and which query went through which of them under which ID.

It knows descriptors, IDs and numbers of queries; what a query is, and what becomes of it, is
`_resolution`'s. A response is matched by the socket that it came through and by its ID (RFC 5452): the
ports are random and turn over, and the IDs are drawn anew for each attempt. A port that somebody may know gives way.
"""

from libc.errno cimport errno
from libc.stdint cimport int16_t, int32_t, uint16_t, uint32_t, uint64_t
from posix.unistd cimport close

from ..core._epoll cimport EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, epoll_create1, epoll_ctl, epoll_event, epoll_wait
from ..core._limits cimport SOCKETS_MAX, UPSTREAMS_MAX
from ..core._memory cimport free, zeros
from ..core._random cimport random16
from ..core._udp_batch cimport can_join
from ._sent_queries cimport SentQueries

cdef enum:
    EVENTS_MAX = 64
    DRAWS = 16                     # of an ID, before a socket counts as full


cdef class Sockets:
    """All sockets to all upstreams, and at most `capacity` attempts through them.

    Memory ownership: tables and descriptors are its own, and so is every socket added to it.
    """

    def __cinit__(self, uint32_t capacity) -> None:
        cdef int32_t s
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, "no descriptor for the sockets to upstreams")
        self.sockets = <Socket*> zeros(SOCKETS_MAX, sizeof(Socket))
        for s in range(SOCKETS_MAX):
            self.sockets[s].fd = -1
        self.attempts = <Attempt*> zeros(capacity, sizeof(Attempt))
        self.pools = <Pool*> zeros(UPSTREAMS_MAX, sizeof(Pool))
        self.asked = SentQueries(capacity)
        self.capacity = capacity
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
        free(self.pools)

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
            Pool* owner
            int32_t s, c
        if not 0 <= upstream < UPSTREAMS_MAX:
            raise ValueError(f"upstreams are numbered below {UPSTREAMS_MAX}")
        owner = &self.pools[upstream]
        for s in range(SOCKETS_MAX):
            if self.sockets[s].fd < 0:
                break
        else:
            raise OSError("too many sockets to upstreams")
        if owner.count == SOCKETS_EACH:
            raise OSError("too many sockets to this upstream")
        self.watch(fd, s, EPOLLIN)
        self.sockets[s].fd = fd
        self.sockets[s].upstream = <int16_t> upstream
        self.sockets[s].retired = self.sockets[s].port_known = False
        self.sockets[s].joins = can_join(fd)
        self.sockets[s].outstanding = 0
        for c in range(CHAINS):
            self.sockets[s].chains[c] = -1
        owner.sockets[owner.count] = s
        owner.count += 1
        return s

    def retire(self, int32_t s) -> None:
        """Send nothing more through a socket; it is closed when its last attempt has ended."""
        if not 0 <= s < SOCKETS_MAX or self.sockets[s].fd < 0 or self.sockets[s].retired:
            raise ValueError(f"no socket {s} in use")
        self._leave_pool(s)
        self.sockets[s].retired = True
        self._close_if_done(s)

    def is_port_known(self, int32_t s) -> bool:
        """Tell whether somebody may know a socket's port, so that another should take its place."""
        return 0 <= s < SOCKETS_MAX and self.sockets[s].port_known

    cdef void mark_port_known(self, int32_t socket) noexcept nogil:
        """Send nothing more through a socket whose port somebody may know, if there is another one."""
        self.sockets[socket].port_known = True
        if self.pools[self.sockets[socket].upstream].count > 1:
            self._leave_pool(socket)

    cdef void abandon(self, int32_t socket) noexcept nogil:
        """Send nothing more through a socket that leads nowhere from here, even if it is the last one."""
        self.sockets[socket].port_known = True
        self._leave_pool(socket)

    cdef bint has_none(self, int32_t upstream) noexcept nogil:
        """Tell whether an upstream has no socket that gets new queries."""
        return self.pools[upstream].count == 0

    cdef void _leave_pool(self, int32_t socket) noexcept nogil:
        cdef:
            Pool* owner = &self.pools[self.sockets[socket].upstream]
            uint32_t k
        for k in range(owner.count):
            if owner.sockets[k] == socket:
                owner.count -= 1
                owner.sockets[k] = owner.sockets[owner.count]
                return

    cdef void _close_if_done(self, int32_t socket) noexcept nogil:
        if self.sockets[socket].retired and self.sockets[socket].outstanding == 0 and self.sockets[socket].fd >= 0:
            close(self.sockets[socket].fd)
            self.sockets[socket].fd = -1

    cdef int32_t pick(self, int32_t upstream) noexcept nogil:
        """Return one of an upstream's sockets, at random; -1: it has none."""
        cdef Pool* owner = &self.pools[upstream]
        return owner.sockets[random16(&self.randomness) % owner.count] if owner.count else -1

    # ------------------------------------------------------------ attempts

    cdef int32_t begin(self, int32_t query, int32_t before, int32_t upstream, int32_t socket,
                       uint64_t question, uint64_t now) noexcept nogil:
        """Return a new attempt, with an ID that no other has on its socket; socket -1 is a stream.

        One through a socket must have been let `asked.enter`, and leaves when it ends.
        -1: no ID is free to draw, or there are too many attempts.
        """
        cdef:
            uint16_t drawn = random16(&self.randomness)
            uint32_t draws = 0
            int32_t a = self.idle
            int32_t* chain
        while socket >= 0 and self.match(socket, drawn) >= 0:
            draws += 1
            if draws == DRAWS:
                return -1
            drawn = random16(&self.randomness)
        if a >= 0:
            self.idle = self.attempts[a].next
        elif self.untouched < <int32_t> self.capacity:
            a = self.untouched
            self.untouched += 1
        else:
            return -1
        self.attempts[a] = Attempt(query=query, next=-1, before=before, upstream=<int16_t> upstream,
                                   socket=<int16_t> socket, id=drawn, answered=False,
                                   timeout_counted=False, sent=now, question=question, spelling=0)
        if socket >= 0:
            chain = &self.sockets[socket].chains[drawn % CHAINS]
            self.attempts[a].next = chain[0]
            chain[0] = a
            self.sockets[socket].outstanding += 1
        return a

    cdef uint64_t spell(self, int32_t attempt) noexcept nogil:
        """Draw which letters of an attempt's name are in upper case; never 0, which says that nothing was drawn."""
        cdef:
            uint64_t drawn = 0
            int _k
        for _k in range(4):
            drawn = drawn << 16 | random16(&self.randomness)
        self.attempts[attempt].spelling = drawn or 1
        return self.attempts[attempt].spelling

    cdef int32_t match(self, int32_t socket, uint16_t message_id) noexcept nogil:
        """Return the attempt that waits for this ID on this socket, or -1."""
        cdef int32_t a = self.sockets[socket].chains[message_id % CHAINS]
        while a >= 0 and self.attempts[a].id != message_id:
            a = self.attempts[a].next
        return a

    cdef int32_t any_attempt(self, int32_t socket) noexcept nogil:
        """Return one of the attempts that wait on a socket, or -1."""
        cdef int32_t c
        if self.sockets[socket].fd >= 0 and self.sockets[socket].outstanding:
            for c in range(CHAINS):
                if self.sockets[socket].chains[c] >= 0:
                    return self.sockets[socket].chains[c]
        return -1

    cdef void end(self, int32_t attempt) noexcept nogil:
        """End an attempt: a response to it is nobody's from now on."""
        cdef:
            Attempt* ended = &self.attempts[attempt]
            int32_t* link
        if ended.socket >= 0:
            link = &self.sockets[ended.socket].chains[ended.id % CHAINS]
            while link[0] != attempt:
                link = &self.attempts[link[0]].next
            link[0] = ended.next
            self.sockets[ended.socket].outstanding -= 1
            self.asked.leave(ended.question)
            self.asked.remember(ended.question, ended.socket, ended.id, ended.sent, ended.answered)
            self._close_if_done(ended.socket)
        ended.next = self.idle
        self.idle = attempt
