"""Queries that a front of our own relays: frames with a number, between its process and a worker for connections.

    query      length, number | client's address, its octets, port | address asked, its octets, port | message
    response   length, number, for how long it may be kept (seconds) | message
    refusal    0, number, status

Numbers are in network order; a length is that of the message alone. To a worker, this is a session with requests like
one of HTTP, where each request says who asks: one connection carries the queries of all clients of a listener, and so
many of them with one system call. It knows frames; what comes over QUIC, and in which form, is the front's.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove
from posix.unistd cimport close as close_fd, write

from ..core._atomic cimport exchange
from ..core._epoll cimport EPOLLIN, EPOLL_CTL_ADD, epoll_ctl, epoll_event
from ..core._limits cimport LISTENERS_MAX
from ..forward._reply_queue cimport OF_GENERATION
from ..policy._rule_state cimport OVER_H3, OVER_QUIC
from ..wire._message cimport get16, get32, set16, set32
from ._connections cimport IDLE, Connection, Connections
from ._http cimport Http, HttpCounters, HttpSession, ListenerHttp, Request, status_code

cdef enum:
    QUERY_FRAME = 44               # octets before a query
    RESPONSE_FRAME = 10            # and before a response
    NUMBER = 2                     # where in a frame it stands
    CLIENT = 6                     # the address of 16 octets, or fewer of them, how many, and the port
    ASKED = CLIENT + 19
    ADDRESS_OCTETS = 16            # of these
    ADDRESS_PORT = 17
    LIFETIME = 6
    ROOM_MIN = 4096

QUERY_HEADER, RESPONSE_HEADER = QUERY_FRAME, RESPONSE_FRAME

cdef struct Octets:
    uint8_t* octets
    size_t begin, end, capacity

cdef struct Relay:
    HttpSession session            # the first, as for any
    Octets queries                 # what came, and was not taken
    Octets responses               # what was not sent


cdef bint _append(Octets* to, const uint8_t* octets, size_t length) noexcept nogil:
    """Put octets behind others; False: there is no memory."""
    cdef:
        size_t capacity = max(to.capacity, <size_t> ROOM_MIN)
        uint8_t* larger
    if to.begin and to.end + length > to.capacity:
        memmove(to.octets, to.octets + to.begin, to.end - to.begin)
        to.end -= to.begin
        to.begin = 0
    if to.end + length > to.capacity:
        while capacity < to.end + length:
            capacity *= 2
        larger = <uint8_t*> realloc(to.octets, capacity)
        if larger == NULL:
            return False
        to.octets, to.capacity = larger, capacity
    if length:  # where there are none, `octets` may be NULL
        memcpy(to.octets + to.end, octets, length)
    to.end += length
    return True


cdef HttpSession* _begin(const Http* http, HttpCounters* counts, const uint8_t* address,
                         uint8_t octets) noexcept nogil:
    return <HttpSession*> calloc(1, sizeof(Relay))


cdef void _see_whether_one_is_whole(Relay* relay) noexcept nogil:
    """Look at the next query; addresses that are none end the connection, for nothing behind them can be believed."""
    cdef:
        const uint8_t* frame = relay.queries.octets + relay.queries.begin
        size_t there = relay.queries.end - relay.queries.begin
    relay.session.whole = there >= QUERY_FRAME and there >= QUERY_FRAME + <size_t> get16(frame)
    if relay.session.whole and not (_is_size(frame[CLIENT + ADDRESS_OCTETS], False)
                                    and _is_size(frame[ASKED + ADDRESS_OCTETS], True)):
        relay.session.whole, relay.session.ends = False, True


cdef inline bint _is_size(uint8_t octets, bint may_be_none) noexcept nogil:
    """Tell whether an address can have so many octets."""
    return octets == 4 or octets == 16 or may_be_none and octets == 0


cdef void _receive(HttpSession* session, const uint8_t* octets, size_t length, uint64_t now) noexcept nogil:
    cdef Relay* relay = <Relay*> session
    session.ends |= not _append(&relay.queries, octets, length)
    _see_whether_one_is_whole(relay)


cdef bint _take(HttpSession* session, Request* request) noexcept nogil:
    cdef:
        Relay* relay = <Relay*> session
        const uint8_t* frame = relay.queries.octets + relay.queries.begin
    if not session.whole:
        return False
    request.length, request.number = get16(frame), get32(frame + NUMBER)
    request.query = frame + QUERY_FRAME
    request.address, request.octets = frame + CLIENT, frame[CLIENT + ADDRESS_OCTETS]
    request.port = get16(frame + CLIENT + ADDRESS_PORT)
    request.to, request.to_octets = frame + ASKED, frame[ASKED + ADDRESS_OCTETS]
    request.to_port = get16(frame + ASKED + ADDRESS_PORT)
    relay.queries.begin += QUERY_FRAME + request.length
    _see_whether_one_is_whole(relay)
    return True


cdef void _reply(HttpSession* session, uint32_t number, const uint8_t* wire, size_t length,
                 uint32_t what) noexcept nogil:
    cdef:
        Relay* relay = <Relay*> session
        uint8_t[RESPONSE_FRAME] frame
    set16(frame, <uint16_t> length)
    set32(frame + NUMBER, number)
    set32(frame + LIFETIME, what)
    session.ends |= not (_append(&relay.responses, frame, RESPONSE_FRAME) and _append(&relay.responses, wire, length))
    session.waiting = relay.responses.end - relay.responses.begin


cdef void _refuse(HttpSession* session, uint32_t number, uint32_t status) noexcept nogil:
    _reply(session, number, NULL, 0, status_code(status))


cdef size_t _transmit(HttpSession* session, uint8_t* out, size_t room) noexcept nogil:
    cdef:
        Octets* responses = &(<Relay*> session).responses
        size_t length = min(session.waiting, room)
    if length:
        memcpy(out, responses.octets + responses.begin, length)
    responses.begin += length
    session.waiting -= length
    if not session.waiting:
        responses.begin = responses.end = 0
    return length


cdef void _leave(HttpSession* session) noexcept nogil:
    """Do nothing: the front is told otherwise."""


cdef void _end(HttpSession* session) noexcept nogil:
    free((<Relay*> session).queries.octets)
    free((<Relay*> session).responses.octets)
    free(session)


@cython.final
cdef class RelayedListener(ListenerHttp):
    """A listener whose clients a front of ours serves: over `"quic"`, or `"h3"`."""

    def __init__(self, str transport not None) -> None:
        self.transport = <uint8_t> (OVER_H3 if transport == "h3" else OVER_QUIC)
        self.http.begin, self.http.receive, self.http.take = _begin, _receive, _take
        self.http.respond, self.http.refuse, self.http.transmit = _reply, _refuse, _transmit
        self.http.leave, self.http.end = _leave, _end


@cython.final
cdef class Relays:
    """The connections that fronts offer a worker, by the numbers of listeners whose clients they serve.

    It knows what the worker waits with, and is woken by. Memory ownership: what was offered is its own until it is
    taken.
    """

    def __cinit__(self, int epoll_fd, int told_fd) -> None:
        self.kept, self.epoll_fd, self.told_fd = [], epoll_fd, told_fd

    def __dealloc__(self) -> None:
        cdef uint8_t number
        for number in range(LISTENERS_MAX):
            _replace(&self.offered[number], 0)

    def offer(self, int fd, uint8_t number, RelayedListener listener not None) -> None:
        """Have the worker take over a connection, in place of one that was not taken; the control thread calls this.

        Nothing that came by another transport goes on with this number.
        """
        cdef uint64_t one = 1
        if listener not in self.kept:
            self.kept.append(listener)
        self.https[number], self.transports[number] = &listener.http, listener.transport
        _replace(&self.offered[number], <uint64_t> fd + 1)
        write(self.told_fd, &one, 8)

    cdef void take_all(self, Connections connections, uint64_t now) noexcept nogil:
        """Have those that were offered served from now on."""
        cdef:
            uint64_t offered
            uint8_t number
        for number in range(LISTENERS_MAX):
            offered = exchange(&self.offered[number], 0)
            if offered:
                self._take(<int> offered - 1, number, connections, now)

    cdef void _take(self, int fd, uint8_t number, Connections connections, uint64_t now) noexcept nogil:
        """Serve a connection; its clients may be many, so it is never idle, and is padded always (RFC 9250 5.4)."""
        cdef:
            Connection* connection = connections.insert(fd, number, now)
            epoll_event event
        if connection == NULL:
            close_fd(fd)
            return
        connections.remove(connection, IDLE)
        connection.relays = connection.padded = True
        connection.http, connection.transport = self.https[number], self.transports[number]
        connection.events = event.events = EPOLLIN
        event.data.number = <uint64_t> connection.head.generation << OF_GENERATION | <uint32_t> connection.place
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event):
            connections.close(connection)


cdef void _replace(uint64_t* offered, uint64_t other) noexcept nogil:
    """Close what is offered, and offer something else (0: nothing)."""
    cdef uint64_t before = exchange(offered, other)
    if before:
        close_fd(<int> before - 1)
