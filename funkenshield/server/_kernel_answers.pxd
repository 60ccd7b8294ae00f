"""The table of answers that the kernel gives by itself, as workers write it."""

cimport cython
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from .._fastpath cimport Counters, QueryContext
from ..cache._store cimport Cache
from ..core._clock cimport Clock
from ..core._epochs cimport Epochs

cdef extern from "../xdp/answers.h" nogil:
    enum:
        PLACES "ANSWERS"
        NAME_WORDS
        ANSWER_WORDS
        CPUS_MAX
    ctypedef union Asked "union asked":
        uint32_t what
        uint16_t flags
        uint16_t opt
        uint64_t word
    ctypedef struct KernelAnswer "struct answer":
        uint64_t sequence
        uint64_t generation
        uint64_t dies
        Asked asked
        uint16_t name_length
        uint16_t length
        uint16_t flags
        uint64_t counts
        uint64_t last
        uint64_t sum
        uint64_t[16] name          # NAME_WORDS
        uint64_t[64] octets        # ANSWER_WORDS
    ctypedef struct Table "struct table":
        uint64_t generation
        uint64_t recorded
        uint64_t[2] secret
    ctypedef struct Answered "struct answered":
        uint64_t answers
        uint64_t[16] rcodes        # RCODES
        uint64_t[64] listeners     # LISTENERS
    uint64_t hash_on(const uint64_t* secret, uint64_t hash, uint64_t word)
    uint32_t place_of(uint64_t hash)

cdef enum Reason:                  # why a worker answers, and the kernel does not
    NO_REASON                      # it may
    NOT_PLAIN                      # the question has more than a plain OPT, or its name is too long
    NOT_SMALL                      # the answer is no whole one of at most 512 octets
    WHO_ASKS                       # that matters: access lists, blocks, limits, subnets, front proxies
    RULES                          # one could concern the question
    NOT_THE_SAME                   # for all who ask soon: seldom asked for, stale, due for prefetch, addresses in turn

cdef struct Question:              # a plain one, as the table has it
    Asked asked
    uint16_t length                # octets of the name
    uint64_t[NAME_WORDS] name      # in lower case, zeros behind it


cdef Reason reason_against(const QueryContext* context) noexcept nogil


@cython.final
cdef class KernelAnswers:
    cdef:
        Table* table               # NULL: there is none (yet), and nothing is offered
        KernelAnswer* answers
        Answered* answered         # by CPU
        tuple memory               # what these are in
        Clock clock
        Epochs epochs
        uint64_t listeners         # whose queries the kernel may answer, one bit each

    cdef Answered _counted(self) noexcept
    cdef uint64_t generation(self) noexcept nogil
    cdef bint is_for(self, int32_t listener) noexcept nogil
    cdef void record(self, uint64_t chance) noexcept nogil
    cdef void offer(self, const QueryContext* context, uint64_t generation) noexcept nogil
    cdef KernelAnswer* _place(self, const Question* question) noexcept nogil
    cdef uint64_t _since_boot(self, uint64_t time) noexcept nogil
    cdef bint _is_alive(self, const KernelAnswer* place, uint64_t now) noexcept nogil
