"""TC=1: what a client gets who must come by TCP.

It knows how a truncated response is written, or made of one that is there. Who gets one is decided elsewhere.
Python sets the bit in its own messages, in `rules/calls` and `zones/local_zone`.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.string cimport memmove

from ._message cimport (
    HEADER, TC, EdnsOptions, Query, Record, RecordCursor, begin_records, find_opt, has_own_opt, message_flags,
    put_own_opt, put_question, question_end, set_header
)


cdef size_t put_truncated(uint8_t* out, const Query* query, uint16_t flags, uint16_t payload, uint8_t rcode_high,
                          uint16_t edns_flags, const EdnsOptions* extra) noexcept nogil:
    """Write an answer that is too large for its client: TC=1, question and OPT only."""
    cdef size_t at = put_question(out, query, flags | TC, 0, 0, has_own_opt(query))
    return at + put_own_opt(out + at, query, payload, rcode_high, edns_flags, extra)


cdef size_t truncate(uint8_t* wire, size_t length) noexcept nogil:
    """Truncate a response: TC=1, its question, and the OPT record that it had; return its octets.

    The options stay: a client that sent a cookie believes no response without it (RFC 7873 5.3). Caller must ensure
    that there is a header.
    """
    cdef:
        int32_t at = question_end(wire, length)
        RecordCursor records
        Record opt
        bint found
    begin_records(&records, wire, length, at)
    found = at > HEADER and find_opt(&records, &opt)
    set_header(wire, message_flags(wire) | TC, at > HEADER, 0, 0, found)
    if not found:
        return max(at, HEADER)
    memmove(wire + at, wire + opt.owner, opt.end - opt.owner)
    return at + opt.end - opt.owner
