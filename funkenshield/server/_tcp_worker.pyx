"""The worker for connections (RFC 7766): queries in, answers out in one write, without the GIL from start to stop.

    wait -> accept
         -> read -> take whole queries: each into the outgoing buffer, or into the ring -> send what there is
         -> replies of the control thread -> send
         -> handshakes of connections that are encrypted, for as long as others can wait

It knows sockets, and messages behind their length. What a query gets is `_fastpath`'s decision, who may hold a
connection `_connections`'. A connection is left alone while its client has too many queries in flight, or does not
read, or while the control thread is behind: what it sends stays in the kernel, and then with it.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd, read, write

from .._fastpath cimport (
    ASK, SEND, Counters, Outcome, QueryContext, SettingsWriter, counters_as_dict, load_settings, parse_and_hash,
    parse_with_ecs, process_query
)
from ..cache._store cimport Cache
from ..core._atomic cimport bump, load_acquire, load_relaxed, store_relaxed32, store_release
from ..core._clock cimport NANOSECONDS, Clock, ticks
from ..core._epochs cimport Reader, enter, leave
from ..core._epoll cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD,
    EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_create1, epoll_ctl, epoll_event, epoll_wait, eventfd
)
from ..core._fair_shares cimport RingShares, ring_has_share
from ..core._limits cimport LISTENERS_MAX
from ..core._memory cimport zeros
from ..core._prefix_table cimport prefix_value
from ..core._spsc_ring cimport Ring, ring_publish
from ..core._udp_batch cimport PEER_MAX, ip_of
from ..forward._miss_path cimport MissPath
from ..forward._outbox cimport NOBODY, STREAM, Client
from ..forward._reply_queue cimport OF_GENERATION, OF_WORKER, Reply, ReplyQueue, place_of, take_replies
from ..policy._guard cimport GuardTable, check_response, load_guard_table
from ..policy._rule_state cimport RuleState
from ..wire._ecs_upstream cimport ECS_QUERY_MAX
from ..wire._message cimport (
    HEADER, HEADER_FLAGS, MESSAGE_MAX, QR, RCODE, Query, get16, is_transfer, message_flags, set16
)
from ..wire._padding cimport pad_response
from ..wire._proxy_protocol cimport PART_OF_HEADER, WHOLE_HEADER, ProxyHeader, missing_of_header, read_header
from ._connections cimport (
    AWAITS_TURN, LEAVING, OVER_MEMORY, OVER_PREFIX_SHARE, SHAKING, STALLED, Connection, ConnectionLimits, Connections
)
from ._encryption cimport (
    AWAITS_OUTPUT, HANDSHAKE_DONE, HANDSHAKE_FAILED, INPUT_MAX, SOCKET_MAX, Encryption, ListenerEncryption, Progress
)
from ._misses cimport put_miss

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int accept4(int fd, sockaddr* address, uint32_t* length, int flags)
    int getpeername(int fd, sockaddr* address, uint32_t* length)
    int getsockname(int fd, sockaddr* address, uint32_t* length)
    ssize_t recv(int fd, void* octets, size_t length, int flags)
    ssize_t send(int fd, const void* octets, size_t length, int flags)
    int shutdown(int fd, int how)
    int MSG_NOSIGNAL, SHUT_RD, SOCK_NONBLOCK, SOCK_CLOEXEC

cdef enum:
    EVENTS = 64                    # taken from the kernel at once
    ACCEPTED_AT_ONCE = 16          # connections of one listener
    FRAME = 2                      # octets of length before a message
    INBOX = FRAME + MESSAGE_MAX + INPUT_MAX
    OUTGOING = 2 * (FRAME + MESSAGE_MAX)
    RING_ROOM = 2 * (MESSAGE_MAX + 1024)  # octets that the longest query takes in a ring, wherever that begins anew
    RESUMED_AT_ONCE = 64           # connections that waited for the control thread
    STALLED_FOR = 1                # milliseconds until they are looked at again
    SWEEP = 250                    # milliseconds between two looks for idle connections, at most
    ACCEPT_PAUSE = 100             # milliseconds without descriptors
    HANDSHAKES_FOR = 500000        # nanoseconds that handshakes take before others have their turn

cdef enum:                         # what a worker was told
    SERVING
    NOT_ACCEPTING
    STOPPED

cdef uint64_t SPECIAL = <uint64_t> 1 << 62  # what epoll says of what is no connection: from here on
cdef uint64_t TOLD = SPECIAL       # there is news of `wanted`
cdef uint64_t REPLIES = SPECIAL + 1
cdef uint64_t LISTENER = SPECIAL + 2  # and the listener's number


@cython.final
cdef class TcpWorker:
    """One thread's share of the connections: its own listening sockets, connections, buffers, ring and counters.

    Memory ownership: connections, buffers and the three descriptors are its own; the listening sockets are the
    caller's, who closes them after `run` has returned.
    """

    cdef:
        readonly Cache cache
        readonly MissPath miss_path
        readonly Connections connections
        SettingsWriter settings_writer
        Clock clock
        Reader* reader
        Ring* ring
        RingShares* shares             # of the ring
        ReplyQueue* replies
        uint64_t number                # in the numbers of its connections
        QueryContext context
        Query query
        uint8_t* ecs_query             # the one that upstreams are told more in
        uint8_t* inbox                 # what one connection has sent
        uint8_t* outgoing              # what one connection gets at once
        uint32_t outgoing_length
        int[LISTENERS_MAX] sockets
        uint8_t[LISTENERS_MAX] listener_numbers  # as rules know them
        const Encryption* encryptions[LISTENERS_MAX]  # NULL: there is none
        list kept                      # what these are in
        int32_t listeners
        bint accepting
        uint64_t accept_again          # when, where there was no descriptor; 0: nothing is wrong
        uint64_t wanted                # SERVING, NOT_ACCEPTING or STOPPED
        int epoll_fd, told_fd, reply_fd
        Counters counts
        uint64_t encrypted_queries     # of them
        uint64_t[LISTENERS_MAX] by_listener  # messages that came
        uint64_t[16] sent_rcodes       # responses, by the RCODE in their header

    def __cinit__(self, Cache cache not None, MissPath miss_path not None, ConnectionLimits limits not None) -> None:
        self.epoll_fd = self.told_fd = self.reply_fd = -1
        self.cache, self.miss_path, self.clock = cache, miss_path, cache.clock
        self.settings_writer = miss_path.settings_writer
        self.connections, self.kept = Connections(limits), []
        self.shares = <RingShares*> zeros(1, sizeof(RingShares))
        self.ecs_query, self.inbox, self.outgoing = (
            <uint8_t*> zeros(1, ECS_QUERY_MAX), <uint8_t*> zeros(1, INBOX), <uint8_t*> zeros(1, OUTGOING))
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.told_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.reply_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.told_fd < 0 or self.reply_fd < 0:
            raise OSError(errno, "no descriptor for a worker")
        self.reader = cache.epochs.join()
        self.ring = miss_path.join()
        self.replies = miss_path.join_connections(self.reply_fd)
        self.replies.chunks, self.replies.stride = self.connections.chunks, sizeof(Connection)
        self.number = <uint64_t> miss_path.outbox.queue_count << OF_WORKER
        self.context.query, self.context.counters = &self.query, &self.counts
        if (self._watch(self.told_fd, TOLD, EPOLLIN) < 0
                or self._watch(self.reply_fd, REPLIES, EPOLLIN | EPOLLET) < 0):  # by edge: nobody reads it empty
            raise OSError(errno, "a descriptor cannot be watched")

    def __dealloc__(self) -> None:
        for fd in (self.epoll_fd, self.told_fd, self.reply_fd):
            if fd >= 0:
                close_fd(fd)
        free(self.shares)
        free(self.ecs_query)
        free(self.inbox)
        free(self.outgoing)

    cdef int _watch(self, int fd, uint64_t number, uint32_t events) noexcept nogil:
        cdef epoll_event event
        event.events, event.data.number = events, number
        return epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event)

    # ------------------------------------------------------------ for the control thread

    def listen(self, int fd, uint8_t number=0, ListenerEncryption encryption=None) -> None:
        """Take connections from a listening, non-blocking socket, once `run` is called; rules know it by its number.

        Raises ValueError where a worker has too many, OSError where the kernel refuses.
        """
        if self.listeners == LISTENERS_MAX or number >= LISTENERS_MAX:
            raise ValueError(f"a worker listens on at most {LISTENERS_MAX} addresses")
        if self._watch(fd, LISTENER + <uint64_t> self.listeners, 0):
            raise OSError(errno, "a socket cannot be watched")
        self.sockets[self.listeners], self.listener_numbers[self.listeners] = fd, number
        if encryption is not None:
            self.encryptions[self.listeners] = &encryption.encryption
            self.kept.append(encryption)
        self.listeners += 1

    def run(self) -> None:
        """Serve until `stop`; called in a thread of its own, which needs no GIL meanwhile."""
        with nogil:
            self._accept_from_all(True)
            self._serve()
            self._finish()

    def stop_accepting(self) -> None:
        """Take no more connections; any thread may call this."""
        self._tell(NOT_ACCEPTING)

    def stop(self) -> None:
        """Have `run` write what can be written, close all connections, and return; any thread may call this."""
        self._tell(STOPPED)

    cdef void _tell(self, uint64_t wanted) noexcept:
        cdef uint64_t one = 1
        store_release(&self.wanted, wanted)
        write(self.told_fd, &one, 8)

    def counters(self) -> dict:
        """Return what happened to the queries of this worker, as numbers by name."""
        return counters_as_dict(&self.counts) | {"queries_over_tls": load_relaxed(&self.encrypted_queries)}

    def messages_by_listener(self) -> list:
        """Return how many messages came to each listener, by its number."""
        return [load_relaxed(&self.by_listener[k]) for k in range(LISTENERS_MAX)]

    def rcodes(self) -> list:
        """Return how many responses there were of each RCODE in a header."""
        return [load_relaxed(&self.sent_rcodes[k]) for k in range(RCODE + 1)]

    # ------------------------------------------------------------ the loop

    cdef void _serve(self) noexcept nogil:
        cdef:
            epoll_event[EVENTS] events
            QueryContext* context = &self.context
            int32_t count, k
            uint64_t told
        while True:
            count = epoll_wait(self.epoll_fd, events, EVENTS, self._patience())
            context.client.now = self.clock.now()
            context.client.wall = <uint32_t> (self.clock.wall() // NANOSECONDS)
            context.now = ticks(context.client.now)
            enter(self.reader)
            context.settings = load_settings(&self.settings_writer.settings)
            self._resume_stalled()  # before those that come anew
            for k in range(count):
                if events[k].data.number < SPECIAL:
                    self._serve_connection(events[k].data.number, events[k].events)
                elif events[k].data.number >= LISTENER:
                    self._accept(<int32_t> (events[k].data.number - LISTENER))
                elif events[k].data.number == REPLIES:
                    self._write_replies()
                else:
                    read(self.told_fd, &told, 8)
            self._take_turns()
            leave(self.reader)
            self.connections.end_idle(context.client.now)
            if ring_publish(self.ring) or self.connections.transfer_changed:
                self.connections.transfer_changed = False
                self.miss_path.wake()
            if load_acquire(&self.wanted) == STOPPED:
                return
            if load_acquire(&self.wanted) == NOT_ACCEPTING:
                self._end_listening()
            elif self.accept_again and self.accept_again < context.client.now:
                self._accept_from_all(True)

    cdef int _patience(self) noexcept nogil:
        """Return for how many milliseconds nothing need be done; -1: until something happens."""
        if self.connections.has_more_to_end or self.connections.awaiting_turn.first >= 0:
            return 0
        if self.connections.stalled.first >= 0:
            return STALLED_FOR
        if self.accept_again:
            return ACCEPT_PAUSE
        return SWEEP if self.connections.idle.first >= 0 or self.connections.leaving.first >= 0 else -1

    cdef void _finish(self) noexcept nogil:
        """Write what can be written, and close all connections."""
        cdef:
            Connection* connection
            int32_t place
        enter(self.reader)
        self.context.settings = load_settings(&self.settings_writer.settings)
        self._write_replies()
        leave(self.reader)
        for place in range(self.connections.places):
            connection = self.connections.at(place)
            if connection.fd >= 0 and self._send(connection):
                self.connections.close(connection)

    cdef Connection* _connection(self, uint64_t number) noexcept nogil:
        """Return the connection of a number; NULL: it is closed."""
        cdef Connection* connection = self.connections.at(<int32_t> place_of(number))
        if connection.fd >= 0 and self._number(connection) == (number & (SPECIAL - 1) & ~self.number):
            return connection
        return NULL

    cdef uint64_t _number(self, const Connection* connection) noexcept nogil:
        return <uint64_t> connection.head.generation << OF_GENERATION | <uint32_t> connection.place

    # ------------------------------------------------------------ new connections

    cdef void _accept_from_all(self, bint accepting) noexcept nogil:
        """Begin to take connections, or stop it for a while."""
        cdef:
            epoll_event event
            int32_t k
        self.accept_again, self.accepting = 0, accepting
        event.events = EPOLLIN if accepting else 0
        for k in range(self.listeners):
            event.data.number = LISTENER + <uint64_t> k
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, self.sockets[k], &event)

    cdef void _end_listening(self) noexcept nogil:
        """Have the kernel refuse whoever comes from now on, and whoever has not been taken yet."""
        cdef int32_t k
        for k in range(self.listeners):
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, self.sockets[k], NULL)
            shutdown(self.sockets[k], SHUT_RD)
        self.listeners = 0
        self.accepting, self.accept_again = False, 0

    cdef void _accept(self, int32_t listener) noexcept nogil:
        """Take some of the connections that came to a listener."""
        cdef:
            uint8_t[PEER_MAX] peer
            uint32_t length
            int32_t _k
            int fd
        for _k in range(ACCEPTED_AT_ONCE):
            if not self.accepting:
                return
            length = PEER_MAX
            fd = accept4(self.sockets[listener], <sockaddr*> peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self._open(fd, listener, peer)
            elif errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                self._accept_from_all(False)
                self.accept_again = self.context.client.now + <uint64_t> ACCEPT_PAUSE * 1000000
            elif errno != EINTR and errno != ECONNABORTED:
                return

    cdef void _open(self, int fd, int32_t listener, const uint8_t* peer) noexcept nogil:
        """Take a connection, or end it where there are too many; a front proxy has to say first whose it is."""
        cdef:
            Connection* connection
            uint8_t octets
            const uint8_t* address = ip_of(peer, &octets)
            uint8_t[PEER_MAX] own
            uint32_t length = PEER_MAX
            bint is_proxy = prefix_value(&self.context.settings.proxies, address, octets) != 0
            bint is_encrypted = self.encryptions[listener] != NULL
        if is_encrypted and not is_proxy and not self.connections.may_begin_handshake(
                address, octets, self.context.client.now):
            close_fd(fd)
            return
        if is_proxy and not self.connections.make_room(0):
            self.connections.note(OVER_PREFIX_SHARE, address, octets, 0, 0)
            close_fd(fd)
            return
        connection = self.connections.insert(fd, self.context.client.now)
        if connection == NULL:
            close_fd(fd)
            return
        connection.encryption = self.encryptions[listener]
        if (not is_proxy and not self.connections.admit(connection, address, octets)
                or getsockname(fd, <sockaddr*> own, &length)
                or self._watch(fd, self._number(connection), EPOLLIN)):
            self.connections.close(connection)
            return
        connection.events = EPOLLIN
        address = ip_of(own, &connection.to_octets)
        memcpy(connection.to, address, connection.to_octets)
        connection.port, connection.to_port = get16(peer + 2), get16(own + 2)
        connection.listener = self.listener_numbers[listener]
        if is_encrypted and not is_proxy:
            self.connections.await_handshake(connection)
        else:
            self._read(connection)  # who has asked by now is not idle, and need not be waited for

    # ------------------------------------------------------------ handshakes

    cdef void _take_turns(self) noexcept nogil:
        """Go on with the handshakes of those who have waited the longest, for as long as others can wait."""
        cdef:
            uint64_t until = self.clock.now() + HANDSHAKES_FOR
            Connection* connection
        while self.connections.awaiting_turn.first >= 0:
            connection = self.connections.at(self.connections.awaiting_turn.first)
            self.connections.remove(connection, AWAITS_TURN)
            self._shake_hands(connection)
            if self.clock.now() > until:
                return

    cdef void _shake_hands(self, Connection* connection) noexcept nogil:
        """Go on with a handshake; where that was the last of it, take what came with it."""
        cdef Progress progress = HANDSHAKE_FAILED
        if connection.session != NULL or self.connections.begin_session(connection):
            progress = connection.encryption.handshake(
                connection.session, self.context.client.wall, &self.connections.counts.handshakes)
        if progress == HANDSHAKE_FAILED:
            self.connections.end_handshake(connection)
            self.connections.close(connection)
        elif progress == HANDSHAKE_DONE:
            self.connections.end_handshake(connection)
            self.connections.touch(connection, self.context.client.now)
            self._read(connection)
        else:
            self._expect(connection, <uint32_t> (EPOLLOUT if progress == AWAITS_OUTPUT else EPOLLIN))

    # ------------------------------------------------------------ in

    cdef void _serve_connection(self, uint64_t number, uint32_t events) noexcept nogil:
        """Do what a connection is ready for; it may have been closed by what was done for others."""
        cdef Connection* connection = self._connection(number)
        if connection == NULL:
            return
        if events & <uint32_t> (EPOLLERR | EPOLLHUP):
            self.connections.close(connection)
        elif connection.listed[SHAKING]:
            self._expect(connection, 0)  # or it would be told of again and again, in place of others
            self.connections.append(connection, AWAITS_TURN)
        elif events & <uint32_t> EPOLLOUT:
            if self._send(connection):
                self._resume(connection)
        elif events & connection.events & <uint32_t> EPOLLIN:
            self._read(connection)

    cdef void _read(self, Connection* connection) noexcept nogil:
        """Read what has come, behind what was there."""
        cdef:
            uint32_t held = self._take_input(connection)
            uint8_t* behind = self.inbox + held
            bint ended = False
            ssize_t got
        if connection.session == NULL:
            got = recv(connection.fd, behind, self._room(connection, held), 0)
        else:
            got = connection.encryption.read(connection.session, behind, INBOX - held, &ended)
        if got < 0 and errno != EAGAIN and errno != EINTR:
            self.connections.close(connection)
            return
        connection.half_closed = got == 0 or ended
        if connection.half_closed and not connection.octets:  # who never said whose it is
            self.connections.close(connection)
            return
        if connection.half_closed and connection.transfers and connection.in_flight:
            self.connections.append(connection, LEAVING)
        self._take(connection, held + <uint32_t> max(got, 0))

    cdef uint32_t _room(self, const Connection* connection, uint32_t held) noexcept nogil:
        """Return how many octets are read at once, where the inbox holds some: others want their turn.

        A longer query is read as a whole, and nothing of a handshake behind a front proxy's header.
        """
        cdef uint32_t whole = 0
        if connection.encryption != NULL:
            return min(missing_of_header(self.inbox, held), INBOX - held)
        if held >= FRAME:
            whole = FRAME + <uint32_t> get16(self.inbox)
        return min(max(<uint32_t> SOCKET_MAX, whole - min(held, whole)), INBOX - held)

    cdef uint32_t _take_input(self, Connection* connection) noexcept nogil:
        """Let the inbox be what was kept of a connection; return how many octets."""
        cdef uint32_t held = connection.input.end - connection.input.begin
        if held:
            memcpy(self.inbox, connection.input.octets + connection.input.begin, held)
        connection.input.begin = connection.input.end = 0
        return held

    cdef void _take(self, Connection* connection, uint32_t length) noexcept nogil:
        """Take the whole queries in the inbox, as long as the client may ask; keep the rest."""
        cdef:
            const uint8_t* octets = self.inbox
            uint32_t at = 0
            uint32_t size
            bint taken = False
        if not connection.octets and not self._take_proxy_header(connection, length, &at):
            return
        while length - at >= FRAME:
            size = get16(octets + at)
            if length - at < FRAME + size or not self._takes_queries(connection):
                break
            at += FRAME + size
            taken = True
            self._process(connection, octets + at - size, size)
            if size < HEADER or get16(octets + at - size + HEADER_FLAGS) & QR:
                bump(&self.connections.counts.protocol_errors, 1)  # broken, or hostile (RFC 7766 8)
                self.outgoing_length = 0
                self.connections.close(connection)
                return
            if self.outgoing_length > OUTGOING - FRAME - MESSAGE_MAX and not self._send(connection):
                return
        if not self._keep(connection, octets + at, length - at):
            return
        if taken:
            self.connections.touch(connection, self.context.client.now)
        if self._send(connection):
            self._settle(connection, length - at >= FRAME and length - at >= FRAME + <uint32_t> get16(octets + at))

    cdef bint _keep(self, Connection* connection, const uint8_t* octets, uint32_t length) noexcept nogil:
        """Keep what was not taken of the inbox; False: the connection may hold no more, and is closed."""
        if not length:
            self.connections.release(connection, &connection.input)
        elif self.connections.reserve(connection, &connection.input, length):
            memcpy(connection.input.octets, octets, length)
            connection.input.end = length
        else:
            self.outgoing_length = 0
            self._close_for_memory(connection)
            return False
        return True

    cdef bint _take_proxy_header(self, Connection* connection, uint32_t length, uint32_t* at) noexcept nogil:
        """Take a front proxy's header; False: it is not whole yet, or the connection ended for it."""
        cdef:
            ProxyHeader header
            uint8_t status
            uint8_t[PEER_MAX] peer
            uint32_t octets = PEER_MAX
        header.octets = header.to_octets = 0
        header.header = 0
        status = read_header(&header, self.inbox, length)
        if status == PART_OF_HEADER:
            if self._keep(connection, self.inbox, length):
                self._settle(connection, False)
            return False
        if status == WHOLE_HEADER and not header.octets:  # the proxy's own
            if getpeername(connection.fd, <sockaddr*> peer, &octets) == 0:
                header.address = ip_of(peer, &header.octets)
        if status != WHOLE_HEADER or not header.octets:
            bump(&self.connections.counts.proxy_protocol_invalid, 1)
            self.connections.close(connection)
            return False
        if (connection.encryption != NULL and not self.connections.may_begin_handshake(
                header.address, header.octets, self.context.client.now)
                or not self.connections.admit(connection, header.address, header.octets)):
            self.connections.close(connection)
            return False
        if connection.encryption != NULL:
            self.connections.await_handshake(connection)
        if header.to_octets:
            memcpy(connection.to, header.to, header.to_octets)
            connection.to_octets, connection.port, connection.to_port = header.to_octets, header.port, header.to_port
        self.connections.touch(connection, self.context.client.now)
        at[0] = <uint32_t> header.header
        return True

    cdef bint _takes_queries(self, Connection* connection) noexcept nogil:
        """Tell whether a query is taken from a connection now; one whose prefix has its share of the ring is stalled.

        Else there is room for any query.
        """
        if not self._may_ask(connection):
            return False
        if not ring_has_share(self.shares, self.ring, connection.ring_prefix, RING_ROOM):
            self.connections.append(connection, STALLED)
            return False
        return True

    cdef bint _may_ask(self, const Connection* connection) noexcept nogil:
        """Tell whether a client may ask more, for his own part."""
        return not (connection.blocked or connection.closing
                    or connection.in_flight >= load_relaxed(&self.connections.limits.in_flight_max))

    cdef void _resume(self, Connection* connection) noexcept nogil:
        """Go on with what was kept of a connection."""
        self._take(connection, self._take_input(connection))

    cdef void _resume_stalled(self) noexcept nogil:
        """Go on with some of the connections that waited for the control thread; who still has to is the last again."""
        cdef:
            Connection* connection
            int32_t _k
        for _k in range(RESUMED_AT_ONCE):
            if self.connections.stalled.first < 0:
                return
            connection = self.connections.at(self.connections.stalled.first)
            self.connections.remove(connection, STALLED)
            if self._takes_queries(connection) or not connection.listed[STALLED]:
                self._resume(connection)

    # ------------------------------------------------------------ one query

    cdef void _process(self, Connection* connection, const uint8_t* wire, uint32_t length) noexcept nogil:
        """Decide about a query, and see to what comes of it."""
        cdef:
            QueryContext* context = &self.context
            Outcome outcome
        if context.settings.subnets:
            context.verdict = parse_with_ecs(context.settings, &self.query, wire, length, connection.address,
                                             connection.octets, self.ecs_query)
        else:
            context.verdict = parse_and_hash(context.settings, &self.query, wire, length)
        context.client.address, context.client.octets = connection.address, connection.octets
        context.client.listener, context.client.proven, context.client.datagram = connection.listener, False, False
        context.client.encrypted = connection.session != NULL
        bump(&self.by_listener[connection.listener], 1)
        if context.client.encrypted:
            bump(&self.encrypted_queries, 1)
            connection.padded |= self.query.padded
        context.reply, context.limit = self.outgoing + self.outgoing_length + FRAME, MESSAGE_MAX
        memset(&context.rule_state, 0, sizeof(RuleState))
        outcome = process_query(context)
        if outcome & SEND:
            self._put(connection)
        if outcome & ASK:
            self._hand_over(connection, wire, length, outcome & SEND)

    cdef void _put(self, const Connection* connection) noexcept nogil:
        """Put a reply into the outgoing buffer, unless the guard holds it back."""
        cdef:
            QueryContext* context = &self.context
            const GuardTable* guard_table = load_guard_table(context.settings.guard_table)
            size_t length = context.length
        if guard_table != NULL:
            length = check_response(guard_table, &context.client, context.reply, length, &self.counts.guard)
        if length:
            bump(&self.sent_rcodes[message_flags(context.reply) & RCODE], 1)
            if connection.padded:
                length = pad_response(context.reply, length)
            set16(context.reply - FRAME, <uint16_t> length)
            self.outgoing_length += <uint32_t> (FRAME + length)

    cdef void _hand_over(self, Connection* connection, const uint8_t* wire, uint32_t length,
                         bint answered) noexcept nogil:
        """Let the control thread have a query."""
        cdef:
            QueryContext* context = &self.context
            const Query* query = &self.query
            Client* client
        if context.rule_state.stopped:  # Python is shown what the client sent
            client = put_miss(self.ring, self.shares, context, wire, length, 0, False)
        else:
            client = put_miss(self.ring, self.shares, context, query.wire, query.length, query.added,
                              False)
        if client == NULL:  # `_takes_queries` has seen to that there is room
            return
        client.fd = NOBODY if answered else STREAM
        client.stream = self.number | self._number(connection)
        client.peer.length = 0
        client.port, client.to_port, client.to_octets = connection.port, connection.to_port, connection.to_octets
        memcpy(client.to, connection.to, 16)
        if not answered:
            connection.in_flight += 1
            connection.transfers |= is_transfer(query)

    # ------------------------------------------------------------ out

    cdef bint _send(self, Connection* connection) noexcept nogil:
        """Send what is kept for a connection, and what is in the outgoing buffer; False: the connection has ended."""
        cdef:
            uint32_t length = self.outgoing_length
            uint32_t at = 0
            ssize_t sent = 0
        self.outgoing_length = 0
        while connection.output.begin < connection.output.end:
            sent = self._transmit(connection, connection.output.octets + connection.output.begin,
                                  connection.output.end - connection.output.begin)
            if sent <= 0:
                break
            connection.output.begin += <uint32_t> sent
            self.connections.touch(connection, self.context.client.now)  # who reads, however slowly, is there
        if sent >= 0 and length:
            sent = self._transmit(connection, self.outgoing, length)
            at = <uint32_t> max(sent, 0)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            self.connections.close(connection)
            return False
        if at < length:
            if not self.connections.reserve(connection, &connection.output, length - at):
                self._close_for_memory(connection)
                return False
            memcpy(connection.output.octets + connection.output.end, self.outgoing + at, length - at)
            connection.output.end += length - at
        self._note_unsent(connection)
        return True

    cdef ssize_t _transmit(self, Connection* connection, const uint8_t* octets, size_t length) noexcept nogil:
        if connection.session == NULL:
            return send(connection.fd, octets, length, MSG_NOSIGNAL)
        return connection.encryption.write(connection.session, octets, length)

    cdef void _note_unsent(self, Connection* connection) noexcept nogil:
        """Block a connection whose client does not read, and go on where he does again."""
        cdef:
            uint32_t unsent = connection.output.end - connection.output.begin
            # A transfer writes on when all is gone: whoever leaves any of it does not read.
            uint64_t most = 0 if connection.transfers else load_relaxed(&self.connections.limits.write_buffer)
        if not unsent and connection.output.capacity:
            self.connections.release(connection, &connection.output)
            self.connections.transfer_changed |= connection.transfers
        store_relaxed32(&connection.head.unsent, unsent)
        if unsent > most and not connection.blocked or connection.blocked and unsent <= most // 4:
            connection.blocked = not connection.blocked
            self.connections.touch(connection, self.context.client.now)

    cdef void _settle(self, Connection* connection, bint has_query) noexcept nogil:
        """Wait for what a connection can do next, or close it where there is nothing left to be done."""
        cdef:
            uint32_t events = 0
        if not connection.head.unsent and (
                connection.closing or connection.half_closed and not connection.in_flight and not has_query):
            self.connections.close(connection)
            return
        if self._may_ask(connection):
            if has_query:  # it was held back by what is over by now
                self.connections.append(connection, STALLED)
            elif not connection.half_closed:
                events = EPOLLIN
        if connection.head.unsent:
            events |= <uint32_t> EPOLLOUT
        self._expect(connection, events)

    cdef void _expect(self, Connection* connection, uint32_t events) noexcept nogil:
        """Have the kernel tell of these events."""
        cdef epoll_event event
        if events != connection.events:
            connection.events = event.events = events
            event.data.number = self._number(connection)
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, connection.fd, &event)

    cdef void _close_for_memory(self, Connection* connection) noexcept nogil:
        """End a connection for what waits in it."""
        self.connections.note(OVER_MEMORY, connection.address, connection.octets,
                              connection.input.capacity + connection.output.capacity,
                              load_relaxed(&self.connections.limits.memory_of[connection.prefix]))
        self.connections.close(connection)

    cdef void _write_replies(self) noexcept nogil:
        """Write what the control thread has for connections; those of one that follow each other go out together."""
        cdef:
            Reply* reply = take_replies(self.replies)
            Reply* following
            Connection* connection = NULL
            Connection* writing = NULL
            uint64_t count = 0
        while reply != NULL:
            connection = self._connection(reply.connection)
            if connection != writing or self.outgoing_length > OUTGOING - FRAME - MESSAGE_MAX:
                self._finish_replies(writing)
                connection = self._connection(reply.connection)  # that may have closed this one
                writing = connection
            if connection != NULL:
                memcpy(self.outgoing + self.outgoing_length, reply + 1, reply.length)
                self.outgoing_length += self._pad(connection, reply.length)
                connection.in_flight = <uint32_t> max(<int64_t> connection.in_flight - reply.answered, <int64_t> 0)
                connection.closing |= reply.closes
            # Of one that is closed, whether a transfer waits to write to it is not known any more.
            self.connections.transfer_changed |= connection == NULL or connection.transfers
            count += 1
            following = reply.next
            free(reply)
            reply = following
        self._finish_replies(writing)
        store_release(&self.replies.taken, self.replies.taken + count)

    cdef uint32_t _pad(self, const Connection* connection, uint32_t length) noexcept nogil:
        """Pad the message that was put last into the outgoing buffer, for a client who pads; return its octets."""
        cdef uint8_t* framed = self.outgoing + self.outgoing_length
        if connection.padded and length == FRAME + <uint32_t> get16(framed):
            length = FRAME + <uint32_t> pad_response(framed + FRAME, length - FRAME)
            set16(framed, <uint16_t> (length - FRAME))
        return length

    cdef void _finish_replies(self, Connection* connection) noexcept nogil:
        """Send the replies for a connection, and go on with it."""
        if connection != NULL:
            self.connections.touch(connection, self.context.client.now)
            self.connections.remove(connection, LEAVING)
            if self._send(connection):
                self._resume(connection)
