"""How a pending query ends: with a response, with what is stale, or with SERVFAIL.

    consider -> the rules of responses -> resolve -> all who wait, and the cache
             -> asked again, elsewhere or over TCP, or with Python's leave
    time_is_up -> asked again | fail -> what is stale, a reply of last resort, SERVFAIL

It knows what a response or silence means for those who wait (RFC 2308, 8767, 9520). How queries travel is
`_transport`'s.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .._fastpath cimport ASK, DROP, SEND, Outcome, QueryContext, run_rules
from ..cache._entry cimport (
    FAILURE, FOREIGN, KEEP, NEGATIVE, PASS, SECTIONS, TRUNCATED, Answer, answers_question, bound_ttls, build,
    build_failure, build_verbatim
)
from ..cache._freshness cimport fails_to_refresh, mark_failed
from ..cache._index cimport find
from ..cache._zone_settings cimport TtlLimits, ZoneSettings
from ..core._clock cimport ticks
from ..policy._rule_program cimport MessageFacts, Program
from ..cache._store cimport STORED
from ..policy._rule_state cimport (
    KIND_FAILED, KIND_FORWARDED, KIND_HIT, KIND_RULE, KIND_STALE, RESPONSES, START, RuleState
)
from ..upstream._selection cimport ALL_BUSY, NOBODY_UP, TIMED_OUT, Upstream, reason_of_rcode
from ..wire._message cimport (
    HEADER, NAME_MAX, NETWORK_ERROR, NOERROR, NO_REACHABLE_AUTHORITY, NXDOMAIN, QUESTION_MAX, RCODE, REFUSED, SERVFAIL,
    Query, lower_name
)
from ._attempts cimport NEVER, Attempts
from ._client_replies cimport ClientReplies
from ._failures cimport Failures
from ._outbox cimport NOBODY, Client
from ._shared_cache cimport SharedCache
from ._pending cimport (
    DECIDING, FAILED, FUNCTION, NO_LAST_RESORT, SENT, TRUNCATED_REPLY, UNVERIFIED_REPLY, PendingQuery, TtlBounds
)

cdef uint64_t LIMITED = <uint64_t> 60000000000  # nanoseconds: so long, who truncated what is small limits its rate


cdef void _narrow(TtlLimits* ttl_limits, const TtlBounds* by) noexcept nogil:
    """Let a zone's bounds of TTLs be within those of a rule, if it has any."""
    if by.longest:
        ttl_limits.longest = min(ttl_limits.longest, by.longest)
        ttl_limits.negative = min(ttl_limits.negative, by.longest)
        ttl_limits.shortest = min(max(ttl_limits.shortest, by.shortest), ttl_limits.longest)


cdef class Resolution:
    """What responses, and silence, mean for those who wait. One thread, with the GIL, calls all of it."""

    def __cinit__(self, ClientReplies replies not None, Attempts attempts not None,
                  SharedCache shared not None) -> None:
        self.replies, self.attempts, self.shared = replies, attempts, shared
        self.cache, self.queries, self.pool = replies.cache, replies.queries, replies.queries.pool
        self.upstreams = attempts.upstreams
        self.stopped_responses, self.last_resorts = [], {}
        self.failures = Failures()

    # ------------------------------------------------------------ a response, and the rules of responses

    cdef bint read(self, int32_t i, Query* query, Response* response, const uint8_t* wire, size_t length,
                   bint over_stream, uint64_t now) noexcept nogil:
        """Take a response apart, and build its answer; False: it is none to this query."""
        self.queries.read(i, query)
        response.wire, response.length, response.over_stream = wire, length, over_stream
        if not answers_question(query, wire, length):
            return False
        self._build(i, query, response, now)
        return response.built != FOREIGN

    cdef void _build(self, int32_t i, Query* query, Response* response, uint64_t now) noexcept nogil:
        """Make the answer of a response, into the cache's scratch."""
        cdef:
            Answer* answer = self.cache.scratch
            const PendingQuery* pending = &self.pool[i]
            TtlLimits ttl_limits = self.cache.index.zone_settings[pending.zone].ttl_limits
            const TtlBounds* asked = &self.queries.ttl_limits[pending.client.rule_state.ttl_limits]
            const TtlBounds* answered = &self.queries.ttl_limits[pending.ttl_limits]
        _narrow(&ttl_limits, asked)
        _narrow(&ttl_limits, answered)
        if pending.verbatim:
            response.built = build_verbatim(answer, query, response.wire, response.length, now)
        else:
            response.built = build(answer, query, response.wire, response.length, &ttl_limits, now,
                                   self.cache.clock.wall(), response.over_stream and not pending.from_udp)
        if response.built == KEEP and (pending.uncached or pending.unverified):
            response.built = PASS
        if asked.longest or answered.longest:
            bound_ttls(answer, max(asked.shortest, answered.shortest), ttl_limits.longest)
        answer.zone = pending.zone
        answer.marks.purges = pending.purges

    cdef const Program* program(self) noexcept nogil:
        """Return the rules of responses, or NULL."""
        return self.replies.settings_writer.settings.programs[RESPONSES]

    cdef int consider(self, int32_t i, int32_t upstream, const Query* query, Response* response,
                      uint64_t now) except -1:
        """Let the rules see a response to a pending query, and then let it end that; it is to be had whole first."""
        cdef RuleState rule_state = self.pool[i].client.rule_state
        if (upstream >= 0 and response.over_stream and self.pool[i].last_resort == TRUNCATED_REPLY
                and response.length <= query.payload):
            self.upstreams.all[upstream].rate_limited_until = now + LIMITED
        if self.program() == NULL or (self.pool[i].stage != DECIDING and self._is_truncated(i, response)):
            return self.resolve(i, upstream, query, response, now)
        if self.pool[i].stage == DECIDING:  # one came before, and Python looks at it
            return 0
        rule_state.chain, rule_state.at, rule_state.ttl_limits = RESPONSES, START, 0
        return self.run(i, upstream, query, response, &rule_state, now)

    cdef int run(self, int32_t i, int32_t upstream, const Query* query, Response* response, RuleState* rule_state,
                 uint64_t now) except -1:
        """Follow the rules of responses from where this one has come to."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            Query asked = query[0]
            uint8_t[HEADER + QUESTION_MAX + 128] error
            MessageFacts facts
            QueryContext context
            Outcome outcome
            uint16_t group
        context.settings, context.query = self.replies.settings_writer.settings, &asked
        context.counters = &self.replies.counts
        context.client, context.rule_state = self.replies.outbox.client_info(&pending.client), rule_state[0]
        context.options.length = 0
        context.reply = error
        facts.flags = self.cache.scratch.flags
        facts.rcode = <uint16_t> self.cache.scratch.rcode_high << 4 | facts.flags & RCODE
        outcome = run_rules(&context, self.program(), &facts)
        rule_state[0] = context.rule_state
        if outcome == ASK:
            return self._stop_response(i, query, response, rule_state, now)
        if outcome == DROP:
            return self.ignore(i, now)
        if outcome == SEND:
            self.read(i, &asked, response, error, context.length, True, now)
            return self.resolve(i, upstream, &asked, response, now)
        group = self.queries.routes[rule_state.route] if rule_state.route else pending.group
        if group != pending.group and not pending.regrouped and not pending.send_once:
            pending.group, pending.by_function, pending.regrouped = group, group == FUNCTION, True
            pending.over_stream, pending.tried.count = False, 0
            if pending.last_resort:
                self.take_last_resort(i)
            self.attempts.retry(i)
            return 0
        return self.finish_by_rules(i, upstream, &asked, response, rule_state, now)

    cdef int finish_by_rules(self, int32_t i, int32_t upstream, Query* query, Response* response,
                             const RuleState* rule_state, uint64_t now) except -1:
        """Let a response end a pending query, as its rules say."""
        if rule_state.ttl_limits:
            self.pool[i].ttl_limits = rule_state.ttl_limits
            self.read(i, query, response, response.wire, response.length, response.over_stream, now)
        if rule_state.skip_cache and response.built == KEEP:
            response.built = PASS
        return self.resolve(i, upstream, query, response, now)

    cdef int _stop_response(self, int32_t i, const Query* query, const Response* response, const RuleState* rule_state,
                            uint64_t now) except -1:
        self.pool[i].stage = DECIDING
        self.pool[i].response_state = rule_state[0]
        self.pool[i].from_udp = not response.over_stream
        self.attempts.schedule(i, self.pool[i].deadline)
        self.stopped_responses.append((
            self.queries.handle(i, 0), rule_state.at, rule_state.generation, query.wire[:query.length],
            response.wire[:response.length], (<char*> &self.pool[i].client)[:sizeof(Client)],
        ))
        return 0

    cdef int resolve(self, int32_t i, int32_t upstream, const Query* query, const Response* response,
                     uint64_t now) except -1:
        """Let a response that answers the question end a pending query; store it if that is allowed.

        `upstream` is who sent it, or -1: a function of Python's, or nobody any more.
        """
        cdef:
            Answer* answer = self.cache.scratch
            PendingQuery* pending = &self.pool[i]
            const Answer* stored
            uint16_t rcode = (<uint16_t> answer.rcode_high << 4) | (answer.flags & RCODE)
            bint unwanted = answer.kind == FAILURE and self.retry_on >> rcode & 1
        if self._is_truncated(i, response):
            if pending.last_resort == TRUNCATED_REPLY:  # a second one says nothing new
                return 0
            self.upstream_truncated += 1
            if not pending.last_resort:
                self._keep_last_resort(i, response, TRUNCATED_REPLY)
            pending.over_stream = True
            return self.ask_over_tcp(i, upstream, now)
        stored = self._stale_answer(i, now) if fails_to_refresh(response.built, rcode) else NULL
        if (unwanted or stored != NULL) and not pending.by_function:
            if pending.attempt >= 0 or pending.stage == FAILED:  # another upstream has been asked, or will be
                return 0
            if self.attempts.may_ask_another(i):
                self.attempts.retry(i)
                return 0
        if stored != NULL:
            return self._serve_stale(i, stored, now)
        if upstream >= 0 and (rcode == SERVFAIL or rcode == REFUSED):
            self.upstreams.all[upstream].client_visible_failures[reason_of_rcode(rcode)] += 1
            self._note_failure(i, upstream, reason_of_rcode(rcode))
        # First: a purge that came meanwhile is not for those who waited.
        self.replies.answer_all(i, answer, KIND_RULE if pending.by_function else KIND_FORWARDED, now, upstream)
        if response.built == KEEP:
            self._learn(i, query, response, now)
            if self.cache.put_for(query, answer, ticks(now)) == STORED and self.shared.stores:
                self.shared.tell(i, answer, now)
        elif (response.built == PASS and not pending.uncached and answer.form == SECTIONS
                and (rcode == NOERROR or rcode == NXDOMAIN)):
            self.cache.drop(query)  # what was before is true no more
        return self.close(i)

    cdef int serve_shared(self, int32_t i, uint64_t now) except -1:
        """Let what another node has stored, which is in the cache's scratch, end a pending query: as a hit."""
        self.replies.answer_all(i, self.cache.scratch, KIND_HIT, now)
        return self.close(i)

    cdef bint _is_truncated(self, int32_t i, const Response* response) noexcept nogil:
        """Tell whether a response is truncated, and the whole is to be had over TCP."""
        if response.built != TRUNCATED or response.over_stream or self.pool[i].send_once:
            return False
        return self.retry_truncated or self.queries.has_stream(i)

    cdef int _learn(self, int32_t i, const Query* query, const Response* response, uint64_t now) except -1:
        """Tell those who deny what does not exist, unless a purge came between."""
        cdef:
            const ZoneSettings* settings = &self.cache.index.zone_settings[self.pool[i].zone]
            bint wanted = self.nsec_cache is not None and (settings.nxdomain_cut or settings.trust_nsec)
        wanted = wanted and self.pool[i].purges == <uint32_t> self.cache.purges.rules.count
        if wanted and self.cache.scratch.kind == NEGATIVE:
            self.nsec_cache.learn(
                query.wire[:query.length], response.wire[:response.length], self.cache.zones.name(self.pool[i].zone),
                nxdomain_cut=settings.nxdomain_cut, nsec=settings.trust_nsec, now=now / 1e9,
                wall=self.cache.clock.wall() / 1e9, longest=settings.ttl_limits.negative,
            )
        return 0

    # ------------------------------------------------------------ none, or none that is wanted

    cdef int ignore(self, int32_t i, uint64_t now) except -1:
        """Go on without a response that is not wanted."""
        if self.pool[i].attempt >= 0:  # another upstream has been asked
            return 0
        if self.attempts.may_ask_another(i):
            self.attempts.retry(i)
            return 0
        return self.fail(i, now)

    cdef int fail(self, int32_t i, uint64_t now) except -1:
        """Serve what there is to everybody who waits; else tell them that no upstream answered, and remember it."""
        cdef:
            Query query
            PendingQuery* pending = &self.pool[i]
            Answer* answer = self.cache.scratch
            const Answer* stored = self._stale_answer(i, now)
        if stored != NULL:
            return self._serve_stale(i, stored, now)
        if pending.last_resort == UNVERIFIED_REPLY:
            return self._serve_unverified(i, now)
        if pending.last_resort:
            self._serve_truncated(i, now)
        self.queries.read_as_asked(i, &query)
        build_failure(answer, &query, NETWORK_ERROR if pending.unreachable else NO_REACHABLE_AUTHORITY,
                      &self.cache.index.zone_settings[pending.zone].ttl_limits, now)
        answer.zone = pending.zone
        answer.marks.purges = pending.purges
        if not pending.last_resort:
            self.resolution_failures += 1
            self._count_failure(i)
        self.replies.answer_all(i, answer, KIND_FAILED, now, pending.tried.upstreams[pending.tried.count - 1]
                                if pending.tried.count else -1)
        if not (pending.last_resort or pending.tcp_fallback or pending.uncached):
            self.cache.put(answer, ticks(now))
        return self.close(i)

    cdef void _count_failure(self, int32_t i) noexcept nogil:
        """Note for the upstream that was asked last that clients got SERVFAIL."""
        cdef const PendingQuery* pending = &self.pool[i]
        cdef uint16_t tries = pending.tried.count
        cdef Upstream* last = &self.upstreams.all[pending.tried.upstreams[tries - 1] if tries else 0]
        cdef uint8_t reason = last.reason if pending.unreachable else <uint8_t> TIMED_OUT
        self.no_upstream_available += not tries
        last.client_visible_failures[reason] += tries > 0
        self._note_failure(i, pending.tried.upstreams[tries - 1] if tries else -1, reason)

    cdef void _note_failure(self, int32_t i, int32_t upstream, uint8_t reason) noexcept nogil:
        """Keep for operators what those who wait feel: a failure, of the upstream that was asked last."""
        cdef:
            Query query
            uint8_t[NAME_MAX] room
        if self.pool[i].client.fd == NOBODY and self.pool[i].next < 0:  # nobody waits
            return
        self.queries.read(i, &query)
        if query.question:
            self.failures.note(&self.cache.index.secret, lower_name(&query, room), query.qtype, upstream, reason,
                               self.cache.clock.wall())

    cdef int no_upstream(self, int32_t i, int32_t why, uint64_t now) except -1:
        """Let a query that can be sent nowhere wait for who was asked before; where nobody was, it ends."""
        if self.pool[i].attempt >= 0:
            self.pool[i].stage = SENT
            self.pool[i].try_until = NEVER
            return 0
        if why == ALL_BUSY and not self.pool[i].tried.count:
            return self.reject_all(i, now)
        return self.fail(i, now)

    cdef int reject_all(self, int32_t i, uint64_t now) except -1:
        """End a pending query that nobody has time for: all who wait get what is stale, or REFUSED, or nothing."""
        cdef:
            const Answer* stored = self._stale_answer(i, now)
            int32_t waits = i
        if stored != NULL:
            self.replies.answer_all(i, stored, KIND_STALE, now)
            return self.close(i)
        while waits >= 0:
            self.upstreams_saturated += self.pool[waits].client.fd != NOBODY
            self.replies.reject_waiting(waits)
            waits = self.pool[waits].next
        return self.close(i)

    cdef int time_is_up(self, int32_t i, uint64_t now) except -1:
        """Do what a query's time has come for."""
        cdef PendingQuery* pending = &self.pool[i]
        if now >= pending.stale_at:
            self._serve_stale_meanwhile(i, now)
        if now >= pending.deadline:
            self.attempts.timed_out(i, now)
            return self.fail(i, now)
        if (pending.hedging and pending.stage == SENT and pending.attempt >= 0 and now >= pending.try_until
                and not self.attempts.may_hedge(i)):
            pending.try_until = (self.attempts.sockets.attempts[pending.attempt].sent
                                 + self.attempts.retransmission_timeout(pending.attempt))
        elif pending.stage == SENT and now >= pending.try_until:
            self.attempts.timed_out(i, now)
            if self.attempts.may_retry(i):
                self.attempts.retry(i)
                return 0
            if pending.attempt < 0:
                return self.fail(i, now)
        self.attempts.schedule(i, pending.try_until)
        return 0

    cdef int close(self, int32_t i) except -1:
        """Put a pending query, and all who waited for it, back into the pool."""
        self.queries.index_remove(i)
        self.attempts.wheel.unschedule(i)
        if self.pool[i].last_resort:
            self.take_last_resort(i)
        self.attempts.end_all(i)
        self.queries.release_waiting(i)
        self.queries.give_back(i)
        return 0

    # ------------------------------------------------------------ over TCP

    cdef int hand_over(self, int32_t i, int32_t upstream, uint64_t now) except -1:
        """Let Python carry a query to an upstream that was chosen, over TCP or TLS."""
        return 0 if self.attempts.hand_over(i, upstream, now) else self.no_upstream(i, NOBODY_UP, now)

    cdef int ask_over_tcp(self, int32_t i, int32_t upstream, uint64_t now) except -1:
        """Ask an upstream again over TCP, if it is not asked so already: it has answered, but that cannot be used."""
        if self.attempts.is_over_tcp(i, upstream):
            return 0
        self.upstreams.all[upstream].outstanding += 1
        self.pool[i].tcp_fallback = True
        return self.hand_over(i, upstream, now)

    cdef int verify_over_tcp(self, int32_t i, int32_t upstream, const Response* response, bint serves,
                             uint64_t now) except -1:
        """Ask again over TCP for what came over UDP; where it `serves`, it does so if TCP cannot be had."""
        if self.pool[i].stage == DECIDING:  # one came before, and Python looks at it
            return 0
        if serves and not self.pool[i].last_resort and self.cache.scratch.kind != FAILURE:
            self._keep_last_resort(i, response, TRUNCATED_REPLY if response.built == TRUNCATED else UNVERIFIED_REPLY)
        return self.ask_over_tcp(i, upstream, now)

    # ------------------------------------------------------------ replies of last resort

    cdef int _keep_last_resort(self, int32_t i, const Response* response, uint8_t kind) except -1:
        """Keep a response in case nothing better comes, while there is room for it."""
        if self.last_resort_octets + response.length <= LAST_RESORTS_MAX:
            self.last_resorts[i] = response.wire[:response.length]
            self.last_resort_octets += response.length
            self.pool[i].last_resort = kind
        return 0

    cdef bytes take_last_resort(self, int32_t i):
        """Return what was kept for a query, and keep it no longer."""
        cdef bytes kept = self.last_resorts.pop(i)
        self.last_resort_octets -= <size_t> len(kept)
        self.pool[i].last_resort = NO_LAST_RESORT
        return kept

    cdef int _serve_truncated(self, int32_t i, uint64_t now) except -1:
        """Give what came truncated to those who may have that: over UDP. The others still wait."""
        cdef:
            Query query
            Response response
            bytes kept = self.last_resorts[i]
            int32_t waits = i
        self.queries.read(i, &query)
        response.wire, response.length, response.over_stream = kept, len(kept), False
        self._build(i, &query, &response, now)
        while waits >= 0:
            if self.pool[waits].client.fd >= 0:
                self.replies.answer_one(waits, self.cache.scratch, KIND_FORWARDED, now)
                self.pool[waits].client.fd = NOBODY
            waits = self.pool[waits].next
        return 0

    cdef int _serve_unverified(self, int32_t i, uint64_t now) except -1:
        """Give what may be forged to those who wait, for TCP cannot be had; nobody else ever gets it."""
        cdef:
            Query query
            Response response
            bytes kept = self.take_last_resort(i)
        self.pool[i].unverified = True
        self.pool[i].stage = SENT  # whatever Python still looks at
        self.pool[i].deadline = max(self.pool[i].deadline, now + self.attempts.retry_after)  # for a rule in Python
        self.attempts.end_all(i)
        self.queries.read(i, &query)
        response.wire, response.length, response.over_stream = kept, len(kept), True
        self._build(i, &query, &response, now)
        return self.consider(i, -1, &query, &response, now)

    # ------------------------------------------------------------ stale answers (RFC 8767)

    cdef const Answer* _stale_answer(self, int32_t i, uint64_t now) noexcept nogil:
        """Return the answer that may serve in place of a better one, or NULL."""
        cdef:
            Query query
            const Answer* stored
        if self.pool[i].uncached:
            return NULL
        self.queries.read(i, &query)
        stored = find(&self.cache.index, &query)
        if stored == NULL or stored.kind == FAILURE or self.replies.is_dead(stored, now):
            return NULL
        return stored

    cdef int _serve_stale(self, int32_t i, const Answer* stored, uint64_t now) except -1:
        """End a query whose refresh failed; the answer serves on, and is not asked for again for a while."""
        self.stale_on_refresh_failure += 1
        mark_failed(stored, ticks(now) + self.cache.index.zone_settings[stored.zone].recheck)
        self.replies.answer_all(i, stored, KIND_STALE, now)
        return self.close(i)

    cdef int _serve_stale_meanwhile(self, int32_t i, uint64_t now) except -1:
        """Answer those who have waited long enough with what is stale; the query goes on without them."""
        cdef const Answer* stored = self._stale_answer(i, now)
        self.pool[i].stale_at = NEVER
        if stored == NULL:
            return 0
        self.replies.answer_all(i, stored, KIND_STALE, now)
        self.queries.release_waiting(i)
        self.pool[i].client.fd = NOBODY
        self.pool[i].answered_stale = True
        return 0
