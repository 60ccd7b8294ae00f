"""How queries travel: from the workers to the queue, to an upstream and back.

It carries; what a query waits for, and what ends it, is `_resolution`'s. Whom to ask is `_selection`' choice,
by what Python has said of them. It opens no socket, and speaks no TCP: that is Python's.
"""

cimport cython
from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EINTR, EINVAL, ENETDOWN, ENETUNREACH, ENODEV, EPERM, errno
from libc.stdint cimport int16_t, int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close, write

from .._fastpath cimport counters_as_dict
from ..cache._entry cimport FAILURE, TRUNCATED
from ..cache._store cimport Cache
from ..core._epochs cimport READERS_MAX
from ..core._epoll cimport EFD_CLOEXEC, EFD_NONBLOCK, EPOLLET, EPOLLIN, eventfd
from ..core._fair_shares cimport RingShares
from ..core._latency_histogram cimport histogram_as_dict
from ..core._spsc_ring cimport Ring, ring_next, ring_sleep, ring_taken
from ..core._udp_batch cimport BATCH, Datagrams
from ..policy._guard cimport guard_counters_as_dict
from ..upstream._selection cimport LOCAL, Upstream, forget_try, note_try, trouble_of, was_tried
from ..upstream._sockets cimport SOCKETS_MAX, Attempt, Socket
from ..upstream._sent_queries cimport COUNTED
from ..wire._message cimport (
    HEADER, MESSAGE_MAX, QUERY_MAX, Query, get16, is_mixed, is_spelled, message_id, respell, set_id
)
from ..wire._proxy_protocol cimport PROXIED_MAX
from ._outbox cimport STREAM, Client, put_client
from ._pending cimport CUT, DECIDING, DOUBTED, FAILED, IDLE, QUEUED, SENT, PendingQuery, Stage
from ._python_rules cimport PythonRules
from ._resolution cimport FALLBACKS_MAX, Response

cdef enum:
    WAKE = -1                      # what epoll says of the workers' eventfd
    OUT_MAX = PROXIED_MAX + QUERY_MAX
    COLLECTED_AT_ONCE = 2048       # misses, before responses get their turn again


@cython.final
cdef class Inflight(PythonRules):
    """Open queries, and the ways to and from them.

    Memory ownership: rings and descriptors are its own, and so is every socket added to it. One thread,
    with the GIL, calls everything here; workers touch nothing but their rings.
    """

    def __cinit__(self, Cache cache not None, uint32_t capacity, size_t guarded=1 << 20) -> None:
        self.wake_fd = -1
        self.inbox = Datagrams(65536)
        self.outgoing = Datagrams(OUT_MAX)
        self.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.wake_fd < 0:
            raise OSError(errno, "no descriptor for the open queries")
        self.sockets.watch(self.wake_fd, WAKE, EPOLLIN | EPOLLET)  # by edge: nobody has to read it empty

    def __dealloc__(self) -> None:
        cdef uint32_t k
        for k in range(self.ring_count):
            free(self.rings[k])
        if self.wake_fd >= 0:
            close(self.wake_fd)

    cdef Ring* join(self) except NULL:
        """Return a ring for one more worker."""
        cdef Ring* ring
        if self.ring_count == READERS_MAX:
            raise ValueError(f"at most {READERS_MAX} workers")
        ring = <Ring*> calloc(1, sizeof(Ring))
        if ring == NULL:
            raise MemoryError("no memory for a worker's ring")
        ring.asleep = 1
        self.rings[self.ring_count] = ring
        self.ring_count += 1
        return ring

    cdef void wake(self) noexcept nogil:
        """Have `collect` called soon; the one thing here that other threads may call."""
        cdef uint64_t one = 1
        write(self.wake_fd, &one, 8)

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` or `collect` has work."""
        return self.sockets.fileno()

    # ------------------------------------------------------------ misses come in

    def collect(self) -> int:
        """Take the misses of all workers: answered, coalesced, queued, or set aside as special; return how many."""
        cdef:
            Ring* ring
            uint8_t* record
            uint32_t k, size, left
            int32_t collected = 0
            bint more = False
            uint64_t now = self.cache.clock.now()
        for k in range(self.ring_count):
            ring = self.rings[k]
            left = COLLECTED_AT_ONCE // self.ring_count  # to each its share: no worker's flood keeps the others waiting
            while left:
                record = ring_next(ring, &size)
                if record == NULL:
                    if ring_sleep(ring):
                        break
                    continue
                try:
                    self.take_in(<Client*> record, record + sizeof(Client), size - sizeof(Client), now)
                finally:
                    ring_taken(ring, size)
                collected += 1
                left -= 1
            more = more or not left
        if more:
            self.wake()
        self.outbox.flush()
        return collected

    def submit(self, uint64_t stream, bytes address not None, bytes wire not None, uint8_t listener=0,
               bytes ends not None=b"") -> bool:
        """Take a query that came over a connection; its answer is for `outbox.take_streams`.

        `address` is the client's, of 4 or 16 octets, `listener` the number of where he came to, `ends` his port, the
        port that he asked, and the address of that, 4 or 16 octets, where they are known. False: it gets no answer.
        Raises ValueError where the query is longer than DNS allows, or the address is none.
        """
        cdef Client client
        if len(wire) > MESSAGE_MAX:
            raise ValueError(f"a query has at most {MESSAGE_MAX} octets, not {len(wire)}")
        if len(address) not in (4, 16):
            raise ValueError("an address has 4 or 16 octets")
        memset(&client, 0, sizeof(Client))
        client.fd = STREAM
        client.stream = stream
        client.arrived = self.cache.clock.now()
        client.octets = <uint8_t> len(address)
        memcpy(client.ip, <char*> address, client.octets)
        client.listener = listener
        if len(ends) in (8, 20):
            client.port, client.to_port = get16(ends), get16(<const uint8_t*> <char*> ends + 2)
            client.to_octets = <uint8_t> (len(ends) - 4)
            memcpy(client.to, <char*> ends + 4, client.to_octets)
        return self.enter(&client, wire, len(wire), True)

    # ------------------------------------------------------------ to the upstream

    def send(self) -> None:
        """Send what is queued, and what another upstream failed to answer, to upstreams that are chosen now."""
        self.walked = QUEUED
        self.queued_count = self._send(self.queued, self.queued_count, QUEUED)
        self.walked = FAILED
        self.failed_count = self._send(self.failed, self.failed_count, FAILED)
        self.walked = IDLE

    cdef int32_t _send(self, int32_t* listed, uint32_t count, Stage stage) except -1:
        """Choose an upstream for all that is listed and still in this stage, and send it; return how many are left."""
        cdef:
            uint32_t k
            uint32_t ready = 0
            int32_t i, upstream
            uint64_t now = self.cache.clock.now()
        for k in range(count):
            i = listed[k]
            if self.pool[i].stage != stage:
                continue
            if self.pool[i].by_function:
                self.let_function_answer(i, now)
                continue
            upstream = self.upstreams.choose(self.pool[i].group, &self.pool[i].tried, self.pool[i].wire + HEADER)
            if upstream < 0:
                self._go_without(i, upstream, now)
                continue
            self.upstreams.all[upstream].open += 1
            self.retries += stage == FAILED
            if not self._may_go(i, upstream, now):
                self._hand_over(i, upstream, now)
                continue
            self.pool[i].chosen = <int16_t> upstream
            listed[ready] = i
            ready += 1
        while ready:
            upstream = self.pool[listed[0]].chosen
            if self.sockets.has_none(upstream) and self.renew is not None:
                self.renew(upstream)
            ready = self._transmit(listed, ready, upstream, now)
        return 0

    cdef bint _may_go(self, int32_t i, int32_t upstream, uint64_t now) noexcept nogil:
        """Tell whether a query may go over UDP, beside others for the same question; if so, it is counted.

        What nobody else gets the answer of is not. Where there is nobody left who was not silent over UDP, it goes over
        TCP if that one limits its rate, and a last try for those who came over TCP.
        """
        cdef PendingQuery* entry = &self.pool[i]
        if entry.over_stream or self.upstreams.all[upstream].over_stream:
            return False
        if was_tried(&entry.tried, upstream):
            if now < self.upstreams.all[upstream].limits_until:
                return False
            if entry.tried.count == self.tries - 1 and self._has_stream(i):
                return False
        entry.question = self.sockets.asked.hash(entry.wire, entry.length)
        if entry.alone:
            entry.question ^= COUNTED
            return True
        entry.aside = not self.sockets.asked.enter(entry.question)
        return not entry.aside

    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, int32_t upstream, uint64_t now) noexcept nogil:
        """Send what an upstream was chosen for, in batches, each through a random socket; return how many are left."""
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

    cdef bint _attempt(self, int32_t i, int32_t upstream, int32_t socket, uint64_t now) noexcept nogil:
        """Give a query an ID of its own on a socket, and a time by which it must be answered."""
        cdef:
            PendingQuery* entry = &self.pool[i]
            Upstream* to = &self.upstreams.all[upstream]
            int32_t attempt = -1
        if socket >= 0:
            attempt = self.sockets.begin(i, entry.attempt, upstream, socket, entry.question, now)
        if attempt < 0:
            self.sockets.asked.leave(entry.question)
            to.open -= 1
            entry.stage = SENT
            entry.unreachable = True
            self.upstreams.failed(upstream, LOCAL)
            entry.try_until = now
            note_try(&entry.tried, upstream)
            self._wait(i, now)
            return False
        self._sent(i, upstream, attempt, now)
        set_id(entry.wire, self.sockets.attempts[attempt].id)
        return True

    cdef void _put(self, int32_t place, int32_t i, const Upstream* to) noexcept nogil:
        """Put a query into the outgoing batch; as its upstream wants it, spelled at random or telling whose it is."""
        cdef:
            PendingQuery* entry = &self.pool[i]
            uint8_t* out = self.outgoing.buffer(place)
            size_t at = 0
        if not (to.random_case and not entry.verbatim or to.proxied):
            self.outgoing.put(place, entry.wire, entry.length)
            return
        if to.proxied:
            at = put_client(out, &entry.client)
        memcpy(out + at, entry.wire, entry.length)
        if to.random_case and not entry.verbatim:
            respell(out + at, self.sockets.spell(entry.attempt))
        self.outgoing.put(place, out, at + entry.length)

    # ------------------------------------------------------------ and back

    def receive(self) -> int:
        """Take what the upstreams sent: matched, stored, and all who wait answered; return how many datagrams."""
        cdef:
            int32_t[BATCH] readable
            int32_t k
            int32_t received = 0
            uint64_t now = self.cache.clock.now()
        for k in range(self.sockets.wait(readable, BATCH)):
            if readable[k] != WAKE:
                received += self._receive_from(readable[k], now)
        self.outbox.flush()
        return received

    cdef int _receive_from(self, int32_t socket, uint64_t now) except -1:
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
        """Let a datagram end the query that it answers; any other counts as a mismatch."""
        cdef:
            Query query
            Response response
            int32_t upstream = self.sockets.sockets[socket].upstream
            Upstream* sender = &self.upstreams.all[upstream]
            bint doubted = self.sockets.sockets[socket].exposed or now < sender.suspected_until
            int32_t attempt = self.sockets.match(socket, message_id(wire)) if length >= HEADER else -1
            int32_t i = self.sockets.attempts[attempt].query if attempt >= 0 else -1
            uint64_t spelling
        if i < 0 or not self._read(i, &query, &response, wire, length, False, now):
            return self._take_mismatch(socket, wire, length, now)
        spelling = self.sockets.attempts[attempt].spelling
        self.sockets.attempts[attempt].answered = True
        self._heard(attempt, now)
        if spelling and not is_spelled(wire, query.question, spelling):
            return self._doubt(i, upstream, &response, not sender.spells, now)
        if spelling and not sender.spells:
            sender.spells = is_mixed(wire, query.question)
        if doubted and self.upstreams.suspect_after and not self.pool[i].once:
            self.spoof_suspected += 1
            return self._doubt(i, upstream, &response, True, now)
        return self.consider(i, upstream, &query, &response, now)

    cdef int _take_mismatch(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) noexcept nogil:
        """Count a datagram that answers no open query; whoever sends one that is not late may know the port by now."""
        cdef:
            int32_t upstream = self.sockets.sockets[socket].upstream
            Upstream* sender = &self.upstreams.all[upstream]
            bint is_late = False
        if length >= HEADER:
            is_late = self.sockets.asked.is_late(self.sockets.asked.hash(wire, length), socket, message_id(wire), now)
        sender.unexpected_replies += 1
        if not is_late:
            self.upstreams.stray(upstream, now)
            self.sockets.expose(socket)
        return 0

    cdef int _doubt(self, int32_t i, int32_t upstream, const Response* response, bint serves, uint64_t now) except -1:
        """Ask again over TCP for what came over UDP; where it `serves`, it does so if TCP cannot be had."""
        if self.pool[i].stage == DECIDING:  # one came before, and Python looks at it
            return 0
        if serves and not self.pool[i].truncated_fallback and self.cache.scratch.kind != FAILURE:
            self._keep_fallback(i, response, CUT if response.built == TRUNCATED else DOUBTED)
        return self._fetch(i, upstream, now)

    cdef void _failed(self, int32_t socket, int error, uint64_t now) noexcept nogil:
        """Deal with an error of a socket: it tells of the upstream, or of the way from here, which others have, too."""
        cdef int32_t other
        if error in (ENETUNREACH, EADDRNOTAVAIL, EINVAL, EPERM, ENETDOWN, ENODEV):
            self._strand(socket, now)
            while not self.sockets.has_none(self.sockets.sockets[socket].upstream):
                other = self.sockets.pick(self.sockets.sockets[socket].upstream)
                self._strand(other, now)
        else:
            self._unreachable(socket, error, now)

    def strand(self, int32_t socket) -> None:
        """Give up a socket that leads nowhere from here any more; what waits for an answer through it is sent anew."""
        if 0 <= socket < SOCKETS_MAX:
            self._strand(socket, self.cache.clock.now())

    def renew_with(self, renew, /) -> None:
        """Say who opens new sockets to an upstream, by its number, where none leads there any more."""
        self.renew = renew

    cdef void _strand(self, int32_t socket, uint64_t now) noexcept nogil:
        """Give up a socket that leads nowhere from here; its queries go by another one, and nobody is blamed."""
        cdef:
            int32_t attempt = self.sockets.any_attempt(socket)
            int32_t i, upstream
            uint64_t sent
        self.sockets.strand(socket)
        while attempt >= 0:
            i = self.sockets.attempts[attempt].query
            upstream = self.sockets.attempts[attempt].upstream
            sent = self.sockets.attempts[attempt].sent
            self.upstreams.failed(upstream, LOCAL)
            self._end_attempt(attempt)
            if not self.pool[i].stranded and not (self.pool[i].once and sent < now):  # that may have arrived
                forget_try(&self.pool[i].tried, upstream)
            if self.pool[i].stage == SENT and self.pool[i].attempt < 0:
                self._again(i, now)
            attempt = self.sockets.any_attempt(socket)

    cdef void _again(self, int32_t i, uint64_t now) noexcept nogil:
        """Have a query sent anew, as if it had not been; the second time, as if it had been answered by nobody."""
        cdef PendingQuery* entry = &self.pool[i]
        entry.hedging = False
        if entry.stranded or not self._may_try(i) or self.queued_count == self.queries.capacity:
            entry.unreachable = True
            entry.try_until = now
            self._wait(i, now)
        elif self.walked == QUEUED:
            self._try_elsewhere(i)
        else:
            self._queue(i)
        entry.stranded = True

    cdef void _unreachable(self, int32_t socket, int error, uint64_t now) noexcept nogil:
        """End all attempts through a socket whose peer refuses (errno); they are tried elsewhere at once."""
        cdef:
            Upstream* peer = &self.upstreams.all[self.sockets.sockets[socket].upstream]
            int32_t attempt = self.sockets.any_attempt(socket)
        peer.network_errors += 1
        self.sockets.expose(socket)  # such an error can be forged, too
        while attempt >= 0:
            self._lost(attempt, trouble_of(error), now)
            attempt = self.sockets.any_attempt(socket)

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """Let time pass: try again, or give up, what is due."""
        cdef:
            uint64_t now = self.cache.clock.now()
            int32_t i = self.wheel.due(now)
        while i >= 0:
            self._expired(i, now)
            i = self.wheel.due(now)
        self.outbox.flush()

    # ------------------------------------------------------------ in Python's hands

    def take_carried(self) -> list:
        """Return the queries to carry over TCP or TLS.

        Each is (handle, upstream, query, seconds left, header before it, whether it is sent once at most).
        """
        taken, self.carried = self.carried, []
        return taken

    def take_specials(self) -> list:
        """Return the queries that are nobody else's, as (client, query, stream, way), for `reply`; stream 0 is UDP."""
        taken, self.specials = self.specials, []
        return taken

    def resolve(self, uint64_t handle, bytes response not None) -> bool:
        """End a carried query with a response; False: it is over already, or this is no answer to it."""
        cdef:
            Query query
            Response received
            int32_t i = self.queries.held(handle)
            int32_t attempt = self._carried_attempt(i, handle)
            int32_t upstream
            uint64_t now = self.cache.clock.now()
        if attempt < 0 or len(response) > MESSAGE_MAX:
            return False
        if not self._read(i, &query, &received, response, len(response), True, now):
            return False
        upstream = self.sockets.attempts[attempt].upstream
        self._learn_spelling(attempt, &query, response)
        self._heard(attempt, now)
        self.consider(i, upstream, &query, &received, now)
        self.outbox.flush()
        return True

    cdef void _learn_spelling(self, int32_t attempt, const Query* query, const uint8_t* wire) noexcept nogil:
        """Note whether an upstream spells names as they are asked: over TCP, where nobody else can say so."""
        cdef:
            Upstream* sender = &self.upstreams.all[self.sockets.attempts[attempt].upstream]
            uint64_t spelling = self.sockets.attempts[attempt].spelling
        if spelling and get16(wire + 4):
            sender.respelled += 1
            sender.spells |= is_spelled(wire, query.question, spelling) and is_mixed(wire, query.question)

    def fail(self, uint64_t handle, int error=0, *, bint unsent=False) -> None:
        """Say that there is no response to a carried query, and why (errno, 0 for what is none).

        Another upstream is asked, if there may be one. `unsent`: it is certain that nothing of it has arrived.
        """
        cdef:
            int32_t i = self.queries.held(handle)
            int32_t attempt = self._carried_attempt(i, handle)
            const Attempt* failed
            uint64_t now = self.cache.clock.now()
        if attempt < 0:
            return
        failed = &self.sockets.attempts[attempt]
        self.upstreams.all[failed.upstream].network_errors += not self._is_aside(failed)
        self.pool[i].gone = self.pool[i].gone and not unsent
        self._lost(attempt, trouble_of(error), now)
        if self.pool[i].attempt < 0:
            self._expired(i, now)
        self.outbox.flush()

    cdef int32_t _carried_attempt(self, int32_t i, uint64_t handle) noexcept nogil:
        """Return the attempt over a stream that a handle leads to, or -1 where it has ended."""
        cdef int32_t attempt = self.pool[i].attempt if i >= 0 else -1
        while attempt >= 0:
            if self.sockets.attempts[attempt].socket < 0 and self.sockets.attempts[attempt].id == handle >> 22 & 0xffff:
                return attempt
            attempt = self.sockets.attempts[attempt].before
        return -1

    # ------------------------------------------------------------ counters

    @property
    def open_queries(self) -> int:
        """Return how many clients wait for an upstream now."""
        return self.queries.waiting

    @property
    def memory_limit(self) -> int:
        """Return the octets that all that waits here may take: places, attempts, long queries, fallbacks and rings."""
        return (self.queries.capacity * sizeof(PendingQuery) + self.sockets.capacity * sizeof(Attempt)
                + self.queries.long_max * <size_t> MESSAGE_MAX + FALLBACKS_MAX
                + self.ring_count * (sizeof(Ring) + sizeof(RingShares)))

    def counters(self) -> dict:
        """Return what happened to misses, as numbers by name, and a histogram of their latencies."""
        counted = counters_as_dict(&self.counts)
        return {
            "outstanding_queries": self.queries.waiting, "coalesced_queries": self.coalesced_queries,
            "outstanding_limit_exceeded": self.outstanding_limit_exceeded,
            "zone_limit_exceeded": self.zone_limit_exceeded, "fair_share_exceeded": self.fair_share_exceeded,
            "upstreams_saturated": self.upstreams_saturated, "dropped_duplicates": self.dropped_duplicates,
            "dropped_late_replies": self.dropped_late_replies, "local_answers": self.local_answers,
            "stale_on_refresh_failure": self.stale_on_refresh_failure,
            "resolution_failures": self.resolution_failures, "no_upstream_available": self.no_upstream_available,
            "upstream_truncated": self.upstream_truncated, "spoof_suspected": self.spoof_suspected,
            "retries": self.retries, "hedged_queries": self.hedged_queries,
            "outbox_send_errors": self.outbox.send_failed,
            **counted,
            **{name: count + counted[name]
               for name, count in guard_counters_as_dict(&self.outbox.guard_counters).items()},
            "latency_histogram": histogram_as_dict(&self.latency),
        }
