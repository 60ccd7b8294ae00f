"""Attempts: what is sent to which upstream, until when its silence is no news, and what is held against whom.

An upstream is judged by the way that it is asked as a rule. What goes over TCP besides, to one that is asked over UDP,
says nothing of it: nor does a failure there say anything of the name. What is made of an answer is `_resolution`'s.
"""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..cache._entry cimport Answer
from ..core._memory cimport free, zeros
from ..core._timer_wheel cimport Wheel
from ..events._event cimport Tap, wanted_kinds
from ..policy._rule_state cimport OVER_TCP
from ..upstream._selection cimport TRIES_MAX, Upstream, UpstreamTable, note_try, retransmission_timeout_of
from ..upstream._sockets_and_ids cimport Attempt, Sockets
from ..wire._message cimport QUERY_MAX, RCODE
from ..wire._proxy_protocol cimport PROXIED_MAX
from ..wire._random_case cimport respell
from ._outbox cimport put_client
from ._pending cimport FAILED, QUEUED, SENT, TRUNCATED_REPLY, WIRE_MAX, PendingQueries, PendingQuery

cdef uint64_t NEVER = 0xffffffffffffffff

cdef enum:
    HEDGE = 8                      # queries that must have been sent for one to be hedged
    CREDIT_MAX = 32 * HEDGE


cdef class Attempts:
    """The attempts of pending queries, and what upstreams are told of them.

    Memory ownership: the lists of what is to be sent are its own.
    """

    def __cinit__(self, PendingQueries queries not None, Tap tap not None) -> None:
        self.queries, self.pool, self.tap = queries, queries.pool, tap
        self.sockets = Sockets(queries.capacity * TRIES_MAX)
        self.upstreams = UpstreamTable()
        self.wheel = Wheel(queries.capacity)
        self.stream_queries = []
        self.queued = <int32_t*> zeros(queries.capacity, sizeof(int32_t))
        self.failed = <int32_t*> zeros(queries.capacity, sizeof(int32_t))

    def __dealloc__(self) -> None:
        free(self.queued)
        free(self.failed)

    # ------------------------------------------------------------ to be sent

    cdef void queue(self, int32_t i) noexcept nogil:
        """Have a pending query sent, for the first time."""
        self.pool[i].stage = QUEUED
        self.queued[self.queued_count] = i
        self.queued_count += 1
        self.schedule(i, self.pool[i].deadline)

    cdef void retry(self, int32_t i) noexcept nogil:
        """Have a query sent again, to another upstream."""
        self.pool[i].hedging = False
        self.schedule(i, self.pool[i].deadline)
        if self.failed_count == self.queries.capacity:  # of places that were left and taken again
            return
        self.pool[i].stage = FAILED
        self.failed[self.failed_count] = i
        self.failed_count += 1

    cdef void resend(self, int32_t i, uint64_t now) noexcept nogil:
        """Have a query sent anew, as if it had not been; the second time, as if it had been answered by nobody."""
        cdef PendingQuery* pending = &self.pool[i]
        pending.hedging = False
        if pending.resent or not self.may_retry(i) or self.queued_count == self.queries.capacity:
            pending.unreachable = True
            pending.try_until = now
            self.schedule(i, now)
        elif self.walked == QUEUED:
            self.retry(i)
        else:
            self.queue(i)
        pending.resent = True

    cdef void schedule(self, int32_t i, uint64_t until) noexcept nogil:
        """Have a query looked at then, or when its clients have waited long enough."""
        cdef PendingQuery* pending = &self.pool[i]
        self.wheel.schedule(i, min(until, min(pending.stale_at, pending.deadline)))

    # ------------------------------------------------------------ sent

    cdef void sent(self, int32_t i, int32_t upstream, int32_t attempt, uint64_t now) noexcept nogil:
        """Note that a query is on its way, and until when its upstream's silence is no news."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            Upstream* asked = &self.upstreams.all[upstream]
            uint64_t wait = self.timeout
        pending.attempt = attempt
        pending.stage = SENT
        pending.unreachable = pending.hedging = False
        pending.maybe_delivered = True
        pending.tcp_fallback = pending.tcp_fallback and self.is_tcp_fallback(&self.sockets.attempts[attempt])
        note_try(&pending.tried, upstream)
        asked.hedge_credit = min(asked.hedge_credit + 1, <uint32_t> CREDIT_MAX)
        if not self.may_retry(i):
            wait = NEVER - now
        elif self.upstreams.has_other(pending.group, &pending.tried):
            wait = self.retransmission_timeout(attempt)
            pending.hedging = self.hedge and 0 < asked.hedge_after < wait
            if pending.hedging:
                wait = asked.hedge_after
        pending.try_until = now + wait
        self.schedule(i, pending.try_until)

    cdef bint hand_over(self, int32_t i, int32_t upstream, uint64_t now) except -1:
        """Let Python carry a query to an upstream that was chosen, over TCP or TLS; False: there is no room."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            Upstream* to = &self.upstreams.all[upstream]
            int32_t attempt = self.sockets.begin(i, pending.attempt, upstream, -1, 0, now)
            uint8_t[PROXIED_MAX] header
            uint8_t[WIRE_MAX] wire
            const uint8_t* out = pending.wire
            size_t octets = 0
        if attempt < 0:
            to.outstanding -= 1
            return False
        to.sent += 1
        self.sent(i, upstream, attempt, now)
        if to.proxied:
            octets = put_client(header, &pending.client)
        if to.random_case and not pending.verbatim:  # so that it is learnt whether it spells names as asked
            memcpy(wire, pending.wire, pending.length)
            respell(wire, self.sockets.spell(attempt))
            out = wire
        self.note_query(i, upstream, OVER_TCP, out, pending.length)
        self.stream_queries.append((
            self.queries.handle(i, self.sockets.attempts[attempt].id), upstream, out[:pending.length],
            (pending.deadline - min(now, pending.deadline)) / 1e9, header[:octets], pending.send_once,
        ))
        return True

    cdef bint may_retry(self, int32_t i) noexcept nogil:
        """Tell whether a query may be sent once more."""
        cdef const PendingQuery* pending = &self.pool[i]
        return pending.tried.count < self.most and not (pending.send_once and pending.maybe_delivered)

    cdef bint may_ask_another(self, int32_t i) noexcept nogil:
        """Tell whether a query may be sent once more, and there is an upstream that was not asked."""
        return self.may_retry(i) and self.upstreams.has_other(self.pool[i].group, &self.pool[i].tried)

    cdef bint may_hedge(self, int32_t i) noexcept nogil:
        """Tell whether another may be asked although the last is only slower than usual: one in eight.

        Caller must ensure that the last attempt is waited for.
        """
        cdef Upstream* slow = &self.upstreams.all[self.sockets.attempts[self.pool[i].attempt].upstream]
        if slow.hedge_credit < HEDGE:
            self.pool[i].hedging = False
            return False
        slow.hedge_credit -= HEDGE
        slow.hedged += 1
        slow.hedges_in_a_row += 1
        self.hedged_queries += 1
        return True

    cdef uint64_t retransmission_timeout(self, int32_t attempt) noexcept nogil:
        """Return how long the silence after an attempt is no news, where there is another upstream."""
        cdef:
            const Attempt* made = &self.sockets.attempts[attempt]
            const Upstream* asked = &self.upstreams.all[made.upstream]
        if self.is_tcp_fallback(made):  # its latency is told by those that go the usual way
            return self.timeout
        return retransmission_timeout_of(asked, self.retry_after, self.timeout)

    cdef bint is_tcp_fallback(self, const Attempt* made) noexcept nogil:
        """Tell whether an attempt goes over TCP to an upstream that is asked over UDP: no sign of its health."""
        return made.socket < 0 and not self.upstreams.all[made.upstream].over_stream

    cdef bint is_over_tcp(self, int32_t i, int32_t upstream) noexcept nogil:
        """Tell whether an upstream is being asked over TCP."""
        cdef int32_t attempt = self.pool[i].attempt
        while attempt >= 0:
            if self.sockets.attempts[attempt].socket < 0 and self.sockets.attempts[attempt].upstream == upstream:
                return True
            attempt = self.sockets.attempts[attempt].before
        return False

    cdef int32_t stream_attempt(self, int32_t i, uint64_t handle) noexcept nogil:
        """Return the attempt over TCP that a handle leads to, or -1 where it has ended."""
        cdef int32_t attempt = self.pool[i].attempt if i >= 0 else -1
        while attempt >= 0:
            if self.sockets.attempts[attempt].socket < 0 and self.sockets.attempts[attempt].id == handle >> 22 & 0xffff:
                return attempt
            attempt = self.sockets.attempts[attempt].before
        return -1

    # ------------------------------------------------------------ and what comes of it

    cdef void answered(self, int32_t attempt, uint64_t now) noexcept nogil:
        """Note that an upstream has answered, with what is built, and end the attempt."""
        cdef:
            Answer* answer = self.queries.cache.scratch
            const Attempt* made = &self.sockets.attempts[attempt]
            uint16_t rcode = (<uint16_t> answer.rcode_high << 4) | (answer.flags & RCODE)
            uint64_t until = min(now, self.pool[made.query].deadline)  # what came later is no slowness of its
            uint64_t took = until - min(made.sent, until)
        if self.is_tcp_fallback(made):
            self.upstreams.record_tcp_fallback(made.upstream, rcode, took)
        else:
            self.upstreams.record_reply(made.upstream, rcode, took, not self.pool[made.query].send_once)
        self.end(attempt)

    cdef void lost(self, int32_t attempt, uint8_t reason, uint64_t now) noexcept nogil:
        """End an attempt that no answer can come to any more; another upstream is asked at once."""
        cdef:
            const Attempt* made = &self.sockets.attempts[attempt]
            int32_t i = made.query
            PendingQuery* pending = &self.pool[i]
            uint64_t rest = 0
        self.upstreams.record_failure(made.upstream, reason)
        if self.is_tcp_fallback(made):
            self._tcp_fallback_failed(made)
            if pending.tcp_fallback and not pending.last_resort and self.may_retry(i):  # there will be room over UDP
                rest = retransmission_timeout_of(&self.upstreams.all[made.upstream], self.retry_after, self.timeout)
        else:
            self.upstreams.record_loss(made.upstream, made.sent, now)
        self.end(attempt)
        pending.hedging = False
        if pending.stage == SENT and pending.attempt < 0:
            pending.unreachable = True
            pending.try_until = now + rest
            self.schedule(i, pending.try_until)

    cdef void timed_out(self, int32_t i, uint64_t now) noexcept nogil:
        """Hold the last attempt against its upstream, if it had its time: once, and less if others are silent too."""
        cdef:
            const PendingQuery* pending = &self.pool[i]
            const Attempt* before
            Attempt* last
        if pending.stage != SENT or pending.attempt < 0 or pending.hedging:
            return
        last = &self.sockets.attempts[pending.attempt]
        if last.timeout_counted or now < last.sent + self.retry_after:
            return
        last.timeout_counted = True
        if self.is_tcp_fallback(last):
            self._tcp_fallback_failed(last)
            return
        # Nobody waited longer than until the deadline.
        self.upstreams.record_timeout(last.upstream, last.sent, min(now, pending.deadline), not pending.send_once)
        if last.before >= 0:
            before = &self.sockets.attempts[last.before]
            if not self.is_tcp_fallback(before):  # two are silent about this query: it says little of either
                self.upstreams.forgive_timeout(last.upstream)
                self.upstreams.forgive_timeout(before.upstream)

    cdef void _tcp_fallback_failed(self, const Attempt* made) noexcept nogil:
        """Note that an upstream which is asked over UDP did not answer over TCP: UDP is the way, unless it said TC."""
        cdef:
            PendingQuery* pending = &self.pool[made.query]
            Upstream* asked = &self.upstreams.all[made.upstream]
        asked.tcp_fallback_failures += 1
        pending.over_stream = pending.length > QUERY_MAX or pending.last_resort == TRUNCATED_REPLY

    # ------------------------------------------------------------ for those who want to know

    cdef void note_query(self, int32_t i, int32_t upstream, uint8_t transport, const uint8_t* wire,
                         size_t length) noexcept nogil:
        """Record what is sent to an upstream for a query that is recorded."""
        cdef uint32_t draw = self.pool[i].client.draw
        if draw and wanted_kinds(self.tap):
            self.tap.note_exchange(draw, <int16_t> upstream, transport, self.tap.clock.now(), wire, length, NULL, 0)

    cdef void note_response(self, int32_t attempt, uint8_t transport, const uint8_t* wire,
                            size_t length) noexcept nogil:
        """Record a response of an upstream to a query that is recorded."""
        cdef:
            const Attempt* made = &self.sockets.attempts[attempt]
            uint32_t draw = self.pool[made.query].client.draw
        if draw and wanted_kinds(self.tap):
            self.tap.note_exchange(draw, made.upstream, transport, made.sent, NULL, 0, wire, length)

    # ------------------------------------------------------------ and their end

    cdef void end(self, int32_t attempt) noexcept nogil:
        """End one of a query's attempts."""
        cdef:
            int32_t* link = &self.pool[self.sockets.attempts[attempt].query].attempt
            Upstream* asked = &self.upstreams.all[self.sockets.attempts[attempt].upstream]
        while link[0] != attempt:
            link = &self.sockets.attempts[link[0]].before
        link[0] = self.sockets.attempts[attempt].before
        asked.outstanding -= 1
        self.sockets.end(attempt)

    cdef void end_all(self, int32_t i) noexcept nogil:
        """End all attempts of a query."""
        while self.pool[i].attempt >= 0:
            self.end(self.pool[i].attempt)
