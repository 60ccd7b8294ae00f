"""A negative response, taken apart so that more can be told from it than it was asked for.

It knows octets and their bounds: which records deny something, what they say about time, and how they are
kept so that another response can be made of them. It does not know what follows from them (`_nsec_cache`).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._message cimport (
    HEADER, LABEL_MAX, NAME_MAX, NOERROR, NSEC, NSEC3, NXDOMAIN, OPCODE, OPT, QR, RCODE, RECORD, RRSIG, RRSIG_SIGNER,
    SOA, TC, Query, get16, get32, is_name, message_flags, plain_end, question_length, set16, set32, skip_name
)

cdef enum:
    SOA_NUMBERS = 20               # octets of the RDATA of a SOA behind its names
    POINTER = 0xc000


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
        uint16_t i
        size_t at
        int32_t end
    if length < HEADER or get16(wire + 4) != 1 or question_length(wire, length) != query.question:
        return False
    found.wire = wire
    found.length = length
    found.flags = message_flags(wire)
    found.count = get16(wire + 8)
    found.soa = SECTION_MAX
    found.hold = TTL_MAX
    if found.flags & (QR | OPCODE | TC) != QR or get16(wire + 6) or found.count > SECTION_MAX:
        return False
    if found.flags & RCODE != NOERROR and found.flags & RCODE != NXDOMAIN:
        return False
    at = HEADER + query.question
    for i in range(found.count):
        end = _read_record(&found.records[i], wire, length, at)
        if end < 0 or get16(wire + found.records[i].fixed + 2) != query.qclass or not _read_rdata(found, i, wall):
            return False
        at = end
    return found.soa < SECTION_MAX and _ends(wire, length, at)


cdef int32_t _read_record(Record* record, const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Find the parts of the record at `at`; return where it ends, or -1 where it is malformed."""
    cdef int32_t end = skip_name(wire, length, at)
    if end < 0 or <size_t> end + RECORD > length or not is_name(wire, length, at):
        return -1
    record.owner = <uint16_t> at
    record.fixed = <uint16_t> end
    record.rtype = get16(wire + end)
    record.rdlength = get16(wire + end + 8)
    end += RECORD + record.rdlength
    return end if <size_t> end <= length else -1


cdef bint _ends(const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Tell whether nothing follows the authority section but an OPT without an extended rcode."""
    cdef Record opt
    if get16(wire + 10) == 0:
        return at == length
    return (get16(wire + 10) == 1 and _read_record(&opt, wire, length, at) == <int32_t> length
            and opt.rtype == OPT and opt.fixed == at + 1 and wire[opt.fixed + 4] == 0)


cdef bint _read_rdata(Negative* found, uint16_t i, double wall) noexcept nogil:
    """Check one record, and what it says about time; return False where it is not one to learn from.

    Names in an RRSIG or NSEC are never compressed (RFC 4034 3.1.7, 4.1.1).
    """
    cdef:
        const uint8_t* wire = found.wire
        uint16_t rtype = found.records[i].rtype
        size_t rdata = found.records[i].fixed + RECORD
        size_t length = rdata + found.records[i].rdlength
        uint32_t ttl = get32(wire + rdata - 6)
        uint8_t[NAME_MAX] apex
        int32_t end
    found.hold = min(found.hold, <double> (ttl if ttl <= TTL_MAX else 0))
    if rtype == NSEC3:
        return True
    if rtype == NSEC:
        end = plain_end(wire, length, rdata)
        return end > 0 and _is_bitmap(wire + end, length - end)
    if rtype == RRSIG:
        end = plain_end(wire, length, rdata + RRSIG_SIGNER)
        if end < 0:
            return False
        found.hold = min(found.hold, _seconds_until(get32(wire + rdata + 8), wall))
        return True
    if rtype != SOA or found.soa < SECTION_MAX or not is_name(wire, length, rdata):
        return False
    end = skip_name(wire, length, rdata)
    if not is_name(wire, length, end) or skip_name(wire, length, end) + SOA_NUMBERS != <int32_t> length:
        return False
    ttl = get32(wire + length - 4)
    found.hold = min(found.hold, <double> (ttl if ttl <= TTL_MAX else 0))
    found.apex = expand(apex, wire, found.records[i].owner)
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
        size_t rdata = record.fixed + RECORD
        uint8_t* copy = out + below + 2 + RECORD
        size_t size = record.rdlength
    if below + 2 + RECORD + (2 * NAME_MAX + SOA_NUMBERS if record.rtype == SOA else size) > room:
        return 0
    memcpy(out, owner, below)
    set16(out + below, POINTER)
    memcpy(out + below + 2, wire + record.fixed, RECORD)
    if record.rtype != SOA:
        memcpy(copy, wire + rdata, size)
    else:
        size = expand(copy, wire, rdata)
        size += expand(copy + size, wire, skip_name(wire, found.length, rdata))
        memcpy(copy + size, wire + rdata + record.rdlength - SOA_NUMBERS, SOA_NUMBERS)
        size += SOA_NUMBERS
        set16(copy - 2, <uint16_t> size)
    return below + 2 + RECORD + size


cdef size_t finish_records(uint8_t* out, size_t at, uint16_t count, uint16_t apex, uint32_t ttl) noexcept nogil:
    """Set TTLs, and pointers to where the `apex` stands, in `count` records as they are kept; return where they end."""
    cdef uint16_t _i
    for _i in range(count):
        while out[at] <= LABEL_MAX:
            at += 1 + out[at]
        set16(out + at, POINTER | apex)
        set32(out + at + 6, ttl)
        at += 2 + RECORD + get16(out + at + 10)
    return at
