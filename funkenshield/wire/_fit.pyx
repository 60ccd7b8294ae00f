"""What is left of an answer for a client who cannot take all of it (RFC 2181 9).

Whole RRsets are left out that he can do without, as nameservers do it: those that fit are taken in the order in which
they stand, a smaller one behind a larger one, too. It knows what must be there. It does not know who asks, nor what
becomes of an answer that lacks something: that is TC=1.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from ._message cimport (
    AAAA, ANY, CNAME, DNAME, DS, HEADER, LABEL_MAX, MESSAGE_MAX, NAME_MAX, NS, NSEC, NSEC3, OPCODE, OPT, RECORD, RRSIG,
    RRSIG_SIGNER, SIG, SOA, TKEY, TSIG, A, Query, fold, get16, message_flags, plain_end, question_length, set16,
    steps_of
)

cdef enum:
    MISSED_MAX = 16                # RRsets that are left out one by one; behind that, all are
    NONE = 0xffff                  # no record
    RECORDS_MAX = (MESSAGE_MAX // 11)

cdef enum:  # sections
    ANSWER
    AUTHORITY
    ADDITIONAL

cdef enum Step:
    FOUND                          # there is another record
    END                            # there is none
    BROKEN                         # what the header announces is not there, or names cost too much

cdef struct Record:                # offsets are in the sections
    size_t start
    size_t fixed                   # where type, class, TTL and RDLENGTH stand
    size_t end
    uint16_t section
    uint16_t rtype
    uint16_t covered               # the type that a signature is for, or its own
    bint required

cdef struct Name:
    size_t octets                  # 0: there is none
    uint8_t[NAME_MAX] wire         # in lower case, without pointers

cdef struct Walk:
    const Sections* sections
    const Query* query
    size_t before                  # octets of the message before the sections
    size_t at
    uint16_t section
    uint16_t passed                # records of the section
    uint16_t last                  # type of the answer section's last record, signatures aside
    size_t final                   # where that stands, or a signature of it
    uint16_t cut                   # where a NS record of authority starts, or NONE
    bint denied                    # there is a SOA in authority
    bint refers                    # to other servers, for a zone of this name
    Name zone
    uint16_t pointer               # that was the last address' owner, and what was found of it
    bint inside
    uint32_t steps                 # that all names together may cost


# ---------------------------------------------------------------- names

cdef inline uint8_t _octet(const Walk* walk, size_t at) noexcept nogil:
    """Return an octet of the message, wherever it is kept. Caller must ensure that it is in it."""
    return walk.query.wire[at] if at < walk.before else walk.sections.octets[at - walk.before]


cdef void _read_name(Name* name, Walk* walk, size_t at) noexcept nogil:
    """Read the name at an offset in the message; pointers must lead back."""
    cdef:
        size_t end = walk.before + walk.sections.length
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
        const uint8_t* octets = walk.sections.octets
        uint16_t pointer = get16(octets + b.start)
        Name one, other
    if pointer >= 0xc000 and (pointer == get16(octets + a.start) or (pointer & 0x3fff) == walk.before + a.start):
        return True
    _read_name(&one, walk, walk.before + a.start)
    _read_name(&other, walk, walk.before + b.start)
    return one.octets != 0 and one.octets == other.octets and not memcmp(one.wire, other.wire, one.octets)


cdef bint _is_in_domain(Walk* walk, const Record* record) noexcept nogil:
    """Tell whether a record's owner is the zone that is delegated, or below it (RFC 9471)."""
    cdef:
        uint16_t pointer = get16(walk.sections.octets + record.start)
        size_t at = 0
        Name owner
    if pointer >= 0xc000 and pointer == walk.pointer:
        return walk.inside
    _read_name(&owner, walk, walk.before + record.start)
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
        size_t place = walk.before + walk.final
        uint8_t label = 1
    _read_name(&lost, walk, at)
    while label and lost.octets and walk.steps and place + 2 <= walk.before + walk.sections.length:
        walk.steps -= 1
        label = _octet(walk, place)
        if label > LABEL_MAX:
            place = <size_t> (label & 0x3f) << 8 | _octet(walk, place + 1)
            continue
        _read_name(&name, walk, place)
        if name.octets == lost.octets and not memcmp(name.wire, lost.wire, lost.octets):
            return place if place < 0x4000 else 0
        place += 1 + label
    return 0


cdef bint _move(uint8_t* fixed, Walk* walk, const Record* record, const Record* missed,
                uint16_t missing) noexcept nogil:
    """Let the owner of a copy be right where records before it are left out; return False where that cannot be.

    `fixed` is where its type stands. In its data there must be no pointer.
    """
    cdef:
        const uint8_t* octets = walk.sections.octets
        size_t rdata = record.fixed + RECORD
        uint16_t pointer = get16(fixed - 2) if record.fixed - record.start > 1 else 0
        size_t target = pointer & 0x3fff
        uint16_t i
    if pointer >= 0xc000:
        for i in range(missing):
            if target < walk.before + missed[i].start:
                break
            if target < walk.before + missed[i].end or i == MISSED_MAX - 1:
                pointer = 0xc000 | <uint16_t> _elsewhere(walk, target)
                break
            pointer -= <uint16_t> (missed[i].end - missed[i].start)
        if pointer == 0xc000:
            return False
        set16(fixed - 2, pointer)
    if record.rtype == RRSIG:
        return plain_end(octets, record.end, rdata + RRSIG_SIGNER) > 0
    if record.rtype == NSEC:
        return plain_end(octets, record.end, rdata) > 0
    return (record.rtype == A or record.rtype == AAAA or record.rtype == DS or record.rtype == NSEC3
            or record.rtype == OPT)


# ---------------------------------------------------------------- records

cdef void _begin(Walk* walk, const Sections* sections, const Query* query) noexcept nogil:
    walk.sections = sections
    walk.query = query
    walk.before = HEADER + query.question
    walk.at = walk.section = walk.passed = walk.last = 0
    walk.cut = NONE
    walk.pointer = 0
    walk.denied = walk.refers = False
    walk.steps = steps_of(walk.before + sections.length)


cdef Step _next(Walk* walk, Record* record) noexcept nogil:
    """Read the next record."""
    cdef:
        const Sections* sections = walk.sections
        int32_t fixed
    while walk.section <= ADDITIONAL and walk.passed == sections.counts[walk.section]:
        walk.section += 1
        walk.passed = 0
    if walk.section > ADDITIONAL:
        return END if walk.at == sections.length else BROKEN
    fixed = _skip_owner(sections, walk.at)
    if fixed < 0 or <size_t> fixed + RECORD > sections.length:
        return BROKEN
    record.start = walk.at
    record.fixed = fixed
    record.end = record.fixed + RECORD + get16(sections.octets + fixed + 8)
    if record.end > sections.length:
        return BROKEN
    record.section = walk.section
    record.rtype = record.covered = get16(sections.octets + fixed)
    if record.rtype == RRSIG and record.end - record.fixed >= RECORD + RRSIG_SIGNER:
        record.covered = get16(sections.octets + fixed + RECORD)
    walk.at = record.end
    walk.passed += 1
    return _judge(walk, record)


cdef int32_t _skip_owner(const Sections* sections, size_t at) noexcept nogil:
    """Return where the name at `at` ends, or -1; where its pointer leads is looked at by who follows it."""
    cdef uint8_t label
    while at < sections.length:
        label = sections.octets[at]
        if label >= 0xc0:
            return <int32_t> (at + 2)
        at += 1 + label
        if label > LABEL_MAX:
            return -1
        if not label:
            return <int32_t> at
    return -1


cdef Step _judge(Walk* walk, Record* record) noexcept nogil:
    """Tell whether the client needs a record. What is signed as a whole, or is no record at all, is not taken apart.

    He needs the answer; all of the authority section, but for the zone's own NS where the answer is complete; and of a
    referral the addresses in the zone that is delegated.
    """
    cdef bint complete
    record.required = True
    if record.section == ANSWER:
        walk.final = record.start
        if record.rtype != RRSIG or (walk.query.qtype == RRSIG and record.covered != CNAME and record.covered != DNAME):
            walk.last = record.rtype
        return FOUND
    complete = (walk.sections.counts[ANSWER]
                and (walk.last != CNAME or walk.query.qtype == CNAME or walk.query.qtype == ANY))
    if record.section == AUTHORITY:
        if record.rtype == NS:
            walk.cut = <uint16_t> record.start
        walk.denied |= record.rtype == SOA
        record.required = not (complete and record.covered == NS)
        return FOUND
    if record.rtype == TSIG or record.rtype == SIG or record.rtype == TKEY:
        return BROKEN
    if not walk.refers and not complete and not walk.denied and walk.cut != NONE:
        walk.refers = True
        _read_name(&walk.zone, walk, walk.before + walk.cut)
    record.required = record.rtype == OPT or (
        walk.refers and (record.rtype == A or record.rtype == AAAA) and _is_in_domain(walk, record))
    return FOUND if walk.steps else BROKEN


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
        bint keeps, moves
        Step step
    _begin(&walk, whole, query)
    step = _next(&walk, &record)
    while step == FOUND and not _is_over(&walk, &record):
        if record.required:
            needed += record.end - record.start
        elif record.section == AUTHORITY:
            authority += record.end - record.start
        if needed > room:
            return False
        step = _next(&walk, &record)
    if step == BROKEN:
        return False
    room -= needed
    if authority <= room:
        room -= authority
        authority = 0

    kept.octets = out
    kept.length = 0
    kept.counts[ANSWER] = kept.counts[AUTHORITY] = kept.counts[ADDITIONAL] = kept.ttls = 0
    _begin(&walk, whole, query)
    step = _next(&walk, &record)
    while step == FOUND:
        if _is_over(&walk, &record) and (missing == MISSED_MAX or room <= RECORD):
            return True
        first = record
        count = 0
        moves = True
        while True:  # an RRset, with the signatures right behind it
            copy = out + kept.length + record.start - first.start
            if kept.length + record.end - first.start <= space:
                memcpy(copy, whole.octets + record.start, record.end - record.start)
                if missing and not _move(copy + record.fixed - record.start, &walk, &record, missed, missing):
                    moves = False
            ttls[kept.ttls + count] = <uint16_t> (kept.length + record.fixed + 4 - first.start)
            count += 1
            first.end = record.end
            step = _next(&walk, &record)
            if step != FOUND or not _goes_with(&walk, &record, &first):
                break
        if first.required:
            if not moves:
                return False
        else:
            if first.section == AUTHORITY:
                keeps = not authority
            else:
                keeps = first.end - first.start <= room and not _is_missed(&walk, &first, missed, missing)
            if not keeps or not moves:
                if missing < MISSED_MAX:
                    missed[missing] = first
                    missing += 1
                continue
            if first.section == ADDITIONAL:
                room -= first.end - first.start
        kept.length += first.end - first.start
        kept.counts[first.section] += count
        kept.ttls += count
    return step == END


cdef bint _goes_with(Walk* walk, const Record* record, const Record* first) noexcept nogil:
    """Tell whether a record is kept or left out with the one in which its RRset begins."""
    return (not first.required and not record.required and record.section == first.section
            and (first.section == AUTHORITY or record.covered == first.covered
                 and (record.rtype == RRSIG or first.rtype != RRSIG) and _same_owner(walk, first, record)))


cdef bint _is_missed(Walk* walk, const Record* first, const Record* missed, uint16_t missing) noexcept nogil:
    """Tell whether it is the signature of what was left out, or too much was."""
    cdef uint16_t i
    if missing == MISSED_MAX:
        return True
    if first.rtype == RRSIG:
        for i in range(missing):
            if missed[i].covered == first.covered and _same_owner(walk, &missed[i], first):
                return True
    return False


cdef size_t copy_opt(uint8_t* out, const Sections* whole, const Query* query, size_t room) noexcept nogil:
    """Write the OPT that is among the records of a response, if it fits; return its octets, or 0."""
    cdef:
        Walk walk
        Record record
        size_t size
    _begin(&walk, whole, query)
    while _next(&walk, &record) == FOUND:
        size = record.end - record.start
        if record.section == ADDITIONAL and record.rtype == OPT and size <= room:
            memcpy(out, whole.octets + record.start, size)
            return size
    return 0


cdef size_t fit_message(uint8_t* out, const uint8_t* wire, size_t length, const Query* query,
                        size_t limit) noexcept nogil:
    """Write what fits of a whole response into `limit` octets; return how many it takes, or 0 where it cannot be."""
    cdef:
        Sections whole, kept
        uint16_t[RECORDS_MAX] ttls
        size_t before = HEADER + query.question
        int32_t i
    if (length < before or limit < before or not query.question or get16(wire + 4) != 1
            or message_flags(wire) & OPCODE or question_length(wire, length) != query.question):
        return 0
    whole.octets, whole.length, whole.bare = wire + before, length - before, False
    for i in range(3):
        whole.counts[i] = get16(wire + 6 + 2 * i)
    if not fit(out + before, ttls, &kept, &whole, query, limit - before):
        return 0
    memcpy(out, wire, before)
    for i in range(3):
        set16(out + 6 + 2 * i, kept.counts[i])
    return before + kept.length
