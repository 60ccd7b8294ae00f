"""What a message may cost whoever makes objects of it, as dnspython does: no more than its length accounts for.

dnspython makes a name of each label with all those behind it, so a name costs the square of its labels; whoever chooses
many names can have them all hash alike, so they cost the square of their number; and it remembers each class that it
has seen a type in for ever. It knows what costs, and nothing of what it is read for.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ._message cimport (
    A, ADDITIONAL, ANCOUNT, ANY, ARCOUNT, AUTHORITY, CHAOS, HEADER, MESSAGE_MAX, NSCOUNT, OPCODE, OPT, QDCOUNT, QR,
    QUESTION_FIXED, RR_CLASS, SIG, SOA, STEPS_MAX, TKEY, TSIG, OptionCursor, Record, RecordCursor, begin_options,
    begin_records, follow_name, get16, is_opt, message_flags, next_option, next_record
)
from ._rdata cimport has_sound_names

cdef enum:  # types with names that only dnspython looks for
    IPSECKEY = 45
    HIP = 55
    DSYNC = 66
    AMTRELAY = 260

cdef enum:                         # costs, each of them about half a microsecond
    FREE = 16384                   # of any message
    OCTET = 4                      # of each octet of it, besides
    UNSEEN = 32                    # of an octet that may be half a label

cdef enum:                         # the most that a query has
    SIGNED = 2                     # additional records: OPT and a signature
    OPTIONS = 32                   # EDNS options

cdef enum:                         # classes of records: IN to HESIOD; NONE and ANY, of updates
    HESIOD = 4
    NONE = 254


cdef bint _is_asked(const uint8_t* wire, const Record* record) noexcept nogil:
    """Tell whether a record is one that a query has: a SOA for IXFR, a signature, or OPT with some options."""
    cdef:
        OptionCursor option
        uint32_t options = 0
    if record.section == AUTHORITY or record.rtype != OPT:
        return record.rtype == SOA if record.section == AUTHORITY else record.rtype == TSIG or record.rtype == SIG
    begin_options(&option, wire + record.rdata, record.end - record.rdata)
    while next_option(&option):
        options += 1
    return options <= OPTIONS


cdef uint64_t _square(uint32_t left) noexcept nogil:
    """Return what names cost that it took so many steps less than STEPS_MAX to follow."""
    return <uint64_t> (STEPS_MAX - left) * (STEPS_MAX - left)


def is_affordable(bytes wire not None) -> bool:
    """Tell whether a message can be read in a time that its length accounts for; one that is malformed cannot.

    Of a query, all is little: it has one record or two. What is shorter than a header costs nothing.
    """
    cdef:
        const uint8_t* octets = wire
        size_t length = len(wire)
        size_t at = HEADER
        size_t size = 0
        uint64_t cost = 0
        uint32_t names = 0
        uint32_t steps
        uint16_t rclass, _i
        int32_t end
        bint asks
        RecordCursor records
        Record record
        Record last
    if not HEADER <= length <= MESSAGE_MAX:
        return length < HEADER
    asks = not message_flags(octets) & (QR | OPCODE)
    if asks and (get16(octets + ANCOUNT) or get16(octets + NSCOUNT) > 1 or get16(octets + ARCOUNT) > SIGNED):
        return False
    for _i in range(get16(octets + QDCOUNT)):
        steps = STEPS_MAX
        end = follow_name(octets, length, at, &steps)
        if end < 0:
            return False
        at = <size_t> end + QUESTION_FIXED
        if at > length or message_flags(octets) & OPCODE and get16(octets + at - 2) > HESIOD:
            return False  # dnspython remembers each type of an UPDATE's class
        names += 1
        cost += _square(steps) + names
    begin_records(&records, octets, length, at)
    last.owner = last.fixed = 0
    while next_record(&records, &record):
        if asks and not _is_asked(octets, &record):
            return False
        rclass = get16(octets + record.fixed + RR_CLASS)
        if rclass > HESIOD and rclass != NONE and rclass != ANY and not is_opt(&record):
            return False
        steps = STEPS_MAX
        if follow_name(octets, length, record.owner, &steps) < 0:
            return False
        cost += _square(steps)
        size = record.fixed - record.owner
        if size != last.fixed - last.owner or memcmp(octets + record.owner, octets + last.owner, size):
            names += 1
            cost += names
        last = record
        steps = STEPS_MAX
        if record.end > record.rdata and not has_sound_names(octets, record.rdata, record.end, record.rtype, &steps):
            return False
        if steps < STEPS_MAX:
            names += 1
            cost += _square(steps) + names
        elif (record.rtype == IPSECKEY or record.rtype == HIP or record.rtype == DSYNC or record.rtype == AMTRELAY
                or record.rtype == TKEY or record.rtype == A and rclass == CHAOS):
            cost += UNSEEN * (record.end - record.rdata)
    return cost <= FREE + OCTET * length and records.section > ADDITIONAL
