"""What rules leave to Python, and how queries go on from there."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .._fastpath cimport Counters, Outcome
from ..policy._rule_program cimport Program
from ..policy._rule_state cimport RuleState
from ..wire._message cimport Query
from ._outbox cimport Client
from ._resolution cimport Resolution, Response


cdef class PythonRules(Resolution):
    cdef:
        list decisions, handled, reviews
        Counters counts            # of queries that a worker does not answer: they came over streams, or go on

    cdef int take_in(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef bint enter(self, Client* client, const uint8_t* wire, size_t length, bint anew) except -1
    cdef int _set_decision(self, const Client* client, const uint8_t* wire, size_t length) except -1
    cdef Client _client(self, bytes client) except *
    cdef int _go_on(self, Client* client, bytes query, uint32_t at, uint16_t generation, int32_t route) except -1
    cdef int let_function_answer(self, int32_t i, uint64_t now) except -1
    cdef bint _read(self, int32_t i, Query* query, Response* response, const uint8_t* wire, size_t length,
                    bint over_stream, uint64_t now) noexcept nogil
    cdef const Program* _program(self) noexcept nogil
    cdef int consider(self, int32_t i, int32_t upstream, const Query* query, Response* response, uint64_t now) except -1
    cdef int _review(self, int32_t i, int32_t upstream, const Query* query, Response* response, RuleState* rule_state,
                     uint64_t now) except -1
    cdef int _ask_others(self, int32_t i, uint64_t now) except -1
    cdef int _set_review(self, int32_t i, const Query* query, const Response* response, const RuleState* rule_state,
                         uint64_t now) except -1
