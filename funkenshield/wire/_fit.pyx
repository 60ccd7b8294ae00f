"""What is left of an answer for a client who cannot take all of it (RFC 2181 9).

Whole RRsets are left out that he can do without, as nameservers do it: those that fit are taken in the order in which
they stand, a smaller one behind a larger one, too. It knows what must be there. It does not know who asks, nor what
becomes of an answer that lacks something: `_truncation.put_truncated` writes TC=1.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from ._message cimport (
    AAAA, ADDITIONAL, ANSWER, ANY, AUTHORITY, CNAME, DNAME, DS, HEADER, LABEL_MAX, MESSAGE_MAX, NAME_MAX, NS, NSEC,
    NSEC3, OPCODE, OPT, POINTER, RRSIG, RRSIG_SIGNER, RR_RDATA, RR_TTL, SIG, SOA, TKEY, TSIG, A, Query, Record,
    RecordCursor, find_opt, fold, get16, has_read_all, message_flags, next_record, plain_end, question_end, read_counts,
    set16, set_header, steps_of
)

cdef enum:
    MISSED_MAX = 16                # RRsets that are left out one by one; behind that, all are
    NONE = 0xffff                  # no record
    RECORDS_MAX = (MESSAGE_MAX // 11)

cdef struct Name:
    size_t octets                  # 0: there is none
    uint8_t[NAME_MAX] wire         # in lower case, without pointers

cdef struct Walk:
    RecordCursor records
    const Sections* sections
    const Query* query
    size_t before                  # octets of the message before the sections
    bint required                  # the client needs the record that was read last
    uint16_t last                  # type of the answer section's last record, signatures aside
    size_t final                   # where that stands, or a signature of it
    uint16_t delegation            # where a NS record of authority starts, or NONE
    bint denied                    # there is a SOA in authority
    bint refers                    # to other servers, for a zone of this name
    Name zone
    uint16_t pointer               # that was the last address' owner, and what was found of it
    bint inside
    uint32_t steps                 # that all names together may cost


# ---------------------------------------------------------------- names

cdef inline uint8_t _octet(const Walk* walk, size_t at) noexcept nogil:
    """Return an octet of the message, wherever it is kept. Caller must ensure that it is in it."""
    return walk.query.wire[at] if at < walk.before else walk.records.wire[at]


cdef void _read_name(Name* name, Walk* walk, size_t at) noexcept nogil:
    """Read the name at an offset in the message; pointers must lead back."""
    cdef:
        size_t end = walk.records.length
        size_t start = at
        uint8_t label
        size_t i
    name.octets = 0
    while at < end and walk.steps:
        walk.steps -= 1
        label = _octet(walk, at)
        if label > LABEL_MAX:
            if label < 0xc0 or at + 2 > end:
                break
            at = <size_t> (label & 0x3f) << 8 | _octet(walk, at + 1)
            if at >= start or at < HEADER:
                break
            start = at
            continue
        if at + 1 + label > end or name.octets + 1 + label > NAME_MAX:
            break
        for i in range(<size_t> label + 1):
            name.wire[name.octets + i] = fold(_octet(walk, at + i))
        name.octets += 1 + label
        at += 1 + label
        if not label:
            return
    name.octets = 0


cdef bint _same_owner(Walk* walk, const Record* a, const Record* b) noexcept nogil:
    """Tell whether two records have one owner. Mostly their pointers say so, to one place or to each other."""
    cdef:
        const uint8_t* wire = walk.records.wire
        uint16_t pointer = get16(wire + b.owner)
        Name one, other
    if pointer >= POINTER and (pointer == get16(wire + a.owner) or (pointer & ~POINTER) == a.owner):
        return True
    _read_name(&one, walk, a.owner)
    _read_name(&other, walk, b.owner)
    return one.octets != 0 and one.octets == other.octets and not memcmp(one.wire, other.wire, one.octets)


cdef bint _is_in_domain(Walk* walk, const Record* record) noexcept nogil:
    """Tell whether a record's owner is the zone that is delegated, or below it (RFC 9471)."""
    cdef:
        uint16_t pointer = get16(walk.records.wire + record.owner)
        size_t at = 0
        Name owner
    if pointer >= POINTER and pointer == walk.pointer:
        return walk.inside
    _read_name(&owner, walk, record.owner)
    while owner.octets - at > walk.zone.octets:
        at += 1 + owner.wire[at]
    walk.pointer = pointer
    walk.inside = owner.octets - at == walk.zone.octets and not memcmp(owner.wire + at, walk.zone.wire,
                                                                       walk.zone.octets)
    return walk.inside


cdef size_t _elsewhere(Walk* walk, size_t at) noexcept nogil:
    """Return where else the name at `at` stands: at the end of the answer's last owner, in the same zone; or 0."""
    cdef:
        Name lost, name
        size_t place = walk.final
        uint8_t label = 1
    _read_name(&lost, walk, at)
    while label and lost.octets and walk.steps and place + 2 <= walk.records.length:
        walk.steps -= 1
        label = _octet(walk, place)
        if label > LABEL_MAX:
            place = <size_t> (label & 0x3f) << 8 | _octet(walk, place + 1)
            continue
        _read_name(&name, walk, place)
        if name.octets == lost.octets and not memcmp(name.wire, lost.wire, lost.octets):
            return place if POINTER + place <= 0xffff else 0
        place += 1 + label
    return 0


cdef bint _move(uint8_t* fixed, Walk* walk, const Record* record, const Record* missed,
                uint16_t missing) noexcept nogil:
    """Let the owner of a copy be right where records before it are left out; return False where that cannot be.

    `fixed` is where its type stands. In its data there must be no pointer.
    """
    cdef:
        uint16_t pointer = get16(fixed - 2) if record.fixed - record.owner > 1 else 0
        size_t target = pointer & ~POINTER
        uint16_t i
    if pointer >= POINTER and plain_end(walk.records.wire, record.fixed, record.owner) < 0:
        for i in range(missing):
            if target < missed[i].owner:
                break
            if target < missed[i].end or i == MISSED_MAX - 1:
                pointer = POINTER | <uint16_t> _elsewhere(walk, target)
                break
            pointer -= <uint16_t> (missed[i].end - missed[i].owner)
        if pointer == POINTER:
            return False
        set16(fixed - 2, pointer)
    if record.rtype == RRSIG:
        return plain_end(walk.records.wire, record.end, record.rdata + RRSIG_SIGNER) > 0
    if record.rtype == NSEC:
        return plain_end(walk.records.wire, record.end, record.rdata) > 0
    return record.rtype in (A, AAAA, DS, NSEC3, OPT)


# ---------------------------------------------------------------- records

cdef void _begin_sections(RecordCursor* cursor, const Sections* sections, const Query* query) noexcept nogil:
    """Begin a walk with offsets as they are in the message; of what stands before the sections nothing is read."""
    cdef size_t before = HEADER + query.question
    cursor.wire, cursor.length = sections.octets - before, before + sections.length
    cursor.at, cursor.section = before, ANSWER
    memcpy(cursor.left, sections.counts, sizeof(cursor.left))


cdef void _begin(Walk* walk, const Sections* sections, const Query* query) noexcept nogil:
    _begin_sections(&walk.records, sections, query)
    walk.sections = sections
    walk.query = query
    walk.before, walk.final = walk.records.at, HEADER  # where there is no answer, the question's owner is the last
    walk.last = 0
    walk.delegation = NONE
    walk.pointer = 0
    walk.denied = walk.refers = False
    walk.steps = steps_of(walk.records.length)


cdef inline uint16_t _covered(const Walk* walk, const Record* record) noexcept nogil:
    """Return the type that a signature is for, or a record's own."""
    if record.rtype == RRSIG and record.end - record.rdata >= RRSIG_SIGNER:
        return get16(walk.records.wire + record.rdata)
    return record.rtype


cdef bint _next(Walk* walk, Record* record) noexcept nogil:
    """Read the next record; one that is malformed, or must not be taken apart, stays unread."""
    if not next_record(&walk.records, record):
        return False
    if _judge(walk, record):
        return True
    walk.records.left[record.section] += 1
    return False


cdef bint _judge(Walk* walk, const Record* record) noexcept nogil:
    """Tell whether a record is needed, in `walk.required`; False: what is signed as a whole, or is no record at all.

    The client needs the answer; all of the authority section, but for the zone's own NS where the answer is complete;
    and of a referral the addresses in the zone that is delegated.
    """
    cdef:
        uint16_t covered = _covered(walk, record)
        bint complete
    walk.required = True
    if record.section == ANSWER:
        walk.final = record.owner
        if record.rtype != RRSIG or (walk.query.qtype == RRSIG and covered != CNAME and covered != DNAME):
            walk.last = record.rtype
        return True
    complete = (walk.sections.counts[ANSWER]
                and (walk.last != CNAME or walk.query.qtype == CNAME or walk.query.qtype == ANY))
    if record.section == AUTHORITY:
        if record.rtype == NS:
            walk.delegation = <uint16_t> record.owner
        walk.denied |= record.rtype == SOA
        walk.required = not (complete and covered == NS)
        return True
    if record.rtype == TSIG or record.rtype == SIG or record.rtype == TKEY:
        return False
    if not walk.refers and not complete and not walk.denied and walk.delegation != NONE:
        walk.refers = True
        _read_name(&walk.zone, walk, walk.delegation)
    walk.required = record.rtype == OPT or (
        walk.refers and (record.rtype == A or record.rtype == AAAA) and _is_in_domain(walk, record))
    return walk.steps > 0


cdef inline bint _is_over(const Walk* walk, const Record* record) noexcept nogil:
    """Tell whether nothing that a client needs can come any more."""
    return record.section == ADDITIONAL and walk.sections.bare and not walk.refers


# ---------------------------------------------------------------- what fits

cdef bint fit(uint8_t* out, uint16_t* ttls, Sections* kept, const Sections* whole, const Query* query,
              size_t room) noexcept nogil:
    """Write what fits into `room` octets, with the offsets of its TTLs; return False where not all that is needed does.

    An OPT among the records is needed. Of signatures that stand apart from their RRset, as Knot DNS has them, those
    may be missing (RFC 4035 3.1.1), but none is there without it. Caller must ensure that `whole` is from a response
    to this query, and that `ttls` has room for as many as there are records.
    """
    cdef:
        Walk walk
        Record first, record
        Record[MISSED_MAX] missed
        size_t needed = 0
        size_t authority = 0       # octets of what the client can do without there: all of it, or nothing
        size_t space = room
        uint8_t* copy
        uint16_t missing = 0
        uint16_t count
        bint required, keeps, moves, more
    _begin(&walk, whole, query)
    while _next(&walk, &record):
        if _is_over(&walk, &record):
            break
        if walk.required:
            needed += record.end - record.owner
        elif record.section == AUTHORITY:
            authority += record.end - record.owner
        if needed > room:
            return False
    else:
        if not has_read_all(&walk.records):
            return False
    room -= needed
    if authority <= room:
        room -= authority
        authority = 0

    kept.octets = out
    kept.length = 0
    kept.counts[ANSWER] = kept.counts[AUTHORITY] = kept.counts[ADDITIONAL] = kept.ttls = 0
    _begin(&walk, whole, query)
    more = _next(&walk, &record)
    while more:
        if _is_over(&walk, &record) and (missing == MISSED_MAX or room <= RR_RDATA):
            return True
        first = record
        required = walk.required
        count = 0
        moves = True
        while True:  # an RRset, with the signatures right behind it
            copy = out + kept.length + record.owner - first.owner
            if kept.length + record.end - first.owner <= space:
                memcpy(copy, walk.records.wire + record.owner, record.end - record.owner)
                if missing and not _move(copy + record.fixed - record.owner, &walk, &record, missed, missing):
                    moves = False
            ttls[kept.ttls + count] = <uint16_t> (kept.length + record.fixed + RR_TTL - first.owner)
            count += 1
            first.end = record.end
            more = _next(&walk, &record)
            if not more or required or walk.required or not _goes_with(&walk, &record, &first):
                break
        if required:
            if not moves:
                return False
        else:
            if first.section == AUTHORITY:
                keeps = not authority
            else:
                keeps = first.end - first.owner <= room and not _is_missed(&walk, &first, missed, missing)
            if not keeps or not moves:
                if missing < MISSED_MAX:
                    missed[missing] = first
                    missing += 1
                continue
            if first.section == ADDITIONAL:
                room -= first.end - first.owner
        kept.length += first.end - first.owner
        kept.counts[first.section] += count
        kept.ttls += count
    return has_read_all(&walk.records)


cdef bint _goes_with(Walk* walk, const Record* record, const Record* first) noexcept nogil:
    """Tell whether a record is kept or left out with the one in which its RRset begins, where neither is needed."""
    return record.section == first.section and (
        first.section == AUTHORITY or _covered(walk, record) == _covered(walk, first)
        and (record.rtype == RRSIG or first.rtype != RRSIG) and _same_owner(walk, first, record))


cdef bint _is_missed(Walk* walk, const Record* first, const Record* missed, uint16_t missing) noexcept nogil:
    """Tell whether it is the signature of what was left out, or too much was."""
    cdef uint16_t i
    if missing == MISSED_MAX:
        return True
    if first.rtype == RRSIG:
        for i in range(missing):
            if _covered(walk, &missed[i]) == _covered(walk, first) and _same_owner(walk, &missed[i], first):
                return True
    return False


cdef size_t copy_opt(uint8_t* out, const Sections* whole, const Query* query, size_t room) noexcept nogil:
    """Write the OPT record of a response, from its additional section, if it fits; return its octets, or 0."""
    cdef:
        RecordCursor records
        Record opt
    _begin_sections(&records, whole, query)
    while find_opt(&records, &opt):
        if opt.section == ADDITIONAL and opt.end - opt.owner <= room:
            memcpy(out, records.wire + opt.owner, opt.end - opt.owner)
            return opt.end - opt.owner
    return 0


cdef size_t fit_message(uint8_t* out, const uint8_t* wire, size_t length, const Query* query,
                        size_t limit) noexcept nogil:
    """Write what fits of a whole response into `limit` octets; return how many it takes, or 0 where it cannot be."""
    cdef:
        Sections whole, kept
        uint16_t[RECORDS_MAX] ttls
        size_t before = HEADER + query.question
    if (length < before or limit < before or not query.question or message_flags(wire) & OPCODE
            or question_end(wire, length) != before):
        return 0
    whole.octets, whole.length, whole.bare = wire + before, length - before, False
    read_counts(whole.counts, wire)
    if not fit(out + before, ttls, &kept, &whole, query, limit - before):
        return 0
    memcpy(out, wire, before)
    set_header(out, message_flags(wire), 1, kept.counts[ANSWER], kept.counts[AUTHORITY], kept.counts[ADDITIONAL])
    return before + kept.length
