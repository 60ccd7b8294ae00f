"""An answer in the form in which it is kept: built once from a response, rendered for every query with its ID.

It knows what a response may be stored for, and how long (RFC 2181, 2308, 4035, 9520), and how a stored
answer looks to a client (RFC 6891). It does not know where answers are kept, nor who asked.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from ..core._atomic cimport load_relaxed32
from ..core._clock cimport NANOSECONDS, TICKS_PER_SECOND, ticks
from ..wire._ecs_upstream cimport strip_added
from ..wire._message cimport (
    AAAA, ADDITIONAL, ANCOUNT, ANSWER, ANY, AUTHORITY, CD, DO, EDE, FORMERR, HEADER, MESSAGE_MAX, META_FIRST, NOERROR,
    NOTIMP, NS, NXDOMAIN, OPCODE, OPT, OPTION_DATA, OPTION_LENGTH, OPT_FIXED, OPT_FLAGS, OPT_RCODE, OPT_VERSION,
    QDCOUNT, QR, QUESTION_FIXED, RCODE, RD, REFUSED, REPORT_CHANNEL, RRSIG, RRSIG_EXPIRATION, RR_RDATA, RR_RDLENGTH,
    RR_TTL, RR_TYPE, SERVFAIL, SIG, SOA, SOA_MINIMUM, SOA_NUMBERS, STALE_ANSWER, STALE_NXDOMAIN, SUBNET, SUBNET_ADDRESS,
    SUBNET_FAMILY, SUBNET_SCOPE, SUBNET_SOURCE, TC, UNANSWERABLE, UPDATE, A, EdnsOptions, OptionCursor, Query, Record,
    RecordCursor, add_option, begin_options, begin_records, can_move, copy_options, drop_subnet, follow_name, get16,
    get32, has_own_opt, has_read_all, is_opt, message_flags, message_id, next_option, next_record, parse_query,
    put_error, put_opt, put_option, put_question, question_end, read_counts, same_folded, set32, set_header, set_subnet,
    source_prefix, steps_of
)
from ..wire._rdata cimport has_sound_names
from ..wire._fit cimport Sections, copy_opt, fit
from ..wire._truncation cimport put_truncated
from ._zone_settings cimport RenderOptions, TtlLimits

cdef enum:
    FOREVER = 0x7fffffff           # seconds; also the largest TTL (RFC 2181 8)
    NO_SOA = 0xffffffff
    ANSWER_WORDS = (ANSWER_MAX // 8)


cdef bint answers_question(const Query* query, const uint8_t* wire, size_t length) noexcept nogil:
    """Tell whether a response is one to this query: opcode and question, whatever its case.

    Without a question, one is a response only if it says that the upstream could not read it, or would not
    (and to an UPDATE: RFC 2136 3.8); or if the query had none.
    """
    cdef size_t behind = HEADER + query.question - QUESTION_FIXED  # the name
    if length < HEADER or not message_flags(wire) & QR:
        return False
    if (message_flags(wire) ^ query.flags) & OPCODE:
        return False
    if get16(wire + QDCOUNT) == 0:
        return (query.question == 0 or query.flags & OPCODE == UPDATE
                or message_flags(wire) & RCODE in (FORMERR, SERVFAIL, NOTIMP, REFUSED))
    return (question_end(wire, length) == HEADER + query.question
            and same_folded(wire + HEADER, query.wire + HEADER, behind - HEADER)
            and get32(wire + behind) == get32(query.wire + behind))


# ---------------------------------------------------------------- response -> answer

cdef struct Walk:                  # what a walk over the records of a response found
    uint32_t ttl                   # the smallest TTL, seconds
    uint32_t negative              # min(SOA TTL, SOA MINIMUM), seconds, or NO_SOA in authority
    int64_t signed_for             # until the earliest RRSIG expires, ticks
    uint16_t referrals             # NS records in authority
    uint16_t opt                   # where the OPT record starts; 0: none
    uint16_t opt_size
    uint16_t ttls
    bint bound                     # to the message in which it came: it is right as it stands there, and nowhere else


cdef bint _walk(Walk* found, uint16_t* offsets, const uint8_t* wire, size_t length, size_t at,
                uint64_t wall) noexcept nogil:
    """Walk all records; return False where they are not exactly what the header announces, or a name is none.

    So it is where all names together cost too much. A signature of the message is of nothing else (RFC 8945, 2931), nor
    is what other meta types say; what another version of EDNS means is not known: that binds records to it.
    """
    cdef:
        RecordCursor records
        Record record
        uint32_t steps = steps_of(length)
        uint32_t ttl, expiration
    memset(found, 0, sizeof(Walk))
    found.ttl = FOREVER
    found.negative = NO_SOA
    found.signed_for = FOREVER
    begin_records(&records, wire, length, at)
    while next_record(&records, &record):
        if follow_name(wire, length, record.owner, &steps) < 0:
            return False
        if record.rtype == OPT:
            if found.opt or record.section != ADDITIONAL or not is_opt(&record):
                return False
            found.opt = <uint16_t> record.owner
            found.opt_size = <uint16_t> (record.end - record.owner)
            found.bound |= wire[record.owner + OPT_VERSION] != 0
            continue
        if not has_sound_names(wire, record.rdata, record.end, record.rtype, &steps):
            return False
        if (META_FIRST <= record.rtype <= ANY or record.rtype == SIG and get16(wire + record.rdata) == 0
                or found.opt > 0 and not can_move(wire, &record, found.opt)):
            found.bound = True
        ttl = _ttl(get32(wire + record.fixed + RR_TTL))
        found.ttl = min(found.ttl, ttl)
        offsets[found.ttls] = <uint16_t> (record.fixed + RR_TTL - at - found.opt_size)
        found.ttls += 1
        if record.rtype == RRSIG:
            expiration = get32(wire + record.rdata + RRSIG_EXPIRATION)
            found.signed_for = min(found.signed_for, _ticks_until(expiration, wall))
        elif record.section == AUTHORITY and record.rtype == NS:
            found.referrals += 1
        elif record.section == AUTHORITY and record.rtype == SOA:
            found.negative = min(ttl, _ttl(get32(wire + record.end - SOA_MINIMUM)))
    return has_read_all(&records)


cdef int64_t _ticks_until(uint32_t expiration, uint64_t wall) noexcept nogil:
    """Return the ticks until a signature expires, in serial number arithmetic (RFC 4034 3.1.5)."""
    cdef int32_t seconds = <int32_t> (expiration - <uint32_t> (wall // NANOSECONDS))
    return <int64_t> seconds * TICKS_PER_SECOND - ticks(wall % NANOSECONDS) - 1


cdef uint32_t _ttl(uint32_t told) noexcept nogil:
    """Return a TTL in seconds; one with the top bit set counts as 0 (RFC 2181 8)."""
    return told if told <= FOREVER else 0


cdef Kind _classify(const Walk* found, uint16_t rcode, uint16_t answers) noexcept nogil:
    if rcode == SERVFAIL or rcode == REFUSED:
        return FAILURE
    if rcode == NXDOMAIN:
        return NEGATIVE if found.negative != NO_SOA else OTHER
    if rcode != NOERROR:
        return OTHER
    if answers:
        return POSITIVE
    if found.negative != NO_SOA:
        return NEGATIVE
    return REFERRAL if found.referrals else OTHER


cdef uint32_t _hold(const Walk* found, Kind kind, const TtlLimits* ttl_limits) noexcept nogil:
    """Return how long an answer may be held, in ticks; 0: not at all."""
    cdef uint32_t ttl
    if kind == OTHER:
        return 0
    if kind == FAILURE:
        return ttl_limits.failure * TICKS_PER_SECOND
    ttl = min(found.ttl, found.negative)
    if ttl == 0:
        return 0
    ttl = min(max(ttl, ttl_limits.shortest), ttl_limits.longest)
    if kind == NEGATIVE:
        ttl = min(ttl, ttl_limits.negative)
    return <uint32_t> min(<int64_t> ttl * TICKS_PER_SECOND, max(found.signed_for, <int64_t> 0))


cdef int32_t _scope(const Query* query, const uint8_t* opt, uint16_t opt_size) noexcept nogil:
    """Return the scope that a response tells for the query's subnet, or NO_SCOPE.

    -1: it is about another subnet, and no response to this query (RFC 7871 7.3).
    """
    cdef:
        const uint8_t* asked = query.wire + query.subnet
        const uint8_t* option = opt + OPT_FIXED
        const uint8_t* end = opt + opt_size
        int32_t size
    while end - option >= SUBNET_ADDRESS:
        if get16(option) == SUBNET:
            size = OPTION_DATA + get16(asked + OPTION_LENGTH)
            if (get32(option) != get32(asked) or get16(option + SUBNET_FAMILY) != get16(asked + SUBNET_FAMILY)
                    or option[SUBNET_SOURCE] != asked[SUBNET_SOURCE] or end - option < size
                    or memcmp(option + SUBNET_ADDRESS, asked + SUBNET_ADDRESS, size - SUBNET_ADDRESS)):
                return -1
            return min(<int32_t> option[SUBNET_SCOPE], NO_SCOPE - 1)
        option += OPTION_DATA + <size_t> get16(option + OPTION_LENGTH)
    return NO_SCOPE


cdef void _choose_key(Answer* out, Query* query, int32_t scope, bint over_stream) noexcept nogil:
    """Let the query's key be that of all whom the answer is true for, and note who that is.

    A longer scope than what was asked about says: not even for all of those. A failure says nothing of others.
    Over UDP, a response that says nothing of subnets may be forged by whoever knows none: it is for this one alone.
    """
    cdef uint8_t source = source_prefix(query)
    out.scope = <uint8_t> scope
    if out.kind == FAILURE or not source or scope == NO_SCOPE and not over_stream:
        return
    if scope == NO_SCOPE or scope == 0:
        out.everybody = True
        drop_subnet(query)
    elif scope < source:
        set_subnet(query, <uint8_t> scope)


cdef BuildResult build(Answer* out, Query* query, const uint8_t* wire, size_t length,
                       const TtlLimits* ttl_limits, uint64_t now, uint64_t wall, bint over_stream) noexcept nogil:
    """Make the answer of a response.

    Caller must ensure that the response `answers_question`, and that `out` has room for ANSWER_MAX.
    `now` and `wall` are nanoseconds; `over_stream`: nobody else can have sent it. The query's key becomes the one to
    store under.
    """
    cdef:
        Walk found
        uint8_t* at
        uint16_t rcode
        int32_t scope = NO_SCOPE
        uint32_t hold
        size_t start = HEADER + query.question
        size_t before, behind
    if get16(wire + QDCOUNT) == 0:
        return _build_error(out, query, message_flags(wire) & RCODE, ttl_limits.failure, now)
    _start(out, query, message_flags(wire), now)
    if not _walk(&found, <uint16_t*> (out + 1), wire, length, start, wall):
        return _verbatim(out, query, wire, length, found.opt > 0, TRUNCATED if out.flags & TC else BROKEN)
    if found.bound:
        return _verbatim(out, query, wire, length, found.opt > 0, TRUNCATED if out.flags & TC else PASS)

    rcode = out.flags & RCODE
    read_counts(out.counts, wire)
    out.ttls = found.ttls
    out.opt = rcode != FORMERR and rcode != NOTIMP  # without one, those say that EDNS is not understood
    before = (found.opt if found.opt else length) - start
    behind = length - start - before - found.opt_size
    if found.opt:
        out.opt = True
        out.counts[ADDITIONAL] -= 1
        out.rcode_high = wire[found.opt + OPT_RCODE]
        out.edns_flags = get16(wire + found.opt + OPT_FLAGS)
        rcode |= <uint16_t> out.rcode_high << 4
    out.kind = OTHER if out.flags & TC else _classify(&found, rcode, out.counts[ANSWER])
    if query.subnet:
        if found.opt:
            scope = _scope(query, wire + found.opt, found.opt_size)
        if scope < 0:
            return FOREIGN
        _choose_key(out, query, scope, over_stream)
    at = _put_key(out, query)
    memcpy(at, wire + start, before)
    memcpy(at + before, wire + found.opt + found.opt_size, behind)
    out.body = <uint16_t> (before + behind)
    if found.opt and not _sort_options(out, wire + found.opt, found.opt_size):
        return _verbatim(out, query, wire, length, True, TRUNCATED if out.flags & TC else BROKEN)

    hold = _hold(&found, <Kind> out.kind, ttl_limits)
    if hold == 0:
        out.kind = OTHER
        return TRUNCATED if out.flags & TC else PASS
    out.marks.expires = out.born + hold
    return KEEP


cdef void _start(Answer* out, const Query* query, uint16_t flags, uint64_t now) noexcept nogil:
    memset(out, 0, sizeof(Answer))
    out.born = ticks(now)
    out.marks.expires = out.born
    out.flags = flags
    out.kind = OTHER
    out.scope = NO_SCOPE


cdef uint8_t* _put_key(Answer* out, const Query* query) noexcept nogil:
    """Write the key behind the TTL offsets; return where the body starts."""
    out.key_length = query.key_length
    memcpy(<uint8_t*> answer_key(out), query.key, query.key_length)
    return <uint8_t*> answer_body(out)


cdef BuildResult _verbatim(Answer* out, const Query* query, const uint8_t* wire, size_t length, bint opt,
                           BuildResult built) noexcept nogil:
    """Keep everything behind the question as it came; whoever is careless gets what was sent to him.

    `opt`: there is one in it, or there need be none.
    """
    cdef size_t start = HEADER + (query.question if get16(wire + QDCOUNT) else 0)
    out.form = VERBATIM
    out.bare = not get16(wire + QDCOUNT)
    out.opt = opt
    out.kind = OTHER
    out.ttls = 0
    out.options = 0
    out.rcode_high = 0
    out.key_length = 0
    read_counts(out.counts, wire)
    out.body = <uint16_t> (length - start)
    memcpy(<uint8_t*> answer_body(out), wire + start, out.body)
    return built


cdef BuildResult build_verbatim(Answer* out, const Query* query, const uint8_t* wire, size_t length,
                                uint64_t now) noexcept nogil:
    """Make the answer of a response that is one client's alone, and goes to it as it came; see `build`."""
    cdef:
        Walk found
        uint8_t rcode_high = 0
        uint16_t rcode
    if get16(wire + QDCOUNT) == 0 and query.question and query.flags & OPCODE != UPDATE:
        return _build_error(out, query, message_flags(wire) & RCODE, 0, now)
    _start(out, query, message_flags(wire), now)
    if (get16(wire + QDCOUNT)
            and _walk(&found, <uint16_t*> (out + 1), wire, length, HEADER + query.question, 0) and found.opt):
        rcode_high = wire[found.opt + OPT_RCODE]
    _verbatim(out, query, wire, length, True, PASS)
    out.rcode_high = rcode_high
    rcode = <uint16_t> rcode_high << 4 | out.flags & RCODE
    if rcode == SERVFAIL or rcode == REFUSED:
        out.kind = FAILURE
    return TRUNCATED if out.flags & TC else PASS


cdef bint _sort_options(Answer* out, const uint8_t* opt, uint16_t opt_size) noexcept nogil:
    """Keep the options that belong to the answer, whoever asks (RFC 8914, 9567). False: they overrun.

    All others end here: they tell of the connection, of the server, or one client, and nobody with this key asked.
    """
    cdef:
        OptionCursor option
        uint8_t* kept = <uint8_t*> answer_body(out) + out.body
    begin_options(&option, opt + OPT_FIXED, opt_size - OPT_FIXED)
    while next_option(&option):
        if option.code == EDE or option.code == REPORT_CHANNEL:
            memcpy(kept + out.options, option.octets, option.size)
            out.options += <uint16_t> option.size
    return not option.left


cdef void build_failure(Answer* out, const Query* query, uint16_t ede, const TtlLimits* ttl_limits,
                        uint64_t now) noexcept nogil:
    """Make the answer for silence from every upstream: SERVFAIL with an extended error (RFC 8914)."""
    _build_error(out, query, SERVFAIL, ttl_limits.failure, now)
    out.options = put_option(<uint8_t*> answer_body(out), EDE, ede)


cdef BuildResult _build_error(Answer* out, const Query* query, uint16_t rcode, uint32_t hold,
                              uint64_t now) noexcept nogil:
    """Make an answer of our own that is an error and nothing else; a failure may be held for so many seconds."""
    cdef bint failed = rcode == SERVFAIL or rcode == REFUSED
    _start(out, query, <uint16_t> (QR | (query.flags & (OPCODE | RD | CD)) | rcode), now)
    _put_key(out, query)
    out.opt = failed  # the others, without one, say that EDNS is not understood
    if not failed:
        return PASS
    out.kind = FAILURE
    out.marks.expires += max(hold * TICKS_PER_SECOND, <uint32_t> 1)  # what is not held is not past its time, either
    return KEEP if hold else PASS


# ---------------------------------------------------------------- answer -> client

cdef size_t render(uint8_t* out, size_t limit, const Answer* answer, const Query* query,
                   const RenderOptions* manner, uint32_t now, const EdnsOptions* extra) noexcept nogil:
    """Write the answer as this client may see it; return its octets, never more than `limit`.

    `now` is in ticks, `extra` (or NULL) for this client alone. Where not even what is needed fits: TC=1, with
    question and OPT only. One past its time says so (RFC 8767).
    """
    cdef:
        uint16_t flags = (answer.flags & ~RD) | (query.flags & RD)
        uint16_t edns_flags = (answer.edns_flags & ~DO) | (query.edns_flags & DO)
        bint with_opt = has_own_opt(query) and answer.opt
        bint stale = now >= load_relaxed32(&answer.marks.expires) and answer.kind != OTHER
        size_t at = HEADER + query.question
        EdnsOptions own
    if answer.form != SECTIONS:
        if at + answer.body > limit and not answer.reduced:
            return _render_part(out, limit, answer, query, manner, now, extra)
        return _render_as_it_came(out, limit, answer, query, manner)
    own.length = 0
    if with_opt:
        _add_extras(&own, answer, query, stale, extra)
    if at + answer.body + (OPT_FIXED + answer.options + own.length if with_opt else 0) > limit:
        if not answer.reduced:
            return _render_part(out, limit, answer, query, manner, now, extra)
        return put_truncated(out, query, flags, manner.payload, answer.rcode_high, edns_flags, &own)

    _put_body(out, answer, query, with_opt)
    if stale:
        _set_ttls(out + at, answer, manner.stale_ttl)
    elif not manner.keep_ttl and now > answer.born + TICKS_PER_SECOND - 1:
        _age_ttls(out + at, answer, (now - answer.born) // TICKS_PER_SECOND)
    if manner.shuffle:
        _rotate(out + at, answer, message_id(query.wire))
    at += answer.body

    if with_opt:
        at += put_opt(out + at, manner.payload, answer.rcode_high, edns_flags, answer.options + own.length)
        memcpy(out + at, answer_body(answer) + answer.body, answer.options)
        memcpy(out + at + answer.options, own.octets, own.length)
        at += answer.options + own.length
    return at


cdef inline void _put_body(uint8_t* out, const Answer* answer, const Query* query, bint with_opt) noexcept nogil:
    """Write an answer as it is kept, with header and question of this query."""
    cdef:
        uint16_t flags = (answer.flags & ~RD) | (query.flags & RD)
        size_t at = put_question(out, query, flags, answer.counts[ANSWER], answer.counts[AUTHORITY],
                                 answer.counts[ADDITIONAL] + with_opt)
    memcpy(out + at, answer_body(answer), answer.body)


cdef size_t _render_as_it_came(uint8_t* out, size_t limit, const Answer* answer, const Query* query,
                               const RenderOptions* manner) noexcept nogil:
    """Write an answer that is kept as it came, without what nobody but the upstream was told.

    What is too large is truncated to its OPT; what is truncated and lacks the OPT that its client must get, to that.
    """
    cdef:
        uint16_t flags = (answer.flags & ~RD) | (query.flags & RD)
        size_t size = HEADER + answer.body + (0 if answer.bare else query.question)
        size_t at, opt
        Sections whole
        EdnsOptions none
    none.length = 0
    if size > limit or flags & TC and not answer.opt and has_own_opt(query):
        at = put_truncated(out, query, flags, manner.payload, answer.rcode_high, query.edns_flags & DO, &none)
        if has_own_opt(query) and not query.added:
            _take_apart(&whole, answer)
            opt = copy_opt(out + HEADER + query.question, &whole, query, limit - HEADER - query.question)
            at = HEADER + query.question + opt if opt else at
        return at
    if answer.bare:
        memcpy(out, query.wire, HEADER)
        set_header(out, flags, 0, answer.counts[ANSWER], answer.counts[AUTHORITY], answer.counts[ADDITIONAL])
        memcpy(out + HEADER, answer_body(answer), answer.body)
    else:
        _put_body(out, answer, query, False)
    if query.added:
        size = strip_added(out, size, query.added)
        if not size:
            return put_error(out, query, flags & RCODE if flags & RCODE else SERVFAIL, manner.payload, &none)
    return size


cdef size_t _render_part(uint8_t* out, size_t limit, const Answer* answer, const Query* query,
                         const RenderOptions* manner,
                         uint32_t now, const EdnsOptions* extra) noexcept nogil:
    """Render what a client may have of an answer that he cannot take whole: extended errors go first (RFC 8914 3)."""
    cdef:
        uint64_t[ANSWER_WORDS] memory
        Answer* part = <Answer*> memory
        uint8_t* options
        size_t before = HEADER + query.question
        Sections whole, kept
        EdnsOptions own
    part[0] = answer[0]
    part.reduced = True
    part.key_length = 0
    options = <uint8_t*> memory + ANSWER_MAX - answer.options
    part.options = <uint16_t> copy_options(options, answer_body(answer) + answer.body, answer.options, EDE)
    if answer.form == SECTIONS and answer.opt and has_own_opt(query):
        own.length = 0
        _add_extras(&own, part, query, False, extra)
        before += OPT_FIXED + part.options + own.length
    _take_apart(&whole, answer)
    if before + whole.length <= limit:
        kept = whole
        memcpy(part + 1, answer_ttls(answer), 2 * answer.ttls)
    elif (answer.flags & (TC | OPCODE) or not query.question or before > limit
            or not fit(out, <uint16_t*> (part + 1), &kept, &whole, query, limit - before)):
        if answer.form != SECTIONS:
            return _render_as_it_came(out, limit, answer, query, manner)
        return render(out, limit, part, query, manner, now, extra)  # too large as before, and so it is truncated
    if answer.form == SECTIONS:
        part.ttls = kept.ttls
    part.counts = kept.counts
    part.body = <uint16_t> kept.length
    memcpy(<uint8_t*> answer_body(part), kept.octets, kept.length)
    memmove(<uint8_t*> answer_body(part) + part.body, options, part.options)
    return render(out, limit, part, query, manner, now, extra)


cdef inline void _take_apart(Sections* whole, const Answer* answer) noexcept nogil:
    """Tell where the records of an answer are."""
    whole.octets, whole.length, whole.ttls = answer_body(answer), answer.body, answer.ttls
    memcpy(whole.counts, answer.counts, sizeof(whole.counts))
    whole.bare = answer.form == SECTIONS


cdef void _add_extras(EdnsOptions* own, const Answer* answer, const Query* query, bint stale,
                      const EdnsOptions* extra) noexcept nogil:
    """Gather the EDNS options that depend on who asks, and when."""
    cdef const uint8_t* subnet = query.wire + query.subnet
    cdef uint16_t size
    if extra != NULL:
        memcpy(own, extra, sizeof(uint16_t) + extra.length)
    if query.subnet and not query.added and answer.scope != NO_SCOPE:
        size = OPTION_DATA + get16(subnet + OPTION_LENGTH)
        memcpy(own.octets + own.length, subnet, size)
        own.octets[own.length + SUBNET_SCOPE] = answer.scope
        own.length += size
    if stale and not answer.reduced:
        add_option(own, EDE, STALE_NXDOMAIN if answer.flags & RCODE == NXDOMAIN else STALE_ANSWER)


cdef void bound_ttls(Answer* answer, uint32_t shortest, uint32_t longest) noexcept nogil:
    """Keep the TTLs of an answer that is not published yet within bounds, in seconds."""
    cdef:
        uint8_t* body = <uint8_t*> answer_body(answer)
        uint16_t i
    for i in range(answer.ttls):
        set32(body + answer_ttls(answer)[i], min(max(_ttl(get32(body + answer_ttls(answer)[i])), shortest), longest))


cdef void _age_ttls(uint8_t* body, const Answer* answer, uint32_t age) noexcept nogil:
    """Count TTLs down by an age in seconds; a held answer never says 0: that would forbid what we do."""
    cdef:
        uint32_t ttl
        uint16_t i
    for i in range(answer.ttls):
        ttl = _ttl(get32(body + answer_ttls(answer)[i]))
        if ttl:
            set32(body + answer_ttls(answer)[i], ttl - age if ttl > age else 1)


cdef void _set_ttls(uint8_t* body, const Answer* answer, uint32_t ttl) noexcept nogil:
    cdef uint16_t i
    for i in range(answer.ttls):
        set32(body + answer_ttls(answer)[i], ttl)


cdef void _rotate(uint8_t* body, const Answer* answer, uint16_t turn) noexcept nogil:
    """Rotate the addresses of each RRset of the answer section: RDATA without names can change places."""
    cdef:
        const uint8_t* kept = answer_body(answer)
        uint16_t i = 0
        uint16_t start = 0
        uint16_t n, k, size
        int32_t fixed
    while i < answer.counts[ANSWER]:
        n = 1
        fixed = fixed_at(answer, i)
        size = get16(kept + fixed + RR_RDLENGTH)
        if fixed == start + 2 and (get16(kept + fixed + RR_TYPE) == A or get16(kept + fixed + RR_TYPE) == AAAA):
            while (i + n < answer.counts[ANSWER] and fixed_at(answer, i + n) == fixed + n * (2 + RR_RDATA + size)
                   and _same_rrset(kept + fixed, kept + fixed_at(answer, i + n))):
                n += 1
            for k in range(n):
                memcpy(body + fixed_at(answer, i + k) + RR_RDATA,
                       kept + fixed_at(answer, i + (k + turn) % n) + RR_RDATA, size)
        i += n
        fixed = fixed_at(answer, i - 1)
        start = <uint16_t> (fixed + RR_RDATA + get16(kept + fixed + RR_RDLENGTH))


cdef bint _same_rrset(const uint8_t* first, const uint8_t* other) noexcept nogil:
    """Tell whether two records, each named by where its owner ends, have one owner, type, class and size.

    Caller must ensure that the owner of each has two octets: so it is a pointer, as usual within an RRset.
    """
    return (get32(first + RR_TYPE) == get32(other + RR_TYPE) and get16(first - 2) == get16(other - 2)
            and get16(first + RR_RDLENGTH) == get16(other + RR_RDLENGTH))


# ---------------------------------------------------------------- for Python

def is_response_to(bytes query not None, bytes response not None, *, bint continued=False) -> bool:
    """Tell whether a response answers a query: QR, opcode and question (case aside); the ID is not looked at.

    `continued`: it is a later message of a transfer, which may leave the question out (RFC 5936 2.2.1).
    """
    cdef Query parsed
    if len(query) > MESSAGE_MAX or len(response) > MESSAGE_MAX:
        return False
    if parse_query(&parsed, query, len(query)) == UNANSWERABLE:
        return False
    if continued and len(response) >= HEADER and get16(<const uint8_t*> response + QDCOUNT) == 0:
        parsed.question = 0
    return answers_question(&parsed, response, len(response))


def soa_serials(bytes message not None, int section) -> tuple[int, list[tuple[int, int]]]:
    """Return how many records a section has (0: answer, 1: authority), and (number, serial) of its SOA records.

    What cannot be read ends the list; it is never wrong about what comes before.
    """
    cdef:
        const uint8_t* wire = message
        RecordCursor records
        Record record
        int32_t number = 0
        list found = []
    if not HEADER <= len(message) <= MESSAGE_MAX or question_end(wire, len(message)) < 0:
        return 0, found
    begin_records(&records, wire, len(message), question_end(wire, len(message)))
    while next_record(&records, &record) and record.section <= section:
        if record.section == section:
            if record.rtype == SOA and record.end - record.rdata >= SOA_NUMBERS + 2:
                found.append((number, get32(wire + record.end - SOA_NUMBERS)))
            number += 1
    return get16(wire + ANCOUNT + 2 * section), found
