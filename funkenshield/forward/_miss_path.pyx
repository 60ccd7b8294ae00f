"""The miss path, put together: from the workers' rings to upstreams, and back to all who wait.

    worker -> ring -> collect -+-> rules -> admission -> attempts: queued
    connection -> submit ------+                           |
                     upstreams: choose <- send <-----------+
                                  |-> transport (UDP) -> receive --+
                                  |-> take_stream_queries (TCP) -> resolve -> resolution -> replies, cache
                                  +-> rules: a function answers ---+

Python decides who may be asked; choosing among them, and carrying queries there and back, is done in compiled code.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset
from posix.unistd cimport close, write

from .._fastpath cimport SettingsWriter, counters_as_dict
from ..cache._store cimport Cache
from ..core._epochs cimport READERS_MAX
from ..core._epoll cimport EFD_CLOEXEC, EFD_NONBLOCK, EPOLLET, EPOLLIN, eventfd
from ..core._fair_shares cimport RingShares
from ..core._latency_histogram cimport histogram_as_dict
from ..core._limits cimport SOCKETS_MAX
from ..core._spsc_ring cimport Ring, ring_next, ring_sleep, ring_taken
from ..core._udp_batch cimport BATCH
from ..events._event cimport wanted_kinds
from ..events._recorder cimport Recorder
from ..policy._guard cimport guard_counters_as_dict
from ..policy._rule_state cimport OVER_TCP
from ..upstream._selection cimport TRIES_MAX, reason_of_errno
from ..upstream._sockets_and_ids cimport Attempt
from ..wire._message cimport HEADER, MESSAGE_MAX, Query, get16, plain_end
from ._admission cimport Admission
from ._attempts cimport Attempts
from ._client_replies cimport ClientReplies
from ._outbox cimport STREAM, Client
from ._pending cimport FAILED, IDLE, QUEUED, PendingQueries, PendingQuery, Stage
from ._python_rules cimport PythonRules
from ._reply_queue cimport ReplyQueue
from ._resolution cimport LAST_RESORTS_MAX, Resolution, Response
from ._shared_cache cimport SharedCache
from ._transport cimport Transport

cdef enum:
    WAKE = -1                      # what epoll says of the workers' eventfd
    COLLECTED_AT_ONCE = 2048       # misses, before responses get their turn again


@cython.final
cdef class MissPath:
    """Pending queries, at most `capacity`, and the ways to and from them.

    Memory ownership: rings and descriptors are its own, and so is every socket added to it. One thread,
    with the GIL, calls everything here; workers touch nothing but their rings.
    """

    def __cinit__(self, Cache cache not None, uint32_t capacity, size_t guarded=1 << 20) -> None:
        self.wake_fd = -1
        self.cache = cache
        self.settings_writer = SettingsWriter(cache, guarded)
        self.queries = PendingQueries(cache, capacity)
        self.recorder = Recorder(cache.clock)
        self.replies = ClientReplies(self.settings_writer, self.queries, self.recorder)
        self.attempts = Attempts(self.queries, self.replies.outbox.tap)
        self.admission = Admission(self.replies, self.attempts)
        self.shared = SharedCache(self.attempts)
        self.resolution = Resolution(self.replies, self.attempts, self.shared)
        self.rules = PythonRules(self.admission, self.resolution)
        self.transport = Transport(self.resolution)
        self.pool, self.outbox = self.queries.pool, self.replies.outbox
        self.sockets, self.upstreams = self.attempts.sockets, self.attempts.upstreams
        self.set_limits()
        self.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.wake_fd < 0:
            raise OSError(errno, "no descriptor for the pending queries")
        self.sockets.watch(self.wake_fd, WAKE, EPOLLIN | EPOLLET)  # by edge: nobody has to read it empty

    def __dealloc__(self) -> None:
        cdef uint32_t k
        for k in range(self.ring_count):
            free(self.rings[k])
        if self.wake_fd >= 0:
            close(self.wake_fd)

    def set_limits(self, *, double timeout=1.0, double deadline=2.5, double retry_after=0.1,
                   double update_timeout=10.0, uint16_t attempts=3, bint refuse_overload=True,
                   bint retry_truncated=True, retry_on=(), bint hedge=False,
                   uint32_t spoof_threshold=3, uint32_t max_long=512, uint32_t max_forgeable=1000) -> None:
        """Say how long an upstream is given and a client waits (seconds), what is tried again, and what is too much.

        `retry_after` is the least silence after which another upstream is asked, and `retry_on` the RCODEs with which
        one is; what is sent once is waited for `update_timeout`; so many unsolicited replies (`spoof_threshold`) make
        an upstream suspect. So many long queries are pending at most, and so many of one client prefix whose source may
        be forged.
        """
        if not 1 <= attempts <= TRIES_MAX or not all(0 < each <= 30 for each in (timeout, deadline, retry_after)):
            raise ValueError(f"1 to {TRIES_MAX} attempts, in up to 30 seconds")
        self.attempts.timeout = <uint64_t> (timeout * 1e9)
        self.attempts.deadline = <uint64_t> (deadline * 1e9)
        self.attempts.retry_after = <uint64_t> (min(retry_after, timeout) * 1e9)
        self.attempts.update_timeout = <uint64_t> (update_timeout * 1e9)
        self.attempts.most = attempts
        self.attempts.hedge = hedge
        self.replies.refuse_overload = refuse_overload
        self.resolution.retry_truncated = retry_truncated
        self.resolution.retry_on = sum({1 << rcode for rcode in retry_on})
        self.upstreams.suspect_after = spoof_threshold
        self.queries.long_max = max_long
        self.admission.most_forgeable = max_forgeable

    def consult(self, *, chaos=None, discovery=None, nsec_cache=None) -> None:
        """Say who knows answers without an upstream: of class CHAOS, of encrypted listeners, of what does not exist."""
        self.admission.chaos, self.admission.discovery = chaos, discovery
        self.admission.nsec_cache = self.resolution.nsec_cache = nsec_cache

    def notice_loops(self, loops, /) -> None:
        """Say who tells, by the client's address, whether a query is a loop that waits so many times by itself."""
        self.admission.loops = loops

    def renew_with(self, renew, /) -> None:
        """Say who opens new sockets to an upstream, by its number, where none leads there any more."""
        self.transport.renew = renew

    # ------------------------------------------------------------ misses come in

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

    cdef ReplyQueue* join_connections(self, int wake_fd) except NULL:
        """Return the queue of replies for one more worker that holds connections; the descriptor wakes it."""
        return self.outbox.add_queue(wake_fd)

    cdef void wake(self) noexcept nogil:
        """Have `collect` called soon; the one thing here that other threads may call."""
        cdef uint64_t one = 1
        write(self.wake_fd, &one, 8)

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` or `collect` has work."""
        return self.sockets.fileno()

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
                    self.rules.take_in(<Client*> record, record + sizeof(Client), size - sizeof(Client), now)
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
        client.fd, client.transport = STREAM, OVER_TCP
        client.stream = stream
        client.arrived = self.cache.clock.now()
        client.octets = <uint8_t> len(address)
        memcpy(client.ip, <char*> address, client.octets)
        client.listener = listener
        if not stream >> 63 and wanted_kinds(self.outbox.tap):  # which is no client's, but a rule's
            client.draw = self.outbox.tap.draw()
        if len(ends) in (8, 20):
            client.port, client.to_port = get16(ends), get16(<const uint8_t*> <char*> ends + 2)
            client.to_octets = <uint8_t> (len(ends) - 4)
            memcpy(client.to, <char*> ends + 4, client.to_octets)
        return self.rules.enter(&client, wire, len(wire), True)

    # ------------------------------------------------------------ to upstreams

    def send(self) -> None:
        """Send what is queued, and what another upstream failed to answer, to upstreams that are chosen now."""
        cdef uint32_t listed
        if self.shared.looks_up:
            self.shared.set_aside(self.attempts.queued, self.attempts.queued_count)
        self.attempts.walked = QUEUED
        self._send(self.attempts.queued, self.attempts.queued_count, QUEUED)
        self.attempts.queued_count = 0
        self.attempts.walked = FAILED
        listed = self.attempts.failed_count
        self._send(self.attempts.failed, listed, FAILED)
        self.attempts.tap.publish()
        self.attempts.failed_count -= listed  # what was listed meanwhile waits for the next time
        memmove(self.attempts.failed, self.attempts.failed + listed, self.attempts.failed_count * sizeof(int32_t))
        self.attempts.walked = IDLE

    cdef int _send(self, int32_t* listed, uint32_t count, Stage stage) except -1:
        """Choose an upstream for all that is listed and still in this stage, and send it."""
        cdef:
            uint32_t k
            uint32_t ready = 0
            int32_t i, upstream
            PendingQuery* pending
            const uint8_t* name
            uint64_t now = self.cache.clock.now()
        for k in range(count):
            i = listed[k]
            pending = &self.pool[i]
            if pending.stage != stage:
                continue
            if pending.by_function:
                self.rules.let_function_answer(i, now)
                continue
            name = pending.wire + HEADER
            if pending.verbatim and plain_end(pending.wire, pending.length, HEADER) < 0:  # it may have no question
                name = b"\0"
            upstream = self.upstreams.choose(pending.group, &pending.tried, name)
            if upstream < 0:
                self.resolution.no_upstream(i, upstream, now)
                continue
            self.upstreams.all[upstream].outstanding += 1
            self.retries += stage == FAILED
            if not self.transport.may_send(i, upstream, now):
                self.resolution.hand_over(i, upstream, now)
                continue
            pending.chosen = <int16_t> upstream
            listed[ready] = i
            ready += 1
        return self.transport.send(listed, ready, now)

    def take_stream_queries(self) -> list:
        """Return the queries to carry over TCP or TLS.

        Each is (handle, upstream, query, seconds left, header before it, whether it is sent once at most).
        """
        taken, self.attempts.stream_queries = self.attempts.stream_queries, []
        return taken

    def take_notifies_and_transfers(self) -> list:
        """Return what Python forwards itself, as (client, query, stream, route); stream 0 is UDP."""
        taken, self.admission.notifies_and_transfers = self.admission.notifies_and_transfers, []
        return taken

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
                received += self.transport.receive(readable[k], now)
        self.outbox.flush()
        return received

    def resolve(self, uint64_t handle, bytes response not None) -> bool:
        """End a carried query with a response; False: it is over already, or this is no answer to it."""
        cdef:
            Query query
            Response received
            int32_t i = self.queries.held(handle)
            int32_t attempt = self.attempts.stream_attempt(i, handle)
            int32_t upstream
            uint64_t now = self.cache.clock.now()
        if attempt < 0 or len(response) > MESSAGE_MAX:
            return False
        if not self.resolution.read(i, &query, &received, response, len(response), True, now):
            return False
        upstream = self.sockets.attempts[attempt].upstream
        self.attempts.note_response(attempt, OVER_TCP, response, len(response))
        self.transport.learn_spelling(attempt, &query, response)
        self.attempts.answered(attempt, now)
        self.resolution.consider(i, upstream, &query, &received, now)
        self.outbox.flush()
        return True

    def fail(self, uint64_t handle, int error=0, *, bint unsent=False) -> None:
        """Say that there is no response to a carried query, and why (errno, 0 for what is none).

        Another upstream is asked, if there may be one. `unsent`: it is certain that nothing of it has arrived.
        """
        cdef:
            int32_t i = self.queries.held(handle)
            int32_t attempt = self.attempts.stream_attempt(i, handle)
            const Attempt* failed
            uint64_t now = self.cache.clock.now()
        if attempt < 0:
            return
        failed = &self.sockets.attempts[attempt]
        self.upstreams.all[failed.upstream].network_errors += not self.attempts.is_tcp_fallback(failed)
        self.pool[i].maybe_delivered = self.pool[i].maybe_delivered and not unsent
        self.attempts.lost(attempt, reason_of_errno(error), now)
        if self.pool[i].attempt < 0:
            self.resolution.time_is_up(i, now)
        self.outbox.flush()

    def take_shared(self, uint64_t handle, bytes entry not None, double age) -> bool:
        """End a query that was looked up with what another node wrote so many seconds ago; False: it goes on.

        Raises ValueError where the octets are no entry for it.
        """
        cdef:
            int32_t i = self.shared.wanted(handle)
            uint64_t now = self.cache.clock.now()
        if i < 0 or not self.shared.read(i, entry, age, now):
            return False
        self.resolution.serve_shared(i, now)
        return True

    def go_on(self, handles) -> None:
        """Have queries that wait for a look-up sent to upstreams; those that are over are left alone."""
        for handle in handles:
            self.shared.resume(handle)
        self.outbox.flush()

    def abandon(self, int32_t socket) -> None:
        """Give up a socket that leads nowhere from here any more; what waits for an answer through it is sent anew."""
        if 0 <= socket < SOCKETS_MAX:
            self.transport.abandon(socket, self.cache.clock.now())

    def tick(self) -> None:
        """Let time pass: try again, or give up, what is due."""
        cdef:
            uint64_t now = self.cache.clock.now()
            int32_t i = self.attempts.wheel.due(now)
        while i >= 0:
            self.resolution.time_is_up(i, now)
            i = self.attempts.wheel.due(now)
        self.outbox.flush()

    # ------------------------------------------------------------ counters

    @property
    def pending_queries(self) -> int:
        """Return how many clients wait for an upstream now."""
        return self.queries.waiting

    def failures(self) -> list:
        """Return the last failures that clients felt; see `Failures.listed`."""
        return self.resolution.failures.listed()

    @property
    def memory_limit(self) -> int:
        """Return the octets that all that waits here may take: places, attempts, long queries, kept replies, rings."""
        return (self.queries.capacity * sizeof(PendingQuery) + self.sockets.capacity * sizeof(Attempt)
                + self.queries.long_max * <size_t> MESSAGE_MAX + LAST_RESORTS_MAX
                + self.ring_count * (sizeof(Ring) + sizeof(RingShares)))

    def counters(self) -> dict:
        """Return what happened to misses, as numbers by name, and a histogram of their latencies."""
        counted = counters_as_dict(&self.replies.counts)
        return {
            "outstanding_queries": self.queries.waiting,
            "coalesced_queries": self.admission.coalesced_queries,
            "outstanding_limit_exceeded": self.admission.outstanding_limit_exceeded,
            "zone_limit_exceeded": self.admission.zone_limit_exceeded,
            "fair_share_exceeded": self.admission.fair_share_exceeded,
            "upstreams_saturated": self.admission.upstreams_saturated + self.resolution.upstreams_saturated,
            "dropped_duplicates": self.admission.dropped_duplicates,
            "dropped_late_replies": self.replies.dropped_late_replies,
            "local_answers": self.admission.local_answers,
            "stale_on_refresh_failure": self.resolution.stale_on_refresh_failure,
            "resolution_failures": self.resolution.resolution_failures,
            "no_upstream_available": self.resolution.no_upstream_available,
            "upstream_truncated": self.resolution.upstream_truncated,
            "spoof_suspected": self.transport.spoof_suspected,
            "retries": self.retries,
            "hedged_queries": self.attempts.hedged_queries,
            "outbox_send_errors": self.outbox.send_failed,
            **counted,
            **{name: count + counted[name]
               for name, count in guard_counters_as_dict(&self.outbox.guard_counters).items()},
            "latency_histogram": histogram_as_dict(&self.replies.latency),
        }
