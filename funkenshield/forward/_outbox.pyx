"""Answers of the control thread on their way to clients: datagrams in batches, messages to connections' workers.

It knows how a client is reached. What he gets is written by the caller, straight into the batch.
"""

cimport cython
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ..core._clock cimport NANOSECONDS
from ..core._limits cimport LISTENERS_MAX
from ..core._memory cimport zeros
from ..events._event cimport Event, wanted_kinds
from ..events._recorder cimport Recorder
from ..policy._guard cimport GuardTable, check_response, load_guard_table
from ..policy._rule_state cimport KIND_LIMITED, KIND_REJECTED, OVER_UDP, TRANSPORTS, ClientInfo
from ..wire._message cimport MESSAGE_MAX, RCODE, message_flags, set16
from ..wire._proxy_protocol cimport ProxyHeader, put_header
from ._reply_queue cimport (
    GONE, WRITABLE, ConnectionState, Reply, ReplyQueue, connection_state, push_reply, server_name_of, take_replies,
    wake_worker, worker_of
)


cdef size_t put_client(uint8_t* out, const Client* client) noexcept nogil:
    """Write the header that tells an upstream whose query follows, and where he sent it to, as far as it is known.

    It tells of his own transport, whatever the upstream is asked over. Return its octets, at most PROXIED_MAX.
    """
    cdef:
        ProxyHeader source, asked
        uint8_t[16] unspecified
    source.address, source.octets = client.ip, client.octets
    asked.address, asked.octets = client.to, client.to_octets
    if not asked.octets:
        memset(unspecified, 0, 16)
        asked.address, asked.octets = unspecified, client.octets
    return put_header(out, &source, client.port, &asked, client.to_port, client.fd >= 0)


@cython.final
cdef class Outbox:
    """A batch of datagrams for one socket, queues to those who hold connections, and a list for streams of Python's.

    Memory ownership: buffers and queues are its own; a written datagram is copied by nobody before it is sent.
    """

    def __cinit__(self, Recorder recorder not None) -> None:
        self.clock, self.tap = recorder.clock, recorder.join()
        self.guard_table = &self.nobody
        self.datagrams = Datagrams(UDP_MAX)
        self.framed = <uint8_t*> malloc(2 + MESSAGE_MAX)
        if self.framed == NULL:
            raise MemoryError("no memory for a framed message")
        self.streams = []
        for k in range(LISTENERS_MAX):
            self.sockets[k] = -1

    def __dealloc__(self) -> None:
        cdef:
            Reply* reply
            Reply* following
            uint32_t k
        free(self.framed)
        for k in range(self.queue_count):
            reply = take_replies(self.queues[k])
            while reply != NULL:
                following = reply.next
                free(reply)
                reply = following
            free(self.queues[k])

    cdef ReplyQueue* add_queue(self, int wake_fd) except NULL:
        """Return the queue to one more worker that holds connections, which is woken by that descriptor."""
        cdef ReplyQueue* queue
        if self.queue_count == CONNECTION_WORKERS_MAX:
            raise ValueError(f"at most {CONNECTION_WORKERS_MAX} workers hold connections")
        queue = <ReplyQueue*> zeros(1, sizeof(ReplyQueue))
        queue.wake_fd = wake_fd
        self.queues[self.queue_count] = queue
        self.queue_count += 1
        return queue

    cdef ReplyQueue* _queue_of(self, uint64_t stream) noexcept nogil:
        """Return the queue to the worker that has a connection; NULL: the stream is Python's."""
        cdef uint32_t worker = worker_of(stream)
        return self.queues[worker - 1] if 0 < worker <= self.queue_count else NULL

    cdef bytes server_name(self, uint64_t stream):
        """Return the name that the client of a connection asked for, in lower case; b"" where it is not known."""
        cdef ReplyQueue* queue = self._queue_of(stream)
        return b"" if queue == NULL or queue.server_names == NULL else server_name_of(queue, stream)

    cdef uint8_t* reserve(self, const Client* client) noexcept nogil:
        """Return where an answer to this client is to be written."""
        if client.fd < 0:
            return self.framed + 2
        if self.count == BATCH or self.count and self.fd != client.fd:
            self.flush()
        self.fd, self.listener = client.fd, client.listener
        return self.datagrams.buffer(self.count)

    cdef int post(self, const Client* client, size_t length, uint8_t kind, int32_t upstream=-1) except -1:
        """Take what was written to `reserve`'s place; 0 octets: nothing after all.

        A Kind tells what became of the query. The guard sees all that goes out, and may hold it back.
        """
        cdef:
            const GuardTable* guard_table = load_guard_table(self.guard_table)
            ReplyQueue* queue
            ClientInfo sender
            uint8_t* out = self.framed + 2 if client.fd < 0 else self.datagrams.buffer(self.count)
            size_t written = length
        if length and guard_table != NULL:
            sender = self.client_info(client)
            length = check_response(guard_table, &sender, out, length, &self.guard_counters)
        if client.draw and wanted_kinds(self.tap):
            if written and not length:  # what is held back has the question, too
                self.note(client, KIND_LIMITED, upstream, out, written, NULL, 0)
            else:
                self.note(client, kind, upstream, NULL, 0, out, length)
        if length == 0:
            return 0
        if client.fd < 0:
            self.sent_rcodes[client.transport][message_flags(self.framed + 2) & RCODE] += (
                not client.stream >> 63)  # a rule is no client
            set16(self.framed, <uint16_t> length)
            queue = self._queue_of(client.stream)
            if queue != NULL:
                return push_reply(queue, client.stream, client.request, 1, self.framed,
                                  <uint32_t> (2 + length), False)
            # That a function's own query was turned away is no answer, which might be kept.
            self.streams.append((client.stream, None if kind == KIND_REJECTED and client.stream >> 63
                                 else (<char*> self.framed)[:2 + length]))
            return 0
        self.sent_rcodes[OVER_UDP][message_flags(out) & RCODE] += 1
        self.peers[self.count] = client.peer
        self.datagrams.put(self.count, out, length)
        self.datagrams.put_peer(self.count, &self.peers[self.count])
        self.count += 1
        return 0

    cdef int drop(self, const Client* client) except -1:
        """Say that a query gets no answer; whoever keeps count of a connection's queries is told so."""
        cdef ReplyQueue* queue
        if client.fd == STREAM:
            queue = self._queue_of(client.stream)
            if queue != NULL:
                return push_reply(queue, client.stream, client.request, 1, NULL, 0, False)
            self.streams.append((client.stream, b""))
        return 0

    cdef void note(self, const Client* client, uint8_t kind, int32_t upstream, const uint8_t* query, size_t query_size,
                   const uint8_t* response, size_t response_size) noexcept nogil:
        """Record what became of a client's query; its query was recorded when it came."""
        cdef:
            ClientInfo sender = self.client_info(client)
            Event* event
        sender.now = client.arrived
        event = self.tap.note(kind, &sender, query, query_size, response, response_size)
        if event != NULL:
            event.port, event.upstream, event.told = client.port, <int16_t> upstream, True

    cdef ClientInfo client_info(self, const Client* client) noexcept nogil:
        """Return where the query of a client came from, as of now."""
        cdef ClientInfo sender
        sender.address = client.ip
        sender.octets = client.octets
        sender.datagram = client.fd >= 0
        sender.proven, sender.draw = client.proven, client.draw
        sender.listener, sender.transport = client.listener, client.transport
        sender.server_names = client.server_names
        sender.now = self.clock.now()
        sender.wall = <uint32_t> (self.clock.wall() // NANOSECONDS)
        return sender

    cdef void flush(self) noexcept nogil:
        """Send the datagrams, and wake who writes to connections; what the kernel has no room for is lost."""
        cdef:
            int32_t went = 0
            uint32_t k
        self.tap.publish()
        if self.count:
            if self.sockets[self.listener] == self.fd:  # or it was closed since, and may be something else by now
                went = self.datagrams.send(self.fd, self.count)
            self.send_failed += <uint64_t> (self.count - went)
            self.count = 0
        for k in range(self.queue_count):
            wake_worker(self.queues[k])

    def set_socket(self, uint8_t listener, int fd) -> None:
        """Say from which UDP socket clients of a listener are answered; -1: from none any more, it is being closed."""
        self.flush()
        self.sockets[listener % LISTENERS_MAX] = fd

    def rcodes(self) -> list:
        """Return how many responses there were of each RCODE in a header, by the number of the transport."""
        return [[self.sent_rcodes[transport][k] for k in range(RCODE + 1)] for transport in range(TRANSPORTS)]

    def send(self) -> None:
        """Send what is to be sent, and have it written to connections."""
        self.flush()

    def take_streams(self) -> list:
        """Send what is to be sent; return what is for streams of Python's, as (stream, framed message), and forget it.

        A framed message of no octets: a query gets no answer.
        """
        self.flush()
        taken, self.streams = self.streams, []
        return taken

    def expect(self, uint64_t stream, int32_t more, *, bint closes=False) -> None:
        """Have a connection wait for so many more answers than there were queries, or end once it has written all."""
        cdef ReplyQueue* queue = self._queue_of(stream)
        if queue != NULL:
            push_reply(queue, stream, 0, -more, NULL, 0, closes)

    def pushed(self, uint64_t stream) -> int:
        """Return how many replies were pushed to the worker of a connection, for `takes_more`."""
        cdef ReplyQueue* queue = self._queue_of(stream)
        return 0 if queue == NULL else queue.count

    def takes_more(self, uint64_t stream, uint64_t pushed) -> bool | None:
        """Tell whether all is written of what a connection was to get when so many were pushed; None: it is gone."""
        cdef:
            ReplyQueue* queue = self._queue_of(stream)
            ConnectionState state = GONE if queue == NULL else connection_state(queue, stream, pushed)
        return None if state == GONE else state == WRITABLE
