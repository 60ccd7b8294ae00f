"""Attempts: what is sent to which upstream, until when its silence is no news, and what is held against whom.

An upstream is judged by the way that it is asked as a rule. What goes over TCP besides, to one that is asked over UDP,
says nothing of it: nor does a failure there say anything of the name. What is made of an answer is `_resolution`'s.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..cache._entry cimport Answer
from ..cache._store cimport Cache
from ..core._timer_wheel cimport Wheel
from ..upstream._selection cimport TRIES_MAX, Upstream, UpstreamTable, note_try, usual_wait
from ..upstream._sockets cimport Attempt, Sockets
from ..wire._message cimport QUERY_MAX, RCODE
from ._client_replies cimport ClientReplies
from ._pending cimport CUT, SENT, PendingQuery

cdef uint64_t NEVER = 0xffffffffffffffff

cdef enum:
    HEDGE = 8                      # queries that must have been sent for one to be hedged
    CREDIT_MAX = 32 * HEDGE


cdef class Attempts(ClientReplies):
    """The attempts of open queries, and what upstreams are told of them."""

    def __cinit__(self, Cache cache not None, uint32_t capacity, size_t guarded=1 << 20) -> None:
        self.sockets = Sockets(capacity * TRIES_MAX)
        self.upstreams = UpstreamTable()
        self.wheel = Wheel(capacity)

    # ------------------------------------------------------------ sent

    cdef void _wait(self, int32_t i, uint64_t until) noexcept nogil:
        """Have a query looked at then, or when its clients have waited long enough."""
        cdef PendingQuery* entry = &self.pool[i]
        self.wheel.schedule(i, min(until, min(entry.stale_at, entry.deadline)))

    cdef void _sent(self, int32_t i, int32_t upstream, int32_t attempt, uint64_t now) noexcept nogil:
        """Note that a query is on its way, and until when its upstream's silence is no news."""
        cdef:
            PendingQuery* entry = &self.pool[i]
            Upstream* asked = &self.upstreams.all[upstream]
            uint64_t wait = self.timeout
        entry.attempt = attempt
        entry.stage = SENT
        entry.unreachable = entry.hedging = False
        entry.gone = True
        entry.aside = entry.aside and self._is_aside(&self.sockets.attempts[attempt])
        note_try(&entry.tried, upstream)
        asked.credit = min(asked.credit + 1, <uint32_t> CREDIT_MAX)
        if not self._may_try(i):
            wait = NEVER - now
        elif self.upstreams.has_other(entry.group, &entry.tried):
            wait = self._usual(attempt)
            entry.hedging = self.hedge and 0 < asked.hedge_after < wait
            if entry.hedging:
                wait = asked.hedge_after
        entry.try_until = now + wait
        self._wait(i, entry.try_until)

    cdef bint _may_try(self, int32_t i) noexcept nogil:
        """Tell whether a query may be sent once more."""
        return self.pool[i].tried.count < self.tries and not (self.pool[i].once and self.pool[i].gone)

    cdef uint64_t _usual(self, int32_t attempt) noexcept nogil:
        """Return how long the silence after an attempt is no news, where there is another upstream."""
        cdef:
            const Attempt* made = &self.sockets.attempts[attempt]
            const Upstream* asked = &self.upstreams.all[made.upstream]
        if self._is_aside(made):  # its latency is told by those that go the usual way
            return self.timeout
        return usual_wait(asked, self.patience, self.timeout)

    cdef bint _is_aside(self, const Attempt* made) noexcept nogil:
        """Tell whether an attempt goes over TCP to an upstream that is asked over UDP: no sign of its health."""
        return made.socket < 0 and not self.upstreams.all[made.upstream].over_stream

    # ------------------------------------------------------------ and what comes of it

    cdef void _heard(self, int32_t attempt, uint64_t now) noexcept nogil:
        """Note that an upstream has answered, with what is built, and end the attempt."""
        cdef:
            Answer* answer = self.cache.scratch
            const Attempt* answered = &self.sockets.attempts[attempt]
            uint16_t rcode = (<uint16_t> answer.rcode_high << 4) | (answer.flags & RCODE)
            uint64_t until = min(now, self.pool[answered.query].deadline)  # what came later is no slowness of its
            uint64_t took = until - min(answered.sent, until)
        if self._is_aside(answered):
            self.upstreams.fetched(answered.upstream, rcode, took)
        else:
            self.upstreams.record_reply(answered.upstream, rcode, took, not self.pool[answered.query].once)
        self._end_attempt(attempt)

    cdef void _lost(self, int32_t attempt, uint8_t trouble, uint64_t now) noexcept nogil:
        """End an attempt that no answer can come to any more; another upstream is asked at once."""
        cdef:
            const Attempt* lost = &self.sockets.attempts[attempt]
            int32_t i = lost.query
            PendingQuery* entry = &self.pool[i]
            uint64_t rest = 0
        self.upstreams.failed(lost.upstream, trouble)
        if self._is_aside(lost):
            self._fetch_failed(lost)
            if entry.aside and not entry.truncated_fallback and self._may_try(i):  # there will be room over UDP
                rest = usual_wait(&self.upstreams.all[lost.upstream], self.patience, self.timeout)
        else:
            self.upstreams.record_loss(lost.upstream, lost.sent, now)
        self._end_attempt(attempt)
        entry.hedging = False
        if entry.stage == SENT and entry.attempt < 0:
            entry.unreachable = True
            entry.try_until = now + rest
            self._wait(i, entry.try_until)

    cdef void _fetch_failed(self, const Attempt* made) noexcept nogil:
        """Note that an upstream which is asked over UDP did not answer over TCP: UDP is the way, unless it said TC."""
        cdef:
            PendingQuery* entry = &self.pool[made.query]
            Upstream* asked = &self.upstreams.all[made.upstream]
        asked.tcp_fallback_failures += 1
        entry.over_stream = entry.length > QUERY_MAX or entry.truncated_fallback == CUT

    cdef void _blame(self, int32_t i, uint64_t now) noexcept nogil:
        """Hold the last attempt against its upstream, if it had its time: once, and less if others are silent too."""
        cdef:
            const PendingQuery* entry = &self.pool[i]
            const Attempt* before
            Attempt* last
        if entry.stage != SENT or entry.attempt < 0 or entry.hedging:
            return
        last = &self.sockets.attempts[entry.attempt]
        if last.timeout_counted or now < last.sent + self.patience:
            return
        last.timeout_counted = True
        if self._is_aside(last):
            self._fetch_failed(last)
            return
        # Nobody waited longer than until the deadline.
        self.upstreams.record_timeout(last.upstream, last.sent, min(now, entry.deadline), not entry.once)
        if last.before >= 0:
            before = &self.sockets.attempts[last.before]
            if not self._is_aside(before):  # two are silent about this query: it says little of either
                self.upstreams.forgive_timeout(last.upstream)
                self.upstreams.forgive_timeout(before.upstream)

    cdef bint _may_hedge(self, int32_t i) noexcept nogil:
        """Tell whether another may be asked although the last is only slower than usual: one in eight.

        Caller must ensure that the last attempt is waited for.
        """
        cdef Upstream* slow = &self.upstreams.all[self.sockets.attempts[self.pool[i].attempt].upstream]
        if slow.credit < HEDGE:
            self.pool[i].hedging = False
            return False
        slow.credit -= HEDGE
        slow.hedged += 1
        slow.overtaken += 1
        self.hedged_queries += 1
        return True

    cdef void _end_attempt(self, int32_t attempt) noexcept nogil:
        """End one of a query's attempts."""
        cdef:
            int32_t* link = &self.pool[self.sockets.attempts[attempt].query].attempt
            Upstream* asked = &self.upstreams.all[self.sockets.attempts[attempt].upstream]
        while link[0] != attempt:
            link = &self.sockets.attempts[link[0]].before
        link[0] = self.sockets.attempts[attempt].before
        asked.open -= 1
        self.sockets.end(attempt)
