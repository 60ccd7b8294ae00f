"""How those who wait get their answers: each in his own size and spelling.

It knows clients, and how an answer is rendered for one. Who waits for what, and until when, is `_resolution`'s.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .._fastpath cimport SettingsWriter, add_own_options
from ..cache._entry cimport SECTIONS, Answer, render
from ..cache._freshness cimport DEAD, judge
from ..cache._index cimport find
from ..cache._store cimport Cache
from ..core._clock cimport ticks
from ..core._latency_histogram cimport observe_latency
from ..core._rate_limit cimport Limit, RateTable, exceeds, key_of
from ..policy._rule_state cimport ClientInfo
from ..wire._message cimport (
    DO, MESSAGE_MAX, REFUSED, EdnsOptions, Query, cookie_of, cut, get16, has_own_opt, message_flags, put_error,
    put_own_options, set_id
)
from ._outbox cimport NOBODY, Client, Outbox
from ._pending cimport PendingQueries, PendingQuery

cdef uint64_t LATE = <uint64_t> 1000000000    # nanoseconds: an answer after that is a late one


cdef class ClientReplies:
    """At most `capacity` clients who wait, and the way back to them. One thread, with the GIL, calls all of it."""

    def __cinit__(self, Cache cache not None, uint32_t capacity, size_t guarded=1 << 20) -> None:
        self.cache = cache
        self.settings_writer = SettingsWriter(cache, guarded)
        self.queries = PendingQueries(cache, capacity)
        self.pool = self.queries.pool
        self.outbox = Outbox(cache.clock)
        self.outbox.guard_table = self.settings_writer.settings.guard_table
        self.late = RateTable(LATE_MEMORY, LATE_RATE, <double> LATE_BURST / LATE_RATE, 24, 56)

    cdef uint16_t _payload(self) noexcept nogil:
        """Return our UDP payload size, in octets."""
        return self.cache.index.policies.manner.payload

    cdef uint16_t _limit(self, const Client* client, const Query* query) noexcept nogil:
        """Return the octets of the largest answer that a client takes, and that we send."""
        return min(query.payload, self._payload()) if client.fd >= 0 else MESSAGE_MAX

    cdef bint _is_dead(self, const Answer* stored, uint64_t now) noexcept nogil:
        """Tell whether an answer serves nobody any more, whatever happens."""
        return judge(stored, &self.cache.index.policies[stored.zone], ticks(now)) == DEAD

    cdef void _add_own(self, EdnsOptions* extra, const Client* client, const Query* query) noexcept nogil:
        """Make the EDNS options that are for a client alone, of his query."""
        cdef ClientInfo sender
        extra.length = 0
        if query.cookie or query.keepalive:
            sender = self.outbox.client_info(client)
            add_own_options(self.settings_writer.settings, extra, cookie_of(query), query.keepalive, &sender)

    cdef void _add_entrys(self, EdnsOptions* extra, const PendingQuery* entry) noexcept nogil:
        """Make the EDNS options that are for a client alone who waits."""
        cdef ClientInfo sender
        extra.length = 0
        if entry.with_cookie or entry.keepalive:
            sender = self.outbox.client_info(&entry.client)
            add_own_options(self.settings_writer.settings, extra, entry.cookie if entry.with_cookie else NULL,
                            entry.keepalive, &sender)

    cdef int _answer_now(self, const Client* client, const Query* query, const Answer* answer,
                         uint64_t now) except -1:
        """Answer a client who did not wait."""
        cdef EdnsOptions extra
        self._add_own(&extra, client, query)
        return self._answer(client, self._limit(client, query), answer, query, &extra, now)

    cdef int _answer(self, const Client* client, uint16_t limit, const Answer* answer, const Query* query,
                     const EdnsOptions* extra, uint64_t now) except -1:
        """Answer one client, in his own size and spelling."""
        cdef:
            uint64_t delay = now - client.arrived if now > client.arrived else 0
            uint8_t* out = self.outbox.open(client)
            uint16_t later = <uint16_t> extra.length if answer.form != SECTIONS else 0  # octets that are put in below
            size_t length
        if client.fd == NOBODY:
            return 0
        observe_latency(&self.latency, delay)
        length = render(out, limit - later, answer, query, &self.cache.index.policies[answer.zone].manner, ticks(now),
                        extra)
        if answer.form != SECTIONS:
            length = self._as_ours(out, length, limit, query, answer.rcode_high, extra)
        if delay >= LATE and client.fd >= 0 and not client.proven and self._is_pulse(client, length, now):
            self.dropped_late_replies += 1
            length = 0
        return self.outbox.post(client, length)

    cdef size_t _as_ours(self, uint8_t* out, size_t length, size_t limit, const Query* query, uint8_t rcode_high,
                         const EdnsOptions* extra) noexcept nogil:
        """Let a response that goes out as it came have the options of this client alone; return its octets.

        Caller must ensure that there is room for `limit` octets.
        """
        if length + extra.length <= limit:
            return put_own_options(out, length, extra)
        if has_own_opt(query) and get16(out + 10):
            return cut(out, query, message_flags(out), self._payload(), rcode_high, query.edns_flags & DO, extra)
        return length

    cdef bint _is_pulse(self, const Client* client, size_t length, uint64_t now) noexcept nogil:
        """Charge a late answer to its client's prefix, and tell whether there is too much of them at once.

        Whoever asks under another's address for what takes long, again and again, could have all the answers hit it at
        one time (CVE-2024-33655). What is not sent now is in the cache when the client asks again.
        """
        cdef const Limit* limit = &self.late.limit
        return exceeds(limit, key_of(limit, client.ip, client.octets, 0), length, now)

    cdef int _answer_all(self, int32_t i, const Answer* answer, uint64_t now) except -1:
        """Answer everybody who waits for an open query."""
        while i >= 0:
            self._answer_one(i, answer, now)
            i = self.pool[i].next
        return 0

    cdef void _ask_as(self, int32_t i, Query* query) noexcept nogil:
        """Read an open query as its client sent it."""
        set_id(self.pool[i].wire, self.pool[i].asked_id)
        self.queries.read(i, query)

    cdef int _answer_one(self, int32_t i, const Answer* answer, uint64_t now) except -1:
        """Answer one who waits."""
        cdef:
            Query query
            PendingQuery* entry = &self.pool[i]
            EdnsOptions own
        self._ask_as(i, &query)
        self._add_entrys(&own, entry)
        return self._answer(&entry.client, entry.limit, answer, &query, &own, now)

    cdef int _turn_away(self, const Client* client, const Query* query, uint64_t now) except -1:
        """Answer one who cannot wait: with what is stale, or REFUSED, or nothing."""
        cdef:
            const Answer* stored = find(&self.cache.index, query) if is_cached(client, query) else NULL
        if client.fd == NOBODY:
            return 0
        if stored != NULL and not self._is_dead(stored, now):
            return self._answer_now(client, query, stored, now)
        if not self.refuse_overload and client.fd >= 0:
            return 0
        return self._post_refused(client, query)

    cdef int _post_refused(self, const Client* client, const Query* query) except -1:
        """Refuse one who asks."""
        cdef EdnsOptions extra
        self._add_own(&extra, client, query)
        return self.outbox.post(client, put_error(self.outbox.open(client), query, REFUSED, self._payload(), &extra))

    cdef int _refuse(self, int32_t i) except -1:
        """Refuse one who waits."""
        cdef:
            PendingQuery* entry = &self.pool[i]
            Query query
            EdnsOptions own
        if entry.client.fd == NOBODY:
            return 0
        self.upstreams_saturated += 1
        if not self.refuse_overload and entry.client.fd >= 0:
            return 0
        self._ask_as(i, &query)
        self._add_entrys(&own, entry)
        return self.outbox.post(&entry.client, put_error(self.outbox.open(&entry.client), &query, REFUSED,
                                                         self._payload(), &own))
