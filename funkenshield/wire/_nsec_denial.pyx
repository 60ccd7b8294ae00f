"""A negative response, taken apart so that more can be told from it than it was asked for.

It knows octets and their bounds: which records deny something, what they say about time, and how they are
kept so that another response can be made of them. It does not know what follows from them (`_nsec_cache`).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._message cimport (
    ANCOUNT, ARCOUNT, HEADER, LABEL_MAX, NAME_MAX, NOERROR, NSCOUNT, NSEC, NSEC3, NXDOMAIN, OPCODE, OPT_RCODE, POINTER,
    QR, RCODE, RRSIG, RRSIG_EXPIRATION, RRSIG_SIGNER, RR_CLASS, RR_RDATA, RR_RDLENGTH, RR_TTL, SOA, SOA_MINIMUM,
    SOA_NUMBERS, STEPS_MAX, TC, Query, RecordCursor, begin_records, get16, get32, has_read_all, is_name, is_opt,
    message_flags, next_record, plain_end, question_end, set16, set32, skip_name
)
from ._rdata cimport has_sound_names


# ---------------------------------------------------------------- names

cdef size_t expand(uint8_t* out, const uint8_t* wire, size_t at) noexcept nogil:
    """Write the name at `at` without pointers; return its octets. Caller must ensure that it `is_name`."""
    cdef:
        size_t octets = 0
        uint8_t label
    while True:
        label = wire[at]
        if label > LABEL_MAX:
            at = get16(wire + at) - POINTER
            continue
        memcpy(out + octets, wire + at, 1 + label)
        octets += 1 + label
        at += 1 + label
        if label == 0:
            return octets


# ---------------------------------------------------------------- reading

cdef bint read_negative(Negative* found, const Query* query, const uint8_t* wire, size_t length,
                        double wall) noexcept nogil:
    """Read a response that denies the whole question and says nothing else; return False where it is none.

    Caller must ensure that it answers the query. `wall` is the time since the epoch, seconds.
    """
    cdef:
        RecordCursor records
        Record* record
        Record opt
        uint16_t i
    if length < HEADER or question_end(wire, length) != HEADER + query.question:
        return False
    found.wire = wire
    found.length = length
    found.flags = message_flags(wire)
    found.count = get16(wire + NSCOUNT)
    found.soa = SECTION_MAX
    found.hold = TTL_MAX
    if (found.flags & (QR | OPCODE | TC) != QR or found.count > SECTION_MAX or get16(wire + ANCOUNT)
            or get16(wire + ARCOUNT) > 1):
        return False
    if found.flags & RCODE != NOERROR and found.flags & RCODE != NXDOMAIN:
        return False
    begin_records(&records, wire, length, HEADER + query.question)
    for i in range(found.count):
        record = &found.records[i]
        if (not next_record(&records, record) or not is_name(wire, length, record.owner)
                or get16(wire + record.fixed + RR_CLASS) != query.qclass or not _read_rdata(found, i, wall)):
            return False
    if next_record(&records, &opt) and (not is_opt(&opt) or wire[opt.owner + OPT_RCODE]):
        return False
    return found.soa < SECTION_MAX and has_read_all(&records)


cdef bint _read_rdata(Negative* found, uint16_t i, double wall) noexcept nogil:
    """Check one record, and what it says about time; return False where it is not one to learn from.

    Names in an RRSIG or NSEC are never compressed (RFC 4034 3.1.7, 4.1.1).
    """
    cdef:
        const uint8_t* wire = found.wire
        const Record* record = &found.records[i]
        uint32_t ttl = get32(wire + record.fixed + RR_TTL)
        uint32_t steps = STEPS_MAX
        uint8_t[NAME_MAX] apex
        int32_t end
    found.hold = min(found.hold, <double> (ttl if ttl <= TTL_MAX else 0))
    if record.rtype == NSEC3:
        return True
    if record.rtype == NSEC:
        end = plain_end(wire, record.end, record.rdata)
        return end > 0 and _is_bitmap(wire + end, record.end - end)
    if record.rtype == RRSIG:
        if plain_end(wire, record.end, record.rdata + RRSIG_SIGNER) < 0:
            return False
        found.hold = min(found.hold, _seconds_until(get32(wire + record.rdata + RRSIG_EXPIRATION), wall))
        return True
    if (record.rtype != SOA or found.soa < SECTION_MAX
            or not has_sound_names(wire, record.rdata, record.end, SOA, &steps)):
        return False
    ttl = get32(wire + record.end - SOA_MINIMUM)
    found.hold = min(found.hold, <double> (ttl if ttl <= TTL_MAX else 0))
    found.apex = expand(apex, wire, record.owner)
    found.soa = i
    return True


cdef double _seconds_until(uint32_t expiration, double wall) noexcept nogil:
    """Return the seconds until a signature expires, in serial number arithmetic (RFC 4034 3.1.5)."""
    return <double> <int32_t> (expiration - <uint32_t> <uint64_t> wall) - 1


cdef bint _is_bitmap(const uint8_t* at, size_t length) noexcept nogil:
    """Tell whether these octets are a type bitmap (RFC 4034 4.1.2)."""
    cdef:
        const uint8_t* end = at + length
        int32_t window = -1
    while at < end:
        if end - at < 2 or at[0] <= window or not 1 <= at[1] <= 32 or end - at - 2 < at[1] or at[1 + at[1]] == 0:
            return False
        window = at[0]
        at += 2 + at[1]
    return True


# ---------------------------------------------------------------- keeping

cdef size_t copy_record(uint8_t* out, size_t room, const Negative* found, const Record* record) noexcept nogil:
    """Write a record as it is kept; return its octets, or 0 where it might need more than `room`.

    Its owner ends in a pointer, still to be set, to the name of the apex: every question that it may be told
    to ends in that. Caller must ensure that the owner is at or below the apex.
    """
    cdef:
        uint8_t[NAME_MAX] owner
        const uint8_t* wire = found.wire
        size_t below = expand(owner, wire, record.owner) - found.apex
        uint8_t* fixed = out + below + 2
        uint8_t* copy = fixed + RR_RDATA
        size_t size = record.end - record.rdata
    if below + 2 + RR_RDATA + (2 * NAME_MAX + SOA_NUMBERS if record.rtype == SOA else size) > room:
        return 0
    memcpy(out, owner, below)
    set16(out + below, POINTER)
    memcpy(fixed, wire + record.fixed, RR_RDATA)
    if record.rtype != SOA:
        memcpy(copy, wire + record.rdata, size)
    else:
        size = expand(copy, wire, record.rdata)
        size += expand(copy + size, wire, skip_name(wire, found.length, record.rdata))
        memcpy(copy + size, wire + record.end - SOA_NUMBERS, SOA_NUMBERS)
        size += SOA_NUMBERS
        set16(fixed + RR_RDLENGTH, <uint16_t> size)
    return below + 2 + RR_RDATA + size


cdef size_t finish_records(uint8_t* out, size_t at, uint16_t count, uint16_t apex, uint32_t ttl) noexcept nogil:
    """Set TTLs, and pointers to where the `apex` stands, in `count` records as they are kept; return where they end."""
    cdef uint16_t _i
    for _i in range(count):
        while out[at] <= LABEL_MAX:
            at += 1 + out[at]
        set16(out + at, POINTER | apex)
        at += 2
        set32(out + at + RR_TTL, ttl)
        at += RR_RDATA + get16(out + at + RR_RDLENGTH)
    return at
