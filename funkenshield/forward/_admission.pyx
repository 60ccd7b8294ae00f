"""How a miss comes in: to its answer, behind the first who asked the same, or into the queue.

    admit -> answered after all | answered locally | behind the first who asked the same | queued | rejected

It knows who may wait, and how many. What they wait for, and what ends it, is `_resolution`'s.
"""

import logging

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ..cache._entry cimport FAILURE, KEEP, Answer, BuildResult, answers_question, build, build_verbatim
from ..cache._freshness cimport DEAD, STALE, STALE_IF_ERROR, Freshness, freshness_of, mark_used
from ..cache._index cimport find
from ..cache._zone_settings cimport ZoneSettings
from ..core._atomic cimport load_relaxed32
from ..core._clock cimport ticks
from ..core._fair_shares cimport may_take
from ..core._siphash cimport siphash
from ..policy._rule_state cimport KIND_HIT, KIND_LOCAL, KIND_REFUSED, KIND_SYNTHESISED
from ..wire._edns_cookies cimport CLIENT_COOKIE
from ..wire._message cimport (
    CACHEABLE, CHAOS, HEADER_FLAGS, KEY_PREFIX, NAME_MAX, NOTIFY, OPCODE, QUERY_MAX, TKEY, UNCACHEABLE, Query, Verdict,
    cookie_of, end_options, forwardable, hash_key, is_transfer, is_unsigned, lower_name, message_id, name_size,
    parse_ignoring, set_payload, set_rule_choices
)
from ._attempts cimport NEVER, Attempts
from ._client_replies cimport ClientReplies, is_cached
from ._outbox cimport NOBODY, STREAM, Client
from ._pending cimport EVERYTHING, FUNCTION, OF_GROUP, OF_ZONE, SHARES, WIRE_MAX, PendingQuery

log = logging.getLogger(__name__)

cdef enum:
    RESOLVER_SIZE = 15
cdef const uint8_t* RESOLVER = b"\x08resolver\x04arpa\x00"


cdef bint _is_of_resolver(const uint8_t* name) noexcept nogil:
    """Tell whether a name in lower case is in the domain `resolver.arpa`."""
    cdef size_t left = name_size(name)
    while left > RESOLVER_SIZE:
        left -= 1 + <size_t> name[0]
        name += 1 + <size_t> name[0]
    return left == RESOLVER_SIZE and memcmp(name, RESOLVER, RESOLVER_SIZE) == 0


cdef class Admission:
    """The way into the pool of pending queries."""

    def __cinit__(self, ClientReplies replies not None, Attempts attempts not None) -> None:
        self.replies, self.attempts = replies, attempts
        self.cache, self.queries, self.pool = replies.cache, replies.queries, replies.queries.pool
        self.notifies_and_transfers = []

    cdef int admit(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1:
        """Let a query in: to its answer if that is known by now, to others who ask the same, or to the queue."""
        cdef:
            Query query
            const Answer* stored
            Freshness freshness = DEAD
            uint16_t zone
            Verdict verdict = parse_ignoring(&query, wire, length, &self.replies.settings_writer.settings.ignored)
        query.added = client.added
        if verdict != CACHEABLE or client.rule_state.skip_cache:
            if verdict > UNCACHEABLE or client.fd == NOBODY:
                return 0
            if client.request and is_transfer(&query):  # one response is all that a request gets
                return self.replies.refuse(client, &query, KIND_REFUSED)
            if (query.flags & OPCODE) == NOTIFY or client.fd == STREAM and is_transfer(&query):
                self.notifies_and_transfers.append((
                    (<char*> client)[:sizeof(Client)], wire[:length], 0 if client.fd >= 0 else client.stream,
                    client.rule_state.route,
                ))
                return 0
            return self.admit_uncached(client, &query, now)
        if client.rule_state.route or client.rule_state.ttl_limits:
            set_rule_choices(&query, client.rule_state.route, client.rule_state.ttl_limits)
        hash_key(&query, &self.cache.index.secret)
        stored = find(&self.cache.index, &query)
        if stored != NULL and query.subnet and stored.kind == FAILURE and self.replies.is_dead(stored, now):
            self.cache.drop(&query)  # an answer for more clients may stand behind it
            stored = find(&self.cache.index, &query)
        if stored != NULL:
            freshness = freshness_of(stored, &self.cache.index.zone_settings[stored.zone], ticks(now))
            if client.fd != NOBODY and freshness < STALE_IF_ERROR:
                mark_used(stored)
                return self.replies.answer_now(client, &query, stored, KIND_HIT, now)
            if client.fd == NOBODY and freshness < STALE and load_relaxed32(&stored.marks.refresh_after) <= ticks(now):
                return 0  # it was refreshed meanwhile
        zone = <uint16_t> self.cache.zones.find(query.key + KEY_PREFIX, query.qtype)
        response = self._tell_of_resolver(&query, query.key + KEY_PREFIX)
        if response is not None:  # not stored: a reload may change it
            return self._answer_locally(client, &query, zone, response, now, False)
        response = None if client.rule_state.route else self._local_response(&query, zone, now)
        if response is not None:
            return self._answer_locally(client, &query, zone, response, now, True)
        return self._add_pending(client, &query, zone, freshness == STALE_IF_ERROR, now)

    cdef int admit_uncached(self, const Client* client, const Query* query, uint64_t now) except -1:
        """Let a query in that the cache is not asked for."""
        cdef:
            uint8_t[NAME_MAX] room
            const uint8_t* name = lower_name(query, room)
            uint16_t zone = <uint16_t> self.cache.zones.find(name, query.qtype)
            bytes response = self._tell_of_resolver(query, name)
        if response is None:
            return self._add_pending(client, query, zone, False, now)
        build_verbatim(self.cache.scratch, query, response, len(response), now)
        self.cache.scratch.zone = zone
        self.local_answers += 1
        return self.replies.answer_now(client, query, self.cache.scratch, KIND_LOCAL, now)

    # ------------------------------------------------------------ without an upstream

    cdef object _local_response(self, const Query* query, uint16_t zone, uint64_t now):
        """Return the response of those who know without an upstream, or None."""
        cdef:
            const ZoneSettings* settings = &self.cache.index.zone_settings[zone]
            bytes response = None
        if query.qclass != CHAOS and not settings.nxdomain_cut and not settings.trust_nsec:
            return None
        try:
            if query.qclass == CHAOS and self.chaos is not None:
                response = self.chaos(query.wire[:query.length])
            elif self.nsec_cache is not None and (settings.nxdomain_cut or settings.trust_nsec):
                response = self.nsec_cache.response_to(query.wire[:query.length], self.cache.zones.name(zone),
                                                       nxdomain_cut=settings.nxdomain_cut, nsec=settings.trust_nsec,
                                                       now=now / 1e9)
        except Exception as error:  # whoever knows wrong must not stop those who ask
            log.error("internal error, no local answer: %r", error)
        if response is None or not answers_question(query, response, len(response)):
            return None
        return response

    cdef object _tell_of_resolver(self, const Query* query, const uint8_t* name):
        """Return the response to a question in the domain where a resolver tells of itself (RFC 9462 6.4), or None."""
        if self.discovery is None or not _is_of_resolver(name):
            return None
        try:
            response = self.discovery(query.wire[:query.length])
        except Exception as error:
            log.error("internal error, no local answer: %r", error)
            return None
        return response if response is not None and answers_question(query, response, len(response)) else None

    cdef int _answer_locally(self, const Client* client, Query* query, uint16_t zone, bytes response,
                             uint64_t now, bint stores) except -1:
        """Answer from a response that no upstream gave, and maybe store it like any other."""
        cdef:
            Answer* answer = self.cache.scratch
            BuildResult built
        built = build(answer, query, response, len(response), &self.cache.index.zone_settings[zone].ttl_limits, now,
                      self.cache.clock.wall(), True)
        answer.zone = zone
        answer.marks.purges = <uint32_t> self.cache.purges.rules.count
        self.local_answers += 1
        self.replies.answer_now(client, query, answer,
                                KIND_LOCAL if query.qclass == CHAOS or not stores else KIND_SYNTHESISED, now)
        if stores and built == KEEP:
            self.cache.put_for(query, answer, ticks(now))
        return 0

    # ------------------------------------------------------------ who waits

    cdef int _add_pending(self, const Client* client, const Query* query, uint16_t zone, bint has_stale,
                          uint64_t now) except -1:
        """Let a query wait: behind the first who asked the same, or as the first. `has_stale`: there is a stale answer.

        What the cache is not asked for waits alone: nobody else gets its answer, and nothing of it stays.
        """
        cdef:
            const ZoneSettings* settings = &self.cache.index.zone_settings[zone]
            bint uncached = not is_cached(client, query)
            uint16_t group = self.queries.routes[client.rule_state.route] if client.rule_state.route else settings.group
            uint64_t hashed = query.hash
            int32_t first = -1 if uncached else self.queries.find(query)
            int32_t i
            PendingQuery* pending
        if uncached:
            # Without the ID.
            hashed = siphash(&self.cache.index.secret, query.wire + HEADER_FLAGS, query.length - HEADER_FLAGS)
        if first >= 0 and (client.fd == NOBODY or has_stale and self.pool[first].answered_stale):
            return self.replies.reject(client, query, now)
        if client.fd >= 0 and (first >= 0 or uncached) and self._is_repeat(client, query, first, hashed):
            self.dropped_duplicates += 1
            return 0
        if uncached and self._is_loop(client, hashed):
            self.outstanding_limit_exceeded += 1
            return self.replies.refuse(client, query)
        if not self.queries.waiting:
            self.attempts.wheel.begin(now)
        i = self._take_place(client, query, zone, group, first < 0)
        if i < 0 or not self._put_query(i, query, uncached):
            if i >= 0:
                self.outstanding_limit_exceeded += 1
                self.queries.give_back(i)
            return self.replies.reject(client, query, now)
        pending = &self.pool[i]
        pending.asked_id = message_id(query.wire)
        pending.limit = self.replies.limit(client, query)
        pending.hash = hashed
        if first >= 0 or uncached:  # whoever asks first is found without
            self.queries.repeat_of(pending.asked_id, hashed)[0] = i
        if first >= 0:
            self.coalesced_queries += 1
            self.queries.coalesce(i, first)
            if has_stale:
                self.pool[first].stale_at = min(self.pool[first].stale_at, now + settings.client_timer)
                self.attempts.schedule(first, self.pool[first].try_until)
            return 0
        pending.zone = zone
        pending.group = group
        pending.by_function = group == FUNCTION
        pending.purges = <uint32_t> self.cache.purges.rules.count
        pending.deadline = now + (self.attempts.update_timeout if pending.send_once else self.attempts.deadline)
        pending.try_until = pending.deadline
        pending.stale_at = now + settings.client_timer if has_stale else NEVER
        pending.over_stream = pending.length > QUERY_MAX or pending.send_once and client.fd == STREAM  # none is lost
        pending.uncached = uncached
        if uncached:
            self.queries.equal_to(client, hashed)[0] += 1
        else:
            self.queries.index_add(i)
        self.attempts.queue(i)
        return 0

    cdef bint _is_repeat(self, const Client* client, const Query* query, int32_t first, uint64_t hashed) noexcept nogil:
        """Tell whether the very same datagram has come before, and its client waits: first, behind the first, alone."""
        cdef:
            uint16_t asked_id = message_id(query.wire)
            int32_t repeat = self.queries.repeat_of(asked_id, hashed)[0]
        return (self.queries.is_repeat(repeat, client, asked_id, hashed)
                or first >= 0 and self.queries.is_repeat(first, client, asked_id, hashed))

    cdef bint _is_loop(self, const Client* client, uint64_t hashed) except -1:
        """Tell whether an uncached query comes back from where it was forwarded to."""
        cdef uint32_t waiting = self.queries.equal_to(client, hashed)[0]
        return waiting and self.loops is not None and self.loops(client.ip[:client.octets], waiting)

    cdef int32_t _take_place(self, const Client* client, const Query* query, uint16_t zone, uint16_t group,
                             bint asks) noexcept nogil:
        """Return a place in the pool, or -1 where there is an `objection`, which is counted."""
        cdef:
            uint32_t[SHARES] shares
            uint32_t quota
            uint64_t* against = self.objection(client, query, zone, group, asks, &quota, shares)
        if against != NULL:
            against[0] += 1
            return -1
        return self.queries.take(client, quota, shares)

    cdef uint64_t* objection(self, const Client* client, const Query* query, uint16_t zone, uint16_t group, bint asks,
                             uint32_t* quota, uint32_t* shares) noexcept nogil:
        """Return the counter of why a query must not wait, or NULL: it may, and `quota` and `shares` are its own.

        A client prefix has its share of all places, of those of the zone, and of what the zone's upstreams may be
        asked, if it `asks` and does not wait for another's answer; the zone has one of the places and its upstreams.
        """
        cdef:
            uint8_t[NAME_MAX] room
            uint32_t waiting
            uint32_t most = self.cache.index.zone_settings[zone].max_outstanding
            uint32_t left = self.queries.capacity - self.queries.waiting
            uint32_t upstreams = 0xffffffff
            const uint32_t* held = self.queries.shares
        quota[0] = self.queries.quota_of(lower_name(query, room), zone)
        waiting = self.queries.quotas[quota[0]]
        if waiting >= most:
            return &self.zone_limit_exceeded
        if not left:
            return &self.outstanding_limit_exceeded
        if asks and group != FUNCTION:  # what is queued is going to be asked
            upstreams = max(self.attempts.upstreams.room(group), self.attempts.queued_count)
            upstreams -= self.attempts.queued_count
        if not upstreams:
            return &self.upstreams_saturated
        self.queries.find_shares(shares, client, quota[0], group)
        if not (may_take(waiting, min(left, upstreams)) and may_take(held[shares[EVERYTHING]], left)
                and may_take(held[shares[OF_ZONE]], most - waiting) and may_take(held[shares[OF_GROUP]], upstreams)):
            return &self.fair_share_exceeded
        if (client.fd >= 0 and not client.proven
                and self.queries.forgeable[shares[EVERYTHING]] >= self.most_forgeable):
            return &self.fair_share_exceeded
        return NULL

    cdef bint _put_query(self, int32_t i, const Query* query, bint uncached) noexcept nogil:
        """Write a query as it goes upstream; False: it is too long.

        What only the upstream can answer goes as it came, but for its ID and, where it is not signed, options that are
        hop by hop and the UDP payload size, which is no larger than ours (RFC 9715).
        """
        cdef:
            PendingQuery* pending = &self.pool[i]
            const uint8_t* cookie = cookie_of(query)
            uint16_t payload = self.replies.payload()
        pending.with_cookie = cookie != NULL
        if pending.with_cookie:
            memcpy(pending.cookie, cookie, CLIENT_COOKIE)
        pending.keepalive = query.keepalive and pending.client.fd == STREAM
        if query.key_length:
            pending.length = <uint16_t> forwardable(pending.wire, WIRE_MAX, query, payload)
            if pending.length:
                return True
        pending.verbatim = uncached
        pending.send_once = (query.flags & OPCODE) != 0 or query.qtype == TKEY
        if not uncached or not self.queries.copy(i, query.wire, query.length):
            return False
        if is_unsigned(query):
            set_payload(pending.wire, query, payload)
            pending.length = <uint16_t> end_options(pending.wire, query, &self.replies.settings_writer.settings.ignored)
        return True
