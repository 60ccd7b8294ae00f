"""What open queries wait for, and what ends their waiting.

    admit -> answered | behind the first who asked the same | queued -> resolve | fail | serve stale -> all who wait
                                                              queued <- not answered in time, or not well

It knows time, and what a response or silence means for those who wait (RFC 2308, 8767, 9520). How queries
travel is `_transport`'s.
"""

import logging

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ..cache._entry cimport (
    FAILURE, KEEP, NEGATIVE, PASS, SECTIONS, TRUNCATED as IS_TRUNCATED, Answer, Built, answers_question, bound_ttls,
    build, build_failure, build_verbatim
)
from ..cache._freshness cimport DEAD, STALE, STALE_IF_ERROR, Freshness, fails_to_refresh, judge, mark_failed, mark_used
from ..cache._index cimport find
from ..cache._store cimport Cache
from ..cache._zone_settings cimport Policy, TtlLimits
from ..core._atomic cimport load_relaxed32
from ..core._clock cimport ticks
from ..core._fair_shares cimport may_take
from ..core._siphash cimport Secret, siphash
from ..upstream._selection cimport ALL_BUSY, NOBODY_UP, SILENCE, TRIES_MAX, Upstream, trouble_said
from ..wire._edns_cookies cimport CLIENT_COOKIE
from ..wire._message cimport (
    CACHEABLE, CHAOS, KEY_PREFIX, NAME_MAX, NETWORK_ERROR, NOERROR, NOTIFY, NO_REACHABLE_AUTHORITY, NXDOMAIN, OPCODE,
    QUERY_MAX, RCODE, REFUSED, SERVFAIL, TKEY, UNCACHEABLE, Query, Verdict, cookie_of, end_options, forwardable,
    hash_key, is_transfer, is_unsigned, lower_name, message_id, parse_ignoring, respell, set_payload, set_rule_choices
)
from ..wire._proxy_protocol cimport PROXIED_MAX
from ._client_replies cimport is_cached
from ._outbox cimport NOBODY, STREAM, Client, put_client
from ._pending cimport (
    CUT, DOUBTED, EVERYTHING, FAILED, NO_SPARE, OF_GROUP, OF_ZONE, QUEUED, SENT, SHARES, WIRE_MAX, PendingQuery
)
from ._attempts cimport NEVER, Attempts

cdef uint64_t LIMITED = <uint64_t> 60000000000  # nanoseconds: so long, who truncated what is small limits its rate

log = logging.getLogger(__name__)


cdef void narrow(TtlLimits* ttl_limits, const TtlBounds* by) noexcept nogil:
    """Let a zone's bounds of TTLs be within those of a rule, if it has any."""
    if by.longest:
        ttl_limits.longest = min(ttl_limits.longest, by.longest)
        ttl_limits.negative = min(ttl_limits.negative, by.longest)
        ttl_limits.shortest = min(max(ttl_limits.shortest, by.shortest), ttl_limits.longest)


cdef class Resolution(Attempts):
    """Open queries: at most `capacity` clients wait at any time.

    Memory ownership: the lists of what is to be sent are its own.
    """

    def __cinit__(self, Cache cache not None, uint32_t capacity, size_t guarded=1 << 20) -> None:
        self.carried, self.specials, self.fallbacks = [], [], {}
        self.queued = <int32_t*> calloc(capacity, sizeof(int32_t))
        self.failed = <int32_t*> calloc(capacity, sizeof(int32_t))
        self.routes = <uint16_t*> calloc(WAYS_MAX, sizeof(uint16_t))
        self.ttl_limits = <TtlBounds*> calloc(WAYS_MAX, sizeof(TtlBounds))
        if not (self.queued and self.failed and self.routes and self.ttl_limits):
            raise MemoryError(f"no memory for {capacity} open queries")
        self.set_limits()

    def __dealloc__(self) -> None:
        free(self.queued)
        free(self.failed)
        free(self.routes)
        free(self.ttl_limits)

    def set_limits(self, *, double timeout=1.0, double deadline=2.5, double patience=0.1,
                   double update_timeout=10.0, uint16_t tries=3, bint refuse_overload=True,
                   bint retry_truncated=True, try_next=(), bint hedge=False,
                   uint32_t mismatches=3, uint32_t long=512, uint32_t forgeable=1000) -> None:
        """Say how long an upstream is given and a client waits (seconds), what is tried again, and what is too much.

        `patience` is the least silence after which another upstream is asked, and `try_next` the RCODEs with which one
        is; what is sent once is waited for `update_timeout`; so many `mismatches` make an upstream suspect. So many
        `long` queries are open at most, and so many of one client prefix whose source may be `forgeable`.
        """
        if not 1 <= tries <= TRIES_MAX or not 0 < timeout <= 30 or not 0 < deadline <= 30 or not 0 < patience <= 30:
            raise ValueError(f"1 to {TRIES_MAX} tries, in up to 30 seconds")
        self.timeout = <uint64_t> (timeout * 1e9)
        self.deadline = <uint64_t> (deadline * 1e9)
        self.patience = <uint64_t> (min(patience, timeout) * 1e9)
        self.update_timeout = <uint64_t> (update_timeout * 1e9)
        self.tries = tries
        self.refuse_overload = refuse_overload
        self.retry_truncated = retry_truncated
        self.try_next = sum({1 << rcode for rcode in try_next})
        self.hedge = hedge
        self.upstreams.suspect_after = mismatches
        self.queries.long_max = long
        self.most_forgeable = forgeable

    def consult(self, *, identity=None, denials=None) -> None:
        """Say who knows answers without an upstream: of class CHAOS, and of what does not exist."""
        self.identity = identity
        self.denials = denials

    def notice_loops(self, loops, /) -> None:
        """Say who tells, by the client's address, whether a query is a loop that waits so many times by itself."""
        self.loops = loops

    def set_way(self, uint16_t number, *, uint16_t group=0, bint function=False) -> None:
        """Say whom queries ask for which rules chose this way: a group of upstreams, or a function of Python's."""
        self.routes[number] = FUNCTION if function else group

    def set_bounds(self, uint16_t number, uint32_t shortest, uint32_t longest) -> None:
        """Say between how many seconds TTLs are for which rules chose these bounds."""
        self.ttl_limits[number] = TtlBounds(shortest, longest)

    # ------------------------------------------------------------ misses come in

    cdef int admit(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1:
        """Let a query in: to its answer if that is known by now, to others who ask the same, or to the queue."""
        cdef:
            Query query
            const Answer* stored
            Freshness freshness = DEAD
            uint8_t[NAME_MAX] room
            uint16_t zone
            Verdict verdict = parse_ignoring(&query, wire, length, &self.settings_writer.settings.ignored)
        query.added = client.added
        if verdict != CACHEABLE or client.rule_state.skip_cache:
            if verdict > UNCACHEABLE or client.fd == NOBODY:
                return 0
            if (query.flags & OPCODE) == NOTIFY or client.fd == STREAM and is_transfer(&query):
                return self._set_aside(client, wire, length)
            zone = <uint16_t> self.cache.zones.find(lower_name(&query, room), query.qtype)
            return self._open_query(client, &query, zone, False, now)
        if client.rule_state.route or client.rule_state.ttl_limits:
            set_rule_choices(&query, client.rule_state.route, client.rule_state.ttl_limits)
        hash_key(&query, &self.cache.index.secret)
        stored = find(&self.cache.index, &query)
        if stored != NULL and query.subnet and stored.kind == FAILURE and self._is_dead(stored, now):
            self.cache.drop(&query)  # an answer for more clients may stand behind it
            stored = find(&self.cache.index, &query)
        if stored != NULL:
            freshness = judge(stored, &self.cache.index.policies[stored.zone], ticks(now))
            if client.fd != NOBODY and freshness < STALE_IF_ERROR:
                mark_used(stored)
                return self._answer_now(client, &query, stored, now)
            if client.fd == NOBODY and freshness < STALE and load_relaxed32(&stored.marks.retry) <= ticks(now):
                return 0  # it was refreshed meanwhile
        zone = <uint16_t> self.cache.zones.find(query.key + KEY_PREFIX, query.qtype)
        if client.rule_state.route:
            return self._open_query(client, &query, zone, freshness == STALE_IF_ERROR, now)
        if query.qclass == CHAOS or self.cache.index.policies[zone].cut or self.cache.index.policies[zone].trust_nsec:
            response = self._known(&query, zone, now)
            if response is not None:
                return self._answer_from(client, &query, zone, response, now)
        return self._open_query(client, &query, zone, freshness == STALE_IF_ERROR, now)

    cdef object _known(self, const Query* query, uint16_t zone, uint64_t now):
        """Return the response of those who know without an upstream, or None."""
        cdef:
            const Policy* policy = &self.cache.index.policies[zone]
            bytes response = None
        try:
            if query.qclass == CHAOS and self.identity is not None:
                response = self.identity(query.wire[:query.length])
            elif self.denials is not None and (policy.cut or policy.trust_nsec):
                response = self.denials.response_to(query.wire[:query.length], self.cache.zones.name(zone),
                                                    cut=policy.cut, nsec=policy.trust_nsec, now=now / 1e9)
        except Exception as error:  # whoever knows wrong must not stop those who ask
            log.error("internal error, no local answer: %r", error)
        if response is None or not answers_question(query, response, len(response)):
            return None
        return response

    cdef int _answer_from(self, const Client* client, Query* query, uint16_t zone, bytes response,
                          uint64_t now) except -1:
        """Answer from a response that no upstream gave, and store it like any other."""
        cdef:
            Answer* answer = self.cache.scratch
            Built built
        built = build(answer, query, response, len(response), &self.cache.index.policies[zone].ttl_limits, now,
                      self.cache.clock.wall(), True)
        answer.zone = zone
        answer.marks.purges = <uint32_t> self.cache.purges.rules.count
        self.local_answers += 1
        self._answer_now(client, query, answer, now)
        if built == KEEP:
            self.cache.put_for(query, answer, ticks(now))
        return 0

    cdef int _open_query(self, const Client* client, const Query* query, uint16_t zone, bint has_stale,
                         uint64_t now) except -1:
        """Let a query wait: behind the first who asked the same, or as the first. `has_stale`: there is a stale answer.

        What the cache is not asked for waits alone: nobody else gets its answer, and nothing of it stays.
        """
        cdef:
            const Policy* policy = &self.cache.index.policies[zone]
            bint alone = not is_cached(client, query)
            uint16_t group = self.routes[client.rule_state.route] if client.rule_state.route else policy.group
            const Secret* secret = &self.cache.index.secret
            uint64_t hashed = siphash(secret, query.wire + 2, query.length - 2) if alone else query.hash
            int32_t first = -1 if alone else self.queries.find(query)
            uint16_t asked_id = message_id(query.wire)
            int32_t* repeat = self.queries.repeat_of(asked_id, hashed)
            int32_t i
            uint32_t waiting
            PendingQuery* entry
        if first >= 0 and (client.fd == NOBODY or has_stale and self.pool[first].answered_stale):
            return self._turn_away(client, query, now)
        if client.fd >= 0 and (first >= 0 or alone):
            if (self.queries.is_repeat(repeat[0], client, asked_id, hashed)
                    or first >= 0 and self.queries.is_repeat(first, client, asked_id, hashed)):
                self.dropped_duplicates += 1
                return 0
        if alone and self.loops is not None:
            waiting = self.queries.equal_to(client, hashed)[0]
            if waiting and self.loops(client.ip[:client.octets], waiting):
                self.outstanding_limit_exceeded += 1
                return self._post_refused(client, query)
        if not self.queries.waiting:
            self.wheel.begin(now)
        i = self._take_place(client, query, zone, group, first < 0)
        if i < 0 or not self._put_query(i, query, alone):
            if i >= 0:
                self.outstanding_limit_exceeded += 1
                self.queries.give_back(i)
            return self._turn_away(client, query, now)
        entry = &self.pool[i]
        if first >= 0 or alone:  # whoever asks first is found without
            repeat[0] = i
        entry.asked_id = asked_id
        entry.limit = self._limit(client, query)
        entry.hash = hashed
        if first >= 0:
            self.coalesced_queries += 1
            self.queries.follow(i, first)
            if has_stale:
                self.pool[first].stale_at = min(self.pool[first].stale_at, now + policy.client_timer)
                self._wait(first, self.pool[first].try_until)
            return 0
        entry.zone = zone
        entry.group = group
        entry.alone = alone
        if alone:
            self.queries.equal_to(client, hashed)[0] += 1
        entry.by_function = group == FUNCTION
        entry.purges = <uint32_t> self.cache.purges.rules.count
        entry.deadline = entry.try_until = now + (self.update_timeout if entry.once else self.deadline)
        entry.stale_at = now + policy.client_timer if has_stale else NEVER
        entry.over_stream = entry.length > QUERY_MAX or entry.once and client.fd == STREAM  # where nothing is lost
        if not alone:
            self.queries.index_add(i)
        self._queue(i)
        return 0

    cdef int32_t _take_place(self, const Client* client, const Query* query, uint16_t zone, uint16_t group,
                             bint asks) noexcept nogil:
        """Return a place in the pool, or -1 where there is none, or none for this client or zone any more.

        A client prefix has its share of all places, of those of the zone, and of what the zone's upstreams may be
        asked, if it `asks` and does not wait for another's answer; the zone has one of the places and its upstreams.
        """
        cdef:
            uint8_t[NAME_MAX] room
            uint32_t[SHARES] shares
            uint32_t quota = self.queries.crowd_of(lower_name(query, room), zone)
            uint32_t waiting = self.queries.crowds[quota]
            uint32_t most = self.cache.index.policies[zone].open
            uint32_t left = self.queries.capacity - self.queries.waiting
            uint32_t upstreams = 0xffffffff
            const uint32_t* held = self.queries.shares
        if waiting >= most:
            self.zone_limit_exceeded += 1
            return -1
        if not left:
            self.outstanding_limit_exceeded += 1
            return -1
        if asks and group != FUNCTION:  # what is queued is going to be asked
            upstreams = max(self.upstreams.room(group), self.queued_count) - self.queued_count
        if not upstreams:
            self.upstreams_saturated += 1
            return -1
        self.queries.find_shares(shares, client, quota, group)
        if not (may_take(waiting, min(left, upstreams)) and may_take(held[shares[EVERYTHING]], left)
                and may_take(held[shares[OF_ZONE]], most - waiting) and may_take(held[shares[OF_GROUP]], upstreams)):
            self.fair_share_exceeded += 1
            return -1
        if (client.fd >= 0 and not client.proven
                and self.queries.forgeable[shares[EVERYTHING]] >= self.most_forgeable):
            self.fair_share_exceeded += 1
            return -1
        return self.queries.take(client, quota, shares)

    cdef bint _put_query(self, int32_t i, const Query* query, bint alone) noexcept nogil:
        """Write a query as it goes upstream; False: it is too long.

        What only the upstream can answer goes as it came, but for its ID and, where it is not signed, options that are
        hop by hop and the UDP payload size, which is no larger than ours (RFC 9715).
        """
        cdef:
            PendingQuery* entry = &self.pool[i]
            const uint8_t* cookie = cookie_of(query)
            uint16_t payload = self._payload()
        entry.with_cookie = cookie != NULL
        if entry.with_cookie:
            memcpy(entry.cookie, cookie, CLIENT_COOKIE)
        entry.keepalive = query.keepalive and entry.client.fd == STREAM
        if query.key_length:
            entry.length = <uint16_t> forwardable(entry.wire, WIRE_MAX, query, payload)
            if entry.length:
                return True
        entry.verbatim = alone
        entry.once = (query.flags & OPCODE) != 0 or query.qtype == TKEY
        if not alone or not self.queries.copy(i, query.wire, query.length):
            return False
        if is_unsigned(query):
            set_payload(entry.wire, query, payload)
            entry.length = <uint16_t> end_options(entry.wire, query, &self.settings_writer.settings.ignored)
        return True

    cdef int _turn_all_away(self, int32_t i, uint64_t now) except -1:
        """End an open query that no upstream has time for: all who wait get what is stale, or REFUSED, or nothing."""
        cdef:
            const Answer* stored = self._reserve(i, now)
            int32_t waits = i
        if stored != NULL:
            self._answer_all(i, stored, now)
            return self._close(i)
        while waits >= 0:
            self._refuse(waits)
            waits = self.pool[waits].next
        return self._close(i)

    cdef void _queue(self, int32_t i) noexcept nogil:
        """Have an open query sent, for the first time."""
        self.pool[i].stage = QUEUED
        self.queued[self.queued_count] = i
        self.queued_count += 1
        self._wait(i, self.pool[i].deadline)

    # ------------------------------------------------------------ what came back

    cdef void _build(self, int32_t i, Query* query, Response* response, uint64_t now) noexcept nogil:
        """Make the answer of a response, into the cache's scratch."""
        cdef:
            Answer* answer = self.cache.scratch
            TtlLimits ttl_limits = self.cache.index.policies[self.pool[i].zone].ttl_limits
            const TtlBounds* asked = &self.ttl_limits[self.pool[i].client.rule_state.ttl_limits]
            const TtlBounds* answered = &self.ttl_limits[self.pool[i].ttl_limits]
        narrow(&ttl_limits, asked)
        narrow(&ttl_limits, answered)
        if self.pool[i].verbatim:
            response.built = build_verbatim(answer, query, response.wire, response.length, now)
        else:
            response.built = build(answer, query, response.wire, response.length, &ttl_limits, now,
                                   self.cache.clock.wall(), response.over_stream and not self.pool[i].from_udp)
        if response.built == KEEP and (self.pool[i].alone or self.pool[i].doubted):
            response.built = PASS
        if asked.longest or answered.longest:
            bound_ttls(answer, max(asked.shortest, answered.shortest), ttl_limits.longest)
        answer.zone = self.pool[i].zone
        answer.marks.purges = self.pool[i].purges

    cdef int _resolve(self, int32_t i, int32_t upstream, const Query* query, const Response* response,
                      uint64_t now) except -1:
        """Let a response that answers the question end an open query; store it if that is allowed."""
        cdef:
            Answer* answer = self.cache.scratch
            PendingQuery* entry = &self.pool[i]
            const Answer* stored
            uint16_t rcode = (<uint16_t> answer.rcode_high << 4) | (answer.flags & RCODE)
            bint unwanted = answer.kind == FAILURE and self.try_next >> rcode & 1
        if self._is_in_part(i, response):
            if entry.truncated_fallback:  # a second one says nothing new
                return 0
            self.upstream_truncated += 1
            self._keep_fallback(i, response, CUT)
            entry.over_stream = True
            return self._fetch(i, upstream, now)
        if response.over_stream and entry.truncated_fallback == CUT and response.length <= query.payload:
            self.upstreams.all[upstream].limits_until = now + LIMITED
        stored = self._reserve(i, now) if fails_to_refresh(response.built, rcode) else NULL
        if (unwanted or stored != NULL) and not entry.by_function:
            if entry.attempt >= 0 or entry.stage == FAILED:  # another upstream has been asked, or will be
                return 0
            if self._may_try(i) and self.upstreams.has_other(entry.group, &entry.tried):
                self._try_elsewhere(i)
                return 0
        if stored != NULL:
            return self._serve_stale(i, stored, now)
        if upstream >= 0 and (rcode == SERVFAIL or rcode == REFUSED):
            self.upstreams.all[upstream].client_visible_failures[trouble_said(rcode)] += 1
        self._answer_all(i, answer, now)  # first: a purge that came meanwhile is not for those who waited
        if response.built == KEEP:
            self._learn(i, query, response, now)
            self.cache.put_for(query, answer, ticks(now))
        elif (response.built == PASS and not entry.alone and answer.form == SECTIONS
                and (rcode == NOERROR or rcode == NXDOMAIN)):
            self.cache.drop(query)  # what was before is true no more
        self._close(i)
        return 0

    cdef int _learn(self, int32_t i, const Query* query, const Response* response, uint64_t now) except -1:
        """Tell those who deny what does not exist, unless a purge came between."""
        cdef:
            const Policy* policy = &self.cache.index.policies[self.pool[i].zone]
            bint wanted = self.denials is not None and (policy.cut or policy.trust_nsec)
        wanted = wanted and self.pool[i].purges == <uint32_t> self.cache.purges.rules.count
        if wanted and self.cache.scratch.kind == NEGATIVE:
            self.denials.learn(
                query.wire[:query.length], response.wire[:response.length], self.cache.zones.name(self.pool[i].zone),
                cut=policy.cut, nsec=policy.trust_nsec, now=now / 1e9, wall=self.cache.clock.wall() / 1e9,
                longest=policy.ttl_limits.negative,
            )
        return 0

    cdef int _fail(self, int32_t i, uint64_t now) except -1:
        """Serve what there is to everybody who waits; else tell them that no upstream answered, and remember it."""
        cdef:
            Query query
            Answer* answer = self.cache.scratch
            const Answer* stored
        stored = self._reserve(i, now)
        if stored != NULL:
            return self._serve_stale(i, stored, now)
        if self.pool[i].truncated_fallback == DOUBTED:
            return self._serve_doubted(i, now)
        if self.pool[i].truncated_fallback:
            self._serve_fallback(i, now)
        self._ask_as(i, &query)
        build_failure(answer, &query, NETWORK_ERROR if self.pool[i].unreachable else NO_REACHABLE_AUTHORITY,
                      &self.cache.index.policies[self.pool[i].zone].ttl_limits, now)
        answer.zone = self.pool[i].zone
        answer.marks.purges = self.pool[i].purges
        if not self.pool[i].truncated_fallback:
            self.resolution_failures += 1
            self._note_client_visible_failure(i)
        self._answer_all(i, answer, now)
        if not (self.pool[i].truncated_fallback or self.pool[i].aside or self.pool[i].alone):
            self.cache.put(answer, ticks(now))
        return self._close(i)

    cdef void _note_client_visible_failure(self, int32_t i) noexcept nogil:
        """Note for the upstream that was asked last that clients got SERVFAIL."""
        cdef const PendingQuery* it = &self.pool[i]
        cdef Upstream* last = &self.upstreams.all[it.tried.upstreams[it.tried.count - 1] if it.tried.count else 0]
        self.no_upstream_available += not it.tried.count
        last.client_visible_failures[last.trouble if it.unreachable else <uint8_t> SILENCE] += it.tried.count > 0

    cdef bint _has_stream(self, int32_t i) noexcept nogil:
        """Tell whether somebody waits who came over TCP, and takes an answer of any length."""
        while i >= 0 and self.pool[i].client.fd != STREAM:
            i = self.pool[i].next
        return i >= 0

    cdef bint _is_in_part(self, int32_t i, const Response* response) noexcept nogil:
        """Tell whether a response is truncated, and the whole is to be had over TCP."""
        if response.built != IS_TRUNCATED or response.over_stream or self.pool[i].once:
            return False
        return self.retry_truncated or self._has_stream(i)

    cdef int _keep_fallback(self, int32_t i, const Response* response, uint8_t kind) except -1:
        """Keep a response in case nothing better comes, while there is room for it."""
        if self.fallback_octets + response.length <= FALLBACKS_MAX:
            self.fallbacks[i] = response.wire[:response.length]
            self.fallback_octets += response.length
            self.pool[i].truncated_fallback = kind
        return 0

    cdef bytes _take_fallback(self, int32_t i):
        """Return what was kept for a query, and keep it no longer."""
        cdef bytes fallback = self.fallbacks.pop(i)
        self.fallback_octets -= <size_t> len(fallback)
        self.pool[i].truncated_fallback = False
        return fallback

    cdef int _serve_doubted(self, int32_t i, uint64_t now) except -1:
        """Give what may be forged to those who wait, for TCP cannot be had; nobody else ever gets it."""
        cdef:
            Query query
            Response doubted
            bytes fallback = self.fallbacks.pop(i)
        self.pool[i].truncated_fallback, self.pool[i].doubted = NO_SPARE, True
        self.pool[i].deadline = max(self.pool[i].deadline, now + self.patience)  # for a rule in Python
        while self.pool[i].attempt >= 0:
            self._end_attempt(self.pool[i].attempt)
        self.queries.read(i, &query)
        doubted.wire, doubted.length, doubted.over_stream = fallback, len(fallback), True
        self._build(i, &query, &doubted, now)
        return self.consider(i, -1, &query, &doubted, now)

    cdef int consider(self, int32_t i, int32_t upstream, const Query* query, Response* response,
                      uint64_t now) except -1:
        """Let a response end an open query."""
        return self._resolve(i, upstream, query, response, now)

    cdef int _serve_fallback(self, int32_t i, uint64_t now) except -1:
        """Give what came truncated to those who may have that: over UDP. The others still wait."""
        cdef:
            Query query
            Response fallback
            bytes truncated = self.fallbacks[i]
            int32_t waits = i
        self.queries.read(i, &query)
        fallback.wire, fallback.length, fallback.over_stream = truncated, len(truncated), False
        self._build(i, &query, &fallback, now)
        while waits >= 0:
            if self.pool[waits].client.fd >= 0:
                self._answer_one(waits, self.cache.scratch, now)
                self.pool[waits].client.fd = NOBODY
            waits = self.pool[waits].next
        return 0

    # ------------------------------------------------------------ stale answers (RFC 8767)

    cdef const Answer* _reserve(self, int32_t i, uint64_t now) noexcept nogil:
        """Return the answer that may serve in place of a better one, or NULL."""
        cdef:
            Query query
            const Answer* stored
        if self.pool[i].alone:
            return NULL
        self.queries.read(i, &query)
        stored = find(&self.cache.index, &query)
        if stored == NULL or stored.kind == FAILURE or self._is_dead(stored, now):
            return NULL
        return stored

    cdef int _serve_stale(self, int32_t i, const Answer* stored, uint64_t now) except -1:
        """End a query whose refresh failed; the answer serves on, and is not asked for again for a while."""
        self.stale_on_refresh_failure += 1
        mark_failed(stored, ticks(now) + self.cache.index.policies[stored.zone].recheck)
        self._answer_all(i, stored, now)
        self._close(i)
        return 0

    cdef int _serve_meanwhile(self, int32_t i, uint64_t now) except -1:
        """Answer those who have waited long enough with what is stale; the query goes on without them."""
        cdef const Answer* stored = self._reserve(i, now)
        self.pool[i].stale_at = NEVER
        if stored == NULL:
            return 0
        self._answer_all(i, stored, now)
        self._release_followers(i)
        self.pool[i].client.fd = NOBODY
        self.pool[i].answered_stale = True
        return 0

    cdef void _release_followers(self, int32_t i) noexcept nogil:
        cdef:
            int32_t follower = self.pool[i].next
            int32_t following
        self.pool[i].next = -1
        while follower >= 0:
            following = self.pool[follower].next
            self.queries.give_back(follower)
            follower = following

    cdef int _close(self, int32_t i) except -1:
        """Put an open query, and all who waited for it, back into the pool."""
        self.queries.index_remove(i)
        self.wheel.unschedule(i)
        if self.pool[i].truncated_fallback:
            self._take_fallback(i)
        while self.pool[i].attempt >= 0:
            self._end_attempt(self.pool[i].attempt)
        self._release_followers(i)
        self.queries.give_back(i)
        return 0

    # ------------------------------------------------------------ asking

    cdef int _go_without(self, int32_t i, int32_t why, uint64_t now) except -1:
        """Let a query that can be sent nowhere wait for who was asked before; where nobody was, it ends."""
        if self.pool[i].attempt >= 0:
            self.pool[i].stage = SENT
            self.pool[i].try_until = NEVER
            return 0
        if why == ALL_BUSY and not self.pool[i].tried.count:
            return self._turn_all_away(i, now)
        return self._fail(i, now)

    cdef int _hand_over(self, int32_t i, int32_t upstream, uint64_t now) except -1:
        """Let Python carry a query to an upstream that was chosen, over TCP or TLS."""
        cdef:
            PendingQuery* entry = &self.pool[i]
            Upstream* to = &self.upstreams.all[upstream]
            int32_t attempt = self.sockets.begin(i, entry.attempt, upstream, -1, 0, now)
            uint8_t[PROXIED_MAX] header
            uint8_t[WIRE_MAX] wire
            const uint8_t* out = entry.wire
            size_t octets = 0
        if attempt < 0:
            to.open -= 1
            return self._go_without(i, NOBODY_UP, now)
        to.sent += 1
        self._sent(i, upstream, attempt, now)
        if to.proxied:
            octets = put_client(header, &entry.client)
        if to.random_case and not entry.verbatim:  # so that it can be learnt whether it spells names as they are asked
            memcpy(wire, entry.wire, entry.length)
            respell(wire, self.sockets.spell(attempt))
            out = wire
        self.carried.append((self.queries.handle(i, self.sockets.attempts[attempt].id), upstream,
                             out[:entry.length], (entry.deadline - min(now, entry.deadline)) / 1e9,
                             header[:octets], entry.once))
        return 0

    cdef int _fetch(self, int32_t i, int32_t upstream, uint64_t now) except -1:
        """Ask an upstream again over TCP, if it is not asked so already: it has answered, but that cannot be used."""
        cdef int32_t attempt = self.pool[i].attempt
        while attempt >= 0:
            if self.sockets.attempts[attempt].socket < 0 and self.sockets.attempts[attempt].upstream == upstream:
                return 0
            attempt = self.sockets.attempts[attempt].before
        self.upstreams.all[upstream].open += 1
        self.pool[i].aside = True
        return self._hand_over(i, upstream, now)

    # ------------------------------------------------------------ time

    cdef int _expired(self, int32_t i, uint64_t now) except -1:
        """Do what a query's time has come for."""
        cdef PendingQuery* entry = &self.pool[i]
        if now >= entry.stale_at:
            self._serve_meanwhile(i, now)
        if now >= entry.deadline:
            self._blame(i, now)
            return self._fail(i, now)
        if entry.hedging and entry.stage == SENT and now >= entry.try_until and not self._may_hedge(i):
            entry.try_until = self.sockets.attempts[entry.attempt].sent + self._usual(entry.attempt)
        elif entry.stage == SENT and now >= entry.try_until:
            self._blame(i, now)
            if self._may_try(i):
                self._try_elsewhere(i)
                return 0
            if entry.attempt < 0:
                return self._fail(i, now)
        self._wait(i, entry.try_until)
        return 0

    cdef void _try_elsewhere(self, int32_t i) noexcept nogil:
        """Have a query sent again, to another upstream."""
        self._wait(i, self.pool[i].deadline)
        if self.failed_count == self.queries.capacity:  # of places that were left and taken again
            return
        self.pool[i].stage = FAILED
        self.failed[self.failed_count] = i
        self.failed_count += 1

    # ------------------------------------------------------------ for Python

    cdef int _set_aside(self, const Client* client, const uint8_t* wire, size_t length) except -1:
        """Let Python see to a query with more than one response: a transfer, or one for all upstreams."""
        self.specials.append(((<char*> client)[:sizeof(Client)], wire[:length], 0 if client.fd >= 0 else client.stream,
                              client.rule_state.route))
        return 0
