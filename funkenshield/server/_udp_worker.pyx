"""The worker: a batch of queries in, a batch of answers out, without the GIL from start to stop.

    wait -> receive -> parse all -> process each: into the outgoing batch, or into the ring -> send

It knows sockets and batches. What a query gets is `_fastpath`'s decision; what it cannot answer goes
to the control thread, and the worker never waits for that. It allocates nothing after it was made, takes
no lock, and blocks on nothing but its sockets.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close, read, write

from .._fastpath cimport (
    ASK, SEND, Counters, Outcome, QueryContext, Settings, SettingsWriter, counters_as_dict, load_settings,
    parse_and_hash, parse_with_ecs, process_oversized, process_query
)
from ..cache._index cimport fetch
from ..cache._store cimport Cache
from ..core._atomic cimport bump, load_acquire, load_relaxed, load_relaxed16, store_relaxed, store_release
from ..core._clock cimport NANOSECONDS, Clock, ticks
from ..core._epochs cimport Reader, enter, leave
from ..core._epoll cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, epoll_create1, epoll_ctl,
    epoll_event, epoll_wait, eventfd
)
from ..core._fair_shares cimport RingShares
from ..core._limits cimport LISTENERS_MAX
from ..core._prefix_table cimport is_empty, prefix_value
from ..core._spsc_ring cimport Ring, ring_publish
from ..core._udp_batch cimport BATCH, MSG_TRUNC, Datagrams, ip_of, msghdr
from ..events._event cimport PROXY_HEADER, Event, Tap, wanted_kinds
from ..forward._outbox cimport NOBODY, Client
from ..forward._miss_path cimport MissPath
from ..policy._guard cimport GuardTable, check_response, load_guard_table
from ..policy._rule_state cimport KIND_DROPPED, KIND_HIT, KIND_REJECTED, OVER_UDP, RuleState
from ..wire._ecs_upstream cimport ECS_QUERY_MAX
from ..wire._message cimport QUERY_MAX, RCODE, UNANSWERABLE, Query, Verdict, get16, message_flags
from ..wire._proxy_protocol cimport WHOLE_HEADER, ProxyHeader, read_header
from ..xdp._frame cimport is_wanted, was_drawn
from ..xdp._queue cimport (
    Queue, add_asked, exchange_frames, forget_asked, present_frames, put_replies, take_frames
)
from ._kernel_answers cimport KernelAnswers
from ._listener_table cimport FollowedTable, ListenerSocket, ListenerTable
from ._misses cimport put_miss
from ._noting cimport kind_of, note_rule

cdef extern from "<sys/socket.h>" nogil:
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int MSG_DONTWAIT

cdef enum:
    TURNS = 4                      # full batches from one listener, before the next one's
    LAST_TURNS = 1024              # batches from a listener that is gone, at most
    UNHEARD_FOR = 10               # milliseconds until a socket is looked at that the kernel does not watch
    TOLD = -1                      # what epoll says where there is news for the worker
    REPLY_MAX = 4096


cdef inline bint _needs_client_address(const Settings* settings) noexcept nogil:
    """Tell whether it matters whose a query is: a front proxy tells us, or we tell upstreams."""
    return settings.subnets > 0 or not is_empty(&settings.proxies)


@cython.final
cdef class Worker:
    """One thread's share of the listeners: its own sockets, batches, ring and counters.

    Memory ownership: buffers and the two descriptors are its own; the sockets are the caller's, who
    closes them after `run` has returned.
    """

    cdef:
        readonly Cache cache
        readonly MissPath miss_path
        SettingsWriter settings_writer
        Clock clock
        Reader* reader
        Ring* ring
        RingShares* shares             # of the ring
        Tap tap                        # of those who want to know what becomes of queries
        Datagrams inbox, outbox
        Query* queries
        Verdict[BATCH] verdicts
        ProxyHeader[BATCH] proxy_headers  # whose queries they are, where that matters; an address of NULL: dropped
        uint8_t* ecs_queries       # queries that upstreams are told more in
        readonly FollowedTable listeners
        ListenerSocket[LISTENERS_MAX] sockets  # that this worker receives from
        Queue* frames                  # that a batch came from; NULL: it came from a socket
        uint16_t reply_room            # octets that an answer may have, however many its client takes
        readonly KernelAnswers kernel_answers
        uint64_t generation            # of these, that an answer may be offered in; 0: it may not
        uint64_t unheard               # listeners whose socket the kernel does not watch, one bit each
        uint64_t stopped               # whether `run` is to return
        int epoll_fd, told_fd
        Counters counts
        uint64_t[LISTENERS_MAX] by_listener  # messages that came
        uint64_t[16] sent_rcodes       # responses, by the RCODE in their header

    def __cinit__(self, Cache cache not None, MissPath miss_path not None, KernelAnswers kernel_answers=None) -> None:
        self.epoll_fd = self.told_fd = -1
        self.cache = cache
        self.miss_path = miss_path
        self.settings_writer = miss_path.settings_writer
        self.clock = cache.clock
        self.inbox = Datagrams(QUERY_MAX)
        self.outbox = Datagrams(REPLY_MAX)
        self.reply_room = REPLY_MAX
        self.kernel_answers = KernelAnswers(cache) if kernel_answers is None else kernel_answers
        self.queries = <Query*> calloc(BATCH, sizeof(Query))
        self.ecs_queries = <uint8_t*> calloc(BATCH, ECS_QUERY_MAX)
        self.shares = <RingShares*> calloc(1, sizeof(RingShares))
        if not (self.queries and self.ecs_queries and self.shares):
            raise MemoryError("no memory for a batch of queries")
        self.reader = cache.epochs.join()
        self.ring = miss_path.join()
        self.tap = miss_path.recorder.join()
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.told_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.told_fd < 0:
            raise OSError(errno, "no descriptor for a worker")
        if self._watch(self.told_fd, TOLD):
            raise OSError(errno, "a descriptor cannot be watched")
        self.listeners = FollowedTable()
        for k in range(LISTENERS_MAX):
            self.sockets[k].fd = -1

    def __dealloc__(self) -> None:
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        if self.told_fd >= 0:
            close(self.told_fd)
        free(self.queries)
        free(self.ecs_queries)
        free(self.shares)

    cdef int _watch(self, int fd, int32_t which) noexcept nogil:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.which = which
        return epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event)

    def follow(self, ListenerTable table not None) -> None:
        """Receive from the sockets of a table from now on, or once `run` is called; see `listeners.is_followed`."""
        for k in range(LISTENERS_MAX):
            if table.sockets[k].fd >= 0:
                self.miss_path.outbox.set_socket(k, table.sockets[k].answer_from)
        self.listeners.publish(table)
        self._wake()

    def run(self) -> None:
        """Serve until `stop`; called in a thread of its own, which needs no GIL meanwhile. It can be called again."""
        with nogil:
            self._serve()

    def stop(self) -> None:
        """Have `run` return after the batch it is at; any thread may call this."""
        store_release(&self.stopped, 1)
        self._wake()

    cdef void _wake(self) noexcept:
        cdef uint64_t one = 1
        write(self.told_fd, &one, 8)

    @property
    def dropped(self) -> int:
        """Return how many misses were dropped because their client prefix, or zone, had its share of the ring."""
        return load_relaxed(&self.counts.queue_share_exceeded)

    @property
    def unheard_listeners(self) -> int:
        """Return the listeners whose socket the kernel does not watch, one bit each."""
        return load_relaxed(&self.unheard)

    def counters(self) -> dict:
        """Return what happened to the queries of this worker, as numbers by name."""
        return counters_as_dict(&self.counts)

    def messages_by_listener(self) -> list:
        """Return how many messages came to each listener, by its number."""
        return [load_relaxed(&self.by_listener[k]) for k in range(LISTENERS_MAX)]

    def rcodes(self) -> list:
        """Return how many responses there were of each RCODE in a header."""
        return [load_relaxed(&self.sent_rcodes[k]) for k in range(RCODE + 1)]

    cdef void _serve(self) noexcept nogil:
        cdef:
            epoll_event[LISTENERS_MAX + 1] events
            int32_t count, k, _turn
            uint64_t told
        while True:
            count = epoll_wait(self.epoll_fd, events, LISTENERS_MAX + 1, UNHEARD_FOR if self.unheard else -1)
            if self.unheard:
                self._listen()
            for k in range(count):
                if events[k].data.which == TOLD:
                    read(self.told_fd, &told, 8)
                    if load_acquire(&self.stopped):
                        self.stopped = 0
                        self._leave()
                        return
                    self._follow()
                    continue
                for _turn in range(TURNS):  # a full batch says that more is waiting; but so may others be
                    if self._serve_batch(events[k].data.which) < BATCH:
                        break

    cdef void _follow(self) noexcept nogil:
        """Take up the table that was published; what waits at a socket that is in it no more is answered first."""
        cdef:
            const ListenerSocket* table = self.listeners.news()
            int32_t k
        if table == NULL:
            return
        for k in range(LISTENERS_MAX):
            if self.sockets[k].frames != NULL or 0 <= self.sockets[k].fd != table[k].fd:
                self._serve_last(k)
            if 0 <= self.sockets[k].fd != table[k].fd:
                epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, self.sockets[k].fd, NULL)
        for k in range(LISTENERS_MAX):
            if table[k].fd != self.sockets[k].fd:
                self._set_unheard(k, table[k].fd >= 0)
        memcpy(self.sockets, table, sizeof(self.sockets))
        for k in range(LISTENERS_MAX):
            if self.sockets[k].frames != NULL:
                self._tell_listeners(self.sockets[k].frames)
        self.listeners.note(table)
        self._listen()

    cdef void _leave(self) noexcept nogil:
        """Answer what waits in queues of interfaces: others may take what waits in sockets, but nobody this."""
        cdef int32_t k
        for k in range(LISTENERS_MAX):
            if self.sockets[k].frames != NULL:
                self._serve_last(k)

    cdef void _serve_last(self, int32_t which) noexcept nogil:
        """Answer what has come to a socket by now."""
        cdef int32_t _turn
        for _turn in range(LAST_TURNS):
            if not self._serve_batch(which):
                return

    cdef void _tell_listeners(self, Queue* frames) noexcept nogil:
        """Say for which addresses a queue has queries: for all that a listener has a socket at."""
        cdef int32_t k
        forget_asked(frames)
        for k in range(LISTENERS_MAX):
            if self.sockets[k].fd >= 0 and self.sockets[k].frames == NULL:
                add_asked(frames, self.sockets[k].own, <uint8_t> k)

    cdef void _set_unheard(self, int32_t listener, bint unheard) noexcept nogil:
        """Say whether the kernel is still to watch the socket of a listener."""
        cdef uint64_t bit = <uint64_t> 1 << listener
        store_relaxed(&self.unheard, self.unheard | bit if unheard else self.unheard & ~bit)

    cdef void _listen(self) noexcept nogil:
        """Have the kernel watch all sockets; from those that it has no memory for, take what has come by now."""
        cdef int32_t k
        for k in range(LISTENERS_MAX):
            if not self.unheard >> k & 1:
                continue
            if self._watch(self.sockets[k].fd, k) == 0:
                self._set_unheard(k, False)
            else:
                self._serve_batch(k)

    cdef int32_t _serve_batch(self, int32_t which) noexcept nogil:
        """Receive a batch from a socket and answer what can be answered; return how many came."""
        cdef int32_t count, replies
        if self.sockets[which].frames != NULL:
            return self._serve_frames(self.sockets[which].frames)
        count = self.inbox.receive(self.sockets[which].fd)
        if count <= 0:
            return 0
        replies = self._answer(which, count)
        if replies:
            bump(&self.counts.reply_send_errors,
                 <uint64_t> (replies - self.outbox.send(self.sockets[which].fd, replies)))
        return count

    cdef int32_t _serve_frames(self, Queue* frames) noexcept nogil:
        """Take frames from a queue of an interface, and answer in frames what can be answered; return how many came."""
        cdef:
            int32_t came = take_frames(frames)
            int32_t count, replies
        self.frames, self.reply_room = frames, frames.reply_room
        while frames.waiting_count:
            self.generation = self.kernel_answers.generation()
            if self.generation:
                self.kernel_answers.record(self._hits_recorded())
            count = present_frames(frames, self.inbox, self.outbox)
            if not self.kernel_answers.is_for(frames.listener):
                self.generation = 0
            if count:
                frames.by_route = 0
                replies = self._answer(frames.listener, count)
                if frames.by_route:
                    self._send_by_route(frames, replies)
                put_replies(frames, self.inbox, self.outbox, count, replies)
        self.frames, self.reply_room, self.generation = NULL, REPLY_MAX, 0
        exchange_frames(frames)
        return came

    cdef int32_t _answer(self, int32_t listener, int32_t count) noexcept nogil:
        """Answer a batch as far as that can be done here, and hand the rest over; return how many answers there are."""
        cdef:
            int32_t replies
            QueryContext context
        bump(&self.by_listener[listener], <uint64_t> count)
        context.client.now = self.clock.now()
        context.client.wall = <uint32_t> (self.clock.wall() // NANOSECONDS)
        context.client.listener = <uint8_t> listener
        context.client.datagram, context.client.transport, context.client.draw = True, OVER_UDP, 0
        context.now = ticks(context.client.now)
        context.counters = &self.counts
        enter(self.reader)
        context.settings = load_settings(&self.settings_writer.settings)
        self._parse(context.settings, count)
        fetch(context.settings.index, self.queries, count)
        replies = self._process(&context, count)
        leave(self.reader)
        if ring_publish(self.ring):
            self.miss_path.wake()
        return replies

    cdef void _parse(self, const Settings* settings, int32_t count) noexcept nogil:
        """Parse a batch, and hash the keys."""
        cdef int32_t i
        if _needs_client_address(settings):
            for i in range(count):
                self.verdicts[i] = self._parse_with_client_address(settings, i)
        else:
            for i in range(count):
                self.verdicts[i] = parse_and_hash(settings, &self.queries[i],
                                                  <const uint8_t*> self.inbox.parts[i].iov_base,
                                                  self.inbox.headers[i].msg_len)

    cdef Verdict _parse_with_client_address(self, const Settings* settings, int32_t i) noexcept nogil:
        """Parse a query where it matters whose it is: a front proxy tells us, or we tell upstreams."""
        cdef:
            ProxyHeader* header = &self.proxy_headers[i]
            const uint8_t* wire = <const uint8_t*> self.inbox.parts[i].iov_base
            size_t length = self.inbox.headers[i].msg_len
        header.header = 0
        header.address = ip_of(<const uint8_t*> self.inbox.headers[i].msg_hdr.msg_name, &header.octets)
        if (prefix_value(&settings.proxies, header.address, header.octets)
                and read_header(header, wire, length) != WHOLE_HEADER):
            header.address = NULL
            bump(&self.counts.queries, 1)
            bump(&self.counts.proxy_protocol_invalid, 1)
            return UNANSWERABLE
        return parse_with_ecs(settings, &self.queries[i], wire + header.header, length - header.header,
                              header.address, header.octets, self.ecs_queries + i * ECS_QUERY_MAX)

    cdef int32_t _process(self, QueryContext* context, int32_t count) noexcept nogil:
        """Decide about each query of a batch; return how many replies there are to send."""
        cdef:
            const GuardTable* guard_table = load_guard_table(context.settings.guard_table)
            uint16_t payload = min(load_relaxed16(&context.settings.index.zone_settings.manner.payload),
                                   self.reply_room)
            bint is_told = _needs_client_address(context.settings)
            bint is_recorded = wanted_kinds(self.tap) != 0
            int32_t replies = 0
            int32_t i, put
            Outcome outcome
        for i in range(count):
            if not is_told:
                context.client.address = ip_of(<const uint8_t*> self.inbox.headers[i].msg_hdr.msg_name,
                                               &context.client.octets)
            elif self.proxy_headers[i].address == NULL:
                if is_recorded:
                    self._note_bad_header(context, i)
                continue
            else:
                context.client.address, context.client.octets = (
                    self.proxy_headers[i].address, self.proxy_headers[i].octets)
            context.client.proven = False
            context.query, context.verdict = &self.queries[i], self.verdicts[i]
            if is_recorded:
                context.client.draw = self._draw(i)
            context.reply, context.limit = self.outbox.rooms[replies], min(self.queries[i].payload, payload)
            memset(&context.rule_state, 0, sizeof(RuleState))
            if self.inbox.headers[i].msg_hdr.msg_flags & MSG_TRUNC:
                outcome = process_oversized(context)
            else:
                outcome = process_query(context)
            put = self._put(context, guard_table, replies, i) if outcome & SEND else 0
            replies += put
            if put and self.frames != NULL:
                self._answer_frame(context, outcome, replies - 1)
            if outcome & ASK and not self._hand_over(context, i, outcome & SEND,
                                                     is_told and self.proxy_headers[i].header > 0):
                context.rule_state.kind = KIND_REJECTED
            if is_recorded:
                self._note(context, i, outcome, is_told, put)
        if is_recorded:
            self.tap.publish()
        return replies

    cdef void _answer_frame(self, const QueryContext* context, Outcome outcome, int32_t reply) noexcept nogil:
        """Have a reply go where it should, and the next one be the kernel's, where it may.

        A cookie of ours proves that whoever has it is at his address: who has none gets one by a route alone, and not
        by a frame, which goes to whoever sent one.
        """
        if context.options.length and not context.client.proven:
            self.frames.by_route |= <uint64_t> 1 << reply
        elif self.generation and outcome == SEND:
            self.kernel_answers.offer(context, self.generation)

    cdef void _send_by_route(self, Queue* frames, int32_t replies) noexcept nogil:
        """Send those of the replies to a batch that are not to go by frames."""
        cdef int32_t k
        for k in range(replies):
            if (frames.by_route >> k & 1
                    and sendmsg(self.sockets[frames.listener].fd, &self.outbox.headers[k].msg_hdr, MSG_DONTWAIT) < 0):
                bump(&self.counts.reply_send_errors, 1)

    cdef uint32_t _draw(self, int32_t i) noexcept nogil:
        """Draw a lot for a query; where the kernel drew one already, it is among those that fit."""
        cdef:
            uint64_t draw = self.tap.draw()
            uint64_t chance
        if self.frames != NULL and was_drawn(&self.frames.frames[i]):
            chance = self._hits_recorded()
            if is_wanted(&self.frames.frames[i]):
                draw = draw * chance >> 32
            else:
                draw = chance + (draw * ((<uint64_t> 1 << 32) - chance) >> 32)
        return <uint32_t> draw | 1

    cdef uint64_t _hits_recorded(self) noexcept nogil:
        """Return how many of 2**32 queries that are answered from the cache are recorded."""
        return load_relaxed(&self.tap.wanted.chance) if wanted_kinds(self.tap) >> KIND_HIT & 1 else 0

    cdef void _note(self, QueryContext* context, int32_t i, Outcome outcome, bint is_told, bint put) noexcept nogil:
        """Record what became of a query, as it came: there is a reply where one was `put`."""
        cdef:
            ProxyHeader* header = &self.proxy_headers[i]
            size_t skipped = header.header if is_told else 0
            Event* event = self.tap.note(
                kind_of(context, outcome, put), &context.client,
                <const uint8_t*> self.inbox.parts[i].iov_base + skipped,
                min(self.inbox.headers[i].msg_len, <uint32_t> QUERY_MAX) - skipped, context.reply,
                context.length if put else 0)
        if event != NULL:
            event.port = (header.port if skipped and header.to_octets
                          else get16(<const uint8_t*> self.inbox.headers[i].msg_hdr.msg_name + 2))
            note_rule(event, context)

    cdef void _note_bad_header(self, QueryContext* context, int32_t i) noexcept nogil:
        """Record that a front proxy sent no header, or a wrong one: the query behind it is not known."""
        cdef:
            const uint8_t* peer = <const uint8_t*> self.inbox.headers[i].msg_hdr.msg_name
            Event* event
        context.client.address, context.client.draw = ip_of(peer, &context.client.octets), self.tap.draw()
        event = self.tap.note(KIND_DROPPED, &context.client, peer, 0, peer, 0)
        if event != NULL:
            event.port, event.reason = get16(peer + 2), PROXY_HEADER

    cdef int32_t _put(self, QueryContext* context, const GuardTable* guard_table, int32_t replies,
                      int32_t i) noexcept nogil:
        """Put a reply into the outgoing batch, unless the guard holds it back; return how many that is."""
        if guard_table != NULL:
            context.length = check_response(guard_table, &context.client, context.reply, context.length,
                                            &self.counts.guard)
        if not context.length:
            return 0
        bump(&self.sent_rcodes[message_flags(context.reply) & RCODE], 1)
        self.outbox.put(replies, context.reply, context.length)
        self.outbox.answer_to(replies, self.inbox, i)
        return 1

    cdef bint _hand_over(self, const QueryContext* context, int32_t i, bint answered, bint has_header) noexcept nogil:
        """Put a query into the ring, as it came; False: that is full, and a client who waits must ask again."""
        cdef:
            const Query* query = context.query
            uint32_t length = query.length
            const uint8_t* wire = query.wire
            uint8_t added = query.added
            Client* client
        if context.rule_state.stopped and added:  # Python is shown what the client sent
            wire = <const uint8_t*> self.inbox.parts[i].iov_base + self.proxy_headers[i].header
            length = self.inbox.headers[i].msg_len - <uint32_t> self.proxy_headers[i].header
            added = 0
        client = put_miss(self.ring, self.shares, context, wire, length, added, True)
        if client == NULL:
            return answered
        client.stream, client.request = 0, 0
        client.fd = NOBODY if answered else self.sockets[context.client.listener].answer_from
        self.inbox.get_peer(i, &client.peer)
        self._note_ends(context.client.listener, i, client, has_header)
        return True

    cdef void _note_ends(self, int32_t listener, int32_t i, Client* client, bint has_header) noexcept nogil:
        """Note from which port a client asked, and whom: as the header of a front proxy tells, or the socket."""
        cdef:
            const uint8_t* own = self.sockets[listener].own
            const uint8_t* to
        if has_header and self.proxy_headers[i].to_octets:
            client.port, client.to_port = self.proxy_headers[i].port, self.proxy_headers[i].to_port
            to, client.to_octets = self.proxy_headers[i].to, self.proxy_headers[i].to_octets
        else:
            client.port, client.to_port = get16(client.peer.address + 2), get16(own + 2)
            to = self.inbox.asked(i, &client.to_octets)
            if to == NULL:
                to = ip_of(own, &client.to_octets)
        memcpy(client.to, to, client.to_octets)
