"""What becomes of one query that came over a connection: answered here, or handed over to the control thread."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .._fastpath cimport Counters, Outcome, QueryContext
from ..core._fair_shares cimport RingShares
from ..core._limits cimport LISTENERS_MAX
from ..core._spsc_ring cimport Ring
from ..events._event cimport Tap
from ..forward._miss_path cimport MissPath
from ..policy._rule_state cimport TRANSPORTS
from ..wire._message cimport Query
from ._connection_limits cimport Totals
from ._connections cimport Connection


@cython.final
cdef class Answering:
    cdef:
        QueryContext context
        Query query
        uint8_t* ecs_query             # the one that upstreams are told more in
        Ring* ring
        RingShares* shares             # of the ring
        bint handed_over               # the query is in the ring
        Tap tap                        # of those who want to know what becomes of queries
        Counters counts
        uint64_t[TRANSPORTS] by_transport  # queries
        uint64_t[LISTENERS_MAX] by_listener  # messages that came
        uint64_t[TRANSPORTS][16] sent_rcodes  # responses, by the RCODE in their header
        const Totals* limits           # what connections share

    cdef Outcome decide(self, Connection* connection, const uint8_t* wire, uint32_t length, const uint8_t* address,
                        uint8_t octets, uint8_t* reply) noexcept nogil
    cdef size_t finish_reply(self, const Connection* connection) noexcept nogil
    cdef bint publish(self) noexcept nogil
    cdef void note(self, const Connection* connection, const uint8_t* wire, uint32_t length,
                   Outcome outcome) noexcept nogil
    cdef void note_bad_header(self, const Connection* connection) noexcept nogil
    cdef bint hand_over(self, Connection* connection, uint64_t number, uint32_t request, const uint8_t* wire,
                        uint32_t length, bint answered) noexcept nogil
