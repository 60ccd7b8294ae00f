"""Response rate limiting (RRL): of which kind a response is, and whether its client had too many of that."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ..core._prefix_table cimport Prefixes
from ..core._rate_limit cimport Limit
from ._rule_state cimport ClientInfo

cdef enum:                         # which responses a limit is for
    ANSWERS
    DENIALS
    ERRORS
    RESPONSES
    KINDS                          # how many there are

cdef struct ResponseLimits:
    uint8_t[KINDS] limited         # whether responses of a kind are,
    Limit[KINDS] limits            # and how
    uint8_t any                    # whether any are
    uint32_t slip                  # one of so many goes out with TC=1; 0: none
    Prefixes exempt                # whose responses are not limited


cdef bint exceeds_rrl(const ResponseLimits* rrl, const ClientInfo* sender, const uint8_t* wire, size_t length,
                      uint16_t rcode) noexcept nogil
cdef bint slips(const ResponseLimits* rrl, uint64_t turn) noexcept nogil
cdef void set_rrl_aside(ResponseLimits* rrl, const ClientInfo* sender, const uint8_t* wire, size_t length,
                        uint64_t* lines) noexcept nogil
