"""The connections that a worker holds: how many there may be, what they may hold in memory, and who gives way.

Limits and totals are those of all workers together; who gives way is one of the worker's own. A client prefix may have
one more only while it has less than four times what is free (`core/_fair_shares`), and so with octets. Its own
connection that was idle the longest gives way, or, where all are taken, that of whoever has more.
"""

cimport cython
from typing import NamedTuple

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset
from posix.unistd cimport close as close_fd

from ..core._atomic cimport (
    add, barrier, bump, copy_words, load_acquire, load_pointer, load_relaxed, store_pointer, store_relaxed,
    store_relaxed32, store_release
)
from ..core._epoll cimport EPOLLIN, EPOLL_CTL_MOD, epoll_ctl, epoll_event
from ..core._fair_shares cimport counter_of, hash_prefix, may_take
from ..core._rate_limit cimport Limit, source_exceeds
from ..core._memory cimport zeros
from ..core._siphash cimport siphash
from ..core._udp_batch cimport PEER_MAX, ip_of
from ..forward._reply_queue cimport CHUNK, SERVER_NAME_MAX, ServerName
from ..policy._server_names cimport ServerNames, lists_with
from ..wire._proxy_protocol cimport (
    BAD_HEADER, NO_HEADER, PART_OF_HEADER, WHOLE_HEADER, ProxyHeader, ProxyHeaderStatus, read_header
)
from ._connection_limits cimport ConnectionLimits, Totals, load_limit
from ._encryption cimport HandshakeCounters
from ._http cimport HELD_BY_ALL, STATUSES, HttpCounters, status_code

cdef enum:
    CLIENT_6 = 8                   # octets of an IPv6 address that make one client: /64
    CANDIDATES = 8                 # connections of a prefix among which one to close is looked for
    SAMPLES = 64                   # connections among which the prefix that has the most is looked for
    ENDED_AT_ONCE = 64             # idle connections, before others have their turn
    BUFFER_MIN = 512               # octets
    BUFFER_MAX = 1 << 30
    BUFFER_STEP = 4096             # octets that a session's memory is counted in
    STEPS_MAX = 256                # of a list that may have others in it
    LEAVE_MAX = 64                 # octets that a session says at the end
    DISCARDED_AT_ONCE = 4096       # octets that a client says after it
    HANDSHAKES_MAX = 1000          # at once: each can take 90 KiB, before it is known to be one

cdef uint64_t HALF_CLOSED = <uint64_t> 1000000000  # nanoseconds of silence after which who waits for a transfer is gone
cdef uint64_t LINGER = <uint64_t> 1000000000  # nanoseconds in which a client hears that his connection has ended


cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int getpeername(int fd, sockaddr* address, uint32_t* length)
    ssize_t send(int fd, const void* octets, size_t length, int flags)
    ssize_t recv(int fd, void* octets, size_t length, int flags)
    int shutdown(int fd, int how)
    int MSG_NOSIGNAL, SHUT_WR


class Latest(NamedTuple):
    """How many connections ended for a reason, and the last of them: when (nanoseconds), whose, and octets held.

    `share` are the octets that its whole prefix held. An address of no octets: a front proxy's, who never said whose.
    """

    times: int
    at: int
    address: bytes
    held: int
    share: int


cdef inline uint64_t _free_places(const Totals* limits) noexcept nogil:
    cdef:
        uint64_t most = load_relaxed(&limits.connections_max)
        uint64_t held = load_relaxed(&limits.connections)
    return most - held if held < most else 0


cdef inline bint _exceeds_its_share(const Totals* limits, uint32_t prefix) noexcept nogil:
    """Tell whether a prefix holds more octets than it could if all that hold some had the same."""
    return (load_relaxed(&limits.memory_of[prefix]) * (load_relaxed(&limits.prefixes) + 1)
            > load_relaxed(&limits.memory_max))


cdef uint64_t find_server_names(Connection* connection, const Totals* limits) noexcept nogil:
    """Find out which lists of rules the name is in that a client asked for, and keep it for its next queries."""
    cdef const ServerNames* names = <const ServerNames*> load_pointer(&limits.server_names)
    connection.server_names, connection.names_serial = lists_with(names, connection.server_name), names.serial
    return connection.server_names


@cython.final
cdef class Connections:
    """Places for connections, which are numbered, and lists of them.

    Memory ownership: descriptors and buffers of what is in it are its own. One thread calls all of it.
    """

    def __cinit__(self, ConnectionLimits limits not None, int epoll_fd=-1) -> None:
        self.epoll_fd = epoll_fd
        self.held, self.limits, self.clock = limits, &limits.totals, limits.cache.clock
        self.chunks = <uint8_t**> zeros(CHUNKS_MAX, sizeof(uint8_t*))
        self.server_names = <ServerName**> zeros(CHUNKS_MAX, sizeof(ServerName*))
        self.free_place = -1
        memset(&self.idle, 0xff, sizeof(List))
        memset(&self.buffering, 0xff, sizeof(List))
        memset(&self.stalled, 0xff, sizeof(List))
        memset(&self.leaving, 0xff, sizeof(List))
        memset(&self.shaking, 0xff, sizeof(List))
        memset(&self.awaiting_turn, 0xff, sizeof(List))
        memset(&self.lingering, 0xff, sizeof(List))
        memset(self.prefixes, 0xff, sizeof(self.prefixes))
        self.random = <uint64_t> self.chunks ^ <uint64_t> 0x9e3779b97f4a7c15

    def __dealloc__(self) -> None:
        cdef:
            Connection* connection
            int32_t place
        for place in range(self.places):
            connection = self.at(place)
            if connection.fd >= 0:
                if connection.requests != NULL:
                    connection.http.end(connection.requests)
                if connection.session != NULL:
                    connection.encryption.end(connection.session)
                close_fd(connection.fd)
            free(connection.input.octets)
            free(connection.output.octets)
        if self.chunks != NULL:
            for place in range(CHUNKS_MAX):
                free(self.chunks[place])
                free(self.server_names[place])
            free(self.chunks)
            free(self.server_names)

    cdef Connection* at(self, int32_t place) noexcept nogil:
        return <Connection*> self.chunks[place // CHUNK] + place % CHUNK

    # ------------------------------------------------------------ lists

    cdef List* _list(self, const Connection* connection, uint32_t order) noexcept nogil:
        if order == IDLE:
            return &self.idle
        if order == BUFFERING:
            return &self.buffering
        if order == STALLED:
            return &self.stalled
        if order == LEAVING:
            return &self.leaving
        if order == SHAKING:
            return &self.shaking
        if order == LINGERING:
            return &self.lingering
        return &self.awaiting_turn if order == AWAITS_TURN else &self.prefixes[connection.prefix % BUCKETS]

    cdef void append(self, Connection* connection, uint32_t order) noexcept nogil:
        """Let a connection be the last of a list."""
        cdef List* into = self._list(connection, order)
        self.remove(connection, order)
        connection.before[order], connection.after[order] = into.last, -1
        if into.last < 0:
            into.first = connection.place
        else:
            self.at(into.last).after[order] = connection.place
        into.last = connection.place
        connection.listed[order] = True

    cdef void remove(self, Connection* connection, uint32_t order) noexcept nogil:
        """Let a connection be in a list no more, if it is."""
        cdef:
            List* source = self._list(connection, order)
            int32_t before = connection.before[order]
            int32_t after = connection.after[order]
        if not connection.listed[order]:
            return
        if before < 0:
            source.first = after
        else:
            self.at(before).after[order] = after
        if after < 0:
            source.last = before
        else:
            self.at(after).before[order] = before
        connection.listed[order] = False

    # ------------------------------------------------------------ places

    cdef bint make_room(self, uint32_t prefix) noexcept nogil:
        """Make room for one more connection of a prefix (0: of nobody yet); False: it may have no more.

        Where it has as many as are free, its own that is idle the longest is closed (RFC 7766 6.2.3 lets a server do
        that). Where all are taken, and it has fewer than another, the longest idle of all is; where all wait for
        answers, the oldest of the prefix that has the most.
        """
        cdef:
            uint64_t held = load_relaxed(&self.limits.by_prefix[prefix]) if prefix else 0
            uint64_t left = _free_places(self.limits)
            uint64_t most = 0
            int32_t oldest = -1
            int32_t victim
        if may_take(held, left):
            return True
        if not left:
            oldest = self._oldest_of_largest_prefix()
            if oldest >= 0:
                most = load_relaxed(&self.limits.by_prefix[self.at(oldest).prefix])
        if not left and held < max(most, <uint64_t> 1):
            victim = self._first_idle(&self.idle, IDLE, 0)
        else:
            victim = self._first_idle(&self.prefixes[prefix % BUCKETS], OF_PREFIX, prefix)
        if victim >= 0:
            bump(&self.counts.evicted_idle, 1)
        elif not left and held < most:
            bump(&self.counts.evicted_waiting, 1)
            victim = oldest
        else:
            return False
        self.close(self.at(victim))
        return True

    cdef int32_t _first_idle(self, const List* among, uint32_t order, uint32_t prefix) noexcept nogil:
        """Return the first idle connection of a list that is of a prefix (0: of any), among a few; -1: none is."""
        cdef:
            int32_t place = among.first
            int32_t left = CANDIDATES
            int32_t steps = STEPS_MAX
            const Connection* connection
        while place >= 0 and left and steps:
            connection = self.at(place)
            if not prefix or connection.prefix == prefix:
                if is_idle(connection):
                    return place
                left -= 1
            steps -= 1
            place = connection.after[order]
        return -1

    cdef int32_t _oldest_of_largest_prefix(self) noexcept nogil:
        """Return the longest silent connection of the prefix that has the most, as far as samples tell; -1: none."""
        cdef:
            uint64_t most = 0
            uint64_t held
            int32_t k, _k, place
            int32_t found = -1
            const Connection* connection
        for k in range(min(self.places, SAMPLES)):
            place = k
            if self.places > SAMPLES:
                self.random = self.random * <uint64_t> 6364136223846793005 + <uint64_t> 1442695040888963407
                place = <int32_t> ((self.random >> 33) % <uint64_t> self.places)
            connection = self.at(place)
            held = load_relaxed(&self.limits.by_prefix[connection.prefix])
            if connection.fd >= 0 and connection.octets and held > most:
                most, found = held, place
        if found >= 0:
            connection = self.at(found)
            place = self.prefixes[connection.prefix % BUCKETS].first
            for _k in range(STEPS_MAX):
                if self.at(place).prefix == connection.prefix:
                    return place
                place = self.at(place).after[OF_PREFIX]
        return found

    cdef Connection* insert(self, int fd, uint8_t listener, uint64_t now) noexcept nogil:
        """Give a connection that came to a listener a place; NULL: there is no memory for more."""
        cdef:
            Connection* connection
            uint32_t generation
            int32_t place = self.free_place
            int32_t chunk = self.places // CHUNK
        if place < 0:
            if chunk == CHUNKS_MAX:
                return NULL
            if self.chunks[chunk] == NULL:
                self.chunks[chunk] = <uint8_t*> calloc(CHUNK, sizeof(Connection))
                if self.chunks[chunk] == NULL:
                    return NULL
            place = self.places
            self.places += 1
            connection = self.at(place)
        else:
            connection = self.at(place)
            self.free_place = connection.after[IDLE]
        generation = connection.head.generation
        memset(<uint8_t*> connection + sizeof(connection.head), 0, sizeof(Connection) - sizeof(connection.head))
        connection.place, connection.fd, connection.active = place, fd, now
        connection.head.generation, connection.head.unsent = generation, 0
        connection.listener = listener
        add(&self.limits.connections, 1)
        add(&self.limits.by_listener[listener], 1)
        self.append(connection, IDLE)
        return connection

    def hand_over(self, bint begin) -> None:
        """Leave to another process what can be passed on, and listening, once the worker runs again; or keep it all."""
        self.handing_over = begin

    cdef bint admit(self, Connection* connection, const uint8_t* address, uint8_t octets) noexcept nogil:
        """Count a connection as that of a client; False: he, or his prefix, has too many, and it is to be closed."""
        cdef:
            Totals* limits = self.limits
            uint64_t hashed = siphash(limits.secret, address, 4 if octets == 4 else CLIENT_6)
            uint32_t client = counter_of(hashed, 1)
            uint64_t site = hash_prefix(limits.secret, address, octets)
            uint32_t prefix = max(counter_of(site, 2), <uint32_t> 1)
            uint64_t most = load_relaxed(&limits.per_client_max)
            int64_t buffered = held_by(connection)
            bint has_room
        if most and load_relaxed(&limits.by_client[client]) >= most:
            self.note(OVER_CLIENT_LIMIT, address, octets, 0, 0)
            return False
        self.remove(connection, IDLE)  # it is none of those that may give way to it
        add(&limits.connections, <uint64_t> -1)
        has_room = self.make_room(prefix)
        add(&limits.connections, 1)
        self.append(connection, IDLE)
        if not has_room:
            self.note(OVER_PREFIX_SHARE, address, octets, 0, 0)
            return False
        self._count_memory(connection, -buffered)
        memcpy(connection.address, address, octets)
        connection.octets, connection.client, connection.prefix = octets, client, prefix
        connection.ring_prefix = counter_of(site, 0)
        self._count_memory(connection, buffered)
        add(&limits.by_client[client], 1)
        add(&limits.by_prefix[prefix], 1)
        self.append(connection, OF_PREFIX)
        bump(&self.counts.accepted, 1)
        return True

    cdef Connection* next_after(self, int32_t* place) noexcept nogil:
        """Return the connection at a place, or one behind it, and go on; NULL, and a place below 0: there is none."""
        cdef Connection* connection
        while place[0] < self.places:
            connection = self.at(place[0])
            place[0] += 1
            if connection.fd >= 0:
                return connection
        place[0] = -1
        return NULL

    cdef ProxyHeaderStatus take_proxy_header(self, Connection* connection, const uint8_t* octets, uint32_t length,
                                             uint64_t now, uint32_t* at) noexcept nogil:
        """Take a front proxy's header, behind which `at` is then.

        BAD_HEADER: the connection is to be closed. NO_HEADER: it is closed, for its client may have none. Only of one
        that is a part nothing was taken, and more may come.
        """
        cdef:
            ProxyHeader header
            uint8_t[PEER_MAX] peer
            uint32_t peer_octets = PEER_MAX
            ProxyHeaderStatus status
        header.octets = header.to_octets = 0
        header.header = 0
        status = read_header(&header, octets, length)
        if status == PART_OF_HEADER:
            return status
        if status == WHOLE_HEADER and not header.octets:  # the proxy's own
            if getpeername(connection.fd, <sockaddr*> peer, &peer_octets) == 0:
                header.address = ip_of(peer, &header.octets)
        if status != WHOLE_HEADER or not header.octets:
            bump(&self.counts.proxy_protocol_invalid, 1)
            return BAD_HEADER
        if (connection.encryption != NULL and not self.may_begin_handshake(header.address, header.octets, now)
                or not self.admit(connection, header.address, header.octets)):
            self.close(connection)
            return NO_HEADER
        if connection.encryption != NULL:
            self.await_handshake(connection)
        if header.to_octets:
            memcpy(connection.to, header.to, header.to_octets)
            connection.to_octets, connection.port, connection.to_port = header.to_octets, header.port, header.to_port
        self.touch(connection, now)
        at[0] = <uint32_t> header.header
        return WHOLE_HEADER

    cdef bint may_begin_handshake(self, const uint8_t* address, uint8_t octets, uint64_t now) noexcept nogil:
        """Count a handshake that a client begins; False: he has begun too many. The caller is inside an epoch."""
        cdef const Limit* limit = load_limit(&self.limits.handshakes)
        if limit == NULL or not source_exceeds(limit, address, octets, 0, 1, now):
            return True
        bump(&self.counts.handshakes_limited, 1)
        return False

    cdef void await_handshake(self, Connection* connection) noexcept nogil:
        """Let a connection begin its handshake when the client does; where too many go on, the oldest ends."""
        cdef Connection* oldest
        self.append(connection, SHAKING)
        self.handshakes += 1
        if self.handshakes > HANDSHAKES_MAX:
            oldest = self.at(self.shaking.first)
            bump(&self.counts.handshakes.crowded, 1)
            self.end_handshake(oldest)
            self.close(oldest)

    cdef bint begin_session(self, Connection* connection) noexcept nogil:
        """Begin to encrypt a connection; False: there is no memory for that. The caller is inside an epoch."""
        connection.session = connection.encryption.begin(connection.encryption, connection.fd)
        if connection.session == NULL:
            return False
        add(&self.limits.encrypted, 1)
        return True

    cdef void note_server_name(self, Connection* connection) noexcept nogil:
        """Note the name that a client asked for in its handshake, where the control thread finds it, too."""
        cdef:
            const char* asked = connection.encryption.server_name(connection.session)
            int32_t chunk = connection.place // CHUNK
            ServerName* place
            ServerName noted
            uint32_t k = 0
        if asked == NULL:
            return
        if self.server_names[chunk] == NULL:
            place = <ServerName*> calloc(CHUNK, sizeof(ServerName))
            if place == NULL:
                return
            store_pointer(<const void**> &self.server_names[chunk], place)
        place = self.server_names[chunk] + connection.place % CHUNK
        memset(&noted, 0, sizeof(ServerName))
        while asked[k] and k < SERVER_NAME_MAX - 1:
            noted.name[k] = <uint8_t> (asked[k] | 0x20 if c"A" <= asked[k] <= c"Z" else asked[k])
            k += 1
        store_relaxed(&place.generation, 0)
        barrier()
        copy_words(place, &noted, sizeof(ServerName))
        store_release(&place.generation, <uint64_t> connection.head.generation + 1)
        connection.server_name = <const char*> place.name

    cdef void end_handshake(self, Connection* connection) noexcept nogil:
        """Note that a handshake is over, whatever became of it."""
        if connection.listed[SHAKING]:
            self.remove(connection, SHAKING)
            self.handshakes -= 1

    cdef void touch(self, Connection* connection, uint64_t now) noexcept nogil:
        """Note that a connection is active."""
        connection.active = now
        if connection.octets:
            self.append(connection, OF_PREFIX)
        if is_idle(connection):
            self.append(connection, IDLE)
        else:
            self.remove(connection, IDLE)

    cdef void close(self, Connection* connection) noexcept nogil:
        """End a connection now; it has no part in any limit from here on."""
        cdef:
            Totals* limits = self.limits
            uint32_t order
        self.transfer_changed |= connection.transfers
        self.release(connection, &connection.input)
        self.release(connection, &connection.output)
        if connection.listed[SHAKING]:
            bump(&self.counts.handshakes.closed, 1)
            self.end_handshake(connection)
        self._count_memory(connection, -<int64_t> connection.collected)
        connection.collected = 0
        for order in range(ORDERS):
            self.remove(connection, order)
        add(&limits.connections, <uint64_t> -1)
        if connection.octets:
            add(&limits.by_client[connection.client], <uint64_t> -1)
            add(&limits.by_prefix[connection.prefix], <uint64_t> -1)
        self._end_sessions(connection)
        barrier()  # what its listener has is needed no more
        add(&limits.by_listener[connection.listener], <uint64_t> -1)
        close_fd(connection.fd)
        connection.fd = -1
        store_relaxed32(&connection.head.generation, connection.head.generation + 1)
        connection.after[IDLE] = self.free_place
        self.free_place = connection.place

    cdef void close_for_memory(self, Connection* connection) noexcept nogil:
        """End a connection for what waits in it."""
        self.note(OVER_MEMORY, connection.address, connection.octets, <uint64_t> held_by(connection),
                  load_relaxed(&self.limits.memory_of[connection.prefix]))
        self.close(connection)

    cdef void expect(self, Connection* connection, uint32_t events) noexcept nogil:
        """Have the kernel tell of these events."""
        cdef epoll_event event
        if events != connection.events:
            connection.events = event.events = events
            event.data.number = number_of(connection)
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, connection.fd, &event)

    cdef void end_in_order(self, Connection* connection, uint64_t now) noexcept nogil:
        """Say that nothing more comes, and let the client hear it: until he ends the connection, or LINGER is over.

        If it was closed while he still asks, the kernel would answer that with a reset, which can overtake all that he
        has not got yet. Caller must ensure that nothing is unsent.
        """
        self.take_leave(connection)
        self._end_sessions(connection)
        shutdown(connection.fd, SHUT_WR)
        self.transfer_changed |= connection.transfers
        self.release(connection, &connection.input)
        self._count_memory(connection, -<int64_t> connection.collected)
        connection.collected = connection.in_flight = 0
        connection.closing, connection.active = True, now
        store_relaxed32(&connection.head.generation, connection.head.generation + 1)  # no reply is for it any more
        self.remove(connection, STALLED)
        self.append(connection, LINGERING)
        self.append(connection, IDLE)
        connection.events = 0
        self.expect(connection, EPOLLIN)

    cdef bint is_heard(self, Connection* connection) noexcept nogil:
        """Read what a client says on a connection that has ended; True: he has heard of that."""
        cdef:
            uint8_t[DISCARDED_AT_ONCE] octets
            ssize_t got = recv(connection.fd, octets, DISCARDED_AT_ONCE, 0)
        return not got or got < 0 and errno != EAGAIN and errno != EINTR

    cdef void _end_sessions(self, Connection* connection) noexcept nogil:
        """Forget what a connection's requests, and its encryption, are in the midst of."""
        if connection.requests != NULL:
            connection.http.end(connection.requests)
            connection.requests = NULL
        if connection.session != NULL:
            add(&self.limits.encrypted, <uint64_t> -1)
            connection.encryption.end(connection.session)
            connection.session = NULL

    cdef void end_idle(self, uint64_t now) noexcept nogil:
        """Close some of the connections that have been idle for too long, and of those that have ended.

        A client who has said all, and waits for a transfer, may be there or gone: what he reads shows it.
        """
        cdef:
            uint64_t idle = load_relaxed(&self.limits.idle)
            int32_t place = self.leaving.first
            Connection* connection
            int32_t _k
        while place >= 0:
            connection = self.at(place)
            place = connection.after[LEAVING]
            if connection.active + HALF_CLOSED < now and not connection.head.unsent:
                self.close(connection)
        self.has_more_to_end = self._end_handshakes(now) | self._end_lingering(now)
        for _k in range(ENDED_AT_ONCE):
            if self.idle.first < 0:
                return
            connection = self.at(self.idle.first)
            if connection.active + idle > now:
                return
            bump(&self.counts.idle_timeouts, 1)
            self.take_leave(connection)
            self.close(connection)
        self.has_more_to_end = True

    cdef void take_leave(self, Connection* connection) noexcept nogil:
        """Tell a client who asks by HTTP that the connection ends: what he asks from now on nobody has heard."""
        cdef:
            uint8_t[LEAVE_MAX] octets
            size_t length
        if connection.requests == NULL or connection.head.unsent:
            return
        connection.http.leave(connection.requests)
        length = connection.http.transmit(connection.requests, octets, LEAVE_MAX)
        if length == LEAVE_MAX:  # he has left something unread: he is not there
            return
        if connection.session != NULL:
            connection.encryption.write(connection.session, octets, length)
        else:
            send(connection.fd, octets, length, MSG_NOSIGNAL)

    cdef bint _end_handshakes(self, uint64_t now) noexcept nogil:
        """Close some of the connections whose handshakes take too long; True: there may be more."""
        cdef:
            Connection* connection
            int32_t _k
        for _k in range(ENDED_AT_ONCE):
            if self.shaking.first < 0:
                return False
            connection = self.at(self.shaking.first)
            if connection.active + load_relaxed(&self.limits.handshake) > now:
                return False
            bump(&self.counts.handshakes.timeout, 1)
            self.end_handshake(connection)
            self.close(connection)
        return True

    cdef bint _end_lingering(self, uint64_t now) noexcept nogil:
        """Close some of the connections whose clients have had time to hear of their end; True: there may be more."""
        cdef int32_t _k
        for _k in range(ENDED_AT_ONCE):
            if self.lingering.first < 0 or self.at(self.lingering.first).active + LINGER > now:
                return False
            self.close(self.at(self.lingering.first))
        return True

    # ------------------------------------------------------------ memory

    cdef bint reserve(self, Connection* connection, Buffer* buffer, uint32_t octets) noexcept nogil:
        """Have room for so many octets more at a buffer's end; False: the connection may hold no more."""
        cdef:
            uint64_t needed = <uint64_t> buffer.end - buffer.begin + octets
            uint64_t capacity = max(buffer.capacity, <uint32_t> BUFFER_MIN)
            uint8_t* larger
        if needed <= buffer.capacity:
            if <uint64_t> buffer.end + octets > buffer.capacity:
                memmove(buffer.octets, buffer.octets + buffer.begin, buffer.end - buffer.begin)
                buffer.end -= buffer.begin
                buffer.begin = 0
            return True
        while capacity < needed:
            capacity *= 2
        if capacity > BUFFER_MAX or not (
                connection.relays or self._has_memory(connection, capacity - buffer.capacity)):
            return False
        larger = <uint8_t*> realloc(buffer.octets, capacity)
        if larger == NULL:
            return False
        memmove(larger, larger + buffer.begin, buffer.end - buffer.begin)
        buffer.end -= buffer.begin
        buffer.begin, buffer.octets = 0, larger
        self._count_memory(connection, <int64_t> capacity - buffer.capacity)
        buffer.capacity = <uint32_t> capacity
        return True

    cdef void release(self, Connection* connection, Buffer* buffer) noexcept nogil:
        """Forget what is in a buffer, and give its memory back."""
        if buffer.capacity:
            free(buffer.octets)
            self._count_memory(connection, -<int64_t> buffer.capacity)
            memset(buffer, 0, sizeof(Buffer))

    cdef bint count_requests(self, Connection* connection) noexcept nogil:
        """Count what a connection's requests hold by now; False: it may hold no more."""
        cdef:
            uint64_t held = max(connection.requests.held, <uint64_t> HELD_BY_ALL) - HELD_BY_ALL
            uint32_t counted = <uint32_t> ((held + BUFFER_STEP - 1) // BUFFER_STEP * BUFFER_STEP)
        if counted == connection.collected:
            return True
        if counted > connection.collected and not self._has_memory(connection, counted - connection.collected):
            return False
        self._count_memory(connection, <int64_t> counted - connection.collected)
        connection.collected = counted
        return True

    cdef void _count_memory(self, Connection* connection, int64_t octets) noexcept nogil:
        cdef:
            Totals* limits = self.limits
            uint64_t before
        if not octets:
            return
        before = add(&limits.memory_of[connection.prefix], <uint64_t> octets)
        add(&limits.memory, <uint64_t> octets)
        if not before:
            add(&limits.prefixes, 1)
        elif before + <uint64_t> octets == 0:
            add(&limits.prefixes, <uint64_t> -1)
        if held_by(connection) + octets == 0:
            self.remove(connection, BUFFERING)
        elif not connection.listed[BUFFERING] and not connection.relays:
            self.append(connection, BUFFERING)

    cdef bint _has_memory(self, Connection* connection, uint64_t octets) noexcept nogil:
        """Make room for more octets of a connection; False: it may hold no more.

        Where its prefix holds as much as is free, and more than its share, the largest of the prefix is closed, maybe
        this one. Where it holds less, others hold more than theirs: the one that has buffered for the longest is.
        """
        cdef:
            Totals* limits = self.limits
            uint64_t most, held, left
            int32_t victim
        while True:
            most, held = load_relaxed(&limits.memory_max), load_relaxed(&limits.memory)
            left = most - held if held < most else 0
            if octets <= left and may_take(load_relaxed(&limits.memory_of[connection.prefix]), left):
                return True
            if _exceeds_its_share(limits, connection.prefix):
                victim = self._largest_of_prefix(connection.prefix)
            else:
                victim = self._longest_buffering()
            if victim < 0 or victim == connection.place:
                return False
            self.close_for_memory(self.at(victim))

    cdef int32_t _largest_of_prefix(self, uint32_t prefix) noexcept nogil:
        """Return the connection of a prefix that holds the most octets, among a few; -1: none holds any."""
        cdef:
            int32_t place = self.prefixes[prefix % BUCKETS].first
            int32_t left = CANDIDATES
            int32_t steps = STEPS_MAX
            int32_t found = -1
            int64_t most = 0
            int64_t held
            const Connection* connection
        while place >= 0 and left and steps:
            steps -= 1
            connection = self.at(place)
            held = held_by(connection)
            if connection.prefix == prefix:
                if held > most:
                    most, found = held, place
                left -= 1
            place = connection.after[OF_PREFIX]
        return found

    cdef int32_t _longest_buffering(self) noexcept nogil:
        """Return the connection that has held octets the longest, of a prefix with more than its share; -1: none."""
        cdef:
            Connection* connection
            int32_t _k
        for _k in range(SAMPLES):
            if self.buffering.first < 0:
                return -1
            connection = self.at(self.buffering.first)
            if _exceeds_its_share(self.limits, connection.prefix):
                return connection.place
            self.append(connection, BUFFERING)  # so that it is not looked at again soon
        return -1

    # ------------------------------------------------------------ for the log, and for stats

    cdef void note(self, uint32_t reason, const uint8_t* address, uint8_t octets, uint64_t held,
                   uint64_t share) noexcept nogil:
        """Note whose connection was refused or closed, and why."""
        cdef:
            Notice* notice = &self.notices[reason]
            EndedConnection latest
        latest.count, latest.at = notice.latest.count + 1, self.clock.now()
        latest.held, latest.share, latest.octets = held, share, octets
        memcpy(latest.address, address, octets)
        store_relaxed(&notice.version, notice.version + 1)
        barrier()
        copy_words(&notice.latest, &latest, sizeof(EndedConnection))
        store_release(&notice.version, notice.version + 1)

    def ended(self) -> list[Latest]:
        """Return for each reason how many connections it ended, and what is known of the last."""
        cdef:
            Notice* notice
            EndedConnection seen
            uint64_t version
            uint32_t reason
            list found = []
        for reason in range(REASONS):
            notice = &self.notices[reason]
            while True:
                version = load_acquire(&notice.version)
                copy_words(&seen, &notice.latest, sizeof(EndedConnection))
                barrier()
                if not version & 1 and version == load_acquire(&notice.version):
                    break
            found.append(Latest(seen.count, seen.at, seen.address[:seen.octets], seen.held, seen.share))
        return found

    def counters(self) -> dict[str, int]:
        """Return what happened to connections, as numbers by name."""
        cdef:
            HandshakeCounters* handshakes = &self.counts.handshakes
            const HttpCounters* http = &self.counts.http
        return {f"http_responses_{status_code(k)}": load_relaxed(&http.responses[k]) for k in range(STATUSES)} | {
            "tcp_accepted": load_relaxed(&self.counts.accepted),
            "tcp_refused_per_client": load_relaxed(&self.notices[OVER_CLIENT_LIMIT].latest.count),
            "tcp_refused_per_prefix": load_relaxed(&self.notices[OVER_PREFIX_SHARE].latest.count),
            "tcp_evicted_memory": load_relaxed(&self.notices[OVER_MEMORY].latest.count),
            "tcp_evicted_idle": load_relaxed(&self.counts.evicted_idle),
            "tcp_evicted_waiting": load_relaxed(&self.counts.evicted_waiting),
            "tcp_idle_timeouts": load_relaxed(&self.counts.idle_timeouts),
            "tcp_protocol_errors": load_relaxed(&self.counts.protocol_errors),
            "proxy_protocol_invalid": load_relaxed(&self.counts.proxy_protocol_invalid),
            "tls_handshakes_limited": load_relaxed(&self.counts.handshakes_limited),
            "tls_handshakes_full": load_relaxed(&handshakes.full),
            "tls_handshakes_resumed": load_relaxed(&handshakes.resumed),
            "tls_handshakes_failed_closed": load_relaxed(&handshakes.closed),
            "tls_handshakes_failed_crowded": load_relaxed(&handshakes.crowded),
            "tls_handshakes_failed_timeout": load_relaxed(&handshakes.timeout),
            "tls_handshakes_failed_alert": load_relaxed(&handshakes.alert),
            "tls_handshakes_failed_version": load_relaxed(&handshakes.version),
            "tls_handshakes_failed_cipher": load_relaxed(&handshakes.cipher),
            "tls_handshakes_failed_protocol": load_relaxed(&handshakes.protocol),
            "tls_handshakes_failed_not_tls": load_relaxed(&handshakes.not_tls),
            "tls_handshakes_failed_other": load_relaxed(&handshakes.other),
            "http_errors_protocol": load_relaxed(&http.protocol_errors),
            "http_errors_flood": load_relaxed(&http.floods),
            "tls_version_1_2": load_relaxed(&handshakes.version_1_2),
            "tls_version_1_3": load_relaxed(&handshakes.version_1_3),
        }
