"""The wire format of DNS (RFC 1035, 6891): queries taken apart, records found, small replies put together.

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


cdef int32_t question_end(const uint8_t* wire, size_t length) noexcept nogil:
    """Return where the question ends, HEADER if there is none; -1: it is malformed, or there are several.

    A name in a question is the first of its message: a compression pointer there points nowhere.
    """
    cdef int32_t end
    if get16(wire + QDCOUNT) == 0:
        return HEADER
    end = plain_end(wire, length, HEADER) + QUESTION_FIXED
    return end if get16(wire + QDCOUNT) == 1 and HEADER < end and <size_t> end <= length else -1


cdef int32_t skip_name(const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Return where the name at `at` ends, or -1 where it is malformed; pointers must point backwards."""
    cdef:
        size_t start = at
        uint8_t label
    while at < length:
        label = wire[at]
        if label >= 0xc0:
            if at + 2 > length or (get16(wire + at) & ~POINTER) >= start or get16(wire + at) < POINTER + HEADER:
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
            at = get16(wire + at) & ~POINTER
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


# ---------------------------------------------------------------- records

cdef bint read_record(Record* record, const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Find the parts of the record at `at`, all but its section; False: it is malformed, or not whole.

    Where its data is not, the rest is found nevertheless; else `rtype` is 0.
    """
    cdef int32_t fixed = skip_name(wire, length, at)
    record.rtype = 0
    if fixed < 0 or <size_t> fixed + RR_RDATA > length:
        return False
    record.owner = <uint32_t> at
    record.fixed = <uint32_t> fixed
    record.rdata = record.fixed + RR_RDATA
    record.end = record.rdata + get16(wire + fixed + RR_RDLENGTH)
    record.rtype = get16(wire + fixed + RR_TYPE)
    return record.end <= length


cdef bint can_move(const uint8_t* wire, const Record* record, size_t behind) noexcept nogil:
    """Tell whether a record stays right when octets from `behind` on, all before it, are taken out.

    It does if no compression pointer of it leads there; only address records are sure of that.
    """
    cdef uint16_t pointer = get16(wire + record.fixed - 2)
    return (record.rtype == A or record.rtype == AAAA) and not (pointer >= POINTER and (pointer & ~POINTER) >= behind)


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
        int32_t end
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
    query.keepalive = query.padded = False
    query.likely = NULL
    query.edns_flags = 0
    query.payload = UDP_PLAIN
    if length < HEADER:
        return UNANSWERABLE
    query.flags = message_flags(wire)
    if query.flags & QR:
        return UNANSWERABLE
    end = question_end(wire, length)
    if end < 0:
        return MALFORMED
    if end == HEADER:
        return UNCACHEABLE if query.flags & OPCODE else _parse_questionless(query)
    query.question = <uint16_t> (end - HEADER)
    query.qtype = get16(wire + end - QUESTION_FIXED + RR_TYPE)
    query.qclass = get16(wire + end - QUESTION_FIXED + RR_CLASS)
    if query.flags & OPCODE or get16(wire + ANCOUNT) or get16(wire + NSCOUNT):
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
        RecordCursor records
        Record opt
    begin_records(&records, query.wire, query.length, HEADER + query.question)
    while find_opt(&records, &opt):
        _set_opt(query, &opt)
    if query.opt and records.section > ADDITIONAL:  # else there are records that cannot be read
        _parse_options(query, NULL)


cdef void find_partial_opt(Query* query) noexcept nogil:
    """Read the OPT record of a query whose end did not come, if its fixed part did, and a COOKIE that is whole.

    Nobody may read its other options.
    """
    cdef:
        RecordCursor records
        Record opt
    query.opt = query.cookie = query.options = 0
    opt.rtype = 0
    begin_records(&records, query.wire, query.length, HEADER + query.question)
    if query.question and (find_opt(&records, &opt) or is_opt(&opt)):
        _set_opt(query, &opt)
        query.options = <uint16_t> min(query.options, query.length - opt.rdata)
        _parse_options(query, NULL)
        query.options = 0


cdef void _set_opt(Query* query, const Record* opt) noexcept nogil:
    query.opt = <uint16_t> opt.owner
    query.options = <uint16_t> (opt.end - opt.rdata)
    query.payload = max(get16(query.wire + query.opt + OPT_PAYLOAD), UDP_PLAIN)
    query.edns_flags = get16(query.wire + query.opt + OPT_FLAGS)


cdef Verdict _parse_questionless(Query* query) noexcept nogil:
    """Let pass a query for nothing but a server cookie (RFC 7873 5.4)."""
    query.qtype = 0
    query.qclass = 0
    if get16(query.wire + ANCOUNT) or get16(query.wire + NSCOUNT) or _parse_additional(query, NULL) == MALFORMED:
        return MALFORMED
    return UNCACHEABLE if query.cookie else MALFORMED


cdef Verdict _parse_additional(Query* query, const Ignored* ignored) noexcept nogil:
    """Walk the additional section: one OPT at most, and no octet behind the last record."""
    cdef:
        const uint8_t* wire = query.wire
        size_t length = query.length
        size_t at = HEADER + query.question
        uint16_t _i
        Record record
        Verdict verdict = CACHEABLE
    for _i in range(get16(wire + ARCOUNT)):
        if not read_record(&record, wire, length, at):
            return MALFORMED
        if record.rtype != OPT:
            verdict = UNCACHEABLE
        elif query.opt or not is_opt(&record):
            return MALFORMED
        else:
            _set_opt(query, &record)
            if wire[query.opt + OPT_VERSION]:
                verdict = UNCACHEABLE
        at = record.end
    if at != length:
        return MALFORMED
    return max(verdict, _parse_options(query, ignored)) if query.options else verdict


cdef Verdict _parse_options(Query* query, const Ignored* ignored) noexcept nogil:
    """Sort the EDNS options: hop by hop ones, hints and ignored ones keep a query CACHEABLE, unknown ones do not.

    Of several cookies the first counts (RFC 7873 5.2).
    """
    cdef:
        OptionCursor option
        uint16_t size
        Verdict verdict = CACHEABLE
    begin_options(&option, query.wire + query.opt + OPT_FIXED, query.options)
    while next_option(&option):
        size = <uint16_t> (option.size - OPTION_DATA)
        if option.code == COOKIE:
            if query.cookie or not (size == 8 or 16 <= size <= 40):
                verdict = UNCACHEABLE
            if not query.cookie:
                query.cookie = <uint16_t> option.size
                query.cookie_at = <uint16_t> (option.octets - query.wire)
        elif option.code == KEEPALIVE:
            query.keepalive = True
        elif option.code == PADDING:
            query.padded = True
        elif option.code == SUBNET:
            if query.subnet or not _is_subnet(option.octets, size):
                verdict = UNCACHEABLE
            query.subnet = <uint16_t> (option.octets - query.wire)
        elif not (DAU <= option.code <= N3U or ends_here(option.code, ignored)):
            verdict = UNCACHEABLE
    return MALFORMED if option.left else verdict


cdef bint _is_subnet(const uint8_t* option, uint16_t size) noexcept nogil:
    """Tell whether a CLIENT-SUBNET option is one that a query may have (RFC 7871 6): no scope, no odd bits."""
    cdef:
        uint16_t family
        uint8_t prefix
    if size < SUBNET_ADDRESS - OPTION_DATA or option[SUBNET_SCOPE]:
        return False
    family = get16(option + SUBNET_FAMILY)
    prefix = option[SUBNET_SOURCE]
    if family > 2 or prefix > (32 if family == 1 else 128 if family == 2 else 0) or size != 4 + (prefix + 7) // 8:
        return False
    return not prefix % 8 or not <uint8_t> (option[OPTION_DATA + size - 1] << prefix % 8)


cdef void _set_key(Query* query) noexcept nogil:
    """Write what tells questions apart: flags that ask for something, type, class, rules' choices, name, client subnet.

    The opcode's bits of the flags are free here (it is QUERY): they say whether there are OPT and subnet.
    """
    cdef:
        const uint8_t* name = query.wire + HEADER
        size_t i, octets = query.question - QUESTION_FIXED
    set16(query.key + KEY_FLAGS, query.flags & ASKING | (WITH_OPT if query.opt else 0))
    set16(query.key + KEY_EDNS_FLAGS, query.edns_flags & EDNS_ASKING)
    set16(query.key + KEY_TYPE, query.qtype)
    set16(query.key + KEY_CLASS, query.qclass)
    set32(query.key + KEY_RULE_CHOICES, 0)
    for i in range(octets):  # length octets are below 64: folding leaves them alone
        query.key[KEY_PREFIX + i] = fold(name[i])
    query.key_length = <uint16_t> (KEY_PREFIX + octets)
    if query.subnet:
        set_subnet(query, source_prefix(query))


cdef void set_rule_choices(Query* query, uint16_t route, uint16_t ttl_limits) noexcept nogil:
    """Let the key be that of queries for which rules chose the same; the hash is the caller's to renew."""
    set16(query.key + KEY_RULE_CHOICES, route)
    set16(query.key + KEY_RULE_CHOICES + 2, ttl_limits)


cdef void set_subnet(Query* query, uint8_t prefix) noexcept nogil:
    """Let the key be that of the client's first `prefix` bits, at most as many as the query tells.

    The hash is the caller's to renew. Caller must ensure that the query has a CLIENT-SUBNET option.
    """
    cdef:
        const uint8_t* option = query.wire + query.subnet
        size_t at = KEY_PREFIX + query.question - QUESTION_FIXED
        size_t octets = (prefix + 7) // 8
    set16(query.key + KEY_FLAGS, get16(query.key + KEY_FLAGS) | WITH_SUBNET)
    query.key[at] = option[SUBNET_FAMILY + 1]
    query.key[at + 1] = prefix
    memcpy(query.key + at + 2, option + SUBNET_ADDRESS, octets)
    if prefix % 8:
        query.key[at + 1 + octets] &= <uint8_t> (0xff00 >> prefix % 8)
    query.key_length = <uint16_t> (at + 2 + octets)


cdef void drop_subnet(Query* query) noexcept nogil:
    """Let the key be that of everybody, wherever he is."""
    set16(query.key + KEY_FLAGS, get16(query.key + KEY_FLAGS) & ~WITH_SUBNET)
    query.key_length = KEY_PREFIX + query.question - QUESTION_FIXED


cdef void hash_key(Query* query, const Secret* secret) noexcept nogil:
    query.hash = siphash(secret, query.key, query.key_length)


cdef const uint8_t* lower_name(const Query* query, uint8_t* room) noexcept nogil:
    """Return the question's name in lower case, from the key or, where there is none, in `room` of NAME_MAX octets.

    Without a question, it is the root.
    """
    if query.key_length:
        return query.key + KEY_PREFIX
    room[0] = 0
    if query.question:
        fold_all(room, query.wire + HEADER, query.question - QUESTION_FIXED)
    return room


cdef bint is_transfer(const Query* query) noexcept nogil:
    """Tell whether a query asks for a zone transfer (RFC 5936, 1995)."""
    return not query.flags & OPCODE and query.question and (query.qtype == AXFR or query.qtype == IXFR)


cdef void set_payload(uint8_t* wire, const Query* query, uint16_t payload) noexcept nogil:
    """Set the UDP payload size in a copy of a query. Caller must ensure that it has an OPT record."""
    set16(wire + query.opt + OPT_PAYLOAD, payload)


cdef bint is_unsigned(const Query* query) noexcept nogil:
    """Tell whether a query has an OPT record and no other that may be a signature of it (RFC 8945, 2931)."""
    return query.opt and get16(query.wire + ARCOUNT) == 1


# ---------------------------------------------------------------- what the shield writes itself

cdef size_t put_opt(uint8_t* out, uint16_t payload, uint8_t rcode_high, uint16_t flags,
                    uint16_t options) noexcept nogil:
    """Write an OPT record of version 0 up to its options; return its octets so far."""
    out[0] = 0
    set16(out + 1 + RR_TYPE, OPT)
    set16(out + OPT_PAYLOAD, payload)
    out[OPT_RCODE] = rcode_high
    out[OPT_VERSION] = 0
    set16(out + OPT_FLAGS, flags)
    set16(out + OPT_RDLENGTH, options)
    return OPT_FIXED


cdef size_t forwardable(uint8_t* out, size_t room, const Query* query, uint16_t payload) noexcept nogil:
    """Write a CACHEABLE query as it goes upstream; return its octets, or 0 where it needs more than `room`.

    The payload size is ours, and bits that mean nothing end here. So do all options but CLIENT-SUBNET and those that
    say which algorithms are understood: what else there is in a CACHEABLE query is hop by hop, or ignored.
    """
    cdef:
        size_t at = HEADER + query.question
        uint8_t* opt = out + at
        OptionCursor option
    if at + (OPT_FIXED if query.opt else 0) > room:
        return 0
    put_question(out, query, query.flags & ASKING, 0, 0, 1 if query.opt else 0)
    if query.opt:
        at += put_opt(opt, payload, 0, query.edns_flags & EDNS_ASKING, 0)
        begin_options(&option, query.wire + query.opt + OPT_FIXED, query.options)
        while next_option(&option):
            if option.code == SUBNET or DAU <= option.code <= N3U:
                if at + option.size > room:
                    return 0
                memcpy(out + at, option.octets, option.size)
                at += option.size
        set16(opt + OPT_RDLENGTH, <uint16_t> (out + at - opt - OPT_FIXED))
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
        size_t kept = opt + OPT_FIXED
        OptionCursor option
    begin_options(&option, wire + kept, length - kept)
    while next_option(&option):
        if not ends_here(option.code, ignored):
            memmove(wire + kept, option.octets, option.size)
            kept += option.size
    if option.left < OPTION_DATA or not ends_here(get16(option.octets), ignored):  # what is no option stays
        memmove(wire + kept, option.octets, option.left)
        kept += option.left
    set16(wire + opt + OPT_RDLENGTH, <uint16_t> (kept - opt - OPT_FIXED))
    return kept


cdef size_t copy_options(uint8_t* out, const uint8_t* options, size_t length, uint16_t but) noexcept nogil:
    """Move EDNS options, all but those of one code; return their octets. What is no option stays."""
    cdef:
        size_t kept = 0
        OptionCursor option
    begin_options(&option, options, length)
    while next_option(&option):
        if option.code != but:
            memmove(out + kept, option.octets, option.size)
            kept += option.size
    memmove(out + kept, option.octets, option.left)
    return kept + option.left


cdef size_t put_own_options(uint8_t* wire, size_t length, const EdnsOptions* extra) noexcept nogil:
    """Let the options of a response that are hop by hop be ours; return its octets.

    Needs room for `extra` behind it. Where no OPT record is its last, it stays as it is: it may be signed.
    """
    cdef:
        RecordCursor records
        Record last
    last.rtype = 0
    begin_records(&records, wire, length, question_end(wire, length))
    while next_record(&records, &last):
        pass
    if not is_opt(&last) or not has_read_all(&records):
        return length
    length = _take_out(wire, last.owner, length, NULL)
    memcpy(wire + length, extra.octets, extra.length)
    length += extra.length
    set16(wire + last.owner + OPT_RDLENGTH, <uint16_t> (length - last.rdata))
    return length


cdef uint16_t put_option(uint8_t* out, uint16_t code, uint16_t value) noexcept nogil:
    """Write an EDNS option whose data is one number; return its octets."""
    set16(out, code)
    set16(out + OPTION_LENGTH, 2)
    set16(out + OPTION_DATA, value)
    return OPTION_DATA + 2


cdef void add_option(EdnsOptions* extra, uint16_t code, uint16_t value) noexcept nogil:
    """Add an EDNS option whose data is one number: how long a connection may be idle (KEEPALIVE), an error (EDE)."""
    extra.length += put_option(extra.octets + extra.length, code, value)


cdef size_t put_own_opt(uint8_t* out, const Query* query, uint16_t payload, uint8_t rcode_high, uint16_t edns_flags,
                        const EdnsOptions* extra) noexcept nogil:
    """Write the OPT of a response of our own, where the query has one; return its octets."""
    if not has_own_opt(query):
        return 0
    put_opt(out, payload, rcode_high, edns_flags, extra.length)
    memcpy(out + OPT_FIXED, extra.octets, extra.length)
    return OPT_FIXED + extra.length


cdef size_t put_error(uint8_t* out, const Query* query, uint16_t rcode, uint16_t payload,
                      const EdnsOptions* extra) noexcept nogil:
    """Write a response of our own without records: header, question if one was read, OPT if one was asked for.

    Needs HEADER + QUESTION_MAX + OPT_FIXED + EXTRA_MAX.
    """
    cdef:
        uint16_t flags = QR | (query.flags & (OPCODE | RD | CD)) | (rcode & RCODE)
        size_t at = put_question(out, query, flags, 0, 0, has_own_opt(query))
    return at + put_own_opt(out + at, query, payload, <uint8_t> (rcode >> 4), query.edns_flags & DO, extra)


cdef size_t put_minimal_any(uint8_t* out, const Query* query, uint16_t payload,
                            const EdnsOptions* extra) noexcept nogil:
    """Write the one answer to all questions for ANY: HINFO "RFC8482" "" (RFC 8482 4.2). Needs 21 octets more."""
    cdef:
        size_t at = put_question(out, query, QR | (query.flags & (OPCODE | RD | CD)), 1, 0, has_own_opt(query))
        uint8_t* fixed = out + at + 2
    set16(out + at, POINTER + HEADER)
    set16(fixed + RR_TYPE, HINFO)
    set16(fixed + RR_CLASS, query.qclass)
    set32(fixed + RR_TTL, 3600)
    set16(fixed + RR_RDLENGTH, 9)
    memcpy(fixed + RR_RDATA, b"\x07RFC8482\x00", 9)
    at += 2 + RR_RDATA + 9
    return at + put_own_opt(out + at, query, payload, 0, query.edns_flags & DO, extra)


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
        found["qname"] = wire[HEADER:HEADER + query.question - QUESTION_FIXED]
        found["qtype"] = query.qtype
        found["qclass"] = query.qclass
    if query.opt:
        found["payload"] = query.payload
        found["edns_flags"] = query.edns_flags
    if verdict == CACHEABLE:
        found["key"] = (<char*> query.key)[:query.key_length]
    return found


def inspect_records(bytes wire not None) -> tuple[list[tuple[int, int, int, int, int]], bool]:
    """Return (section, type, start, start of the data, end) of each record that can be read; and whether that is all.

    The answer section is 0. Raises ValueError where the message has no header, or is longer than DNS allows.
    """
    cdef:
        RecordCursor records
        Record record
        list found = []
    if not HEADER <= len(wire) <= MESSAGE_MAX:
        raise ValueError(f"a DNS message has {HEADER} to {MESSAGE_MAX} octets, not {len(wire)}")
    begin_records(&records, wire, len(wire), question_end(wire, len(wire)))
    while next_record(&records, &record):
        found.append((record.section, record.rtype, record.owner, record.rdata, record.end))
    return found, has_read_all(&records)


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
