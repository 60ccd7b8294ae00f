"""Queries that wait for an upstream: each question once, with everybody who asked it meanwhile.

    worker -> ring -> collect -> [open query] -> send -> upstream -> receive -> cache, and all who wait

Python decides where a batch of queries goes; carrying it there and back is done here.
"""

cimport cython
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._answer cimport Answer, Extra
from ._cache cimport READERS_MAX, Cache
from ._datagrams cimport Datagrams
from ._outbox cimport Client, Outbox
from ._outcome cimport Tally
from ._ring cimport Ring
from ._sockets cimport Sockets
from ._wheel cimport Wheel
from ._wire cimport Query

cdef enum:
    WIRE_MAX = 384                 # octets of the longest query that is carried here
    TRIES_MAX = 4
    LATENCIES = 24                 # buckets of the histogram: below 2 us, 4 us, 8 us, ... 16 s

cdef enum Stage:
    IDLE                           # in the pool
    WAITING                        # behind the first who asked the same
    QUEUED                         # to be sent, for the first time
    SENT
    FAILED                         # to be sent again, elsewhere
    CARRIED                        # in Python's hands

cdef struct Open:
    Client client
    int32_t next                   # in the pool, or among those who wait for the same answer
    # -- what follows is of the first who asked
    int32_t chained                # the next open query whose hash falls into the same chain
    int32_t attempt                # the last one; -1: none
    uint32_t generation            # tells this use of the place from the next
    Stage stage
    int16_t upstream               # that was tried last
    uint16_t tries
    uint16_t length
    uint16_t asked_id              # the client's
    uint16_t limit                 # octets of the largest answer that the client takes
    uint8_t unreachable            # an upstream refused it, rather than said nothing
    uint64_t hash
    uint64_t deadline              # nanoseconds
    uint8_t wire[WIRE_MAX]         # as it goes upstream; each attempt sets its ID


@cython.final
cdef class Inflight:
    cdef:
        readonly Cache cache
        readonly Outbox outbox
        readonly Sockets sockets
        Datagrams inbox, outgoing
        Ring* rings[READERS_MAX]
        uint32_t ring_count
        int wake_fd
        # open queries
        Open* pool
        int32_t* chains
        uint32_t capacity, chain_mask, waiting
        int32_t idle, untouched
        # what Python is asked about: queries to send, to send again, to carry, that are special
        int32_t* queued
        int32_t* failed
        uint32_t queued_count, failed_count
        list carried, specials
        # time
        Wheel wheel
        uint64_t timeout, deadline
        uint16_t tries
        bint refuse_overload, retry_truncated
        # counters
        Tally tally                # of queries that came over streams
        uint64_t coalesced, refused, failures, truncated, retried
        uint64_t[LATENCIES] latencies
        uint64_t latency_sum

    cdef Ring* join(self) except NULL
    cdef void wake(self) noexcept nogil
    cdef int admit(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef int32_t _take_idle(self) noexcept nogil
    cdef int32_t _find_open(self, const Query* query) noexcept nogil
    cdef uint16_t _limit(self, const Client* client, const Query* query) noexcept nogil
    cdef int _answer(self, const Client* client, uint16_t limit, const Answer* answer, const Query* query,
                     const Extra* extra, uint64_t now) except -1
    cdef int _answer_one(self, int32_t i, const Answer* answer, const Extra* extra, uint64_t now) except -1
    cdef int _answer_again(self, int32_t i) except -1
    cdef void _pass_the_lead(self, int32_t i) noexcept nogil
    cdef int _answer_all(self, int32_t i, const Answer* answer, const Extra* extra, uint64_t now) except -1
    cdef int _resolve(self, int32_t i, const Query* query, const uint8_t* wire, size_t length,
                      bint over_tcp, uint64_t now) except -1
    cdef int _fail(self, int32_t i, uint64_t now) except -1
    cdef int _expired(self, int32_t i, uint64_t now) except -1
    cdef void _close(self, int32_t i) noexcept nogil
    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, Stage stage, int32_t tried,
                            int32_t upstream) noexcept nogil
    cdef bint _attempt(self, int32_t i, int32_t socket, uint64_t now) noexcept nogil
    cdef void _end_attempt(self, int32_t attempt) noexcept nogil
    cdef int _receive_from(self, int32_t socket, uint64_t now) except -1
    cdef int _take_reply(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef void _unreachable(self, int32_t socket, uint64_t now) noexcept nogil
    cdef int _hand_over(self, int32_t i, bytes truncated, uint64_t now) except -1
    cdef int _set_aside(self, const Client* client, const uint8_t* wire, size_t length) except -1
    cdef int32_t _held(self, uint64_t handle) noexcept nogil
