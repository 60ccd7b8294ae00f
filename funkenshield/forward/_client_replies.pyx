"""Answers as clients take them: each in his own size and spelling.

It knows clients, and how an answer is rendered for one. Who waits for what, and until when, is not known here.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from .._fastpath cimport SettingsWriter, add_own_options
from ..cache._entry cimport SECTIONS, Answer, render
from ..cache._freshness cimport DEAD, freshness_of
from ..cache._index cimport find
from ..core._clock cimport ticks
from ..core._latency_histogram cimport observe_latency
from ..core._rate_limit cimport Limit, RateTable, source_exceeds
from ..events._recorder cimport Recorder
from ..policy._rule_state cimport KIND_COALESCED, KIND_FORWARDED, KIND_LIMITED, KIND_REJECTED, KIND_STALE, ClientInfo
from ..wire._message cimport (
    ARCOUNT, DO, MESSAGE_MAX, REFUSED, EdnsOptions, Query, cookie_of, get16, has_own_opt, message_flags, put_error,
    put_own_options
)
from ..wire._truncation cimport put_truncated
from ._outbox cimport NOBODY, Client, Outbox
from ._pending cimport PendingQueries, PendingQuery

cdef uint64_t LATE = <uint64_t> 1000000000    # nanoseconds: an answer after that is a late one


@cython.final
cdef class ClientReplies:
    """The way back to clients. One thread, with the GIL, calls all of it."""

    def __cinit__(self, SettingsWriter settings_writer not None, PendingQueries queries not None,
                  Recorder recorder not None) -> None:
        self.settings_writer, self.cache, self.queries = settings_writer, settings_writer.cache, queries
        self.outbox = Outbox(recorder)
        self.outbox.guard_table = settings_writer.settings.guard_table
        self.late = RateTable(LATE_MEMORY, LATE_RATE, <double> LATE_BURST / LATE_RATE, 24, 56)

    cdef uint16_t payload(self) noexcept nogil:
        """Return our UDP payload size, in octets."""
        return self.cache.index.zone_settings.manner.payload

    cdef uint16_t limit(self, const Client* client, const Query* query) noexcept nogil:
        """Return the octets of the largest answer that a client takes, and that we send."""
        return min(query.payload, self.payload()) if client.fd >= 0 else MESSAGE_MAX

    cdef bint is_dead(self, const Answer* stored, uint64_t now) noexcept nogil:
        """Tell whether an answer serves nobody any more, whatever happens."""
        return freshness_of(stored, &self.cache.index.zone_settings[stored.zone], ticks(now)) == DEAD

    cdef void add_own(self, EdnsOptions* extra, const Client* client, const Query* query) noexcept nogil:
        """Make the EDNS options that are for a client alone, of his query."""
        cdef ClientInfo sender
        extra.length = 0
        if query.cookie or query.keepalive:
            sender = self.outbox.client_info(client)
            add_own_options(self.settings_writer.settings, extra, cookie_of(query), query.keepalive, &sender)

    cdef void _add_waiting(self, EdnsOptions* extra, const PendingQuery* pending) noexcept nogil:
        """Make the EDNS options that are for a client alone who waits."""
        cdef ClientInfo sender
        extra.length = 0
        if pending.with_cookie or pending.keepalive:
            sender = self.outbox.client_info(&pending.client)
            add_own_options(self.settings_writer.settings, extra, pending.cookie if pending.with_cookie else NULL,
                            pending.keepalive, &sender)

    # ------------------------------------------------------------ answers

    cdef int answer_now(self, const Client* client, const Query* query, const Answer* answer, uint8_t kind,
                        uint64_t now) except -1:
        """Answer a client who did not wait; a Kind tells from what."""
        cdef EdnsOptions extra
        self.add_own(&extra, client, query)
        return self._answer(client, self.limit(client, query), answer, query, &extra, kind, -1, now)

    cdef int answer_all(self, int32_t i, const Answer* answer, uint8_t kind, uint64_t now,
                        int32_t upstream=-1) except -1:
        """Answer everybody who waits for a pending query: all behind the first are coalesced."""
        while i >= 0:
            self.answer_one(i, answer, kind, now, upstream)
            kind = KIND_COALESCED if kind == KIND_FORWARDED else kind
            i = self.queries.pool[i].next
        return 0

    cdef int answer_one(self, int32_t i, const Answer* answer, uint8_t kind, uint64_t now,
                        int32_t upstream=-1) except -1:
        """Answer one who waits."""
        cdef:
            Query query
            PendingQuery* pending = &self.queries.pool[i]
            EdnsOptions extra
        self.queries.read_as_asked(i, &query)
        self._add_waiting(&extra, pending)
        return self._answer(&pending.client, pending.limit, answer, &query, &extra, kind, upstream, now)

    cdef int _answer(self, const Client* client, uint16_t limit, const Answer* answer, const Query* query,
                     const EdnsOptions* extra, uint8_t kind, int32_t upstream, uint64_t now) except -1:
        """Answer one client, in his own size and spelling."""
        cdef:
            uint64_t delay = now - client.arrived if now > client.arrived else 0
            uint8_t* out = self.outbox.reserve(client)
            uint16_t later = <uint16_t> extra.length if answer.form != SECTIONS else 0  # octets that are put in below
            size_t length
        if client.fd == NOBODY:
            return 0
        observe_latency(&self.latency, delay)
        length = render(out, limit - later, answer, query, &self.cache.index.zone_settings[answer.zone].manner,
                        ticks(now), extra)
        if answer.form != SECTIONS:
            length = self.put_own(out, length, limit, query, answer.rcode_high, extra)
        if delay >= LATE and client.fd >= 0 and not client.proven and self._exceeds_late_limit(client, length, now):
            self.dropped_late_replies += 1
            length, kind = 0, KIND_LIMITED
        return self.outbox.post(client, length, kind, upstream)

    cdef size_t put_own(self, uint8_t* out, size_t length, size_t limit, const Query* query, uint8_t rcode_high,
                        const EdnsOptions* extra) noexcept nogil:
        """Let a response that goes out as it came have the options of this client alone; return its octets.

        Caller must ensure that there is room for `limit` octets.
        """
        if length + extra.length <= limit:
            return put_own_options(out, length, extra)
        if has_own_opt(query) and get16(out + ARCOUNT):
            return put_truncated(out, query, message_flags(out), self.payload(), rcode_high, query.edns_flags & DO,
                                 extra)
        return length

    cdef bint _exceeds_late_limit(self, const Client* client, size_t length, uint64_t now) noexcept nogil:
        """Charge a late answer to its client's prefix, and tell whether there is too much of them at once.

        Whoever asks under another's address for what takes long, again and again, could have all the answers hit it at
        one time (CVE-2024-33655). What is not sent now is in the cache when the client asks again.
        """
        cdef const Limit* limit = &self.late.limit
        return source_exceeds(limit, client.ip, client.octets, 0, length, now)

    # ------------------------------------------------------------ and none

    cdef int reject(self, const Client* client, const Query* query, uint64_t now) except -1:
        """Answer one who cannot wait: with what is stale, or REFUSED, or nothing."""
        cdef const Answer* stored = find(&self.cache.index, query) if is_cached(client, query) else NULL
        if client.fd == NOBODY:
            return 0
        if stored != NULL and not self.is_dead(stored, now):
            return self.answer_now(client, query, stored, KIND_STALE, now)
        if self.refuse_overload or client.fd < 0:
            return self.refuse(client, query)
        self._note_dropped(client, query)
        return 0

    cdef int refuse(self, const Client* client, const Query* query, uint8_t kind=KIND_REJECTED) except -1:
        """Refuse one who asks; a Kind tells why."""
        cdef EdnsOptions extra
        self.add_own(&extra, client, query)
        return self._post_refused(client, query, &extra, kind)

    cdef int reject_waiting(self, int32_t i) except -1:
        """Let one who waits have REFUSED, or nothing."""
        cdef:
            Query query
            PendingQuery* pending = &self.queries.pool[i]
            EdnsOptions extra
        if pending.client.fd == NOBODY:
            return 0
        self.queries.read_as_asked(i, &query)
        if not self.refuse_overload and pending.client.fd >= 0:
            self._note_dropped(&pending.client, &query)
            return 0
        self._add_waiting(&extra, pending)
        return self._post_refused(&pending.client, &query, &extra, KIND_REJECTED)

    cdef int _post_refused(self, const Client* client, const Query* query, const EdnsOptions* extra,
                           uint8_t kind) except -1:
        return self.outbox.post(
            client, put_error(self.outbox.reserve(client), query, REFUSED, self.payload(), extra), kind)

    cdef void _note_dropped(self, const Client* client, const Query* query) noexcept nogil:
        """Record a query that a bound was reached for, and that gets no answer."""
        if client.draw:
            self.outbox.note(client, KIND_REJECTED, -1, query.wire, query.length, NULL, 0)
