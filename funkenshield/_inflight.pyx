"""Queries that wait for an upstream: each question once, with everybody who asked it meanwhile.

It knows open queries and time: a response that answers one has it stored, and all who wait answered. It
does not choose an upstream, nor open a socket, nor speak TCP: that is asked of Python, once for a batch.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from posix.unistd cimport close, write

from ._answer cimport (
    KEEP, SECTIONS, TRUNCATED as IS_TRUNCATED, Answer, Built, Extra, answers_question, build, build_failure, render
)
from ._cache cimport READERS_MAX, Cache, find, mark_used
from ._clock cimport ticks
from ._datagrams cimport BATCH, MSG_TRUNC, Datagrams
from ._epoll cimport EFD_CLOEXEC, EFD_NONBLOCK, EPOLLET, EPOLLIN, eventfd
from ._outbox cimport UDP_MAX, Client, Outbox
from ._outcome cimport DROP, REPLY, Outcome, answer as decide, meet, tally_as_dict
from ._ring cimport Ring, ring_next, ring_sleep, ring_taken
from ._sockets cimport Socket, Sockets, Upstream
from ._wheel cimport Wheel
from ._wire cimport (
    BADCOOKIE, DO, HEADER, MESSAGE_MAX, OPCODE, PLAIN, QR, RCODE, RD, REFUSED, SERVFAIL, TC, Query, cut, forwardable,
    hash_key, message_flags, message_id, parse_query, put_error, set_id
)

cdef enum:
    ANY = -2                       # whatever upstream was tried before
    WAKE = -1                      # what epoll says of the workers' eventfd
    COLLECTED_AT_ONCE = 2048       # misses, before responses get their turn again
    NO_REACHABLE_AUTHORITY = 22    # extended errors (RFC 8914)
    NETWORK_ERROR = 23


@cython.final
cdef class Inflight:
    """Open queries: at most `capacity` clients wait at any time.

    Memory ownership: pool, tables and descriptors are its own, and so is every socket added to it.
    One thread, with the GIL, calls everything here; workers touch nothing but their rings.
    """

    def __cinit__(self, Cache cache not None, uint32_t capacity) -> None:
        cdef int32_t i
        if not 1 <= capacity <= 1 << 22:
            raise ValueError(f"1 to {1 << 22} queries can be open, not {capacity}")
        self.wake_fd = -1
        self.cache = cache
        self.capacity = capacity
        self.sockets = Sockets(capacity * TRIES_MAX)
        self.wheel = Wheel(capacity)
        self.outbox = Outbox()
        self.inbox = Datagrams(65536)
        self.outgoing = Datagrams(1)
        self.carried, self.specials = [], []
        self.chain_mask = 1
        while self.chain_mask < capacity:
            self.chain_mask <<= 1
        self.pool = <Open*> calloc(capacity, sizeof(Open))
        self.chains = <int32_t*> calloc(self.chain_mask, sizeof(int32_t))
        self.queued = <int32_t*> calloc(capacity, sizeof(int32_t))
        self.failed = <int32_t*> calloc(capacity, sizeof(int32_t))
        if not (self.pool and self.chains and self.queued and self.failed):
            raise MemoryError(f"no memory for {capacity} open queries")
        for i in range(self.chain_mask):
            self.chains[i] = -1
        self.chain_mask -= 1
        self.idle = -1
        self.set_limits()
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
        free(self.pool)
        free(self.chains)
        free(self.queued)
        free(self.failed)

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

    def set_limits(self, *, double timeout=1.0, double deadline=2.5, uint16_t tries=2,
                   bint refuse_overload=True, bint retry_truncated=True) -> None:
        """Say how long an upstream is given and a client waits (seconds), and what is over the bound."""
        if not 1 <= tries <= TRIES_MAX or not 0 < timeout <= 30 or not 0 < deadline <= 30:
            raise ValueError(f"1 to {TRIES_MAX} tries, in up to 30 seconds")
        self.timeout = <uint64_t> (timeout * 1e9)
        self.deadline = <uint64_t> (deadline * 1e9)
        self.tries = tries
        self.refuse_overload = refuse_overload
        self.retry_truncated = retry_truncated

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
                self.admit(<Client*> record, record + sizeof(Client), size - sizeof(Client), now)
                ring_taken(ring, size)
                collected += 1
                left -= 1
            more = more or not left
        if more:
            self.wake()
        self.outbox.flush()
        return collected

    def submit(self, uint64_t stream, bytes wire not None) -> bool:
        """Take a query that came over a connection; its answer is for `outbox.take_streams`.

        False: it gets none. Raises ValueError where it is longer than DNS allows.
        """
        cdef:
            Query query
            Client client
            Outcome outcome
            size_t length = 0
        if len(wire) > MESSAGE_MAX:
            raise ValueError(f"a query has at most {MESSAGE_MAX} octets, not {len(wire)}")
        client.fd = -1
        client.stream = stream
        client.arrived = self.cache.clock.now()
        outcome = decide(&self.cache.index, &query, meet(&self.cache.index, &query, wire, len(wire)),
                         self.outbox.open(&client), MESSAGE_MAX, &self.cache.manner, ticks(client.arrived),
                         &self.tally, &length)
        if outcome == REPLY:
            self.outbox.post(&client, length)
        elif outcome != DROP:
            self.admit(&client, wire, len(wire), client.arrived)
        return outcome != DROP

    cdef int admit(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1:
        """Let a query in: to its answer if that came meanwhile, to others who ask the same, or to the queue."""
        cdef:
            Query query
            const Answer* stored
            int32_t first, i
            Open* entry
        if parse_query(&query, wire, length) != PLAIN:
            return self._set_aside(client, wire, length)
        hash_key(&query, &self.cache.index.secret)
        stored = find(&self.cache.index, &query)
        if stored != NULL and stored.expires > ticks(now):
            mark_used(stored)
            return self._answer(client, self._limit(client, &query), stored, &query, NULL, now)

        if not self.waiting:
            self.wheel.begin(now)
        first = self._find_open(&query)
        i = self._take_idle()
        if i < 0:
            self.refused += 1
            if self.refuse_overload or client.fd < 0:
                self.outbox.post(client, put_error(self.outbox.open(client), &query, REFUSED,
                                                   self.cache.manner.payload, -1))
            return 0
        entry = &self.pool[i]
        entry.length = <uint16_t> forwardable(entry.wire, WIRE_MAX, &query, self.cache.manner.payload)
        if entry.length == 0:  # a crowd of EDNS options
            self._close(i)
            return self._set_aside(client, wire, length)
        entry.client = client[0]
        entry.asked_id = message_id(wire)
        entry.limit = self._limit(client, &query)
        entry.hash = query.hash
        if first >= 0:
            self.coalesced += 1
            entry.stage = WAITING
            entry.next = self.pool[first].next
            self.pool[first].next = i
            return 0
        entry.chained = self.chains[query.hash & self.chain_mask]
        self.chains[query.hash & self.chain_mask] = i
        entry.deadline = now + self.deadline
        self.wheel.schedule(i, entry.deadline)
        if client.fd < 0:
            return self._hand_over(i, None, now)
        entry.stage = QUEUED
        self.queued[self.queued_count] = i
        self.queued_count += 1
        return 0

    cdef int32_t _take_idle(self) noexcept nogil:
        """Return a clean place in the pool, or -1 where all are taken."""
        cdef int32_t i = self.idle
        if i >= 0:
            self.idle = self.pool[i].next
        elif self.untouched < <int32_t> self.capacity:
            i = self.untouched
            self.untouched += 1
        else:
            return -1
        self.waiting += 1
        self.pool[i].next = -1
        self.pool[i].chained = -1
        self.pool[i].attempt = -1
        self.pool[i].upstream = -1
        self.pool[i].tries = 0
        self.pool[i].unreachable = False
        self.pool[i].stage = IDLE
        return i

    cdef int32_t _find_open(self, const Query* query) noexcept nogil:
        """Return the open query with the same key, or -1."""
        cdef:
            int32_t i = self.chains[query.hash & self.chain_mask]
            Query other
        while i >= 0:
            if self.pool[i].hash == query.hash:
                parse_query(&other, self.pool[i].wire, self.pool[i].length)
                if other.key_length == query.key_length and not memcmp(other.key, query.key, query.key_length):
                    return i
            i = self.pool[i].chained
        return -1

    # ------------------------------------------------------------ answers go out

    cdef uint16_t _limit(self, const Client* client, const Query* query) noexcept nogil:
        """Return the octets of the largest answer that a client takes, and that we send."""
        return MESSAGE_MAX if client.fd < 0 else min(query.payload, self.cache.manner.payload)

    cdef int _answer(self, const Client* client, uint16_t limit, const Answer* answer, const Query* query,
                     const Extra* extra, uint64_t now) except -1:
        """Answer one client, in his own size and spelling."""
        cdef:
            uint64_t waited = (now - client.arrived) // 2000 if now > client.arrived else 0
            uint32_t bucket = 0
        while waited and bucket < LATENCIES - 1:
            waited >>= 1
            bucket += 1
        self.latencies[bucket] += 1
        self.latency_sum += now - client.arrived if now > client.arrived else 0
        return self.outbox.post(client, render(self.outbox.open(client), limit, answer, query,
                                               &self.cache.manner, ticks(now), extra))

    cdef int _answer_all(self, int32_t i, const Answer* answer, const Extra* extra, uint64_t now) except -1:
        """Answer everybody who waits for an open query; `extra` is for the first, who carried it."""
        cdef bint private = self._answer_one(i, answer, extra, now) and answer.form != SECTIONS
        i = self.pool[i].next
        while i >= 0:
            if private:
                self._answer_again(i)
            else:
                self._answer_one(i, answer, NULL, now)
            i = self.pool[i].next
        return 0

    cdef int _answer_one(self, int32_t i, const Answer* answer, const Extra* extra, uint64_t now) except -1:
        """Answer one who waits; return whether he sent a cookie."""
        cdef Query query
        set_id(self.pool[i].wire, self.pool[i].asked_id)
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        self._answer(&self.pool[i].client, self.pool[i].limit, answer, &query, extra if query.cookie else NULL, now)
        return query.cookie > 0

    cdef int _answer_again(self, int32_t i) except -1:
        """Have one who waits ask again: what came may hold the cookie of the one who asked first."""
        cdef:
            Query query
            Client* client = &self.pool[i].client
            uint8_t* out = self.outbox.open(client)
            uint16_t payload = self.cache.manner.payload
        set_id(self.pool[i].wire, self.pool[i].asked_id)
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        if client.fd < 0:
            return self.outbox.post(client, put_error(out, &query, SERVFAIL, payload, -1))
        return self.outbox.post(client, cut(out, &query, QR | query.flags & RD, payload, 0, query.edns_flags & DO))

    cdef void _pass_the_lead(self, int32_t i) noexcept nogil:
        """End the query of the first who asked, and let the next one ask for all who wait."""
        cdef:
            int32_t heir = self.pool[i].next
            Open* entry = &self.pool[heir]
        self.pool[i].next = -1
        entry.hash = self.pool[i].hash
        entry.deadline = self.pool[i].deadline
        self._close(i)
        entry.chained = self.chains[entry.hash & self.chain_mask]
        self.chains[entry.hash & self.chain_mask] = heir
        self.wheel.schedule(heir, entry.deadline)
        entry.stage = QUEUED
        self.queued[self.queued_count] = heir
        self.queued_count += 1

    cdef int _resolve(self, int32_t i, const Query* query, const uint8_t* wire, size_t length,
                      bint over_tcp, uint64_t now) except -1:
        """Let a response that answers the question end an open query; store it if that is allowed."""
        cdef:
            Extra own
            Answer* answer = self.cache.scratch
            Built built = build(answer, query, wire, length, &self.cache.bounds, now,
                                self.cache.clock.wall(), &own)
        if built == IS_TRUNCATED and self.retry_truncated and not over_tcp:
            self.truncated += 1
            return self._hand_over(i, wire[:length], now)
        if answer.rcode_high == BADCOOKIE >> 4 and answer.flags & RCODE == BADCOOKIE & RCODE and self.pool[i].next >= 0:
            self._answer_one(i, answer, &own if own.length else NULL, now)  # his cookie, nobody else's
            self._pass_the_lead(i)
            return 0
        if built == KEEP:
            self.cache.put(answer, ticks(now))
        self._answer_all(i, answer, &own if own.length else NULL, now)
        self._close(i)
        return 0

    cdef int _fail(self, int32_t i, uint64_t now) except -1:
        """Tell everybody who waits that no upstream answered, and remember it for a while (RFC 9520)."""
        cdef:
            Query query
            int32_t ede = NETWORK_ERROR if self.pool[i].unreachable else NO_REACHABLE_AUTHORITY
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        query.hash = self.pool[i].hash
        build_failure(self.cache.scratch, &query, ede, &self.cache.bounds, now)
        self.cache.put(self.cache.scratch, ticks(now))
        self.failures += 1
        self._answer_all(i, self.cache.scratch, NULL, now)
        self._close(i)
        return 0

    cdef void _close(self, int32_t i) noexcept nogil:
        """Put an open query, and all who waited for it, back into the pool."""
        cdef:
            int32_t* link = &self.chains[self.pool[i].hash & self.chain_mask]
            int32_t following
        while link[0] >= 0 and link[0] != i:
            link = &self.pool[link[0]].chained
        if link[0] == i:
            link[0] = self.pool[i].chained
        self.wheel.unschedule(i)
        while self.pool[i].attempt >= 0:
            self._end_attempt(self.pool[i].attempt)
        while i >= 0:
            following = self.pool[i].next
            self.pool[i].stage = IDLE
            self.pool[i].generation += 1
            self.pool[i].next = self.idle
            self.idle = i
            self.waiting -= 1
            i = following

    # ------------------------------------------------------------ to the upstream

    @property
    def waiting_to_be_sent(self) -> int:
        """Return how many queries wait for the first choice of an upstream."""
        return self.queued_count

    def upstreams_that_failed(self) -> list[int]:
        """Return whose queries wait to be sent again, elsewhere."""
        cdef uint32_t k
        return [*{self.pool[self.failed[k]].upstream for k in range(self.failed_count)}]

    def send(self, int32_t upstream) -> None:
        """Send all queued queries to an upstream, in batches, each batch through a random socket."""
        self.queued_count = self._transmit(self.queued, self.queued_count, QUEUED, ANY, upstream)

    def resend(self, int32_t tried, int32_t upstream) -> None:
        """Send the queries that `tried` failed to answer to another upstream."""
        self.failed_count = self._transmit(self.failed, self.failed_count, FAILED, tried, upstream)

    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, Stage stage, int32_t tried,
                            int32_t upstream) noexcept nogil:
        """Send what is listed and still in this stage; return how many stay listed."""
        cdef:
            uint32_t k = 0
            uint32_t kept = 0
            int32_t i, socket, ready, sent
            uint64_t now = self.cache.clock.now()
            Upstream* to = &self.sockets.upstreams[upstream]
        while k < count:
            socket = self.sockets.pick(upstream)
            ready = 0
            while k < count and ready < BATCH:
                i = listed[k]
                k += 1
                if self.pool[i].stage != stage:
                    continue
                if tried != ANY and self.pool[i].upstream != tried:
                    listed[kept] = i
                    kept += 1
                elif socket < 0 or not self._attempt(i, socket, now):
                    self.pool[i].unreachable = True
                    self.wheel.schedule(i, now)
                else:
                    self.outgoing.put(ready, self.pool[i].wire, self.pool[i].length)
                    ready += 1
            sent = self.outgoing.send(self.sockets.sockets[socket].fd, ready) if ready else 0
            if ready and self.outgoing.error:
                self._unreachable(socket, now)
            to.sent += <uint64_t> sent
        return kept

    cdef bint _attempt(self, int32_t i, int32_t socket, uint64_t now) noexcept nogil:
        """Give a query an ID of its own on a socket, and a time by which it must be answered."""
        cdef:
            Open* entry = &self.pool[i]
            int32_t attempt = self.sockets.begin(i, entry.attempt, socket, now)
        if attempt < 0:
            return False
        entry.attempt = attempt
        entry.upstream = self.sockets.sockets[socket].upstream
        entry.stage = SENT
        entry.tries += 1
        entry.unreachable = False
        set_id(entry.wire, self.sockets.attempts[attempt].id)
        self.wheel.schedule(i, min(now + self.timeout, entry.deadline) if entry.tries < self.tries else entry.deadline)
        return True

    cdef void _end_attempt(self, int32_t attempt) noexcept nogil:
        """End one of a query's attempts."""
        cdef int32_t* link = &self.pool[self.sockets.attempts[attempt].query].attempt
        while link[0] != attempt:
            link = &self.sockets.attempts[link[0]].before
        link[0] = self.sockets.attempts[attempt].before
        self.sockets.end(attempt)

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
            Upstream* sender = &self.sockets.upstreams[through.upstream]
            int32_t k, count
        if through.fd < 0:  # closed by an event before this one
            return 0
        count = self.inbox.receive(through.fd)
        if count < 0:
            if errno != EAGAIN and errno != EINTR:
                sender.errors += 1
                self._unreachable(socket, now)
            return 0
        for k in range(count):
            if self.inbox.headers[k].msg_hdr.msg_flags & MSG_TRUNC:
                sender.mismatched += 1
            elif through.fd >= 0:
                self._take_reply(socket, self.inbox.buffer(k), self.inbox.headers[k].msg_len, now)
        return count

    cdef int _take_reply(self, int32_t socket, const uint8_t* wire, size_t length, uint64_t now) except -1:
        """Let a datagram end the query that it answers; any other counts as a mismatch, and changes nothing."""
        cdef:
            Query query
            Upstream* sender = &self.sockets.upstreams[self.sockets.sockets[socket].upstream]
            int32_t attempt = self.sockets.match(socket, message_id(wire)) if length >= HEADER else -1
            int32_t i
        if attempt < 0:
            sender.mismatched += 1
            return 0
        i = self.sockets.attempts[attempt].query
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        if not answers_question(&query, wire, length):
            sender.mismatched += 1
            return 0
        sender.answered += 1
        sender.latency += now - self.sockets.attempts[attempt].sent
        self._end_attempt(attempt)
        if self.pool[i].stage == CARRIED and message_flags(wire) & TC:  # a second one says nothing new
            return 0
        query.hash = self.pool[i].hash
        return self._resolve(i, &query, wire, length, False, now)

    cdef void _unreachable(self, int32_t socket, uint64_t now) noexcept nogil:
        """End all attempts through a socket whose peer refuses; they are tried elsewhere at once."""
        cdef:
            int32_t attempt = self.sockets.any_attempt(socket)
            int32_t i
        while attempt >= 0:
            i = self.sockets.attempts[attempt].query
            self._end_attempt(attempt)
            if self.pool[i].stage == SENT:
                self.pool[i].unreachable = True
                self.wheel.schedule(i, now)
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

    cdef int _expired(self, int32_t i, uint64_t now) except -1:
        cdef Open* entry = &self.pool[i]
        if entry.stage == SENT and entry.upstream >= 0 and not entry.unreachable:
            self.sockets.upstreams[entry.upstream].timeouts += 1
        if now >= entry.deadline or entry.tries >= self.tries and entry.attempt < 0:
            return self._fail(i, now)
        if entry.stage == SENT and entry.tries < self.tries or entry.stage != CARRIED and entry.unreachable:
            entry.stage = FAILED
            self.failed[self.failed_count] = i
            self.failed_count += 1
            self.retried += 1
        self.wheel.schedule(i, entry.deadline)
        return 0

    # ------------------------------------------------------------ in Python's hands

    cdef int _hand_over(self, int32_t i, bytes truncated, uint64_t now) except -1:
        """Let Python carry a query over TCP; what came truncated serves if that fails."""
        self.pool[i].stage = CARRIED
        self.wheel.schedule(i, self.pool[i].deadline)
        self.carried.append((<uint64_t> self.pool[i].generation << 32 | <uint32_t> i,
                             self.pool[i].wire[:self.pool[i].length], truncated,
                             (self.pool[i].deadline - min(now, self.pool[i].deadline)) / 1e9))
        return 0

    def take_carried(self) -> list:
        """Return the queries to carry over TCP, as (handle, query, truncated response or None, seconds left)."""
        taken, self.carried = self.carried, []
        return taken

    cdef int _set_aside(self, const Client* client, const uint8_t* wire, size_t length) except -1:
        """Let Python pass on a query that only the upstream can answer, for this client alone."""
        self.specials.append(((<char*> client)[:sizeof(Client)], wire[:length], 0 if client.fd >= 0 else client.stream))
        return 0

    def take_specials(self) -> list:
        """Return the queries that are nobody else's, as (client, query, stream), for `reply`; stream 0 is UDP."""
        taken, self.specials = self.specials, []
        return taken

    def resolve(self, uint64_t handle, bytes response not None) -> bool:
        """End a carried query with a response; False: it is over already, or this is no answer to it."""
        cdef:
            Query query
            int32_t i = self._held(handle)
        if i < 0 or len(response) > MESSAGE_MAX:
            return False
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        if not answers_question(&query, response, len(response)):
            return False
        query.hash = self.pool[i].hash
        self._resolve(i, &query, response, len(response), True, self.cache.clock.now())
        self.outbox.flush()
        return True

    def fail(self, uint64_t handle) -> None:
        """End a carried query without a response."""
        cdef int32_t i = self._held(handle)
        if i >= 0:
            self._fail(i, self.cache.clock.now())
            self.outbox.flush()

    cdef int32_t _held(self, uint64_t handle) noexcept nogil:
        cdef int32_t i = <int32_t> <uint32_t> handle
        if i < 0 or i >= self.untouched or self.pool[i].generation != handle >> 32:
            return -1
        return i if self.pool[i].stage == CARRIED else -1

    def reply(self, bytes client not None, bytes query not None, bytes response not None) -> None:
        """Send the response to a special query, cut to what its client takes."""
        cdef:
            Query asked
            Client* to = <Client*> <char*> client
            uint8_t* out
            size_t length = len(response)
        if len(client) != sizeof(Client) or not HEADER <= len(query) <= MESSAGE_MAX or length > MESSAGE_MAX:
            raise ValueError("that is no client, no query or no response")
        parse_query(&asked, query, len(query))
        out = self.outbox.open(to)
        if to.fd >= 0 and length > min(asked.payload, <uint16_t> UDP_MAX):  # its payload size went upstream as it was
            length = cut(out, &asked, QR | asked.flags & (OPCODE | RD), self.cache.manner.payload, 0, asked.edns_flags)
        else:
            memcpy(out, <char*> response, length)
        set_id(out, message_id(query))
        self.outbox.post(to, length)
        self.outbox.flush()

    # ------------------------------------------------------------ counters

    @property
    def open_queries(self) -> int:
        """Return how many clients wait for an upstream now."""
        return self.waiting

    def counters(self) -> dict:
        """Return what happened to misses, as numbers by name, and the histogram of their latencies."""
        return {
            "open": self.waiting, "coalesced": self.coalesced, "refused": self.refused,
            "failures": self.failures, "truncated": self.truncated, "retried": self.retried,
            "send_failed": self.outbox.send_failed,
            **tally_as_dict(&self.tally),
            "latencies": [self.latencies[k] for k in range(LATENCIES)],
            "latency_sum": self.latency_sum / 1e9,
        }
