"""The worker for connections (RFC 7766, 8484): queries in, answers out in one write, without the GIL, start to stop.

    wait -> accept
         -> read -> take whole queries: each into the outgoing buffer, or into the ring -> send what there is
                    or whole requests (HTTP), whose answers the session puts there
         -> replies of the control thread -> send
         -> handshakes of connections that are encrypted, for as long as others can wait

It knows sockets, and messages behind their length; requests are `_http`'s. What a query gets is decided in
`_answering`, who may hold a connection in `_connections`. Nothing is read of a client who has too many queries in
flight, or does not read, nor while the control thread is behind: it stays in the kernel, and then with the client.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.unistd cimport close as close_fd, read, write

from .._fastpath cimport ASK, SEND, Outcome, QueryContext, SettingsWriter, load_settings
from ..cache._store cimport Cache
from ..core._atomic cimport bump, load_acquire, load_relaxed, store_relaxed32, store_release
from ..core._clock cimport NANOSECONDS, Clock, ticks
from ..core._epochs cimport Reader, enter, leave
from ..core._epoll cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, eventfd
)
from ..core._fair_shares cimport ring_has_share
from ..core._limits cimport LISTENERS_MAX
from ..core._memory cimport zeros
from ..core._prefix_table cimport prefix_value
from ..core._udp_batch cimport PEER_MAX, ip_of
from ..forward._miss_path cimport MissPath
from ..forward._reply_queue cimport OF_WORKER, Reply, ReplyQueue, place_of, take_replies
from ..wire._max_age cimport max_age_of
from ..wire._message cimport HEADER, HEADER_FLAGS, MESSAGE_MAX, QR, get16, set16
from ..wire._padding cimport pad_response
from ..wire._proxy_protocol cimport BAD_HEADER, PART_OF_HEADER, WHOLE_HEADER, ProxyHeaderStatus, missing_of_header
from ._answering cimport Answering
from ._connection_limits cimport ConnectionLimits
from ._connections cimport (
    AWAITS_TURN, LEAVING, LINGERING, OVER_PREFIX_SHARE, SHAKING, STALLED, Connection, Connections, may_ask,
    number_of, speak_as, take_ends
)
from ._dismissals cimport Dismissals
from ._encryption cimport AWAITS_OUTPUT, HANDSHAKE_DONE, HANDSHAKE_FAILED, INPUT_MAX, SOCKET_MAX, Progress
from ._http cimport BAD_REQUEST, FORBIDDEN, UNAVAILABLE, Request
from ._listener_table cimport FollowedTable, ListenerSocket, ListenerTable
from ._listening cimport NONE_CAME, ListeningSockets
from ._relayed cimport Relays

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int getsockname(int fd, sockaddr* address, uint32_t* length)
    ssize_t recv(int fd, void* octets, size_t length, int flags)
    ssize_t send(int fd, const void* octets, size_t length, int flags)
    int MSG_NOSIGNAL

cdef enum:
    EVENTS = 64                    # taken from the kernel at once
    ACCEPTED_AT_ONCE = 16          # connections of one listener
    LAST_TURNS = 256               # of a listener that is gone, at most
    FRAME = 2                      # octets of length before a message
    INBOX = FRAME + MESSAGE_MAX + INPUT_MAX
    OUTGOING = 2 * (FRAME + MESSAGE_MAX)
    RING_ROOM = 2 * (MESSAGE_MAX + 1024)  # octets that the longest query takes in a ring, wherever that begins anew
    RESUMED_AT_ONCE = 64           # connections that waited for the control thread
    STALLED_FOR = 1                # milliseconds until they are looked at again
    SWEEP = 250                    # milliseconds between two looks for idle connections, at most
    ACCEPT_PAUSE = 100             # milliseconds without descriptors, or memory to watch one
    HANDSHAKES_FOR = 500000        # nanoseconds that handshakes take before others have their turn

cdef enum:                         # what a worker was told
    SERVING, NOT_ACCEPTING, PAUSED, STOPPED

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
        ReplyQueue* replies
        uint64_t number                # in the numbers of its connections
        readonly Answering answering
        QueryContext* context          # that one's
        uint8_t* inbox                 # what one connection has sent
        uint8_t* outgoing              # what one connection gets at once
        uint32_t outgoing_length
        readonly FollowedTable listeners
        readonly ListeningSockets listening
        readonly Relays relays
        readonly Dismissals dismissals
        uint64_t wanted                # SERVING, NOT_ACCEPTING, PAUSED or STOPPED
        int epoll_fd, told_fd, reply_fd

    def __cinit__(self, Cache cache not None, MissPath miss_path not None, ConnectionLimits limits not None) -> None:
        self.epoll_fd = self.told_fd = self.reply_fd = -1
        self.cache, self.miss_path, self.clock = cache, miss_path, cache.clock
        self.settings_writer = miss_path.settings_writer
        self.inbox, self.outgoing = <uint8_t*> zeros(1, INBOX), <uint8_t*> zeros(1, OUTGOING)
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.connections = Connections(limits, self.epoll_fd)
        self.told_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.reply_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.told_fd < 0 or self.reply_fd < 0:
            raise OSError(errno, "no descriptor for a worker")
        self.listeners, self.listening = FollowedTable(), ListeningSockets(self.epoll_fd, LISTENER)
        self.dismissals = Dismissals(self.connections, self.listening)
        self.relays = Relays(self.epoll_fd, self.told_fd)
        self.reader = cache.epochs.join()
        self.answering = Answering(miss_path)
        self.answering.limits, self.context = self.connections.limits, &self.answering.context
        self.replies = miss_path.join_connections(self.reply_fd)
        self.replies.chunks, self.replies.stride = self.connections.chunks, sizeof(Connection)
        self.replies.server_names = self.connections.server_names
        self.number = <uint64_t> miss_path.outbox.queue_count << OF_WORKER
        if (self._watch(self.told_fd, TOLD, EPOLLIN) < 0
                or self._watch(self.reply_fd, REPLIES, EPOLLIN | EPOLLET) < 0):  # by edge: nobody reads it empty
            raise OSError(errno, "a descriptor cannot be watched")

    def __dealloc__(self) -> None:
        for fd in (self.epoll_fd, self.told_fd, self.reply_fd):
            if fd >= 0:
                close_fd(fd)
        free(self.inbox)
        free(self.outgoing)

    cdef int _watch(self, int fd, uint64_t number, uint32_t events) noexcept nogil:
        cdef epoll_event event
        event.events, event.data.number = events, number
        return epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event)

    # ------------------------------------------------------------ for the control thread

    def follow(self, ListenerTable table not None) -> None:
        """Take connections from the sockets of a table from now on, or once `run` is called.

        Those of listeners that are in it no more get answers to what they have asked, and end. See
        `listeners.is_followed`.
        """
        self.listeners.publish(table)
        self._wake()

    def run(self) -> None:
        """Serve until `stop`, or `pause` and the next call; in a thread of its own, which needs no GIL meanwhile."""
        with nogil:
            self.listening.begin(not self.connections.handing_over)
            self.dismissals.begin()
            self._serve()
            if self.wanted == STOPPED:
                self._finish()
            self.wanted = SERVING

    def stop_accepting(self) -> None:
        """Take no more connections; any thread may call this."""
        self._tell(NOT_ACCEPTING)

    def pause(self) -> None:
        """Have `run` return, with all connections as they are; it can be called again. Any thread may call this."""
        self._tell(PAUSED)

    def stop(self) -> None:
        """Have `run` write what can be written, close all connections, and return; any thread may call this."""
        self._tell(STOPPED)

    cdef void _tell(self, uint64_t wanted) noexcept:
        store_release(&self.wanted, wanted)
        self._wake()

    cdef void _wake(self) noexcept:
        cdef uint64_t one = 1
        write(self.told_fd, &one, 8)

    # ------------------------------------------------------------ the loop

    cdef void _serve(self) noexcept nogil:
        cdef:
            epoll_event[EVENTS] events
            QueryContext* context = self.context
            int32_t count, k
            uint64_t told, wanted
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
                    self._follow()
                    self.relays.take_all(self.connections, context.client.now)
            self._dismiss()
            self._take_turns()
            leave(self.reader)
            self.connections.end_idle(context.client.now)
            if self.answering.publish() or self.connections.transfer_changed:
                self.connections.transfer_changed = False
                self.miss_path.wake()
            wanted = load_acquire(&self.wanted)
            if wanted == NOT_ACCEPTING or wanted == STOPPED or self.connections.handing_over:
                self._end_listening()
            if wanted >= PAUSED:
                return
            if wanted == SERVING and not self.connections.handing_over:
                self.listening.try_again(context.client.now)

    cdef int _patience(self) noexcept nogil:
        """Return for how many milliseconds nothing need be done; -1: until something happens."""
        cdef int dismissals = self.dismissals.patience()
        if self.connections.has_more_to_end or self.connections.awaiting_turn.first >= 0 or dismissals == 0:
            return 0
        if self.connections.stalled.first >= 0:
            return STALLED_FOR
        if dismissals > 0:
            return dismissals
        if self.listening.accept_again or self.listening.unheard:
            return ACCEPT_PAUSE
        return SWEEP if self.connections.idle.first >= 0 or self.connections.leaving.first >= 0 else -1

    cdef void _finish(self) noexcept nogil:
        """Write what can be written, and close all connections."""
        cdef:
            Connection* connection
            int32_t place = 0
        enter(self.reader)
        self.context.settings = load_settings(&self.settings_writer.settings)
        self._write_replies()
        leave(self.reader)
        while place >= 0:
            connection = self.connections.next_after(&place)
            if connection != NULL and self._send(connection):
                self.connections.end_in_order(connection, self.context.client.now)
                self.connections.is_heard(connection)
                self.connections.close(connection)

    cdef Connection* _connection(self, uint64_t number) noexcept nogil:
        """Return the connection of a number; NULL: it is closed."""
        cdef Connection* connection = self.connections.at(<int32_t> place_of(number))
        if connection.fd >= 0 and number_of(connection) == (number & (SPECIAL - 1) & ~self.number):
            return connection
        return NULL

    # ------------------------------------------------------------ new connections

    cdef bint _accept(self, int32_t listener) noexcept nogil:
        """Take some of the connections that came to a listener; False: there are no more."""
        cdef:
            uint8_t[PEER_MAX] peer
            int32_t _k
            int fd
        for _k in range(ACCEPTED_AT_ONCE):
            fd = self.listening.accept(listener, peer, self.context.client.now)
            if fd == NONE_CAME:
                return False
            if fd >= 0:
                self._open(fd, listener, peer)
        return True

    cdef void _open(self, int fd, int32_t listener, const uint8_t* peer) noexcept nogil:
        """Take a connection, or end it where there are too many; a front proxy has to say first whose it is."""
        cdef:
            Connection* connection
            uint8_t octets
            const uint8_t* address = ip_of(peer, &octets)
            uint8_t[PEER_MAX] own
            uint32_t length = PEER_MAX
            bint is_proxy = prefix_value(&self.context.settings.proxies, address, octets) != 0
            bint is_encrypted = self.listening.sockets[listener].encryption != NULL
        if is_encrypted and not is_proxy and not self.connections.may_begin_handshake(
                address, octets, self.context.client.now):
            close_fd(fd)
            return
        if is_proxy and not self.connections.make_room(0):
            self.connections.note(OVER_PREFIX_SHARE, address, octets, 0, 0)
            close_fd(fd)
            return
        connection = self.connections.insert(fd, <uint8_t> listener, self.context.client.now)
        if connection == NULL:
            close_fd(fd)
            return
        speak_as(connection, &self.listening.sockets[listener])
        if (not is_proxy and not self.connections.admit(connection, address, octets)
                or getsockname(fd, <sockaddr*> own, &length)
                or self._watch(fd, number_of(connection), EPOLLIN)):
            self.connections.close(connection)
            return
        address = ip_of(own, &connection.to_octets)
        memcpy(connection.to, address, connection.to_octets)
        connection.port, connection.to_port = get16(peer + 2), get16(own + 2)
        if is_encrypted and not is_proxy:
            self.connections.await_handshake(connection)
        else:
            self._read(connection)  # who has asked by now is not idle, and need not be waited for

    # ------------------------------------------------------------ listeners that come and go

    cdef void _follow(self) noexcept nogil:
        """Take up the table that was published; who waits at a listener that is in it no more is taken first."""
        cdef:
            const ListenerSocket* table = self.listeners.news()
            int32_t k, _turn
        if table == NULL or self.listening.ended:
            return
        for k in range(LISTENERS_MAX):
            if self.listening.loses(table, k):
                for _turn in range(LAST_TURNS):
                    if not self._accept(k):
                        break
        self.listening.follow(table)
        self.dismissals.begin()
        self.listeners.note(table)  # whoever sees this sees that there may be newcomers

    cdef void _dismiss(self) noexcept nogil:
        """Let some of the connections whose listeners are gone end, once they have answers to what they have asked.

        That is as if their clients had said all; requests that have begun go on first (RFC 9113 6.8).
        """
        cdef Connection* connection
        self.dismissals.go_on(self.context.client.now)
        connection = self.dismissals.next(self.context.client.now)
        while connection != NULL:
            connection.half_closed |= connection.requests == NULL
            self._read(connection)
            if connection.fd >= 0:
                self._ask_to_leave(connection)
            connection = self.dismissals.next(self.context.client.now)

    cdef void _ask_to_leave(self, Connection* connection) noexcept nogil:
        """Tell a client who has requests to ask no more here."""
        if connection.requests != NULL:
            connection.http.leave(connection.requests)
            if self._transmit_answers(connection):
                self._settle(connection, self._has_request(connection))

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
            self.connections.note_server_name(connection)
            self.connections.end_handshake(connection)
            self.connections.touch(connection, self.context.client.now)
            self._read(connection)
        else:
            self.connections.expect(connection, <uint32_t> (EPOLLOUT if progress == AWAITS_OUTPUT else EPOLLIN))

    # ------------------------------------------------------------ in

    cdef void _serve_connection(self, uint64_t number, uint32_t events) noexcept nogil:
        """Do what a connection is ready for; it may have been closed by what was done for others."""
        cdef Connection* connection = self._connection(number)
        if connection == NULL:
            return
        if connection.listed[LINGERING]:
            if events & <uint32_t> (EPOLLERR | EPOLLHUP) or self.connections.is_heard(connection):
                self.connections.close(connection)
        elif connection.listed[SHAKING]:
            if not connection.listed[AWAITS_TURN]:  # who has left may have said why
                self.connections.expect(connection, 0)  # or it would be told of again and again, in place of others
                self.connections.append(connection, AWAITS_TURN)
        elif events & <uint32_t> (EPOLLERR | EPOLLHUP):
            self.connections.close(connection)
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
        connection.half_closed |= got == 0 or ended
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
        if not connection.octets and not connection.relays and not self._take_proxy_header(connection, length, &at):
            return
        if connection.http != NULL:
            self._take_requests(connection, octets + at, length - at)
            return
        while length - at >= FRAME:
            size = get16(octets + at)
            if length - at < FRAME + size or not self._takes_queries(connection):
                break
            at += FRAME + size
            taken = True
            self._answer(connection, octets + at - size, size)
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
            connection.has_asked = True
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
            self.connections.close_for_memory(connection)
            return False
        return True

    cdef bint _take_proxy_header(self, Connection* connection, uint32_t length, uint32_t* at) noexcept nogil:
        """Take a front proxy's header; False: it is not whole yet, or the connection ended for it."""
        cdef ProxyHeaderStatus status = self.connections.take_proxy_header(connection, self.inbox, length,
                                                                           self.context.client.now, at)
        if status == PART_OF_HEADER and self._keep(connection, self.inbox, length):
            self._settle(connection, False)
        elif status == BAD_HEADER:
            self.answering.note_bad_header(connection)
            self.connections.close(connection)
        return status == WHOLE_HEADER

    cdef bint _takes_queries(self, Connection* connection) noexcept nogil:
        """Tell whether a query is taken from a connection now; one whose prefix has its share of the ring is stalled.

        Else there is room for any query.
        """
        if not may_ask(self.connections, connection):
            return False
        if not ring_has_share(self.answering.shares, self.answering.ring, connection.ring_prefix, RING_ROOM):
            self.connections.append(connection, STALLED)
            return False
        return True

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

    cdef void _answer(self, Connection* connection, const uint8_t* wire, uint32_t length) noexcept nogil:
        """Decide about a query, and put its answer, if there is one by now, into the outgoing buffer."""
        cdef:
            uint8_t* reply = self.outgoing + self.outgoing_length + FRAME
            size_t octets
            Outcome outcome = self.answering.decide(connection, wire, length, connection.address, connection.octets,
                                                    reply)
        if outcome & SEND:
            octets = self.answering.finish_reply(connection)
            if octets:
                set16(reply - FRAME, <uint16_t> octets)
                self.outgoing_length += <uint32_t> (FRAME + octets)
        if outcome & ASK:
            self._hand_over(connection, 0, wire, length, outcome & SEND)
        self.answering.note(connection, wire, length, outcome)

    cdef bint _hand_over(self, Connection* connection, uint32_t request, const uint8_t* wire, uint32_t length,
                         bint answered) noexcept nogil:
        return self.answering.hand_over(connection, self.number | number_of(connection), request, wire, length,
                                        answered)

    # ------------------------------------------------------------ requests (HTTP)

    cdef void _take_requests(self, Connection* connection, const uint8_t* octets, uint32_t length) noexcept nogil:
        """Let a connection's session collect what came, and take the requests that are whole, as long as it may ask."""
        cdef:
            Request request
            bint taken = False
        if length and not self._collect(connection, octets, length):
            self.connections.close_for_memory(connection)
            return
        self.connections.release(connection, &connection.input)
        while self._has_request(connection) and self._takes_queries(connection):
            if not connection.http.take(connection.requests, &request):
                break
            taken = True
            self._answer_request(connection, &request)
            if connection.requests.waiting > MESSAGE_MAX and not self._transmit_answers(connection):
                return
        if taken:
            connection.has_asked = True
            self.connections.touch(connection, self.context.client.now)
        if self._transmit_answers(connection):
            self._settle(connection, self._has_request(connection))

    cdef bint _collect(self, Connection* connection, const uint8_t* octets, uint32_t length) noexcept nogil:
        """Let a session have what came, the first octets its begin; False: there is no memory for one."""
        if connection.requests == NULL:
            connection.requests = connection.http.begin(connection.http, &self.connections.counts.http,
                                                        connection.address, connection.octets)
            if connection.requests == NULL:
                return False
        connection.http.receive(connection.requests, octets, length, self.context.client.now)
        return True

    cdef bint _has_request(self, const Connection* connection) noexcept nogil:
        """Tell whether a request can be taken: a client who does not let come what was answered is heard, no more."""
        return (connection.requests != NULL and connection.requests.whole
                and connection.requests.waiting <= load_relaxed(&self.connections.limits.write_buffer))

    cdef void _answer_request(self, Connection* connection, const Request* request) noexcept nogil:
        """Decide about a request, and see to what comes of it: nobody waits for ever."""
        cdef:
            const uint8_t* address = connection.address
            uint8_t octets = connection.octets
            size_t length = 0
            bint is_taken = False
            Outcome outcome
        if request.length < HEADER or get16(request.query + HEADER_FLAGS) & QR:
            connection.http.refuse(connection.requests, request.number, BAD_REQUEST)
            return
        if request.address != NULL:
            address, octets = request.address, request.octets
        take_ends(connection, request)
        outcome = self.answering.decide(connection, request.query, request.length, address, octets, self.outgoing)
        if outcome & SEND:
            length = self.answering.finish_reply(connection)
        if outcome & ASK:
            is_taken = self._hand_over(connection, request.number, request.query, request.length, outcome & SEND)
        self.answering.note(connection, request.query, request.length, outcome)
        if length:
            connection.http.respond(connection.requests, request.number, self.outgoing, length,
                                    max_age_of(self.outgoing, length))
        elif outcome & SEND or not outcome & ASK:  # a rule, or the guard, lets him have nothing
            connection.http.refuse(connection.requests, request.number, FORBIDDEN)
        elif not is_taken:
            connection.http.refuse(connection.requests, request.number, UNAVAILABLE)

    cdef bint _transmit_answers(self, Connection* connection) noexcept nogil:
        """Send what a session has for its client, as far as he lets it come; False: the connection has ended."""
        cdef uint32_t room = 0
        while connection.requests != NULL and not room:
            self.outgoing_length += <uint32_t> connection.http.transmit(
                connection.requests, self.outgoing + self.outgoing_length, OUTGOING - self.outgoing_length)
            room = OUTGOING - self.outgoing_length
            if not room and not self._send(connection):
                return False
        if not self._send(connection):
            return False
        if connection.requests != NULL:
            connection.closing |= connection.requests.ends
            if not self.connections.count_requests(connection):
                self.connections.close_for_memory(connection)
                return False
        return True

    cdef void _end_listening(self) noexcept nogil:
        """Take no more connections; who has requests is told to ask no more."""
        cdef Connection* connection
        cdef int32_t place = -1 if self.connections.handing_over else 0  # of others, each is told as it is dismissed
        if self.listening.ended:
            return
        self.listening.end(not self.connections.handing_over)
        while place >= 0:
            connection = self.connections.next_after(&place)
            if connection != NULL:
                self._ask_to_leave(connection)

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
                self.connections.close_for_memory(connection)
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
        cdef uint32_t events = 0
        if not connection.head.unsent and (
                connection.closing or connection.half_closed and not connection.in_flight and not has_query):
            if connection.half_closed and not self.dismissals.concern(connection):  # by the client
                self.connections.close(connection)
            else:
                self.connections.end_in_order(connection, self.context.client.now)
            return
        if may_ask(self.connections, connection):
            if has_query:  # it was held back by what is over by now
                self.connections.append(connection, STALLED)
            elif not connection.half_closed:
                events = EPOLLIN
        if connection.head.unsent:
            events |= <uint32_t> EPOLLOUT
        self.connections.expect(connection, events)

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
                self._take_reply(connection, reply)
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

    cdef void _take_reply(self, Connection* connection, const Reply* reply) noexcept nogil:
        """Put a reply into the outgoing buffer; or let the session have it, whose request may be gone by now."""
        cdef:
            uint8_t* framed = self.outgoing + self.outgoing_length
            uint32_t length
        memcpy(framed, reply + 1, reply.length)
        length = self._pad(connection, reply.length)
        if not reply.request:
            self.outgoing_length += length
        elif not length:
            connection.http.refuse(connection.requests, reply.request, FORBIDDEN)
        else:
            length -= FRAME
            connection.http.respond(connection.requests, reply.request, framed + FRAME, length,
                                    max_age_of(framed + FRAME, length))

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
