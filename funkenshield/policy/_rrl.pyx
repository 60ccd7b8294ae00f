"""Response rate limiting (RRL): of which kind a response is, and whether its client had too many of that.

Equal answers are those with the same name and type; of NXDOMAIN and other errors, all are. What becomes of a response
that is one too many is `_guard`'s to say, and to count.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._prefix_table cimport prefix_value
from ..core._rate_limit cimport CELLS, Limit, key_of, set_aside, source_exceeds
from ..core._siphash cimport Secret, siphash
from ..wire._message cimport (
    ANCOUNT, HEADER, NOERROR, NSCOUNT, NXDOMAIN, OPT_RCODE, QUESTION_MAX, Record, RecordCursor, begin_records, find_opt,
    fold_all, get16, question_end
)
from ._rule_state cimport ClientInfo

cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15     # 2**64 divided by the golden ratio


cdef bint exceeds_rrl(const ResponseLimits* rrl, const ClientInfo* sender, const uint8_t* wire, size_t length,
                      uint16_t rcode) noexcept nogil:
    """Charge a response to its source prefix, if that is not exempt, and tell whether it is one too many."""
    cdef:
        uint32_t kind = DENIALS if rcode == NXDOMAIN else ERRORS
        uint64_t what = 0
        bint over = False
        RecordCursor records
        Record opt
    if prefix_value(&rrl.exempt, sender.address, sender.octets):
        return False
    if rcode == NOERROR:
        kind = ANSWERS
        if not get16(wire + ANCOUNT) and not get16(wire + NSCOUNT):
            begin_records(&records, wire, length, question_end(wire, length))
            if find_opt(&records, &opt) and wire[opt.owner + OPT_RCODE]:
                kind = ERRORS
    if rrl.limited[kind]:
        if kind == ANSWERS:
            what = _hash_question(&rrl.limits[ANSWERS].secret, wire, length)
        over = source_exceeds(&rrl.limits[kind], sender.address, sender.octets, what, 1, sender.now)
    if rrl.limited[RESPONSES] and not over:
        over = source_exceeds(&rrl.limits[RESPONSES], sender.address, sender.octets, 0, 1, sender.now)
    return over


cdef uint64_t _hash_question(const Secret* secret, const uint8_t* wire, size_t length) noexcept nogil:
    """Return a number for a response's name, in lower case, and type; 0 where it has none."""
    cdef:
        uint8_t[QUESTION_MAX] question
        int32_t octets = question_end(wire, length) - HEADER
    if octets <= 0:
        return 0
    fold_all(question, wire + HEADER, octets)
    return siphash(secret, question, octets)


cdef bint slips(const ResponseLimits* rrl, uint64_t turn) noexcept nogil:
    """Tell whether this is one of those that slip.

    Steps of the golden ratio are as even as dice are in the long run; and of two clients who come in turn, it is not
    always the same one.
    """
    return rrl.slip and (turn * GOLDEN >> 32) * rrl.slip >> 32 == 0


cdef void set_rrl_aside(ResponseLimits* rrl, const ClientInfo* sender, const uint8_t* wire, size_t length,
                        uint64_t* lines) noexcept nogil:
    """Let copies of the limits count in copies of their lines for a response, KINDS of them; see `set_aside`."""
    cdef:
        Limit* limit
        uint32_t kind
        uint64_t what
    for kind in range(KINDS):
        limit = &rrl.limits[kind]
        if rrl.limited[kind]:
            what = _hash_question(&limit.secret, wire, length) if kind == ANSWERS else 0
            set_aside(limit, key_of(limit, sender.address, sender.octets, what), lines + kind * CELLS)
