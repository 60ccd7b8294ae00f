"""Queries over UDP: sent to upstreams in batches, through random sockets, and matched with what comes back.

It carries; what a query waits for, and what ends it, is `_resolution`'s. It opens no socket: that is Python's.
"""

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EINTR, EINVAL, ENETDOWN, ENETUNREACH, ENODEV, EPERM, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._udp_batch cimport BATCH, Datagrams
from ..policy._rule_state cimport OVER_UDP
from ..upstream._selection cimport LOCAL_ERROR, Upstream, forget_try, note_try, reason_of_errno, was_tried
from ..upstream._sent_queries cimport COUNTED
from ..upstream._sockets_and_ids cimport Socket
from ..wire._message cimport HEADER, QDCOUNT, QUERY_MAX, Query, get16, message_id, set_id
from ..wire._proxy_protocol cimport PROXIED_MAX
from ..wire._random_case cimport is_mixed, is_spelled, respell
from ._outbox cimport put_client
from ._pending cimport SENT, PendingQuery
from ._resolution cimport Resolution, Response

cdef enum:
    OUT_MAX = PROXIED_MAX + QUERY_MAX


cdef class Transport:
    """Datagrams to upstreams, and back."""

    def __cinit__(self, Resolution resolution not None) -> None:
        self.resolution, self.attempts, self.pool = resolution, resolution.attempts, resolution.pool
        self.sockets, self.upstreams = self.attempts.sockets, self.attempts.upstreams
        self.inbox = Datagrams(65536)
        self.outgoing = Datagrams(OUT_MAX)

    # ------------------------------------------------------------ to upstreams

    cdef bint may_send(self, int32_t i, int32_t upstream, uint64_t now) noexcept nogil:
        """Tell whether a query may go over UDP, beside others for the same question; if so, it is counted.

        What nobody else gets the answer of is not. Where there is nobody left who was not silent over UDP, it goes over
        TCP if that one limits its rate, and a last try for those who came over TCP.
        """
        cdef PendingQuery* pending = &self.pool[i]
        if pending.over_stream or self.upstreams.all[upstream].over_stream or pending.length > QUERY_MAX:
            return False
        if was_tried(&pending.tried, upstream):
            if now < self.upstreams.all[upstream].rate_limited_until:
                return False
            if pending.tried.count == self.attempts.most - 1 and self.resolution.queries.has_stream(i):
                return False
        pending.question = self.sockets.asked.hash(pending.wire, pending.length)
        if pending.uncached:
            pending.question ^= COUNTED
            return True
        pending.tcp_fallback = not self.sockets.asked.enter(pending.question)
        return not pending.tcp_fallback

    cdef int send(self, int32_t* listed, uint32_t count, uint64_t now) except -1:
        """Send what an upstream was chosen for each of."""
        cdef int32_t upstream
        while count:
            upstream = self.pool[listed[0]].chosen
            if self.sockets.has_none(upstream) and self.renew is not None:
                self.renew(upstream)
            count = self._transmit(listed, count, upstream, now)
        return 0

    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, int32_t upstream, uint64_t now) noexcept nogil:
        """Send what goes to this upstream, in batches, each through a random socket; return how many are left."""
        cdef:
            uint32_t k = 0
            uint32_t kept = 0
            int32_t i, socket, ready
            Upstream* to = &self.upstreams.all[upstream]
        while k < count:
            socket = self.sockets.pick(upstream)
            ready = 0
            while socket < 0 and 0 < k < count:  # they were lost on the way: the rest may have new ones
                listed[kept] = listed[k]
                kept += 1
                k += 1
            while k < count and ready < BATCH:
                i = listed[k]
                k += 1
                if self.pool[i].chosen != upstream:
                    listed[kept] = i
                    kept += 1
                elif self._attempt(i, upstream, socket, now):
                    self._put(ready, i, to)
                    ready += 1
            if ready:
                to.sent += <uint64_t> self._push(socket, ready, now)
        return kept

    cdef bint _attempt(self, int32_t i, int32_t upstream, int32_t socket, uint64_t now) noexcept nogil:
        """Give a query an ID of its own on a socket, and a time by which it must be answered."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            Upstream* to = &self.upstreams.all[upstream]
            int32_t attempt = -1
        if socket >= 0:
            attempt = self.sockets.begin(i, pending.attempt, upstream, socket, pending.question, now)
        if attempt < 0:
            self.sockets.asked.leave(pending.question)
            to.outstanding -= 1
            self.upstreams.record_failure(upstream, LOCAL_ERROR)
            pending.stage = SENT
            pending.unreachable = True
            pending.try_until = now
            note_try(&pending.tried, upstream)
            self.attempts.schedule(i, now)
            return False
        self.attempts.sent(i, upstream, attempt, now)
        set_id(pending.wire, self.sockets.attempts[attempt].id)
        return True

    cdef void _put(self, int32_t place, int32_t i, const Upstream* to) noexcept nogil:
        """Put a query into the outgoing batch; as its upstream wants it, spelled at random or telling whose it is."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            uint8_t* out = self.outgoing.buffer(place)
            bint respelled = to.random_case and not pending.verbatim
            size_t at = 0
        self.attempts.note_query(i, pending.chosen, OVER_UDP, pending.wire, pending.length)
        if not respelled and not to.proxied:
            self.outgoing.put(place, pending.wire, pending.length)
            return
        if to.proxied:
            at = put_client(out, &pending.client)
        memcpy(out + at, pending.wire, pending.length)
        if respelled:
            respell(out + at, self.sockets.spell(pending.attempt))
        self.outgoing.put(place, out, at + pending.length)

    cdef int32_t _push(self, int32_t socket, int32_t count, uint64_t now) noexcept nogil:
        """Send the outgoing batch through a socket; return how many queries went."""
        cdef:
            Socket* through = &self.sockets.sockets[socket]
            int32_t sent
        if through.joins:
            sent = self.outgoing.send_joined(through.fd, count)
            through.joins = self.outgoing.joined
        else:
            sent = self.outgoing.send(through.fd, count)
        if self.outgoing.error:
            self._failed(socket, self.outgoing.error, now)
        return sent

    # ------------------------------------------------------------ and back

    cdef int receive(self, int32_t socket, uint64_t now) except -1:
        """Take what came through a socket; return how many datagrams."""
        cdef:
            Socket* through = &self.sockets.sockets[socket]
            int32_t k, count
        if through.fd < 0:  # closed by an event before this one
            return 0
        count = self.inbox.receive(through.fd)
        if count < 0:
            if errno != EAGAIN and errno != EINTR:
                self._failed(socket, errno, now)
            return 0
        for k in range(count):
            if through.fd >= 0:
                self._take_reply(socket, self.inbox.buffer(k), self.inbox.headers[k].msg_len, now)
        return count

    cdef int _take_reply(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) except -1:
        """Let a datagram end the query that it answers; any other counts as unexpected."""
        cdef:
            Query query
            Response response
            int32_t upstream = self.sockets.sockets[socket].upstream
            Upstream* sender = &self.upstreams.all[upstream]
            bint suspected = self.sockets.sockets[socket].port_known or now < sender.suspected_until
            int32_t attempt = self.sockets.match(socket, message_id(wire)) if length >= HEADER else -1
            int32_t i = self.sockets.attempts[attempt].query if attempt >= 0 else -1
            uint64_t spelling
        if i < 0 or not self.resolution.read(i, &query, &response, wire, length, False, now):
            self._count_unexpected_reply(socket, wire, length, now)
            return 0
        self.attempts.note_response(attempt, OVER_UDP, wire, length)
        spelling = self.sockets.attempts[attempt].spelling
        self.sockets.attempts[attempt].answered = True
        self.attempts.answered(attempt, now)
        if spelling and not is_spelled(wire, query.question, spelling):
            return self.resolution.verify_over_tcp(i, upstream, &response, not sender.keeps_case, now)
        if spelling and not sender.keeps_case:
            sender.keeps_case = is_mixed(wire, query.question)
        if suspected and self.upstreams.suspect_after and not self.pool[i].send_once:
            self.spoof_suspected += 1
            return self.resolution.verify_over_tcp(i, upstream, &response, True, now)
        return self.resolution.consider(i, upstream, &query, &response, now)

    cdef void _count_unexpected_reply(self, int32_t socket, const uint8_t* wire, size_t length,
                                      uint64_t now) noexcept nogil:
        """Count a datagram that answers no outstanding query; whoever sends one that is not late may know the port."""
        cdef:
            int32_t upstream = self.sockets.sockets[socket].upstream
            Upstream* sender = &self.upstreams.all[upstream]
            bint is_late = False
        if length >= HEADER:
            is_late = self.sockets.asked.is_late(self.sockets.asked.hash(wire, length), socket, message_id(wire), now)
        sender.unexpected_replies += 1
        if not is_late:
            self.upstreams.record_unsolicited(upstream, now)
            self.sockets.mark_port_known(socket)

    cdef void learn_spelling(self, int32_t attempt, const Query* query, const uint8_t* wire) noexcept nogil:
        """Note whether an upstream spells names as they are asked: over TCP, where nobody else can say so."""
        cdef:
            Upstream* sender = &self.upstreams.all[self.sockets.attempts[attempt].upstream]
            uint64_t spelling = self.sockets.attempts[attempt].spelling
        if spelling and get16(wire + QDCOUNT):
            sender.case_lost += 1
            sender.keeps_case |= is_spelled(wire, query.question, spelling) and is_mixed(wire, query.question)

    # ------------------------------------------------------------ errors

    cdef void _failed(self, int32_t socket, int error, uint64_t now) noexcept nogil:
        """Deal with an error of a socket: it tells of the upstream, or of the way from here, which others have, too."""
        if error in (ENETUNREACH, EADDRNOTAVAIL, EINVAL, EPERM, ENETDOWN, ENODEV):
            self.abandon(socket, now)
            while not self.sockets.has_none(self.sockets.sockets[socket].upstream):
                self.abandon(self.sockets.pick(self.sockets.sockets[socket].upstream), now)
        else:
            self._refused(socket, error, now)

    cdef void _refused(self, int32_t socket, int error, uint64_t now) noexcept nogil:
        """End all attempts through a socket whose peer refuses (errno); they are tried elsewhere at once."""
        cdef:
            Upstream* peer = &self.upstreams.all[self.sockets.sockets[socket].upstream]
            int32_t attempt = self.sockets.any_attempt(socket)
        peer.network_errors += 1
        self.sockets.mark_port_known(socket)  # such an error can be forged, too
        while attempt >= 0:
            self.attempts.lost(attempt, reason_of_errno(error), now)
            attempt = self.sockets.any_attempt(socket)

    cdef void abandon(self, int32_t socket, uint64_t now) noexcept nogil:
        """Give up a socket that leads nowhere from here; its queries go by another one, and nobody is blamed."""
        cdef:
            int32_t attempt = self.sockets.any_attempt(socket)
            int32_t i, upstream
            uint64_t sent
        self.sockets.abandon(socket)
        while attempt >= 0:
            i = self.sockets.attempts[attempt].query
            upstream = self.sockets.attempts[attempt].upstream
            sent = self.sockets.attempts[attempt].sent
            self.upstreams.record_failure(upstream, LOCAL_ERROR)
            self.attempts.end(attempt)
            if not self.pool[i].resent and not (self.pool[i].send_once and sent < now):  # that may have arrived
                forget_try(&self.pool[i].tried, upstream)
            if self.pool[i].stage == SENT and self.pool[i].attempt < 0:
                self.attempts.resend(i, now)
            attempt = self.sockets.any_attempt(socket)
