"""Sockets to upstreams, and which query went through which of them under which ID."""

cimport cython
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._random cimport Randomness
from ._sent_queries cimport SentQueries

cdef enum:
    SOCKETS_EACH = 64              # at most, of one upstream, that get new queries
    CHAINS = 256                   # in which a socket keeps its attempts, by ID

cdef struct Attempt:
    int32_t query                  # whose: a number of the caller's
    int32_t next                   # in the pool, or in its socket's chain
    int32_t before                 # the same query's attempt before; -1: none
    int16_t upstream
    int16_t socket                 # -1: over a stream, in Python's hands
    uint16_t id
    uint8_t answered
    uint8_t timeout_counted                 # its upstream was told that it is overdue
    uint64_t sent                  # nanoseconds
    uint64_t question              # its hash
    uint64_t spelling              # which letters of the name are in upper case, where they are drawn

cdef struct Socket:
    int32_t fd                     # -1: none
    int16_t upstream
    uint8_t retired                # gets no new queries, and is closed with its last attempt
    uint8_t port_known             # somebody may know its port: gets new queries only where there is no other
    uint8_t joins                  # takes datagrams of one length as one
    uint32_t outstanding           # attempts
    int32_t chains[CHAINS]

cdef struct Pool:                  # an upstream's sockets that get new queries
    uint32_t count
    int32_t[SOCKETS_EACH] sockets


@cython.final
cdef class Sockets:
    cdef:
        Attempt* attempts
        int32_t idle, untouched
        Socket* sockets
        Pool* pools
        uint32_t capacity
        SentQueries asked
        Randomness randomness
        int epoll_fd

    cdef int watch(self, int fd, int32_t which, uint32_t events) except -1
    cdef int32_t wait(self, int32_t* which, int32_t count) noexcept nogil
    cdef int32_t pick(self, int32_t upstream) noexcept nogil
    cdef int32_t begin(self, int32_t query, int32_t before, int32_t upstream, int32_t socket,
                       uint64_t question, uint64_t now) noexcept nogil
    cdef uint64_t spell(self, int32_t attempt) noexcept nogil
    cdef int32_t match(self, int32_t socket, uint16_t message_id) noexcept nogil
    cdef int32_t any_attempt(self, int32_t socket) noexcept nogil
    cdef void end(self, int32_t attempt) noexcept nogil
    cdef void mark_port_known(self, int32_t socket) noexcept nogil
    cdef void abandon(self, int32_t socket) noexcept nogil
    cdef bint has_none(self, int32_t upstream) noexcept nogil
    cdef void _leave_pool(self, int32_t socket) noexcept nogil
    cdef void _close_if_done(self, int32_t socket) noexcept nogil
