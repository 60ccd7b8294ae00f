"""The wire format of DNS (RFC 1035, 6891): queries taken apart, small replies put together.

It knows octets and their bounds. It does not know what is cached, forwarded or allowed, and it keeps
no state. Every length is checked before the octet is read; nothing here allocates.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

from ..core._siphash cimport siphash


# ---------------------------------------------------------------- names

cdef int32_t plain_end(const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Return where the name at `at` ends, or -1 where there is none, or one with a pointer."""
    cdef:
        size_t start = at
        uint8_t label
    while at < length:
        label = wire[at]
        at += 1 + label
        if label > LABEL_MAX or at - start > NAME_MAX:
            return -1
        if label == 0:
            return <int32_t> at
    return -1


cdef int32_t question_length(const uint8_t* wire, size_t length) noexcept nogil:
    """Return the octets of the first question, or -1 where it is malformed or runs past the end.

    A name in a question is the first of its message: a compression pointer there points nowhere.
    """
    cdef int32_t end = plain_end(wire, length, HEADER)
    return end - HEADER + 4 if end >= 0 and <size_t> end + 4 <= length else -1


cdef int32_t skip_name(const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Return where the name at `at` ends, or -1 where it is malformed; pointers must point backwards."""
    cdef:
        size_t start = at
        uint8_t label
    while at < length:
        label = wire[at]
        if label >= 0xc0:
            if at + 2 > length or (get16(wire + at) & 0x3fff) >= start or get16(wire + at) < 0xc000 + HEADER:
                return -1
            return <int32_t> (at + 2)
        at += 1 + label
        if label > LABEL_MAX or at - start > NAME_MAX:
            return -1
        if label == 0:
            return <int32_t> at
    return -1


cdef bint is_name(const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Tell whether a name stands at `at`, with all that its pointers lead to."""
    cdef uint32_t steps = STEPS_MAX
    return follow_name(wire, length, at, &steps) >= 0


cdef int32_t follow_name(const uint8_t* wire, size_t length, size_t at, uint32_t* steps) noexcept nogil:
    """Return where the name at `at` ends, or -1 where it is none, with all that its pointers lead to.

    Each pointer must lead further back than the one before, and there are no more of them than a name
    has labels: else a name of pointers would cost the length of its message. Each step is taken off `steps`: all names
    of a message may cost together what `steps_of` said when it was begun; where that is spent, nothing is a name.
    """
    cdef:
        size_t start = at
        size_t octets = 0
        size_t hops = 0
        int32_t end = -1
        uint8_t label
    while at < length:
        if not steps[0]:
            return -1
        steps[0] -= 1
        label = wire[at]
        if label >= 0xc0:
            hops += 1
            if at + 2 > length or hops > HOPS_MAX:
                return -1
            if end < 0:
                end = <int32_t> (at + 2)
            at = get16(wire + at) & 0x3fff
            if at >= start or at < HEADER:
                return -1
            start = at
            continue
        octets += 1 + label
        at += 1 + label
        if label > LABEL_MAX or octets > NAME_MAX:
            return -1
        if label == 0:
            return end if end >= 0 else <int32_t> at
    return -1


cdef bint can_move(const uint8_t* wire, int32_t owner_end, size_t behind) noexcept nogil:
    """Tell whether a record stays right when octets from `behind` on, all before it, are taken out.

    It does if no compression pointer of it leads there; only address records are sure of that.
    """
    cdef:
        uint16_t rtype = get16(wire + owner_end)
        uint16_t pointer = get16(wire + owner_end - 2)
    return (rtype == A or rtype == AAAA) and not (pointer >= 0xc000 and (pointer & 0x3fff) >= behind)


# ---------------------------------------------------------------- queries

cdef Verdict parse_query(Query* query, const uint8_t* wire, size_t length) noexcept nogil:
    """Take a query apart of which no option is ignored; see `parse_ignoring`."""
    return parse_ignoring(query, wire, length, NULL)


cdef Verdict parse_ignoring(Query* query, const uint8_t* wire, size_t length, const Ignored* ignored) noexcept nogil:
    """Take a query apart, in the order in which a message is laid out; the key is set if it is CACHEABLE.

    Caller must ensure that `wire` outlives `query`. `question` is set as soon as it was read, so that
    an error can echo it.
    """
    cdef:
        int32_t question
        Verdict verdict
    query.wire = wire
    query.length = <uint16_t> length
    query.question = 0
    query.opt = 0
    query.options = 0
    query.cookie = 0
    query.subnet = 0
    query.key_length = 0
    query.added = 0
    query.keepalive = False
    query.likely = NULL
    query.edns_flags = 0
    query.payload = UDP_PLAIN
    if length < HEADER:
        return UNANSWERABLE
    query.flags = message_flags(wire)
    if query.flags & QR:
        return UNANSWERABLE
    if get16(wire + 4) == 0:
        return UNCACHEABLE if query.flags & OPCODE else _parse_questionless(query)
    if get16(wire + 4) != 1:
        return MALFORMED
    question = question_length(wire, length)
    if question < 0:
        return MALFORMED
    query.question = <uint16_t> question
    query.qtype = get16(wire + HEADER + question - 4)
    query.qclass = get16(wire + HEADER + question - 2)
    if query.flags & OPCODE or get16(wire + 6) or get16(wire + 8):
        _look_for_opt(query)
        return UNCACHEABLE
    verdict = _parse_additional(query, ignored)
    if verdict == CACHEABLE:
        if query.qtype == OPT or TKEY <= query.qtype <= AXFR:
            return UNCACHEABLE
        _set_key(query)
    return verdict


cdef void _look_for_opt(Query* query) noexcept nogil:
    """Read the OPT record of a message with records in other sections, if it can be found."""
    cdef:
        const uint8_t* wire = query.wire
        uint32_t records = <uint32_t> get16(wire + 6) + get16(wire + 8) + get16(wire + 10)
        uint32_t _i
        size_t at = HEADER + query.question
        int32_t end
    for _i in range(records):
        end = skip_name(wire, query.length, at)
        if end < 0 or <size_t> end + RECORD + get16(wire + min(end + 8, query.length - 2)) > query.length:
            return
        if get16(wire + end) == OPT and end - at == 1:
            _set_opt(query, at, end)
        at = <size_t> end + RECORD + get16(wire + end + 8)
    if query.opt:
        _parse_options(query, NULL)


cdef void find_cut_opt(Query* query) noexcept nogil:
    """Read the OPT record of a query whose end did not come, if its fixed part did, and a COOKIE that is whole.

    Nobody may read its other options.
    """
    cdef:
        const uint8_t* wire = query.wire
        size_t at = HEADER + query.question
        int32_t end
    query.opt = query.cookie = 0
    while query.question:
        end = skip_name(wire, query.length, at)
        if end < 0 or <size_t> end + RECORD > query.length:
            break
        if get16(wire + end) == OPT and end - at == 1:
            _set_opt(query, at, end)
            query.options = <uint16_t> min(query.options, query.length - end - RECORD)
            _parse_options(query, NULL)
            break
        at = <size_t> end + RECORD + get16(wire + end + 8)
    query.options = 0


cdef void _set_opt(Query* query, size_t at, int32_t fixed) noexcept nogil:
    query.opt = <uint16_t> at
    query.options = get16(query.wire + fixed + 8)
    query.payload = max(get16(query.wire + fixed + 2), UDP_PLAIN)
    query.edns_flags = get16(query.wire + fixed + 6)


cdef Verdict _parse_questionless(Query* query) noexcept nogil:
    """Let pass a query for nothing but a server cookie (RFC 7873 5.4)."""
    query.qtype = 0
    query.qclass = 0
    if get16(query.wire + 6) or get16(query.wire + 8) or _parse_additional(query, NULL) == MALFORMED:
        return MALFORMED
    return UNCACHEABLE if query.cookie else MALFORMED


cdef Verdict _parse_additional(Query* query, const Ignored* ignored) noexcept nogil:
    """Walk the additional section: one OPT at most, and no octet behind the last record."""
    cdef:
        const uint8_t* wire = query.wire
        size_t length = query.length
        size_t at = HEADER + query.question
        int32_t end
        uint16_t records = get16(wire + 10)
        uint16_t _i, rtype, rdlength
        Verdict verdict = CACHEABLE
    for _i in range(records):
        end = skip_name(wire, length, at)
        if end < 0 or <size_t> end + RECORD > length:
            return MALFORMED
        rtype = get16(wire + end)
        rdlength = get16(wire + end + 8)
        if <size_t> end + RECORD + rdlength > length:
            return MALFORMED
        if rtype != OPT:
            verdict = UNCACHEABLE
        elif query.opt or end - at != 1:
            return MALFORMED
        else:
            _set_opt(query, at, end)
            if wire[end + 5]:
                verdict = UNCACHEABLE
        at = <size_t> end + RECORD + rdlength
    if at != length:
        return MALFORMED
    if query.opt:
        return max(verdict, _parse_options(query, ignored))
    return verdict


cdef Verdict _parse_options(Query* query, const Ignored* ignored) noexcept nogil:
    """Sort the EDNS options: hop by hop ones, hints and ignored ones keep a query CACHEABLE, unknown ones do not.

    Of several cookies the first counts (RFC 7873 5.2).
    """
    cdef:
        const uint8_t* option = query.wire + query.opt + OPT_FIXED
        const uint8_t* end = option + query.options
        uint16_t code, size
        Verdict verdict = CACHEABLE
    while option < end:
        if end - option < 4 or end - option - 4 < get16(option + 2):
            return MALFORMED
        code = get16(option)
        size = get16(option + 2)
        if code == COOKIE:
            if query.cookie or not (size == 8 or 16 <= size <= 40):
                verdict = UNCACHEABLE
            if not query.cookie:
                query.cookie = 4 + size
                query.cookie_at = <uint16_t> (option - query.wire)
        elif code == KEEPALIVE:
            query.keepalive = True
        elif code == SUBNET:
            if query.subnet or not _is_subnet(option + 4, size):
                verdict = UNCACHEABLE
            query.subnet = <uint16_t> (option - query.wire)
        elif not (DAU <= code <= N3U or ends_here(code, ignored)):
            verdict = UNCACHEABLE
        option += 4 + size
    return verdict


cdef bint _is_subnet(const uint8_t* value, uint16_t size) noexcept nogil:
    """Tell whether a CLIENT-SUBNET option is one that a query may have (RFC 7871 6): no scope, no odd bits."""
    cdef:
        uint16_t family
        uint8_t prefix
    if size < 4 or value[3]:
        return False
    family = get16(value)
    prefix = value[2]
    if family > 2 or prefix > (32 if family == 1 else 128 if family == 2 else 0) or size != 4 + (prefix + 7) // 8:
        return False
    return not prefix % 8 or not <uint8_t> (value[size - 1] << prefix % 8)


cdef void _set_key(Query* query) noexcept nogil:
    """Write what tells questions apart: flags that ask for something, type, class, rules' choices, name, client subnet.

    The opcode's bits of the flags are free here (it is QUERY): they say whether there are OPT and subnet.
    """
    cdef:
        const uint8_t* name = query.wire + HEADER
        size_t i, octets = query.question - 4
    set16(query.key, query.flags & ASKING | (WITH_OPT if query.opt else 0))
    set16(query.key + 2, query.edns_flags & EDNS_ASKING)
    set16(query.key + 4, query.qtype)
    set16(query.key + 6, query.qclass)
    set32(query.key + 8, 0)
    for i in range(octets):  # length octets are below 64: folding leaves them alone
        query.key[KEY_PREFIX + i] = fold(name[i])
    query.key_length = <uint16_t> (KEY_PREFIX + octets)
    if query.subnet:
        set_subnet(query, source_prefix(query))


cdef void set_rule_choices(Query* query, uint16_t route, uint16_t ttl_limits) noexcept nogil:
    """Let the key be that of queries for which rules chose the same; the hash is the caller's to renew."""
    set16(query.key + 8, route)
    set16(query.key + 10, ttl_limits)


cdef void set_subnet(Query* query, uint8_t prefix) noexcept nogil:
    """Let the key be that of the client's first `prefix` bits, at most as many as the query tells.

    The hash is the caller's to renew. Caller must ensure that the query has a CLIENT-SUBNET option.
    """
    cdef:
        const uint8_t* option = query.wire + query.subnet
        size_t at = KEY_PREFIX + query.question - 4
        size_t octets = (prefix + 7) // 8
    set16(query.key, get16(query.key) | WITH_SUBNET)
    query.key[at] = option[5]
    query.key[at + 1] = prefix
    memcpy(query.key + at + 2, option + 8, octets)
    if prefix % 8:
        query.key[at + 1 + octets] &= <uint8_t> (0xff00 >> prefix % 8)
    query.key_length = <uint16_t> (at + 2 + octets)


cdef void drop_subnet(Query* query) noexcept nogil:
    """Let the key be that of everybody, wherever he is."""
    set16(query.key, get16(query.key) & ~WITH_SUBNET)
    query.key_length = KEY_PREFIX + query.question - 4


cdef void hash_key(Query* query, const Secret* secret) noexcept nogil:
    query.hash = siphash(secret, query.key, query.key_length)


cdef const uint8_t* lower_name(const Query* query, uint8_t* room) noexcept nogil:
    """Return the question's name in lower case, from the key or, where there is none, in `room` of NAME_MAX octets.

    Without a question, it is the root.
    """
    cdef size_t i
    if query.key_length:
        return query.key + KEY_PREFIX
    room[0] = 0
    if query.question:
        for i in range(<size_t> query.question - 4):
            room[i] = fold(query.wire[HEADER + i])
    return room


cdef bint is_transfer(const Query* query) noexcept nogil:
    """Tell whether a query asks for a zone transfer (RFC 5936, 1995)."""
    return not query.flags & OPCODE and query.question and (query.qtype == AXFR or query.qtype == IXFR)


cdef void set_payload(uint8_t* wire, const Query* query, uint16_t payload) noexcept nogil:
    """Set the UDP payload size in a copy of a query. Caller must ensure that it has an OPT record."""
    set16(wire + query.opt + 3, payload)


cdef bint is_unsigned(const Query* query) noexcept nogil:
    """Tell whether a query has an OPT record and no other that may be a signature of it (RFC 8945, 2931)."""
    return query.opt and get16(query.wire + 10) == 1


# ---------------------------------------------------------------- what the shield writes itself

cdef size_t put_opt(uint8_t* out, uint16_t payload, uint8_t rcode_high, uint16_t flags,
                    uint16_t options) noexcept nogil:
    """Write an OPT record of version 0 up to its options; return its octets so far."""
    out[0] = 0
    set16(out + 1, OPT)
    set16(out + 3, payload)
    out[5] = rcode_high
    out[6] = 0
    set16(out + 7, flags)
    set16(out + 9, options)
    return OPT_FIXED


cdef size_t forwardable(uint8_t* out, size_t room, const Query* query, uint16_t payload) noexcept nogil:
    """Write a CACHEABLE query as it goes upstream; return its octets, or 0 where it needs more than `room`.

    The payload size is ours, and bits that mean nothing end here. So do all options but CLIENT-SUBNET and those that
    say which algorithms are understood: what else there is in a CACHEABLE query is hop by hop, or ignored.
    """
    cdef:
        size_t at = HEADER + query.question
        const uint8_t* option = query.wire + query.opt + OPT_FIXED
        const uint8_t* end = option + query.options
        uint8_t* opt = out + at
        uint16_t code, size
    if at + (OPT_FIXED if query.opt else 0) > room:
        return 0
    memcpy(out, query.wire, at)
    set16(out + 2, query.flags & ASKING)
    if query.opt:
        at += put_opt(opt, payload, 0, query.edns_flags & EDNS_ASKING, 0)
        while option < end:
            code = get16(option)
            size = 4 + get16(option + 2)
            if code == SUBNET or DAU <= code <= N3U:
                if at + size > room:
                    return 0
                memcpy(out + at, option, size)
                at += size
            option += size
        set16(opt + 9, <uint16_t> (out + at - opt - OPT_FIXED))
    return at


cdef size_t end_options(uint8_t* wire, const Query* query, const Ignored* ignored) noexcept nogil:
    """Take the options that end here out of a copy of a query; return its octets.

    Caller must ensure that it has an OPT record. Where that is not the last record, all stays as it is.
    """
    if query.opt + OPT_FIXED + query.options != query.length:
        return query.length
    return _take_out(wire, query.opt, query.length, ignored)


cdef size_t _take_out(uint8_t* wire, size_t opt, size_t length, const Ignored* ignored) noexcept nogil:
    """Take the options that end here out of the OPT record at the end of a message; return its octets."""
    cdef:
        size_t at = opt + OPT_FIXED
        size_t kept = at
        size_t size
    while at < length:
        size = 4 + <size_t> get16(wire + at + 2) if length - at >= 4 else length - at
        if size > length - at:  # that is no option: it stays
            size = length - at
        if size < 4 or not ends_here(get16(wire + at), ignored):
            memmove(wire + kept, wire + at, size)
            kept += size
        at += size
    set16(wire + opt + 9, <uint16_t> (kept - opt - OPT_FIXED))
    return kept


cdef size_t put_own_options(uint8_t* wire, size_t length, const EdnsOptions* extra) noexcept nogil:
    """Let the options of a response that are hop by hop be ours; return its octets.

    Needs room for `extra` behind it. Where no OPT record is its last, it stays as it is: it may be signed.
    """
    cdef:
        uint32_t records = <uint32_t> get16(wire + 6) + get16(wire + 8) + get16(wire + 10)
        uint32_t _i
        int32_t end = HEADER
        size_t at = HEADER
        size_t opt = 0
    if get16(wire + 4):
        end = question_length(wire, length)
        if get16(wire + 4) > 1 or end < 0:
            return length
        at = HEADER + end
    for _i in range(records):
        end = skip_name(wire, length, at)
        if end < 0 or <size_t> end + RECORD > length:
            return length
        opt = at if get16(wire + end) == OPT and end - at == 1 else 0
        at = <size_t> end + RECORD + get16(wire + end + 8)
    if not opt or at != length:
        return length
    length = _take_out(wire, opt, length, NULL)
    memcpy(wire + length, extra.octets, extra.length)
    set16(wire + opt + 9, get16(wire + opt + 9) + extra.length)
    return length + extra.length


cdef inline uint8_t _spelled(uint8_t letter, size_t at, uint64_t spelling) noexcept nogil:
    """Return a letter as a spelling has it at this octet of the question; what is no letter stays."""
    cdef uint8_t lower = fold(letter)
    return lower - 32 if <uint8_t> (lower - 97) < 26 and spelling >> (at & 63) & 1 else lower


cdef void respell(uint8_t* wire, uint64_t spelling) noexcept nogil:
    """Spell the question's name as drawn (0x20). Caller must ensure that the message has one."""
    cdef size_t at
    for at in range(name_size(wire + HEADER)):
        wire[HEADER + at] = _spelled(wire[HEADER + at], at, spelling)


cdef bint is_spelled(const uint8_t* wire, uint16_t question, uint64_t spelling) noexcept nogil:
    """Tell whether a response that answers a question of so many octets spells its name as drawn."""
    cdef size_t at
    if get16(wire + 4) == 0:
        return False
    for at in range(question - 4):
        if wire[HEADER + at] != _spelled(wire[HEADER + at], at, spelling):
            return False
    return True


cdef bint is_mixed(const uint8_t* wire, uint16_t question) noexcept nogil:
    """Tell whether a question's name has letters of either case, as nobody spells it who has a way of his own."""
    cdef:
        bint upper = False
        bint lower = False
        size_t at
    for at in range(question - 4):
        upper |= <uint8_t> (wire[HEADER + at] - 65) < 26
        lower |= <uint8_t> (wire[HEADER + at] - 97) < 26
    return upper and lower


cdef size_t put_with_subnet(uint8_t* out, size_t room, const Query* query, const uint8_t* address, uint8_t octets,
                            uint8_t bits) noexcept nogil:
    """Write a CACHEABLE query without CLIENT-SUBNET with one, of the first `bits` of an address (RFC 7871 6).

    Return its octets, or 0 where it needs more than `room`. Without an OPT it gets one that takes no larger answer.
    """
    cdef:
        size_t at = HEADER + query.question
        size_t told = (bits + 7) // 8
    if at + OPT_FIXED + query.options + 8 + told > room:
        return 0
    memcpy(out, query.wire, at)
    set16(out + 10, 1)
    at += put_opt(out + at, query.payload, 0, query.edns_flags, <uint16_t> (query.options + 8 + told))
    memcpy(out + at, query.wire + query.opt + OPT_FIXED, query.options)
    at += query.options
    set16(out + at, SUBNET)
    set16(out + at + 2, <uint16_t> (4 + told))
    set16(out + at + 4, 1 if octets == 4 else 2)
    out[at + 6] = bits
    out[at + 7] = 0
    memcpy(out + at + 8, address, told)
    at += 8 + told
    if bits % 8:
        out[at - 1] &= <uint8_t> (0xff00 >> bits % 8)
    return at


cdef void add_keepalive(EdnsOptions* extra, uint16_t idle) noexcept nogil:
    """Say for how many tenths of a second a connection may be idle (RFC 7828)."""
    set16(extra.octets + extra.length, KEEPALIVE)
    set16(extra.octets + extra.length + 2, 2)
    set16(extra.octets + extra.length + 4, idle)
    extra.length += 6


cdef void add_error(EdnsOptions* extra, uint16_t code) noexcept nogil:
    """Add an extended error (RFC 8914)."""
    set16(extra.octets + extra.length, EDE)
    set16(extra.octets + extra.length + 2, 2)
    set16(extra.octets + extra.length + 4, code)
    extra.length += 6


cdef size_t _put_own(uint8_t* out, const Query* query, uint16_t rcode, uint16_t answers) noexcept nogil:
    """Write header and question of a response of our own; return its octets so far."""
    memcpy(out, query.wire, HEADER + query.question)
    set16(out + 2, QR | (query.flags & (OPCODE | RD | CD)) | (rcode & RCODE))
    set16(out + 4, 1 if query.question else 0)
    set16(out + 6, answers)
    set16(out + 8, 0)
    set16(out + 10, 1 if has_own_opt(query) else 0)
    return HEADER + query.question


cdef size_t _put_own_opt(uint8_t* out, const Query* query, uint16_t rcode, uint16_t payload,
                         const EdnsOptions* extra) noexcept nogil:
    """Write the OPT of a response of our own, where the query has one; return its octets."""
    cdef size_t at
    if not has_own_opt(query):
        return 0
    at = put_opt(out, payload, <uint8_t> (rcode >> 4), query.edns_flags & DO, extra.length)
    memcpy(out + at, extra.octets, extra.length)
    return at + extra.length


cdef size_t put_error(uint8_t* out, const Query* query, uint16_t rcode, uint16_t payload,
                      const EdnsOptions* extra) noexcept nogil:
    """Write a response of our own without records: header, question if one was read, OPT if one was asked for.

    Needs HEADER + QUESTION_MAX + OPT_FIXED + EXTRA_MAX.
    """
    cdef size_t at = _put_own(out, query, rcode, 0)
    return at + _put_own_opt(out + at, query, rcode, payload, extra)


cdef size_t put_minimal_any(uint8_t* out, const Query* query, uint16_t payload,
                            const EdnsOptions* extra) noexcept nogil:
    """Write the one answer to all questions for ANY: HINFO "RFC8482" "" (RFC 8482 4.2). Needs 21 octets more."""
    cdef size_t at = _put_own(out, query, NOERROR, 1)
    set16(out + at, 0xc000 + HEADER)
    set16(out + at + 2, HINFO)
    set16(out + at + 4, query.qclass)
    set32(out + at + 6, 3600)
    set16(out + at + 10, 9)
    memcpy(out + at + 12, b"\x07RFC8482\x00", 9)
    at += 21
    return at + _put_own_opt(out + at, query, NOERROR, payload, extra)


cdef size_t cut(uint8_t* out, const Query* query, uint16_t flags, uint16_t payload, uint8_t rcode_high,
                uint16_t edns_flags, const EdnsOptions* extra) noexcept nogil:
    """Write an answer that is too large for its client: TC=1, question and OPT only."""
    cdef size_t at = HEADER + query.question
    memcpy(out, query.wire, at)
    set16(out + 2, flags | TC)
    set16(out + 4, 1 if query.question else 0)
    set32(out + 6, 0)
    set16(out + 10, 1 if has_own_opt(query) else 0)
    if has_own_opt(query):
        at += put_opt(out + at, payload, rcode_high, edns_flags, extra.length)
        memcpy(out + at, extra.octets, extra.length)
        at += extra.length
    return at


# ---------------------------------------------------------------- for Python

_VERDICTS = {CACHEABLE: "plain", UNCACHEABLE: "special", MALFORMED: "malformed", UNANSWERABLE: "unanswerable"}


def inspect_query(bytes wire not None) -> dict:
    """Return what the parser reads in a query: verdict, question, EDNS fields and cache key.

    Raises ValueError where the message is longer than DNS allows.
    """
    cdef Query query
    if len(wire) > MESSAGE_MAX:
        raise ValueError(f"a DNS message has at most {MESSAGE_MAX} octets, not {len(wire)}")
    verdict = parse_query(&query, wire, len(wire))
    found = {"verdict": _VERDICTS[verdict]}
    if verdict != UNANSWERABLE:
        found["opcode"] = (query.flags & OPCODE) >> 11
    if verdict != UNANSWERABLE and query.question:
        found["qname"] = wire[HEADER:HEADER + query.question - 4]
        found["qtype"] = query.qtype
        found["qclass"] = query.qclass
    if query.opt:
        found["payload"] = query.payload
        found["edns_flags"] = query.edns_flags
    if verdict == CACHEABLE:
        found["key"] = (<char*> query.key)[:query.key_length]
    return found


def without_hops(bytes query not None) -> bytes:
    """Return a query without options that are hop by hop, if it is not signed, for upstreams that Python asks."""
    cdef Query parsed
    if (len(query) > MESSAGE_MAX or parse_query(&parsed, query, len(query)) > UNCACHEABLE or not is_unsigned(&parsed)):
        return query
    copy = bytearray(query)
    return bytes(copy[:end_options(copy, &parsed, NULL)])


def error_response(bytes query not None, uint8_t rcode, uint16_t payload=UDP_PLAIN) -> bytes:
    """Return the response with this rcode to a query, whatever its opcode; OPT and question are echoed.

    `payload` is the UDP payload size that we tell, in octets. Raises ValueError where the query has no header or is a
    response.
    """
    cdef:
        Query parsed
        EdnsOptions none
        uint8_t[HEADER + QUESTION_MAX + OPT_FIXED] out
    none.length = 0
    if len(query) > MESSAGE_MAX or parse_query(&parsed, query, len(query)) == UNANSWERABLE:
        raise ValueError("nobody answers that")
    return (<char*> out)[:put_error(out, &parsed, rcode, payload, &none)]
