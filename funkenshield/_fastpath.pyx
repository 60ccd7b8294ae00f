"""One query, one outcome: what becomes of a query, the same for every transport.

    meet: parse, hash -> answer: drop | guard | FORMERR | cookie -> rules | pass on | ANY | hit | miss

It knows the order of the stations on a query's way. Where octets come from and go to is the
transport's business; what a station does is the station's.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from .cache._entry cimport Answer, render
from .cache._freshness cimport RESERVE, STALE, STALE_ASK, WANING, Freshness, judge, mark_asked, mark_used
from .cache._index cimport Index, find
from .cache._store cimport Cache
from .cache._zone_settings cimport Policy
from .core._atomic cimport bump, copy_words, peek, peek16
from .core._prefix_table cimport PrefixTable, prefix_value
from .policy._guard cimport CUT, IGNORE, WELCOME, Guard, Orders, Ruling, judge_query, look_orders, watch_as_dict
from .policy._rule_program cimport (
    ASK, BOUNDS, CALL, ERROR, PASS, TAG, TRUNCATE, UNCACHED, WAY, Chain, Deed, Node, Program, Seen, deed_of,
    generation_of, next_deed
)
from .policy._rule_program cimport DROP as LET_DROP
from .policy._rule_state cimport ANSWERS, CHAINS, END, QUERIES, START, Course, Sender
from .wire._ecs cimport subnet_rules, tell_subnet
from .wire._edns_cookies cimport (
    CLIENT_ALONE, NOT_OURS, Cookies, Standing, judge_cookie, put_cookie, set_secrets
)
from .wire._message cimport (
    ANY, AXFR, BADCOOKIE, CD, DO, FORMERR, HEADER, IGNORED_MAX, IXFR, MALFORMED, NOERROR, NOTIFY, OPCODE, PLAIN, QR,
    RCODE, RD, REFUSED, SPECIAL, TC, UNANSWERABLE, UPDATE, Extra, Query, Verdict, add_keepalive, cookie_of, cut,
    find_cut_opt, hash_key, message_flags, parse_ignoring, put_error, put_minimal_any, set_course
)
from .wire._proxy_protocol cimport is_trusted, set_prefixes


cdef Verdict meet(const House* house, Query* query, const uint8_t* wire, size_t length) noexcept nogil:
    """Read a query, and tell under which key its answer would be."""
    cdef Verdict verdict = parse_ignoring(query, wire, length, &house.ignored)
    if verdict == PLAIN:
        hash_key(query, &house.index.secret)
    return verdict


cdef Verdict meet_from(const House* house, Query* query, const uint8_t* wire, size_t length, const uint8_t* address,
                       uint8_t octets, uint8_t* told) noexcept nogil:
    """Meet a query of the client with this address; `told`, of TOLD_MAX octets, is where it is told of him."""
    cdef Verdict verdict = parse_ignoring(query, wire, length, &house.ignored)
    if verdict == PLAIN:
        tell_subnet(query, house.subnets, address, octets, &house.ignored, told)
        hash_key(query, &house.index.secret)
    return verdict


cdef Outcome answer(const House* house, Query* query, Verdict verdict, Sender* sender, Course* course, uint8_t* out,
                    size_t limit, uint32_t now, Tally* tally, size_t* length) noexcept nogil:
    """Decide about a query that was met; a REPLY is written to `out`, `length` octets of it.

    Caller must ensure that it has entered the cache, and that `out` has room for `limit` octets and
    for an error. `now` is in ticks. `course` is that of a query at its beginning: zeros.
    """
    cdef:
        uint16_t payload = peek16(&house.index.policies.manner.payload)
        Outcome outcome
        int32_t error
        Extra extra
    extra.length = 0
    bump(&tally.queries, 1)
    if verdict == UNANSWERABLE:
        bump(&tally.short_datagrams if query.length < HEADER else &tally.responses, 1)
        return DROP
    outcome = _stand_guard(house, query, sender, out, tally, length)
    if outcome != MISS:
        return outcome
    if verdict == MALFORMED:
        bump(&tally.malformed, 1)
        length[0] = put_error(out, query, FORMERR, payload, &extra)
        return REPLY
    if query.cookie and house.cookies.serve:
        error = _check_cookie(house, query, sender, &extra, tally)
        if error != NOERROR or not query.question:
            length[0] = put_error(out, query, <uint16_t> error, payload, &extra)
            return REPLY
    if query.keepalive and not sender.datagram:
        add_keepalive(&extra, house.idle)
    return _go_on(house, query, verdict, sender, course, &extra, out, limit, now, tally, length)


cdef Outcome answer_cut(const House* house, Query* query, Verdict verdict, const Sender* sender, uint8_t* out,
                        Tally* tally, size_t* length) noexcept nogil:
    """Answer a query that is longer than the buffer that it came into: with TC=1, for over TCP there is room."""
    cdef Outcome outcome
    bump(&tally.queries, 1)
    bump(&tally.oversized, 1)
    if verdict == UNANSWERABLE:
        return DROP
    find_cut_opt(query)
    outcome = _stand_guard(house, query, sender, out, tally, length)
    if outcome == MISS:
        length[0] = _turn_back_early(house, out, query, sender, True)
        return REPLY
    return outcome


cdef Outcome _stand_guard(const House* house, const Query* query, const Sender* sender, uint8_t* out, Tally* tally,
                          size_t* length) noexcept nogil:
    """Let the guard judge a query; MISS: it is welcome."""
    cdef:
        const Orders* orders = look_orders(house.orders)
        Ruling ruling = judge_query(orders, sender, &tally.watch) if orders != NULL else WELCOME
    if ruling == WELCOME:
        return MISS
    if ruling == IGNORE:
        return DROP
    length[0] = _turn_back_early(house, out, query, sender, ruling == CUT)
    return REPLY


cdef Outcome answer_on(const House* house, Query* query, Verdict verdict, Sender* sender, Course* course, uint8_t* out,
                       size_t limit, uint32_t now, Tally* tally, size_t* length) noexcept nogil:
    """Decide about a query that has come a part of its course, and that Python lets go on; see `answer`."""
    cdef Extra extra
    extra.length = 0
    if verdict == UNANSWERABLE or verdict == MALFORMED:
        length[0] = put_error(out, query, FORMERR, peek16(&house.index.policies.manner.payload), &extra)
        return REPLY
    own_options(house, &extra, cookie_of(query), query.keepalive, sender)
    return _go_on(house, query, verdict, sender, course, &extra, out, limit, now, tally, length)


cdef Outcome _go_on(const House* house, Query* query, Verdict verdict, const Sender* sender, Course* course,
                    const Extra* extra, uint8_t* out, size_t limit, uint32_t now, Tally* tally,
                    size_t* length) noexcept nogil:
    """Ask the rules, and then the cache."""
    cdef:
        const Index* index = house.index
        const Answer* stored
        Policy policy
        Freshness freshness
        Outcome outcome
        Seen seen
    if house.programs[QUERIES] != NULL and course.chain == QUERIES and course.at != END:
        seen.flags, seen.rcode = query.flags, 0
        outcome = follow(house, house.programs[QUERIES], query, sender, course, &seen, extra, out, tally, length)
        if outcome != MISS:
            return outcome
    if verdict == SPECIAL and not course.by_function and not _may_ask(house, query, sender):
        bump(&tally.not_allowed, 1)
        length[0] = put_error(out, query, REFUSED, peek16(&index.policies.manner.payload), extra)
        return REPLY
    if verdict == SPECIAL or course.uncached:
        bump(&tally.passed_on, 1)
        return PASS_ON
    if query.qtype == ANY and house.minimal_any:
        bump(&tally.minimal, 1)
        length[0] = put_minimal_any(out, query, peek16(&index.policies.manner.payload), extra)
        return REPLY
    if course.way or course.bounds:
        set_course(query, course.way, course.bounds)
        hash_key(query, &index.secret)

    stored = find(index, query)
    if stored == NULL:
        bump(&tally.misses, 1)
        return MISS
    copy_words(&policy, &index.policies[stored.zone], sizeof(Policy))
    freshness = judge(stored, &policy, now)
    if freshness >= RESERVE:
        bump(&tally.misses, 1)
        return MISS
    if house.programs[ANSWERS] != NULL:
        if course.chain != ANSWERS:
            course.chain, course.at = ANSWERS, START
        seen.flags, seen.rcode = stored.flags, <uint16_t> stored.rcode_high << 4 | stored.flags & RCODE
        outcome = follow(house, house.programs[ANSWERS], query, sender, course, &seen, extra, out, tally, length)
        if outcome != MISS:
            return outcome
    mark_used(stored)
    length[0] = render(out, limit, stored, query, &policy.manner, now, extra)
    bump(&tally.hits, 1)
    if message_flags(out) & TC:
        bump(&tally.truncated, 1)
    if freshness >= STALE:
        bump(&tally.stale, 1)
    if freshness == WANING or freshness == STALE_ASK:
        mark_asked(stored, now)
        bump(&tally.refreshes, 1)
        return REPLY_AND_ASK
    return REPLY


cdef bint _may_ask(const House* house, const Query* query, const Sender* sender) noexcept nogil:
    """Tell whether a client may have an upstream asked what that may answer, or do, because it trusts our address.

    The question alone decides, whatever else is in the message.
    """
    cdef:
        uint16_t opcode = query.flags & OPCODE
        uint32_t kind
    if opcode == UPDATE:
        kind = UPDATES
    elif opcode == NOTIFY:
        kind = NOTIFIES
    elif not opcode and IXFR <= query.qtype <= AXFR:
        kind = TRANSFERS
    else:
        return True
    return prefix_value(&house.allowed[kind], sender.address, sender.octets) != 0


cdef Outcome follow(const House* house, const Program* program, const Query* query, const Sender* sender,
                    Course* course, const Seen* seen, const Extra* extra, uint8_t* out, Tally* tally,
                    size_t* length) noexcept nogil:
    """Follow the rules of a chain from where the query has come to; MISS: they leave it to others."""
    cdef:
        uint16_t payload = peek16(&house.index.policies.manner.payload)
        const Node* node
        Deed deed
    if course.generation != generation_of(program):
        course.generation, course.at, course.tags = generation_of(program), START, 0
    node = next_deed(program, query, sender, course, seen)
    while node != NULL:
        deed = deed_of(node)
        if deed == WAY:
            course.way, course.by_function = <uint16_t> node.value, <uint8_t> node.more
        if deed == PASS or deed == WAY or deed == TRUNCATE and not sender.datagram:
            break
        if deed == CALL or deed == ASK:
            bump(&tally.decisions, 1)
            return DECIDE
        if deed == LET_DROP:
            bump(&tally.ruled, 1)
            return DROP
        if deed == ERROR or deed == TRUNCATE:
            bump(&tally.ruled, 1)
            if deed == ERROR:
                length[0] = put_error(out, query, <uint16_t> node.value, payload, extra)
            else:
                length[0] = _turn_back(out, query, True, payload, extra)
            return REPLY
        if deed == UNCACHED:
            course.uncached = True
        elif deed == BOUNDS:
            course.bounds = <uint16_t> node.value
        elif deed == TAG:
            course.tags |= node.value
        course.at = node.yes
        node = next_deed(program, query, sender, course, seen)
    course.at = END
    return MISS


cdef size_t _turn_back(uint8_t* out, const Query* query, bint to_tcp, uint16_t payload,
                       const Extra* extra) noexcept nogil:
    """Write what tells a client to come by TCP, or not at all."""
    if to_tcp:
        return cut(out, query, QR | query.flags & (OPCODE | RD | CD), payload, 0, query.edns_flags & DO, extra)
    return put_error(out, query, REFUSED, payload, extra)


cdef size_t _turn_back_early(const House* house, uint8_t* out, const Query* query, const Sender* sender,
                             bint to_tcp) noexcept nogil:
    """Turn a client back before its cookie was looked at: even so, it believes no answer without one."""
    cdef Extra extra
    extra.length = 0
    own_options(house, &extra, cookie_of(query), query.keepalive, sender)
    return _turn_back(out, query, to_tcp, peek16(&house.index.policies.manner.payload), &extra)


cdef int32_t _check_cookie(const House* house, const Query* query, Sender* sender, Extra* extra,
                           Tally* tally) noexcept nogil:
    """Return what a query's cookie earns (RFC 7873 5.2): NOERROR, FORMERR or BADCOOKIE; `extra` gets ours."""
    cdef:
        const Cookies* cookies = &house.cookies
        const uint8_t* cookie = query.wire + query.cookie_at + 4
        size_t size = query.cookie - 4
        Standing standing
    if not (size == 8 or 16 <= size <= 40):
        bump(&tally.malformed, 1)
        return FORMERR
    standing = judge_cookie(cookies, cookie, size, sender.address, sender.octets, sender.wall)
    extra.length = <uint16_t> put_cookie(extra.octets, cookies, cookie, standing, sender.address, sender.octets,
                                         sender.wall)
    if standing == NOT_OURS or standing == CLIENT_ALONE:
        if cookies.require and sender.datagram and query.question or standing == NOT_OURS and not query.question:
            bump(&tally.bad_cookies, 1)
            return BADCOOKIE
    else:
        sender.proven = True
    return NOERROR


cdef void own_options(const House* house, Extra* extra, const uint8_t* client_cookie, bint keepalive,
                      const Sender* sender) noexcept nogil:
    """Make the EDNS options that are for a client alone: his cookie (or NULL) with a new one of ours, and KEEPALIVE."""
    if client_cookie != NULL and house.cookies.serve:
        extra.length = <uint16_t> put_cookie(extra.octets, &house.cookies, client_cookie, CLIENT_ALONE, sender.address,
                                             sender.octets, sender.wall)
    if keepalive and not sender.datagram:
        add_keepalive(extra, house.idle)


cdef dict tally_as_dict(const Tally* tally):
    return {
        "queries": peek(&tally.queries), "hits": peek(&tally.hits), "misses": peek(&tally.misses),
        "stale": peek(&tally.stale), "refreshes": peek(&tally.refreshes), "bad_cookies": peek(&tally.bad_cookies),
        "minimal": peek(&tally.minimal), "passed_on": peek(&tally.passed_on),
        "not_allowed": peek(&tally.not_allowed), "malformed": peek(&tally.malformed),
        "short": peek(&tally.short_datagrams), "responses": peek(&tally.responses),
        "cut": peek(&tally.truncated), "ring_full": peek(&tally.ring_full),
        "ring_over_share": peek(&tally.over_share),
        "reply_lost": peek(&tally.send_failed), "oversized": peek(&tally.oversized),
        "bad_proxied": peek(&tally.bad_proxied), "ruled": peek(&tally.ruled), "decisions": peek(&tally.decisions),
    } | watch_as_dict(&tally.watch)


@cython.final
cdef class _Held:
    """A house, and all that it leads to: the chains of its rules, and tables of prefixes."""

    cdef:
        House house
        tuple chains, tables


@cython.final
cdef class Reception:
    """What holds for every query, whoever answers it.

    Memory ownership: all is its own, and lives until those who read it have left; whoever answers with it must be gone
    before it.
    """

    def __cinit__(self, Cache cache not None, size_t guarded=1 << 20) -> None:
        cdef _Held held = _Held()
        self.cache = cache
        self.guard = Guard(guarded, cache.epochs)
        held.house.index = &cache.index
        held.house.orders = &self.guard.orders
        self.held, self.house = held, &held.house

    cdef object _anew(self):
        """Return a house that is as the one in force."""
        cdef:
            _Held before = self.held
            _Held made = _Held()
        made.house, made.chains, made.tables = before.house, before.chains, before.tables
        return made

    cdef int _publish(self, made) except -1:
        """Put a house into force."""
        before, self.held = self.held, made
        publish_house(&self.house, &(<_Held> made).house)
        return self.cache.epochs.retire(before)

    def set_any(self, bint minimal) -> None:
        """Say whether ANY is answered here (RFC 8482)."""
        cdef _Held made = self._anew()
        made.house.minimal_any = minimal
        self._publish(made)

    def set_cookies(self, tuple secrets not None, *, bint serve, bint require) -> None:
        """Say whether the shield is the cookie server, and with which secrets of 16 octets; the first makes cookies.

        With `require`, a query over UDP whose cookie is not ours gets BADCOOKIE. Raises ValueError where
        the secrets are none.
        """
        cdef _Held made = self._anew()
        set_secrets(&made.house.cookies, secrets)
        made.house.cookies.serve, made.house.cookies.require = serve, require
        self._publish(made)

    def set_idle(self, double seconds) -> None:
        """Say how long a connection may be idle, for clients that ask (RFC 7828); 0: it should end now."""
        cdef _Held made = self._anew()
        made.house.idle = <uint16_t> min(seconds * 10, 65535)
        self._publish(made)

    def set_ignored(self, tuple options not None) -> None:
        """Say which EDNS options, by code, tell no questions apart; they end here.

        Raises ValueError where there are too many.
        """
        cdef _Held made = self._anew()
        if len(options) > IGNORED_MAX:
            raise ValueError(f"at most {IGNORED_MAX} options are ignored, not {len(options)}")
        for k, code in enumerate(options):
            made.house.ignored.codes[k] = code
        made.house.ignored.count = <uint8_t> len(options)
        self._publish(made)

    def set_proxies(self, tuple prefixes not None) -> None:
        """Say from where queries come through front proxies, as (network address, bits).

        Raises ValueError where there are more than 64, or one is no prefix.
        """
        cdef _Held made = self._anew()
        set_prefixes(&made.house.proxies, prefixes)
        self._publish(made)

    def set_allowed(self, *, transfers=(), updates=(), notifies=()) -> None:
        """Say whose queries of these kinds reach an upstream: prefixes as (network address, bits); all others' do not.

        Raises ValueError where one is no prefix.
        """
        cdef:
            _Held made = self._anew()
            PrefixTable table
            uint32_t k
        made.tables = tuple(
            PrefixTable((address, bits, True) for address, bits in each) for each in (transfers, updates, notifies)
        )
        for k in range(DEPUTIES):
            table = made.tables[k]
            made.house.allowed[k] = table.prefixes
        self._publish(made)

    def set_subnets(self, *, uint8_t ipv4, uint8_t ipv6, bint private) -> None:
        """Say how many bits of clients' addresses upstreams are told, and whether of private ones; 0: none."""
        cdef _Held made = self._anew()
        made.house.subnets = subnet_rules(ipv4, ipv6, private)
        self._publish(made)

    def set_chains(self, Chain queries=None, Chain responses=None, Chain answers=None) -> None:
        """Say which rules are asked from now on; None: there are none in that chain."""
        cdef:
            _Held made = self._anew()
            Chain chain
            uint32_t k
        made.chains = (queries, responses, answers)
        for k in range(CHAINS):
            chain = made.chains[k]
            made.house.programs[k] = NULL if chain is None else &chain.program
        self._publish(made)

    def is_proxy(self, bytes address not None) -> bool:
        """Tell whether an address of 4 or 16 octets is that of a front proxy."""
        return is_trusted(&self.house.proxies, address, <uint8_t> len(address))
