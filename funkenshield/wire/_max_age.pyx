"""For how long a cache of HTTP's may keep a response (RFC 8484 5.1).

It knows TTLs as they stand in a message. How they got there is decided elsewhere.
"""

from libc.stdint cimport uint8_t, uint32_t

from ._message cimport (
    AUTHORITY, HEADER, NOERROR, NXDOMAIN, RCODE, RR_TTL, SOA, SOA_MINIMUM, SOA_NUMBERS, TC, Record,
    RecordCursor, begin_records, get32, message_flags, next_record, question_end
)

cdef enum:
    TTL_MAX = 0x7fffffff           # seconds; one that says more means 0 (RFC 2181 8)


cdef uint32_t max_age_of(const uint8_t* wire, size_t length) noexcept nogil:
    """Return for how many seconds a cache may keep a response: for its smallest TTL; 0: not at all.

    That is the smallest in the answer, and of a negative one the SOA record's, or what that says of negative answers.
    """
    cdef:
        RecordCursor cursor
        Record record
        uint32_t age = 0xffffffff
        uint32_t ttl
    if length < HEADER or message_flags(wire) & TC or message_flags(wire) & RCODE not in (NOERROR, NXDOMAIN):
        return 0
    begin_records(&cursor, wire, length, question_end(wire, length))
    while next_record(&cursor, &record) and record.section <= AUTHORITY:
        ttl = get32(wire + record.fixed + RR_TTL)
        if record.section == AUTHORITY:
            if record.rtype != SOA or record.end < record.rdata + SOA_NUMBERS:
                continue
            ttl = min(ttl, get32(wire + record.end - SOA_MINIMUM))
        age = min(age, ttl if ttl <= TTL_MAX else <uint32_t> 0)
    return age if age <= TTL_MAX else 0


# ---------------------------------------------------------------- for Python

def max_age(bytes response not None) -> int:
    """Return for how many seconds a cache may keep a response of at most 65,535 octets."""
    return max_age_of(response, len(response))
