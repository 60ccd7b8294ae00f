"""Chains of rules, as a program: tests with two ways out, and actions; no stack, no calls, no Python."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ..core._prefix_table cimport PrefixTable, Prefixes
from ..core._rate_limit cimport Limit
from ..core._siphash cimport Secret
from ..core._suffix_table cimport Suffixes
from ..wire._message cimport Query
from ._rule_state cimport ClientInfo, RuleState

cdef enum RuleAction:              # what a program stops at
    ALLOW                          # its usual way, and no other rule
    ROUTE                          # `value` is who is asked, a function where `more` says so; no other rule
    ERROR                          # `value` is the RCODE; 0 is NODATA
    DROP
    TRUNCATE                       # TC=1 over UDP; over TCP, its usual way and no other rule
    SKIP_CACHE                     # the cache is left alone; go on
    TTL_LIMITS                     # `value` is the number of TTL limits; go on
    TAG                            # `value` is the tag's bit; go on
    COUNT                          # go on
    CALL_PYTHON                    # Python decides; it goes on at `yes`
    ASK_PYTHON                     # Python knows whether a condition is true; it goes on at `yes`, or at `no`

cdef enum:                         # dimensions in which rules are found before they are asked
    NAME
    TYPE
    SOURCE
    DIMENSIONS                     # how many there are

cdef enum Test:
    IN                             # the set `value` of the dimension `more`
    QCLASS
    OPCODES                        # one bit each
    FLAGS                          # all of these
    EDNS
    DNSSEC
    OPTION
    LISTENERS                      # one bit each
    TRANSPORT                      # 0: UDP, 1: TCP, 2: TLS
    SERVER_NAMES                   # in one of these lists, one bit each
    OVER                           # the limit `value` by a source, a zone, a name or all: `more`
    TIME                           # minutes of the day: from, to; days of the week, one bit each
    CHANCE                         # in so many of 2**32 queries
    SHARE                          # for so many of 2**32 addresses
    RCODES
    TAGGED                         # with one of these bits
    NEXT                           # no test: on to the next rule that can match
    ACTIONS                        # from here on, a RuleAction

cdef enum Per:                     # what a rate is counted for
    PER_SOURCE
    PER_ZONE
    PER_NAME
    PER_ALL

cdef struct Node:
    uint16_t op                    # a Test, or ACTIONS + a RuleAction
    uint16_t more
    uint32_t rule                  # whose it is
    uint64_t value
    uint32_t yes                   # where it goes on
    uint32_t no

cdef struct MessageFacts:          # of the message that a chain is asked about
    uint16_t flags                 # of its header
    uint16_t rcode                 # with the upper octet that EDNS has

cdef struct Classes:               # of queries that no rule tells apart in one dimension
    uint64_t* rules                # that can match, one bit each, for each class
    uint64_t* words                # of these that are not empty, one bit each, for each class
    uint64_t* sets                 # that it is in, one bit each, for each class
    uint32_t set_words
    uint8_t used                   # whether any rule asks

cdef struct Program:               # all that a chain is; but for counters, it never changes
    Node* nodes                    # the first leads to the first rule
    uint32_t* starts               # of rules
    uint64_t* matched              # by rule
    uint32_t rules
    uint32_t words                 # of one bit for each rule; at most 64
    uint16_t generation
    Classes[DIMENSIONS] classes
    Suffixes names                 # classes for each name, and for those below it
    uint32_t deepest               # labels of the longest of these names,
    uint32_t shallowest            # and of the shortest
    uint16_t* types                # class of each type
    Prefixes sources               # class of each prefix
    Secret secret
    Limit* limits
    uint64_t offset                # of local time, seconds, two's complement


cdef const Node* next_action(const Program* program, const Query* query, const ClientInfo* sender,
                             RuleState* rule_state, const MessageFacts* facts) noexcept nogil
cdef bint could_match(const Program* program, const Query* query) noexcept nogil


cdef inline RuleAction action_of(const Node* node) noexcept nogil:
    return <RuleAction> (node.op - ACTIONS)


@cython.final
cdef class Chain:
    cdef:
        Program program
        list limits                # RateTables that its limits count in
        list starts                # of rules, those that are disabled too
        uint32_t size              # nodes
        PrefixTable sources        # whose spans the program follows

    cdef int _fill(self, Classes* classes, list rules, list sets) except -1


@cython.final
cdef class Trace:
    cdef:
        readonly Chain chain
        Program program            # the chain's, but for all that is written to
        uint64_t* lines            # that its limits count in
        uint32_t[DIMENSIONS] classes  # of the query

    cdef void _mark(self, uint32_t mark, uint32_t following) noexcept nogil
    cdef bint _went(self, uint32_t mark) noexcept nogil


cdef Trace trace_of(Chain chain, const Query* query, const ClientInfo* sender)
