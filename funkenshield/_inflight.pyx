"""How queries travel: from the workers to the queue, to an upstream and back.

It carries; what a query waits for, and what ends it, is `_waiting`'s. It does not choose an upstream, nor
open a socket, nor speak TCP: that is asked of Python, once for a batch.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport close, write

from ._answer cimport FOREIGN, answers_question
from ._cache cimport READERS_MAX, Cache
from ._clock cimport ticks
from ._datagrams cimport BATCH, MSG_TRUNC, Datagrams, ip_of, set_ip
from ._epoll cimport EFD_CLOEXEC, EFD_NONBLOCK, EPOLLET, EPOLLIN, eventfd
from ._open cimport CARRIED, FAILED, QUEUED, SENT, Open, Stage
from ._outbox cimport NOBODY, STREAM, UDP_MAX, Client
from ._outcome cimport DROP, REPLY, REPLY_AND_ASK, Outcome, Sender, answer as decide, meet, tally_as_dict
from ._ring cimport Ring, ring_next, ring_sleep, ring_taken
from ._sockets cimport Socket, Upstream
from ._waiting cimport LATENCIES, Response, Waiting
from ._wire cimport (
    HEADER, MESSAGE_MAX, OPCODE, QR, RD, TC, Extra, Query, cut, message_flags, message_id, parse_query, set_id
)

cdef enum:
    ANY = -2                       # whatever upstream was tried before
    WAKE = -1                      # what epoll says of the workers' eventfd
    COLLECTED_AT_ONCE = 2048       # misses, before responses get their turn again


@cython.final
cdef class Inflight(Waiting):
    """Open queries, and the ways to and from them.

    Memory ownership: rings and descriptors are its own, and so is every socket added to it. One thread,
    with the GIL, calls everything here; workers touch nothing but their rings.
    """

    def __cinit__(self, Cache cache not None, uint32_t capacity) -> None:
        self.wake_fd = -1
        self.inbox = Datagrams(65536)
        self.outgoing = Datagrams(1)
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
                    self.admit(<Client*> record, record + sizeof(Client), size - sizeof(Client), now)
                finally:
                    ring_taken(ring, size)
                collected += 1
                left -= 1
            more = more or not left
        if more:
            self.wake()
        self.outbox.flush()
        return collected

    def submit(self, uint64_t stream, bytes address not None, bytes wire not None) -> bool:
        """Take a query that came over a connection; its answer is for `outbox.take_streams`.

        `address` is the client's, of 4 or 16 octets. False: it gets no answer. Raises ValueError where the
        query is longer than DNS allows, or the address is none.
        """
        cdef:
            Query query
            Client client
            Sender sender
            Outcome outcome
            size_t length = 0
        if len(wire) > MESSAGE_MAX:
            raise ValueError(f"a query has at most {MESSAGE_MAX} octets, not {len(wire)}")
        if len(address) not in (4, 16):
            raise ValueError("an address has 4 or 16 octets")
        client.fd = STREAM
        client.stream = stream
        client.arrived = self.cache.clock.now()
        set_ip(&client.peer, address, <uint8_t> len(address))
        sender = self._sender(&client)
        outcome = decide(&self.reception.house, &query, meet(&self.reception.house, &query, wire, len(wire)), &sender,
                         self.outbox.open(&client), MESSAGE_MAX, ticks(client.arrived), &self.tally, &length)
        if outcome == REPLY or outcome == REPLY_AND_ASK:
            self.outbox.post(&client, length)
        if outcome == REPLY_AND_ASK:
            client.fd = NOBODY
        if outcome != REPLY and outcome != DROP:
            self.admit(&client, wire, len(wire), client.arrived)
        return outcome != DROP

    # ------------------------------------------------------------ to the upstream

    def groups_to_send(self) -> list:
        """Return of which groups of upstreams one must be chosen for queries that are sent for the first time."""
        cdef uint32_t k
        cdef bint alike = True
        for k in range(1, self.queued_count):
            alike = alike and self.pool[self.queued[k]].group == self.pool[self.queued[0]].group
        return [*{self.pool[self.queued[k]].group
                  for k in range(min(self.queued_count, 1) if alike else self.queued_count)}]

    def groups_to_resend(self) -> list:
        """Return (group, upstream that failed) of the queries that wait to be sent again, elsewhere."""
        cdef uint32_t k
        return [*{(self.pool[self.failed[k]].group, self.pool[self.failed[k]].upstream)
                  for k in range(self.failed_count)}]

    def send(self, uint32_t group, int32_t upstream) -> None:
        """Send a group's queued queries to an upstream, in batches, each batch through a random socket."""
        self.queued_count = self._transmit(self.queued, self.queued_count, QUEUED, group, ANY, upstream)

    def resend(self, uint32_t group, int32_t tried, int32_t upstream) -> None:
        """Send the queries of a group that `tried` failed to answer to another upstream."""
        self.failed_count = self._transmit(self.failed, self.failed_count, FAILED, group, tried, upstream)

    cdef uint32_t _transmit(self, int32_t* listed, uint32_t count, Stage stage, uint32_t group, int32_t tried,
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
                if self.pool[i].group != group or tried != ANY and self.pool[i].upstream != tried:
                    listed[kept] = i
                    kept += 1
                elif socket < 0 or not self._attempt(i, socket, now):
                    self.pool[i].unreachable = True
                    self._wait(i, now)
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
        entry.try_until = now + self.timeout if entry.tries < self.tries else entry.deadline
        self._wait(i, entry.try_until)
        return True

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
            Response response
            Upstream* sender = &self.sockets.upstreams[self.sockets.sockets[socket].upstream]
            int32_t attempt = self.sockets.match(socket, message_id(wire)) if length >= HEADER else -1
            int32_t i
        if attempt < 0:
            sender.mismatched += 1
            return 0
        i = self.sockets.attempts[attempt].query
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        query.hash = self.pool[i].hash
        response.wire, response.length, response.over_tcp = wire, length, False
        if answers_question(&query, wire, length):
            self._build(i, &query, &response, now)
        else:
            response.built = FOREIGN
        if response.built == FOREIGN:
            sender.mismatched += 1
            return 0
        sender.answered += 1
        sender.latency += now - self.sockets.attempts[attempt].sent
        self._end_attempt(attempt)
        if self.pool[i].stage == CARRIED and message_flags(wire) & TC:  # a second one says nothing new
            return 0
        return self._resolve(i, &query, &response, now)

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
                self._wait(i, now)
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
        """Return the queries to carry over TCP, as (handle, group, query, truncated response or None, seconds left)."""
        taken, self.carried = self.carried, []
        return taken

    def take_specials(self) -> list:
        """Return the queries that are nobody else's, as (client, query, stream), for `reply`; stream 0 is UDP."""
        taken, self.specials = self.specials, []
        return taken

    def resolve(self, uint64_t handle, bytes response not None) -> bool:
        """End a carried query with a response; False: it is over already, or this is no answer to it."""
        cdef:
            Query query
            Response received
            int32_t i = self.queries.held(handle)
            uint64_t now = self.cache.clock.now()
        if i < 0 or len(response) > MESSAGE_MAX:
            return False
        parse_query(&query, self.pool[i].wire, self.pool[i].length)
        query.hash = self.pool[i].hash
        if not answers_question(&query, response, len(response)):
            return False
        received.wire, received.length, received.over_tcp = response, len(response), True
        self._build(i, &query, &received, now)
        if received.built == FOREIGN:
            return False
        self._resolve(i, &query, &received, now)
        self.outbox.flush()
        return True

    def fail(self, uint64_t handle) -> None:
        """End a carried query without a response."""
        cdef int32_t i = self.queries.held(handle)
        if i >= 0:
            self._fail(i, self.cache.clock.now())
            self.outbox.flush()

    def address_of(self, bytes client not None) -> bytes:
        """Return the address of the client of a special query, 4 or 16 octets."""
        cdef:
            const Client* asking = <Client*> <char*> client
            uint8_t octets
            const uint8_t* address
        if len(client) != sizeof(Client):
            raise ValueError("that is no client")
        address = ip_of(asking.peer.address, &octets)
        return address[:octets]

    def reply(self, bytes client not None, bytes query not None, bytes response not None) -> None:
        """Send the response to a special query, cut to what its client takes."""
        cdef:
            Query asked
            Extra none
            Client* to = <Client*> <char*> client
            uint8_t* out
            size_t length = len(response)
        if len(client) != sizeof(Client) or not HEADER <= len(query) <= MESSAGE_MAX or length > MESSAGE_MAX:
            raise ValueError("that is no client, no query or no response")
        none.length = 0
        parse_query(&asked, query, len(query))
        out = self.outbox.open(to)
        if to.fd >= 0 and length > min(asked.payload, <uint16_t> UDP_MAX):  # its payload size went upstream as it was
            length = cut(out, &asked, QR | asked.flags & (OPCODE | RD), self._payload(), 0, asked.edns_flags, &none)
        else:
            memcpy(out, <char*> response, length)
        set_id(out, message_id(query))
        self.outbox.post(to, length)
        self.outbox.flush()

    # ------------------------------------------------------------ counters

    @property
    def open_queries(self) -> int:
        """Return how many clients wait for an upstream now."""
        return self.queries.waiting

    def counters(self) -> dict:
        """Return what happened to misses, as numbers by name, and the histogram of their latencies."""
        return {
            "open": self.queries.waiting, "coalesced": self.coalesced, "refused": self.refused, "crowded": self.crowded,
            "answered_here": self.answered_here, "rescued": self.rescued, "failures": self.failures,
            "truncated": self.truncated, "retried": self.retried,
            "send_failed": self.outbox.send_failed,
            **tally_as_dict(&self.tally),
            "latencies": [self.latencies[k] for k in range(LATENCIES)],
            "latency_sum": self.latency_sum / 1e9,
        }
