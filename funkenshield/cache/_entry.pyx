"""An answer in the form in which it is kept: built once from a response, rendered for every query.

It knows what a response may be stored for, and how long (RFC 2181, 2308, 4035, 9520), and how a stored
answer looks to a client (RFC 6891). It does not know where answers are kept, nor who asked.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from ..core._atomic cimport load_relaxed32
from ..core._clock cimport NANOSECONDS, TICKS_PER_SECOND, ticks
from ..wire._ecs_upstream cimport take_back
from ..wire._message cimport (
    AAAA, ANY, CD, DO, EDE, FORMERR, HEADER, MESSAGE_MAX, META_FIRST, NOERROR, NOTIMP, NS, NXDOMAIN, OPCODE, OPT,
    OPT_FIXED, QR, RCODE, RD, RECORD, REFUSED, REPORT_CHANNEL, RRSIG, SERVFAIL, SIG, SOA, STALE_ANSWER, STALE_NXDOMAIN,
    SUBNET, TC, UNANSWERABLE, UPDATE, A, EdnsOptions, Query, add_error, can_move, cut, drop_subnet, follow_name, get16,
    get32, has_own_opt, message_flags, message_id, parse_query, put_error, put_opt, question_length, same_folded, set16,
    set32, set_subnet, skip_name, source_prefix, steps_of
)
from ..wire._rdata cimport has_sound_names
from ..wire._fit cimport Sections, copy_opt, fit
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
    cdef int32_t question
    if length < HEADER or not message_flags(wire) & QR:
        return False
    if (message_flags(wire) ^ query.flags) & OPCODE:
        return False
    if get16(wire + 4) == 0:
        return query.question == 0 or query.flags & OPCODE == UPDATE or _is_error(message_flags(wire) & RCODE)
    question = question_length(wire, length)
    return (get16(wire + 4) == 1 and question == query.question
            and same_folded(wire + HEADER, query.wire + HEADER, question - 4)
            and get32(wire + HEADER + question - 4) == get32(query.wire + HEADER + question - 4))


cdef inline bint _is_error(uint16_t rcode) noexcept nogil:
    return rcode == FORMERR or rcode == SERVFAIL or rcode == NOTIMP or rcode == REFUSED


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
        const uint8_t* fixed
        uint32_t ttl
        uint16_t section, _i, rtype, rdlength
        uint32_t steps = steps_of(length)
        size_t start = at
        size_t owner
        int32_t end
    memset(found, 0, sizeof(Walk))
    found.ttl = FOREVER
    found.negative = NO_SOA
    found.signed_for = FOREVER
    for section in range(3):
        for _i in range(get16(wire + 6 + 2 * section)):
            owner = at
            end = follow_name(wire, length, at, &steps)
            if end < 0 or <size_t> end + RECORD > length:
                return False
            fixed = wire + end
            rtype = get16(fixed)
            rdlength = get16(fixed + 8)
            at = <size_t> end + RECORD + rdlength
            if at > length:
                return False
            if rtype == OPT:
                if found.opt or section != 2 or end - owner != 1:
                    return False
                found.opt = <uint16_t> owner
                found.opt_size = <uint16_t> (at - owner)
                found.bound |= fixed[5] != 0
                continue
            if not has_sound_names(wire, end + RECORD, at, rtype, &steps):
                return False
            if (META_FIRST <= rtype <= ANY or rtype == SIG and get16(fixed + RECORD) == 0
                    or found.opt > 0 and not can_move(wire, end, found.opt)):
                found.bound = True
            ttl = _ttl(get32(fixed + 4))
            found.ttl = min(found.ttl, ttl)
            offsets[found.ttls] = <uint16_t> (end + 4 - start - found.opt_size)
            found.ttls += 1
            if rtype == RRSIG and rdlength > 18:
                found.signed_for = min(found.signed_for, _ticks_until(get32(fixed + RECORD + 8), wall))
            elif section == 1 and rtype == NS:
                found.referrals += 1
            elif section == 1 and rtype == SOA and rdlength >= 22:
                found.negative = min(ttl, _ttl(get32(fixed + RECORD + rdlength - 4)))
    return at == length


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
    while end - option >= 8:
        if get16(option) == SUBNET:
            if (get32(option) != get32(asked) or get16(option + 4) != get16(asked + 4) or option[6] != asked[6]
                    or end - option < 4 + get16(asked + 2) or memcmp(option + 8, asked + 8, get16(asked + 2) - 4)):
                return -1
            return min(<int32_t> option[7], NO_SCOPE - 1)
        option += 4 + <size_t> get16(option + 2)
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


cdef Built build(Answer* out, Query* query, const uint8_t* wire, size_t length,
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
    if get16(wire + 4) == 0:
        return _build_error(out, query, message_flags(wire) & RCODE, ttl_limits.failure, now)
    _start(out, query, message_flags(wire), now)
    if not _walk(&found, <uint16_t*> (out + 1), wire, length, start, wall):
        return _verbatim(out, query, wire, length, found.opt > 0, TRUNCATED if out.flags & TC else BROKEN)
    if found.bound:
        return _verbatim(out, query, wire, length, found.opt > 0, TRUNCATED if out.flags & TC else PASS)

    rcode = out.flags & RCODE
    out.answers = get16(wire + 6)
    out.authorities = get16(wire + 8)
    out.additionals = get16(wire + 10)
    out.ttls = found.ttls
    out.opt = rcode != FORMERR and rcode != NOTIMP  # without one, those say that EDNS is not understood
    before = (found.opt if found.opt else length) - start
    behind = length - start - before - found.opt_size
    if found.opt:
        out.opt = True
        out.additionals -= 1
        out.rcode_high = wire[found.opt + 5]
        out.edns_flags = get16(wire + found.opt + 7)
        rcode |= <uint16_t> out.rcode_high << 4
    out.kind = OTHER if out.flags & TC else _classify(&found, rcode, out.answers)
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


cdef Built _verbatim(Answer* out, const Query* query, const uint8_t* wire, size_t length, bint opt,
                     Built built) noexcept nogil:
    """Keep everything behind the question as it came; whoever is careless gets what was sent to him.

    `opt`: there is one in it, or there need be none.
    """
    cdef size_t start = HEADER + (query.question if get16(wire + 4) else 0)
    out.form = VERBATIM
    out.opt = opt
    out.kind = OTHER
    out.ttls = 0
    out.options = 0
    out.rcode_high = 0
    out.key_length = 0
    out.answers = get16(wire + 6)
    out.authorities = get16(wire + 8)
    out.additionals = get16(wire + 10)
    out.body = <uint16_t> (length - start)
    memcpy(<uint8_t*> answer_body(out), wire + start, out.body)
    return built


cdef Built build_verbatim(Answer* out, const Query* query, const uint8_t* wire, size_t length,
                          uint64_t now) noexcept nogil:
    """Make the answer of a response that is one client's alone, and goes to it as it came; see `build`."""
    cdef:
        Walk found
        uint8_t rcode_high = 0
        uint16_t rcode
    if get16(wire + 4) == 0 and query.question and query.flags & OPCODE != UPDATE:
        return _build_error(out, query, message_flags(wire) & RCODE, 0, now)
    _start(out, query, message_flags(wire), now)
    if get16(wire + 4) and _walk(&found, <uint16_t*> (out + 1), wire, length, HEADER + query.question, 0) and found.opt:
        rcode_high = wire[found.opt + 5]
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
        const uint8_t* option = opt + OPT_FIXED
        const uint8_t* end = opt + opt_size
        uint8_t* kept = <uint8_t*> answer_body(out) + out.body
        uint16_t code
        size_t size
    while option < end:
        if end - option < 4 or end - option - 4 < get16(option + 2):
            return False
        code = get16(option)
        size = 4 + <size_t> get16(option + 2)
        if code == EDE or code == REPORT_CHANNEL:
            memcpy(kept + out.options, option, size)
            out.options += <uint16_t> size
        option += size
    return True


cdef void build_failure(Answer* out, const Query* query, uint16_t ede, const TtlLimits* ttl_limits,
                        uint64_t now) noexcept nogil:
    """Make the answer for silence from every upstream: SERVFAIL with an extended error (RFC 8914)."""
    cdef uint8_t* at
    _build_error(out, query, SERVFAIL, ttl_limits.failure, now)
    at = <uint8_t*> answer_body(out)
    set16(at, EDE)
    set16(at + 2, 2)
    set16(at + 4, ede)
    out.options = 6


cdef Built _build_error(Answer* out, const Query* query, uint16_t rcode, uint32_t hold, uint64_t now) noexcept nogil:
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
        return cut(out, query, flags, manner.payload, answer.rcode_high, edns_flags, &own)

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
    cdef size_t at = HEADER + query.question
    memcpy(out, query.wire, at)
    set16(out + 2, (answer.flags & ~RD) | (query.flags & RD))
    set16(out + 4, 1 if query.question else 0)
    set16(out + 6, answer.answers)
    set16(out + 8, answer.authorities)
    set16(out + 10, answer.additionals + with_opt)
    memcpy(out + at, answer_body(answer), answer.body)


cdef size_t _render_as_it_came(uint8_t* out, size_t limit, const Answer* answer, const Query* query,
                               const RenderOptions* manner) noexcept nogil:
    """Write an answer that is kept as it came, without what nobody but the upstream was told.

    What is too large is cut to its OPT; what is truncated and lacks the OPT that its client must get, to that.
    """
    cdef:
        uint16_t flags = (answer.flags & ~RD) | (query.flags & RD)
        size_t size = HEADER + query.question + answer.body
        size_t at, opt
        Sections whole
        EdnsOptions none
    none.length = 0
    if size > limit or flags & TC and not answer.opt and has_own_opt(query):
        at = cut(out, query, flags, manner.payload, answer.rcode_high, query.edns_flags & DO, &none)
        if not query.added:
            _take_apart(&whole, answer)
            opt = copy_opt(out + HEADER + query.question, &whole, query, limit - HEADER - query.question)
            at = HEADER + query.question + opt if opt else at
        return at
    _put_body(out, answer, query, False)
    if query.added:
        size = take_back(out, size, query.added)
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
    part.options = _copy_options(options, answer_body(answer) + answer.body, answer.options)
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
        return render(out, limit, part, query, manner, now, extra)  # too large as before, and so it is cut
    if answer.form == SECTIONS:
        part.ttls = kept.ttls
    part.answers, part.authorities, part.additionals = kept.counts[0], kept.counts[1], kept.counts[2]
    part.body = <uint16_t> kept.length
    memcpy(<uint8_t*> answer_body(part), kept.octets, kept.length)
    memmove(<uint8_t*> answer_body(part) + part.body, options, part.options)
    return render(out, limit, part, query, manner, now, extra)


cdef inline void _take_apart(Sections* whole, const Answer* answer) noexcept nogil:
    """Tell where the records of an answer are."""
    whole.octets, whole.length, whole.ttls = answer_body(answer), answer.body, answer.ttls
    whole.counts[0], whole.counts[1], whole.counts[2] = answer.answers, answer.authorities, answer.additionals
    whole.bare = answer.form == SECTIONS


cdef uint16_t _copy_options(uint8_t* out, const uint8_t* option, uint16_t length) noexcept nogil:
    """Write EDNS options without extended errors, up to one that is not whole; return their octets."""
    cdef:
        const uint8_t* end = option + length
        uint16_t kept = 0
        size_t size
    while option + 4 <= end:
        size = 4 + <size_t> get16(option + 2)
        if size > <size_t> (end - option):
            break
        if get16(option) != EDE:
            memcpy(out + kept, option, size)
            kept += <uint16_t> size
        option += size
    return kept


cdef void _add_extras(EdnsOptions* own, const Answer* answer, const Query* query, bint stale,
                      const EdnsOptions* extra) noexcept nogil:
    """Gather the EDNS options that depend on who asks, and when."""
    cdef const uint8_t* subnet = query.wire + query.subnet
    cdef uint16_t size
    if extra != NULL:
        memcpy(own, extra, sizeof(uint16_t) + extra.length)
    if query.subnet and not query.added and answer.scope != NO_SCOPE:
        size = 4 + get16(subnet + 2)
        memcpy(own.octets + own.length, subnet, size)
        own.octets[own.length + 7] = answer.scope
        own.length += size
    if stale and not answer.reduced:
        add_error(own, STALE_NXDOMAIN if answer.flags & RCODE == NXDOMAIN else STALE_ANSWER)


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
        const uint16_t* ttl = answer_ttls(answer)
        const uint8_t* kept = answer_body(answer)
        uint16_t i = 0
        uint16_t start = 0
        uint16_t n, k, size
    while i < answer.answers:
        n = 1
        size = get16(kept + ttl[i] + 4)
        if ttl[i] == start + 6 and (get16(kept + ttl[i] - 4) == A or get16(kept + ttl[i] - 4) == AAAA):
            while (i + n < answer.answers and ttl[i + n] == ttl[i] + n * (RECORD + 2 + size)
                   and _same_rrset(kept, ttl[i], ttl[i + n])):
                n += 1
            for k in range(n):
                memcpy(body + ttl[i + k] + 6, kept + ttl[i + (k + turn) % n] + 6, size)
        i += n
        start = <uint16_t> (ttl[i - 1] + 6 + get16(kept + ttl[i - 1] + 4))


cdef bint _same_rrset(const uint8_t* body, uint16_t first, uint16_t other) noexcept nogil:
    """Tell whether two records, each named by where its TTL stands, have one owner, type, class and size.

    Caller must ensure that the owner of each has two octets: so it is a pointer, as usual within an RRset.
    """
    return (get32(body + first - 4) == get32(body + other - 4) and get16(body + first + 4) == get16(body + other + 4)
            and get16(body + first - 6) == get16(body + other - 6))


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
    if continued and len(response) >= HEADER and get16(<const uint8_t*> response + 4) == 0:
        parsed.question = 0
    return answers_question(&parsed, response, len(response))


def soa_serials(bytes message not None, int section) -> tuple[int, list[tuple[int, int]]]:
    """Return how many records a section has (0: answer, 1: authority), and (number, serial) of its SOA records.

    What cannot be read ends the list; it is never wrong about what comes before.
    """
    cdef:
        const uint8_t* wire = message
        size_t length = len(message)
        size_t at
        int32_t end, i, s
        uint16_t rdlength
        list found = []
    if length < HEADER or length > MESSAGE_MAX:
        return 0, found
    end = question_length(wire, length) if get16(wire + 4) == 1 else 0
    if end < 0 or get16(wire + 4) > 1:
        return 0, found
    at = HEADER + end
    for s in range(section + 1):
        for i in range(get16(wire + 6 + 2 * s)):
            end = skip_name(wire, length, at)
            if end < 0 or <size_t> end + RECORD > length:
                return get16(wire + 6 + 2 * section), found
            rdlength = get16(wire + end + 8)
            if <size_t> end + RECORD + rdlength > length:
                return get16(wire + 6 + 2 * section), found
            if s == section and get16(wire + end) == SOA and rdlength >= 22:
                found.append((i, get32(wire + end + RECORD + rdlength - 20)))
            at = <size_t> end + RECORD + rdlength
    return get16(wire + 6 + 2 * section), found
