"""Chains of rules, as a program: tests with two ways out, and deeds; no stack, no calls, no Python.

    start of a rule -> test -> test -> deed -> the next rule that can match
                         \\______\\_________/

Which rules can match at all is known before one is asked (Lakshman and Stiliadis, SIGCOMM 1998): the name, the type and
the source of a query each lead to a set of rules, one bit each, and only rules in all three sets are asked.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ._course cimport Course, Sender
from ._prefixes cimport Prefixes
from ._rates cimport Limit, Rates
from ._siphash cimport Secret
from ._suffixes cimport Suffixes
from ._wire cimport Query

cdef enum Deed:                    # what a program stops at
    PASS                           # its usual way, and no other rule
    WAY                            # `value` is who is asked; no other rule
    ERROR                          # `value` is the RCODE; 0 is NODATA
    DROP
    TRUNCATE                       # TC=1 over UDP; over TCP, its usual way and no other rule
    UNCACHED                       # the cache is left alone; go on
    BOUNDS                         # `value` is the number of TTL bounds; go on
    TAG                            # `value` is the tag's bit; go on
    COUNT                          # go on
    CALL                           # Python decides, and where to go on: at the node's `yes`
    ASK                            # Python knows whether a condition is true: on at `yes`, or at `no`

cdef struct Node:
    uint16_t op                    # a test, or DEEDS + a Deed
    uint16_t flags                 # the test's own
    uint32_t rule                  # whose it is
    uint64_t value
    uint32_t yes                   # where it goes on
    uint32_t no

cdef struct Seen:                  # of the message that a chain is asked about
    uint16_t flags                 # of its header
    uint16_t rcode                 # with the upper octet that EDNS has

cdef struct Program                # all that a chain is; never changed; see the .pyx


cdef const Node* next_deed(const Program* program, const Query* query, const Sender* sender, Course* course,
                           const Seen* seen) noexcept nogil
cdef Deed deed_of(const Node* node) noexcept nogil
cdef uint16_t generation_of(const Program* program) noexcept nogil


@cython.final
cdef class Chain:
    cdef Program* program
