"""The connections that a worker holds: how many there may be, what they may hold in memory, and who gives way."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._atomic cimport load_pointer, load_relaxed
from ..core._clock cimport Clock
from ..core._epoll cimport EPOLLIN
from ..forward._reply_queue cimport OF_GENERATION, ConnectionHead, ServerName
from ..policy._rule_state cimport OVER_HTTP, OVER_HTTPS, OVER_TCP, OVER_TLS
from ..policy._server_names cimport ServerNames
from ..wire._proxy_protocol cimport ProxyHeaderStatus
from ._connection_limits cimport ConnectionLimits, Totals
from ._encryption cimport Encryption, HandshakeCounters
from ._http cimport Http, HttpCounters, HttpSession, Request
from ._listener_table cimport ListenerSocket

cdef enum:
    BUCKETS = 4096                 # of connections, by their client prefix
    CHUNKS_MAX = 1024              # so many times CHUNK connections

cdef enum:                         # lists that a connection can be in
    IDLE                           # its client waits for nothing, or does not read; the longest idle first
    OF_PREFIX                      # all of a client prefix; the longest silent first
    BUFFERING                      # octets are held for it; the longest first
    STALLED                        # it goes on when the control thread takes more queries
    LEAVING                        # the client has said all, a transfer the last of it
    SHAKING                        # its handshake goes on; the oldest first
    AWAITS_TURN                    # what came for its handshake has not been looked at
    LINGERING                      # it has ended in order: what its client still says is nobody's
    ORDERS                         # how many there are

cdef enum:                         # why a connection was refused or closed, where that is logged
    OVER_CLIENT_LIMIT
    OVER_PREFIX_SHARE
    OVER_MEMORY
    REASONS                        # how many there are

cdef struct List:
    int32_t first, last            # -1: it is empty

cdef struct Buffer:                # octets that wait
    uint8_t* octets
    uint32_t begin, end, capacity

cdef struct Connection:
    ConnectionHead head
    int32_t place
    int32_t fd                     # -1: the place is free
    uint32_t events                # that epoll is asked for
    int32_t[ORDERS] before, after  # in each list; -1: none
    uint8_t[ORDERS] listed
    uint64_t active                # when a query was taken or an answer written, nanoseconds
    uint32_t in_flight             # queries that wait for an answer
    uint32_t client, prefix        # whose counters it counts in; 0: it is not known whose it is
    uint32_t ring_prefix           # and in a ring
    uint8_t address[16]            # the client's
    uint8_t octets                 # of it; 0: a front proxy has to say it first
    uint8_t to[16]                 # the address that he asked
    uint8_t to_octets
    uint16_t port, to_port
    uint8_t listener
    uint8_t transport              # as rules know it
    bint relays                    # it is a front of ours, who asks for clients: none of their limits is its own
    bint blocked                   # the client does not read: nothing more is taken from it
    bint has_asked
    bint half_closed               # the client has said all
    bint closing                   # it ends as soon as all is written
    bint transfers                 # it was asked for a transfer: the control thread waits to write more
    const Encryption* encryption   # NULL: there is none
    void* session                  # NULL: nor does one go on
    const char* server_name        # that the client asked for, in lower case; NULL: none
    uint64_t server_names          # the lists that it is in,
    uint64_t names_serial          # as that table of them knows
    bint padded                    # the client pads: so is what he gets
    const Http* http               # NULL: messages come behind their length
    HttpSession* requests          # NULL: none has come
    uint32_t collected             # octets that these are counted to hold
    Buffer input                   # what came and was not taken
    Buffer output                  # what is not sent yet

cdef struct EndedConnection:       # the last one that ended for a reason; in words of eight octets
    uint64_t count                 # how many have
    uint64_t at                    # when, nanoseconds
    uint64_t held, share           # octets that it held, and its prefix
    uint8_t address[16]
    uint64_t octets                # of the address

cdef struct Notice:
    uint64_t version               # odd while it is written
    EndedConnection latest

cdef struct ConnectionCounters:    # counters with one writer
    uint64_t accepted
    uint64_t evicted_idle
    uint64_t evicted_waiting
    uint64_t idle_timeouts
    uint64_t protocol_errors
    uint64_t proxy_protocol_invalid
    uint64_t handshakes_limited    # refused: their client had begun too many
    HandshakeCounters handshakes
    HttpCounters http


@cython.final
cdef class Connections:
    cdef:
        ConnectionLimits held
        Totals* limits                 # what is in that
        uint8_t** chunks
        ServerName** server_names  # of each chunk; NULL: none was asked for
        Clock clock
        int epoll_fd                   # of the worker
        bint handing_over              # another process gets what can be passed on: nothing more is read of that
        int32_t places                 # ever used
        int32_t free_place             # the first of those that are free; -1: none
        List idle, buffering, stalled, leaving, shaking, awaiting_turn, lingering
        uint32_t handshakes            # that go on
        List[BUCKETS] prefixes
        uint64_t random
        bint has_more_to_end           # that have been idle for too long
        bint transfer_changed          # a connection that was asked for a transfer has ended, or takes more
        ConnectionCounters counts
        Notice[REASONS] notices

    cdef Connection* at(self, int32_t place) noexcept nogil
    cdef List* _list(self, const Connection* connection, uint32_t order) noexcept nogil
    cdef void append(self, Connection* connection, uint32_t order) noexcept nogil
    cdef void remove(self, Connection* connection, uint32_t order) noexcept nogil
    cdef bint make_room(self, uint32_t prefix) noexcept nogil
    cdef int32_t _first_idle(self, const List* among, uint32_t order, uint32_t prefix) noexcept nogil
    cdef int32_t _oldest_of_largest_prefix(self) noexcept nogil
    cdef Connection* insert(self, int fd, uint8_t listener, uint64_t now) noexcept nogil
    cdef Connection* next_after(self, int32_t* place) noexcept nogil
    cdef ProxyHeaderStatus take_proxy_header(self, Connection* connection, const uint8_t* octets, uint32_t length,
                                             uint64_t now, uint32_t* at) noexcept nogil
    cdef bint may_begin_handshake(self, const uint8_t* address, uint8_t octets, uint64_t now) noexcept nogil
    cdef void await_handshake(self, Connection* connection) noexcept nogil
    cdef bint begin_session(self, Connection* connection) noexcept nogil
    cdef void note_server_name(self, Connection* connection) noexcept nogil
    cdef void end_handshake(self, Connection* connection) noexcept nogil
    cdef bint admit(self, Connection* connection, const uint8_t* address, uint8_t octets) noexcept nogil
    cdef void touch(self, Connection* connection, uint64_t now) noexcept nogil
    cdef void close(self, Connection* connection) noexcept nogil
    cdef void close_for_memory(self, Connection* connection) noexcept nogil
    cdef void expect(self, Connection* connection, uint32_t events) noexcept nogil
    cdef void end_in_order(self, Connection* connection, uint64_t now) noexcept nogil
    cdef bint is_heard(self, Connection* connection) noexcept nogil
    cdef void _end_sessions(self, Connection* connection) noexcept nogil
    cdef void end_idle(self, uint64_t now) noexcept nogil
    cdef void take_leave(self, Connection* connection) noexcept nogil
    cdef bint _end_handshakes(self, uint64_t now) noexcept nogil
    cdef bint _end_lingering(self, uint64_t now) noexcept nogil
    cdef bint reserve(self, Connection* connection, Buffer* buffer, uint32_t octets) noexcept nogil
    cdef void release(self, Connection* connection, Buffer* buffer) noexcept nogil
    cdef bint count_requests(self, Connection* connection) noexcept nogil
    cdef bint _has_memory(self, Connection* connection, uint64_t octets) noexcept nogil
    cdef int32_t _largest_of_prefix(self, uint32_t prefix) noexcept nogil
    cdef int32_t _longest_buffering(self) noexcept nogil
    cdef void _count_memory(self, Connection* connection, int64_t octets) noexcept nogil
    cdef void note(self, uint32_t reason, const uint8_t* address, uint8_t octets, uint64_t held,
                   uint64_t share) noexcept nogil


cdef uint64_t find_server_names(Connection* connection, const Totals* limits) noexcept nogil


cdef inline uint64_t server_names_of(Connection* connection, const Totals* limits) noexcept nogil:
    """Return the lists of rules that the name is in that a client asked for. The caller is inside an epoch."""
    cdef const ServerNames* names = <const ServerNames*> load_pointer(&limits.server_names)
    if names == NULL or connection.server_name == NULL:
        return 0
    return connection.server_names if connection.names_serial == names.serial else find_server_names(connection, limits)


cdef inline bint is_idle(const Connection* connection) noexcept nogil:
    """Tell whether a client waits for nothing, or does not read what it waited for."""
    return not connection.relays and (not connection.in_flight or connection.blocked)


cdef inline void speak_as(Connection* connection, const ListenerSocket* listener) noexcept nogil:
    """Let a connection that came to a listener speak as others there, and be heard."""
    connection.encryption, connection.http, connection.events = listener.encryption, listener.http, EPOLLIN
    if listener.http != NULL:
        connection.transport = OVER_HTTP if listener.encryption == NULL else OVER_HTTPS
    else:
        connection.transport = OVER_TCP if listener.encryption == NULL else OVER_TLS


cdef inline void take_ends(Connection* connection, const Request* request) noexcept nogil:
    """Let the connection of a front be that of whom it asks for now, but for his address."""
    if connection.relays:
        memcpy(connection.to, request.to, request.to_octets)
        connection.to_octets, connection.port, connection.to_port = request.to_octets, request.port, request.to_port


cdef inline bint can_be_passed_on(const Connection* connection) noexcept nogil:
    """Tell whether another process can go on with a connection, of which nothing is known but what `let_go` tells."""
    return (connection.encryption == NULL and connection.http == NULL and connection.server_name == NULL
            and not connection.relays)


cdef inline bint may_ask(Connections connections, const Connection* connection) noexcept nogil:
    """Tell whether a client may ask more, for his own part; not if another process is to hear it."""
    return not (connection.blocked or connection.closing or not connection.relays and (
        connections.handing_over and can_be_passed_on(connection)
        or connection.in_flight >= load_relaxed(&connections.limits.in_flight_max)))


cdef inline uint64_t number_of(const Connection* connection) noexcept nogil:
    """Return the number of a connection, which no later one in its place has, among those of its worker."""
    return <uint64_t> connection.head.generation << OF_GENERATION | <uint32_t> connection.place


cdef inline int64_t held_by(const Connection* connection) noexcept nogil:
    """Return how many octets are held for a connection, as counted."""
    return <int64_t> connection.input.capacity + connection.output.capacity + connection.collected
