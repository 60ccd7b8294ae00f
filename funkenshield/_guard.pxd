"""Who may ask, how often, and how much is answered: what stands before all rules.

It knows addresses and rates, and of a response its code, its name and its size. Which prefixes are shut out, and for
how long, is decided in Python, by the alarms that are raised here.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._course cimport Sender
from ._prefixes cimport Prefixes
from ._rates cimport Limit, Rates

cdef enum Ruling:
    WELCOME
    IGNORE                         # no answer at all
    REFUSE
    CUT                            # TC=1 over UDP; over TCP, where the address is real, it is welcome

cdef struct Watch:                 # what the guard did; counters with one writer
    uint64_t denied                # by the access list
    uint64_t shut_out              # by a block
    uint64_t limited               # over a limit of queries
    uint64_t withheld              # responses over a limit, not sent
    uint64_t slipped               # responses over a limit, sent with TC=1

cdef struct Orders                 # what is in force, replaced as a whole; see the .pyx


cdef Ruling judge_query(const Orders* orders, const Sender* sender, Watch* watch) noexcept nogil
cdef size_t judge_response(const Orders* orders, const Sender* sender, uint8_t* wire, size_t length,
                           Watch* watch) noexcept nogil
cdef dict watch_as_dict(const Watch* watch)


@cython.final
cdef class Guard:
    cdef:
        Rates rates
        uint64_t orders            # the address of those in force; 0: there is nothing to guard
