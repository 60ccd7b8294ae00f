"""One query in, one outcome out: what becomes of a query, the same for every transport.

    parse_and_hash -> process_query: drop | guard | FORMERR | cookie | rules | refuse | forward | ANY | hit | miss

It knows the order of the steps, which is the order of the protocol: who may not ask is told first, answering comes
last. Where octets come from and go to is the transport's business, and what a step does its own: a hit is written, with
its client's ID and spelling, by `cache/_entry.render`.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .cache._entry cimport Answer, render
from .cache._freshness cimport (
    PREFETCH, STALE, STALE_ASK, STALE_IF_ERROR, Freshness, freshness_of, mark_asked, mark_used
)
from .cache._index cimport Index, find
from .cache._store cimport Cache
from .cache._zone_settings cimport ZoneSettings
from .core._atomic cimport bump, copy_words, load_relaxed16
from .core._limits cimport IGNORED_MAX, PROXIES_MAX
from .core._prefix_table cimport PrefixTable, octets_of, prefix_value
from .policy._guard cimport (
    GUARD_ALLOW, GUARD_DROP, GUARD_TRUNCATE, Guard, GuardAction, GuardTable, check_query, load_guard_table
)
from .policy._rule_program cimport (
    ALLOW, ASK_PYTHON, CALL_PYTHON, ERROR, ROUTE, SKIP_CACHE, TAG, TRUNCATE, TTL_LIMITS, Chain, MessageFacts, Node,
    Program, RuleAction, action_of, next_action
)
from .policy._rule_program cimport DROP as DROP_QUERY
from .policy._rule_state cimport (
    ANSWERS, CHAINS, END, KIND_BADCOOKIE, KIND_DROPPED, KIND_HIT, KIND_LOCAL, KIND_MALFORMED, KIND_PREFETCH,
    KIND_REFUSED, KIND_RULE, KIND_STALE, QUERIES, START, ClientInfo, Kind, RuleState
)
from .wire._ecs_upstream cimport add_ecs, subnet_rules
from .wire._edns_cookies cimport CLIENT_ALONE, NOT_OURS, Cookies, CookieStatus, check_cookie, put_cookie, set_secrets
from .wire._message cimport (
    ANY, AXFR, BADCOOKIE, CACHEABLE, CD, DO, FORMERR, HEADER, IXFR, KEEPALIVE, MALFORMED, NOERROR, NOTIFY, OPCODE,
    OPTION_DATA, QR, RCODE, RD, REFUSED, TC, UNANSWERABLE, UNCACHEABLE, UPDATE, EdnsOptions, Query, Verdict, add_option,
    cookie_of, find_partial_opt, hash_key, message_flags, parse_ignoring, put_error, put_minimal_any, set_rule_choices
)
from .wire._truncation cimport put_truncated


# ---------------------------------------------------------------- in: parse, and hash the key

cdef Verdict parse_and_hash(const Settings* settings, Query* query, const uint8_t* wire, size_t length) noexcept nogil:
    """Parse a query, and hash the key that its answer is found under."""
    cdef Verdict verdict = parse_ignoring(query, wire, length, &settings.ignored)
    if verdict == CACHEABLE:
        hash_key(query, &settings.index.secret)
    return verdict


cdef Verdict parse_with_ecs(const Settings* settings, Query* query, const uint8_t* wire, size_t length,
                            const uint8_t* address, uint8_t octets, uint8_t* room) noexcept nogil:
    """Parse a query as if it had come with its client's subnet (RFC 7871), where upstreams are told that.

    `room`, of ECS_QUERY_MAX octets, is where such a query is written.
    """
    cdef Verdict verdict = parse_ignoring(query, wire, length, &settings.ignored)
    if verdict == CACHEABLE:
        add_ecs(query, settings.subnets, address, octets, &settings.ignored, room)
        hash_key(query, &settings.index.secret)
    return verdict


# ---------------------------------------------------------------- the way of a query

cdef Outcome process_query(QueryContext* context) noexcept nogil:
    """Decide about a query that was parsed; where it is SEND, the reply is written.

    Caller must ensure that it has entered the cache, and that there is room for `limit` octets and for an error.
    """
    cdef:
        const Query* query = context.query
        Counters* counters = context.counters
        Outcome outcome
    context.options.length = 0
    bump(&counters.queries, 1)
    if context.verdict == UNANSWERABLE:
        bump(&counters.dropped_short if query.length < HEADER else &counters.dropped_responses, 1)
        context.rule_state.kind = KIND_DROPPED
        return DROP
    outcome = _check_guard(context)
    if outcome != NEXT:
        return outcome
    if context.verdict == MALFORMED:
        bump(&counters.malformed_queries, 1)
        return _reply_error(context, FORMERR, KIND_MALFORMED)
    if query.cookie and context.settings.cookies.serve:
        outcome = _check_cookie(context)
        if outcome != NEXT:
            return outcome
    if query.keepalive and not context.client.datagram:
        add_option(&context.options, KEEPALIVE, context.settings.idle)
    return _process_after_guard(context)


cdef Outcome resume_query(QueryContext* context) noexcept nogil:
    """Decide about a query that stopped at a rule, and that Python lets go on; see `process_query`."""
    context.options.length = 0
    context.rule_state.stopped, context.rule_state.kind = False, KIND_HIT
    if context.verdict == UNANSWERABLE or context.verdict == MALFORMED:
        return _reply_error(context, FORMERR, KIND_MALFORMED)
    add_own_options(context.settings, &context.options, cookie_of(context.query), context.query.keepalive,
                    &context.client)
    return _process_after_guard(context)


cdef Outcome process_oversized(QueryContext* context) noexcept nogil:
    """Answer a query that is longer than the buffer that it came into: with TC=1, for over TCP there is room."""
    cdef Outcome outcome
    bump(&context.counters.queries, 1)
    bump(&context.counters.oversized_queries, 1)
    if context.verdict == UNANSWERABLE:
        context.rule_state.kind = KIND_DROPPED
        return DROP
    context.rule_state.kind = KIND_LOCAL
    find_partial_opt(context.query)
    outcome = _check_guard(context)
    return outcome if outcome != NEXT else _refuse_or_truncate(context, True)


cdef Outcome _process_after_guard(QueryContext* context) noexcept nogil:
    """Ask the rules; then tell what only an upstream can say, and what a client may not have it do, from the rest."""
    cdef:
        const Settings* settings = context.settings
        const RuleState* rule_state = &context.rule_state
        Query* query = context.query
        MessageFacts facts
        Outcome outcome
    if settings.programs[QUERIES] != NULL and rule_state.chain == QUERIES and rule_state.at != END:
        facts.flags, facts.rcode = query.flags, 0
        outcome = run_rules(context, settings.programs[QUERIES], &facts)
        if outcome != NEXT:
            return outcome
    if context.verdict == UNCACHEABLE and not rule_state.by_function and not _may_ask(context):
        bump(&context.counters.forward_denied, 1)
        return _reply_error(context, REFUSED, KIND_REFUSED)
    if context.verdict == UNCACHEABLE or rule_state.skip_cache:
        bump(&context.counters.uncached_queries, 1)
        return ASK
    if query.qtype == ANY and settings.minimal_any:
        bump(&context.counters.minimal_any_answers, 1)
        context.rule_state.kind = KIND_LOCAL
        context.length = put_minimal_any(context.reply, query, _payload(context), &context.options)
        return SEND
    if rule_state.route or rule_state.ttl_limits:
        set_rule_choices(query, rule_state.route, rule_state.ttl_limits)
        hash_key(query, &settings.index.secret)
    return _look_up(context)


cdef Outcome _look_up(QueryContext* context) noexcept nogil:
    """Answer from the cache: a hit is rendered with the client's ID, and may have to be refreshed besides."""
    cdef:
        const Settings* settings = context.settings
        const Index* index = settings.index
        const Answer* stored = find(index, context.query)
        Counters* counters = context.counters
        ZoneSettings zone_settings
        Freshness freshness
        MessageFacts facts
        Outcome outcome
    if stored == NULL:
        bump(&counters.cache_misses, 1)
        return ASK
    copy_words(&zone_settings, &index.zone_settings[stored.zone], sizeof(ZoneSettings))
    freshness = freshness_of(stored, &zone_settings, context.now)
    if freshness >= STALE_IF_ERROR:
        bump(&counters.cache_misses, 1)
        return ASK
    if settings.programs[ANSWERS] != NULL:
        if context.rule_state.chain != ANSWERS:
            context.rule_state.chain, context.rule_state.at = ANSWERS, START
        facts.flags, facts.rcode = stored.flags, <uint16_t> stored.rcode_high << 4 | stored.flags & RCODE
        outcome = run_rules(context, settings.programs[ANSWERS], &facts)
        if outcome != NEXT:
            return outcome
    mark_used(stored)
    context.length = render(context.reply, context.limit, stored, context.query, &zone_settings.manner, context.now,
                            &context.options)
    bump(&counters.cache_hits, 1)
    if message_flags(context.reply) & TC:
        bump(&counters.replies_truncated, 1)
    if freshness >= STALE:
        bump(&counters.stale_answers, 1)
        context.rule_state.kind = KIND_STALE
    elif freshness == PREFETCH:
        context.rule_state.kind = KIND_PREFETCH
    if freshness == PREFETCH or freshness == STALE_ASK:
        mark_asked(stored, context.now)
        bump(&counters.prefetches, 1)
        return <Outcome> (SEND | ASK)
    return SEND


# ---------------------------------------------------------------- the steps; NEXT: nothing against it

cdef Outcome _check_guard(QueryContext* context) noexcept nogil:
    """Let the guard judge a query: who may ask, and how much."""
    cdef:
        const GuardTable* table = load_guard_table(context.settings.guard_table)
        GuardAction action = GUARD_ALLOW
    if table != NULL:
        action = check_query(table, &context.client, &context.counters.guard, &context.rule_state.kind)
    if action == GUARD_ALLOW:
        return NEXT
    return DROP if action == GUARD_DROP else _refuse_or_truncate(context, action == GUARD_TRUNCATE)


cdef Outcome _check_cookie(QueryContext* context) noexcept nogil:
    """Judge a query's cookie (RFC 7873 5.2), and give the client one of ours."""
    cdef:
        const Cookies* cookies = &context.settings.cookies
        const Query* query = context.query
        const uint8_t* cookie = query.wire + query.cookie_at + OPTION_DATA
        ClientInfo* client = &context.client
        size_t size = query.cookie - OPTION_DATA
        CookieStatus status
    if not (size == 8 or 16 <= size <= 40):
        bump(&context.counters.malformed_queries, 1)
        return _reply_error(context, FORMERR, KIND_MALFORMED)
    status = check_cookie(cookies, cookie, size, client.address, client.octets, client.wall)
    context.options.length = <uint16_t> put_cookie(context.options.octets, cookies, cookie, status, client.address,
                                                   client.octets, client.wall)
    if status == NOT_OURS or status == CLIENT_ALONE:
        if cookies.require and client.datagram and query.question or status == NOT_OURS and not query.question:
            bump(&context.counters.badcookie_responses, 1)
            return _reply_error(context, BADCOOKIE, KIND_BADCOOKIE)
    else:
        client.proven = True
    return NEXT if query.question else _reply_error(context, NOERROR, KIND_LOCAL)


cdef Outcome run_rules(QueryContext* context, const Program* program, const MessageFacts* facts) noexcept nogil:
    """Run the rules of a chain from where the query has come to."""
    cdef:
        RuleState* rule_state = &context.rule_state
        const Query* query = context.query
        const Node* node
        RuleAction action
    if rule_state.generation != program.generation:
        rule_state.generation, rule_state.at, rule_state.tags = program.generation, START, 0
    node = next_action(program, query, &context.client, rule_state, facts)
    while node != NULL:
        action = action_of(node)
        if action == ROUTE:
            rule_state.route, rule_state.by_function = <uint16_t> node.value, <uint8_t> node.more
        if action == ALLOW or action == ROUTE or action == TRUNCATE and not context.client.datagram:
            break
        if action == CALL_PYTHON or action == ASK_PYTHON:
            bump(&context.counters.rule_python_calls, 1)
            rule_state.stopped = True
            return ASK
        if action == DROP_QUERY or action == ERROR or action == TRUNCATE:
            bump(&context.counters.rule_replies, 1)
            rule_state.kind = KIND_RULE
            if action == DROP_QUERY:
                return DROP
            if action == ERROR:
                return _reply_error(context, <uint16_t> node.value, KIND_RULE)
            return _reply_truncated(context)
        if action == SKIP_CACHE:
            rule_state.skip_cache = True
        elif action == TTL_LIMITS:
            rule_state.ttl_limits = <uint16_t> node.value
        elif action == TAG:
            rule_state.tags |= node.value
        rule_state.at = node.yes
        node = next_action(program, query, &context.client, rule_state, facts)
    rule_state.at = END
    return NEXT


cdef bint _may_ask(const QueryContext* context) noexcept nogil:
    """Tell whether a client may have an upstream asked what that may answer, or do, because it trusts our address.

    The question alone decides, whatever else is in the message.
    """
    cdef:
        const Query* query = context.query
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
    return prefix_value(&context.settings.allowed[kind], context.client.address, context.client.octets) != 0


# ---------------------------------------------------------------- replies without an answer

cdef inline uint16_t _payload(const QueryContext* context) noexcept nogil:
    """Return the octets of the largest message that we take over UDP, which our OPT record tells."""
    return load_relaxed16(&context.settings.index.zone_settings.manner.payload)


cdef Outcome _reply_error(QueryContext* context, uint16_t rcode, Kind kind) noexcept nogil:
    context.rule_state.kind = kind
    context.length = put_error(context.reply, context.query, rcode, _payload(context), &context.options)
    return SEND


cdef Outcome _reply_truncated(QueryContext* context) noexcept nogil:
    """Tell a client to come by TCP."""
    cdef const Query* query = context.query
    context.length = put_truncated(context.reply, query, QR | query.flags & (OPCODE | RD | CD), _payload(context), 0,
                                   query.edns_flags & DO, &context.options)
    return SEND


cdef Outcome _refuse_or_truncate(QueryContext* context, bint to_tcp) noexcept nogil:
    """Turn a client back before its cookie was looked at: even so, it believes no reply without one."""
    context.options.length = 0
    add_own_options(context.settings, &context.options, cookie_of(context.query), context.query.keepalive,
                    &context.client)
    return _reply_truncated(context) if to_tcp else _reply_error(context, REFUSED, <Kind> context.rule_state.kind)


cdef void add_own_options(const Settings* settings, EdnsOptions* options, const uint8_t* client_cookie, bint keepalive,
                          const ClientInfo* client) noexcept nogil:
    """Make the EDNS options for a client alone: its cookie (or NULL) with a new one of ours, and KEEPALIVE."""
    if client_cookie != NULL and settings.cookies.serve:
        options.length = <uint16_t> put_cookie(options.octets, &settings.cookies, client_cookie, CLIENT_ALONE,
                                               client.address, client.octets, client.wall)
    if keepalive and not client.datagram:
        add_option(options, KEEPALIVE, settings.idle)


# ---------------------------------------------------------------- the control thread's side

cdef dict counters_as_dict(const Counters* counters):
    """Return the counters by name, those of the guard among them."""
    cdef:
        Counters now
        dict counted
    copy_words(&now, counters, sizeof(Counters))
    counted = now
    return counted.pop("guard") | counted


@cython.final
cdef class _InForce:
    """Settings, and all that they lead to: the chains of its rules, and tables of prefixes."""

    cdef:
        Settings settings
        tuple chains, tables
        PrefixTable proxies


@cython.final
cdef class SettingsWriter:
    """What holds for every query, whoever answers it.

    Memory ownership: all is its own, and lives until those who read it have left; whoever answers with it must be gone
    before it.
    """

    def __cinit__(self, Cache cache not None, size_t guarded=1 << 20) -> None:
        cdef _InForce held = _InForce()
        self.cache = cache
        self.guard = Guard(guarded, cache.epochs)
        held.settings.index = &cache.index
        held.settings.guard_table = &self.guard.guard_table
        self.held, self.settings = held, &held.settings

    cdef tuple chains(self):
        """Return the rules that are asked, by chain; None where there are none."""
        return (<_InForce> self.held).chains or (None,) * CHAINS

    cdef object _anew(self):
        """Return settings that are as those in force."""
        cdef:
            _InForce before = self.held
            _InForce made = _InForce()
        made.settings, made.chains = before.settings, before.chains
        made.tables, made.proxies = before.tables, before.proxies
        return made

    cdef int _publish(self, made) except -1:
        """Put settings into force, as a whole; those before are freed when no reader can have them."""
        before, self.held = self.held, made
        store_settings(&self.settings, &(<_InForce> made).settings)
        return self.cache.epochs.retire(before)

    def set_any(self, bint minimal) -> None:
        """Say whether ANY is answered here (RFC 8482)."""
        cdef _InForce made = self._anew()
        made.settings.minimal_any = minimal
        self._publish(made)

    def set_cookies(self, tuple secrets not None, *, bint serve, bint require) -> None:
        """Say whether the shield is the cookie server, and with which secrets of 16 octets; the first makes cookies.

        With `require`, a query over UDP whose cookie is not ours gets BADCOOKIE. Raises ValueError where
        the secrets are none.
        """
        cdef _InForce made = self._anew()
        set_secrets(&made.settings.cookies, secrets)
        made.settings.cookies.serve, made.settings.cookies.require = serve, require
        self._publish(made)

    def set_idle(self, double seconds) -> None:
        """Say how long a connection may be idle, for clients that ask (RFC 7828); 0: it should end now."""
        cdef _InForce made = self._anew()
        made.settings.idle = <uint16_t> min(seconds * 10, 65535)
        self._publish(made)

    def set_ignored(self, tuple options not None) -> None:
        """Say which EDNS options, by code, tell no questions apart; they end here.

        Raises ValueError where there are too many.
        """
        cdef _InForce made = self._anew()
        if len(options) > IGNORED_MAX:
            raise ValueError(f"at most {IGNORED_MAX} options are ignored, not {len(options)}")
        for k, code in enumerate(options):
            made.settings.ignored.codes[k] = code
        made.settings.ignored.count = <uint8_t> len(options)
        self._publish(made)

    def set_proxies(self, tuple prefixes not None) -> None:
        """Say from where queries come through front proxies, as (network address, bits).

        Raises ValueError where there are more than 64, or one is no prefix.
        """
        cdef _InForce made = self._anew()
        if len(prefixes) > PROXIES_MAX:
            raise ValueError(f"at most {PROXIES_MAX} prefixes of proxies, not {len(prefixes)}")
        made.proxies = PrefixTable((address, bits, True) for address, bits in prefixes)
        made.settings.proxies = made.proxies.prefixes
        self._publish(made)

    def set_allowed(self, *, transfers=(), updates=(), notifies=()) -> None:
        """Say whose queries of these kinds reach an upstream: prefixes as (network address, bits); all others' do not.

        Raises ValueError where one is no prefix.
        """
        cdef:
            _InForce made = self._anew()
            PrefixTable table
            uint32_t k
        made.tables = tuple(
            PrefixTable((address, bits, True) for address, bits in each) for each in (transfers, updates, notifies)
        )
        for k in range(DEPUTIES):
            table = made.tables[k]
            made.settings.allowed[k] = table.prefixes
        self._publish(made)

    def set_subnets(self, *, uint8_t ipv4, uint8_t ipv6, bint private) -> None:
        """Say how many bits of clients' addresses upstreams are told, and whether of private ones; 0: none."""
        cdef _InForce made = self._anew()
        made.settings.subnets = subnet_rules(ipv4, ipv6, private)
        self._publish(made)

    def set_chains(self, Chain queries=None, Chain responses=None, Chain answers=None) -> None:
        """Say which rules are asked from now on; None: there are none in that chain."""
        cdef:
            _InForce made = self._anew()
            Chain chain
            uint32_t k
        made.chains = (queries, responses, answers)
        for k in range(CHAINS):
            chain = made.chains[k]
            made.settings.programs[k] = NULL if chain is None else &chain.program
        self._publish(made)

    def is_proxy(self, bytes address not None) -> bool:
        """Tell whether an address of 4 or 16 octets is that of a front proxy."""
        return prefix_value(&self.settings.proxies, address, octets_of(address)) != 0
