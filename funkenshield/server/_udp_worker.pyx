"""The worker: a batch of queries in, a batch of answers out, without the GIL from start to stop.

    wait -> receive -> meet all -> answer each: into the outgoing batch, or into the ring -> send

It knows sockets and batches. What a query gets is `_fastpath`'s decision; what it cannot answer goes
to the control gear, and the worker never waits for that. It allocates nothing after it was made, takes
no lock, and blocks on nothing but its sockets.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close, write

from .._fastpath cimport (
    DECIDE, DROP, REPLY, REPLY_AND_ASK, House, Outcome, Reception, Tally, answer, answer_cut, look_house, meet,
    meet_from, tally_as_dict
)
from ..cache._index cimport fetch
from ..cache._store cimport Cache
from ..core._atomic cimport bump, peek, peek16
from ..core._clock cimport NANOSECONDS, Clock, ticks
from ..core._epochs cimport Reader, enter, leave
from ..core._epoll cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
    eventfd
)
from ..core._fair_shares cimport RingShares, ring_share
from ..core._spsc_ring cimport Ring, ring_publish, ring_reserve
from ..core._udp_batch cimport BATCH, MSG_TRUNC, PEER_MAX, Datagrams, ip_of
from ..forward._outbox cimport NOBODY, Client
from ..forward._transport cimport Inflight
from ..policy._guard cimport Orders, judge_response, look_orders
from ..policy._rule_state cimport Course, Sender
from ..wire._ecs cimport TOLD_MAX
from ..wire._message cimport NAME_MAX, QUERY_MAX, RCODE, UNANSWERABLE, Query, Verdict, get16, lower_name, message_flags
from ..wire._proxy_protocol cimport WHOLE_HEADER, Told, is_trusted, read_header

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int getsockname(int fd, sockaddr* address, uint32_t* length)

cdef enum:
    LISTENERS_MAX = 64
    TURNS = 4                      # full batches from one listener, before the next one's
    STOP = -1                      # what epoll says of the stop eventfd
    REPLY_MAX = 4096


@cython.final
cdef class Worker:
    """One thread's share of the listeners: its own sockets, batches, ring and counters.

    Memory ownership: buffers and the two descriptors are its own; the sockets are the caller's, who
    closes them after `run` has returned.
    """

    cdef:
        readonly Cache cache
        readonly Inflight inflight
        Reception reception
        Clock clock
        Reader* reader
        Ring* ring
        RingShares* shares             # of the ring
        Datagrams inbox, outbox
        Query* queries
        Verdict[BATCH] verdicts
        Told[BATCH] told               # whose queries they are, where that matters; an address of NULL: dropped
        uint8_t* told_wires            # queries that upstreams are told more in
        int[LISTENERS_MAX] sockets     # that this worker receives from
        int[LISTENERS_MAX] answer_from  # the same address's socket that the control gear answers from
        uint8_t[LISTENERS_MAX][PEER_MAX] own  # the address itself
        int32_t listeners
        int epoll_fd, stop_fd
        Tally tally
        uint64_t[16] sent_rcodes       # responses, by the RCODE in their header

    def __cinit__(self, Cache cache not None, Inflight inflight not None) -> None:
        self.epoll_fd = self.stop_fd = -1
        self.cache = cache
        self.inflight = inflight
        self.reception = inflight.reception
        self.clock = cache.clock
        self.inbox = Datagrams(QUERY_MAX)
        self.outbox = Datagrams(REPLY_MAX)
        self.queries = <Query*> calloc(BATCH, sizeof(Query))
        self.told_wires = <uint8_t*> calloc(BATCH, TOLD_MAX)
        self.shares = <RingShares*> calloc(1, sizeof(RingShares))
        if not (self.queries and self.told_wires and self.shares):
            raise MemoryError("no memory for a batch of queries")
        self.reader = cache.epochs.join()
        self.ring = inflight.join()
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.stop_fd < 0:
            raise OSError(errno, "no descriptor for a worker")
        self._watch(self.stop_fd, STOP)

    def __dealloc__(self) -> None:
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        if self.stop_fd >= 0:
            close(self.stop_fd)
        free(self.queries)
        free(self.told_wires)
        free(self.shares)

    cdef int _watch(self, int fd, int32_t which) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.which = which
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event):
            raise OSError(errno, "a socket cannot be watched")
        return 0

    def listen(self, int fd, int answer_from) -> None:
        """Receive from a bound, non-blocking UDP socket; `answer_from` is the one that misses are answered from.

        Raises ValueError where a worker has too many, OSError where the kernel refuses.
        """
        cdef uint32_t length = PEER_MAX
        if self.listeners == LISTENERS_MAX:
            raise ValueError(f"a worker listens on at most {LISTENERS_MAX} addresses")
        if getsockname(fd, <sockaddr*> self.own[self.listeners], &length):
            raise OSError(errno, "a socket has no address")
        self._watch(fd, self.listeners)
        self.sockets[self.listeners] = fd
        self.answer_from[self.listeners] = answer_from
        self.listeners += 1

    def run(self) -> None:
        """Serve until `stop`; called in a thread of its own, which needs no GIL meanwhile."""
        with nogil:
            self._serve()

    def stop(self) -> None:
        """Have `run` return after the batch it is at; any thread may call this."""
        cdef uint64_t one = 1
        write(self.stop_fd, &one, 8)

    @property
    def dropped(self) -> int:
        """Return how many misses were dropped because their client prefix, or zone, had its share of the ring."""
        return peek(&self.tally.over_share)

    def counters(self) -> dict:
        """Return what happened to the queries of this worker, as numbers by name."""
        return tally_as_dict(&self.tally)

    def rcodes(self) -> list:
        """Return how many responses there were of each RCODE in a header."""
        return [peek(&self.sent_rcodes[k]) for k in range(RCODE + 1)]

    cdef void _serve(self) noexcept nogil:
        cdef:
            epoll_event[LISTENERS_MAX + 1] events
            int32_t count, k, _turn
        while True:
            count = epoll_wait(self.epoll_fd, events, LISTENERS_MAX + 1, -1)
            for k in range(count):
                if events[k].data.which == STOP:
                    return
                for _turn in range(TURNS):  # a full batch says that more is waiting; but so may others be
                    if self._serve_batch(events[k].data.which) < BATCH:
                        break

    cdef int32_t _serve_batch(self, int32_t listener) noexcept nogil:
        """Receive a batch from a listener and answer what can be answered; return how many came."""
        cdef:
            int fd = self.sockets[listener]
            int32_t count = self.inbox.receive(fd)
            uint64_t now = self.clock.now()
            const House* house
            const Orders* orders
            uint16_t payload
            bint is_told
            Sender sender
            Course course
            int32_t replies = 0
            int32_t sent, i
            size_t length
            Outcome outcome
        if count <= 0:
            return 0
        sender.datagram = True
        sender.listener = <uint8_t> listener
        sender.now = now
        sender.wall = <uint32_t> (self.clock.wall() // NANOSECONDS)
        enter(self.reader)
        house = look_house(&self.reception.house)
        orders = look_orders(house.orders)
        payload = peek16(&house.index.policies.manner.payload)
        is_told = house.proxies.count > 0 or house.subnets > 0
        if is_told:
            self._meet_told(house, count)
        else:
            for i in range(count):
                self.verdicts[i] = meet(house, &self.queries[i], self.inbox.buffer(i), self.inbox.headers[i].msg_len)
        fetch(house.index, self.queries, count)
        for i in range(count):
            if not is_told:
                sender.address = ip_of(<const uint8_t*> self.inbox.headers[i].msg_hdr.msg_name, &sender.octets)
            elif self.told[i].address == NULL:
                continue
            else:
                sender.address, sender.octets = self.told[i].address, self.told[i].octets
            sender.proven = False
            memset(&course, 0, sizeof(Course))
            if self.inbox.headers[i].msg_hdr.msg_flags & MSG_TRUNC:
                outcome = answer_cut(house, &self.queries[i], self.verdicts[i], &sender, self.outbox.buffer(replies),
                                     &self.tally, &length)
            else:
                outcome = answer(house, &self.queries[i], self.verdicts[i], &sender, &course,
                                 self.outbox.buffer(replies), min(self.queries[i].payload, payload), ticks(now),
                                 &self.tally, &length)
            if orders != NULL and (outcome == REPLY or outcome == REPLY_AND_ASK):
                length = judge_response(orders, &sender, self.outbox.buffer(replies), length, &self.tally.watch)
            if (outcome == REPLY or outcome == REPLY_AND_ASK) and length:
                bump(&self.sent_rcodes[message_flags(self.outbox.buffer(replies)) & RCODE], 1)
                self.outbox.put(replies, self.outbox.buffer(replies), length)
                self.outbox.answer_to(replies, self.inbox, i)
                replies += 1
            if outcome != REPLY and outcome != DROP:
                self._hand_over(listener, i, &sender, &course, outcome, is_told and self.told[i].header > 0)
        leave(self.reader)
        if replies:
            sent = self.outbox.send(fd, replies)
            bump(&self.tally.send_failed, <uint64_t> (replies - sent))
        if ring_publish(self.ring):
            self.inflight.wake()
        return count

    cdef void _meet_told(self, const House* house, int32_t count) noexcept nogil:
        """Meet a batch where it matters whose a query is: a front proxy tells us, or we tell upstreams."""
        cdef:
            const uint8_t* wire
            size_t length
            Told* told
            int32_t i
        for i in range(count):
            told = &self.told[i]
            wire = self.inbox.buffer(i)
            length = self.inbox.headers[i].msg_len
            told.header = 0
            told.address = ip_of(<const uint8_t*> self.inbox.headers[i].msg_hdr.msg_name, &told.octets)
            if (is_trusted(&house.proxies, told.address, told.octets)
                    and read_header(told, wire, length) != WHOLE_HEADER):
                told.address = NULL
                self.verdicts[i] = UNANSWERABLE
                bump(&self.tally.queries, 1)
                bump(&self.tally.bad_proxied, 1)
                continue
            self.verdicts[i] = meet_from(house, &self.queries[i], wire + told.header, length - told.header,
                                         told.address, told.octets, self.told_wires + i * TOLD_MAX)

    cdef void _hand_over(self, int32_t listener, int32_t i, const Sender* sender, const Course* course,
                         Outcome outcome, bint has_header) noexcept nogil:
        """Put a query into the ring, as it came; where that is full, a client who waits must ask again."""
        cdef:
            uint32_t length = self.queries[i].length
            const uint8_t* wire = self.queries[i].wire
            uint8_t added = self.queries[i].added
            uint8_t[NAME_MAX] name
            uint8_t* record
            Client* client
        if outcome == DECIDE and added:  # Python is shown what the client sent
            wire = self.inbox.buffer(i) + self.told[i].header
            length = self.inbox.headers[i].msg_len - <uint32_t> self.told[i].header
            added = 0
        if not ring_share(self.shares, self.ring, &self.cache.index.secret, sender.address, sender.octets,
                          lower_name(&self.queries[i], name), <uint32_t> sizeof(Client) + length):
            bump(&self.tally.over_share, 1)
            return
        record = ring_reserve(self.ring, sizeof(Client) + length)
        client = <Client*> record
        if record == NULL:
            bump(&self.tally.ring_full, 1)
            return
        client.arrived = sender.now
        client.stream = 0
        client.fd = self.answer_from[listener] if outcome != REPLY_AND_ASK else NOBODY
        self.inbox.get_peer(i, &client.peer)
        client.octets = sender.octets
        client.added = added
        client.proven, client.listener = sender.proven, sender.listener
        client.course = course[0]
        client.stopped = outcome == DECIDE
        self._note_ends(listener, i, client, has_header)
        memcpy(client.ip, sender.address, sender.octets)
        memcpy(record + sizeof(Client), wire, length)

    cdef void _note_ends(self, int32_t listener, int32_t i, Client* client, bint has_header) noexcept nogil:
        """Note from which port a client asked, and whom: as the header of a front proxy tells, or the socket."""
        cdef:
            const uint8_t* own = self.own[listener]
            const uint8_t* to
        if has_header and self.told[i].to_octets:
            client.port, client.to_port = self.told[i].port, self.told[i].to_port
            to, client.to_octets = self.told[i].to, self.told[i].to_octets
        else:
            client.port, client.to_port = get16(client.peer.address + 2), get16(own + 2)
            to = self.inbox.asked(i, &client.to_octets)
            if to == NULL:
                to = ip_of(own, &client.to_octets)
        memcpy(client.to, to, client.to_octets)
