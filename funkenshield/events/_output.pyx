"""Sinks at work: events into a buffer, and from there to a file or a collector, as far as that takes them.

    CLOSED -> OPEN (a file)
    CLOSED -> CONNECTING -> GREETED: READY is sent -> ACCEPT comes: START is sent -> OPEN (a collector)
    any of them -> CLOSED, for a while that grows: what is whole in the buffer stays
    OPEN -> what is left is sent -> LEFT: STOP is sent -> FINISH comes, or not: it is over (one that ends)

It knows descriptors and frame boundaries. Nothing here waits: a collector that stops reading costs events, which are
counted. What one event costs where there is no room is a comparison: nothing is tried before the next round.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINPROGRESS, EINTR, EPROTO, ETIMEDOUT, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy
from posix.fcntl cimport O_APPEND, O_CLOEXEC, O_CREAT, O_NONBLOCK, O_WRONLY, open as open_file
from posix.stat cimport fstat, stat, struct_stat
from posix.unistd cimport close, write

from ..core._atomic cimport bump, store_relaxed, store_relaxed32, store_release
from ..core._epoll cimport POLLOUT, poll, pollfd
from ..wire._message cimport HEADER, MESSAGE_MAX, QDCOUNT, get16, get32, name_size, plain_end, same_folded
from ._dnstap cimport (
    CONTROL_MAX, OF_QUERY, OF_RESPONSE, READY, START, STOP, ControlFrame, accepts, messages_of, put_control, put_dnstap
)
from ._event cimport LONG, Event, query_of, response_of
from ._query_log cimport put_line
from ._sink cimport (
    BUFFER, CLOSED, COLLECTOR, CONNECTING, DESCRIPTOR, DNSTAP, FILE, GREETED, HALF, LEFT, OPEN, OVERHEAD, Known, Sink
)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, uint32_t length)
    int getsockopt(int fd, int level, int option, void* value, uint32_t* length)
    int setsockopt(int fd, int level, int option, const void* value, uint32_t length)
    ssize_t recv(int fd, void* octets, size_t length, int flags)
    ssize_t send(int fd, const void* octets, size_t length, int flags)
    int AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_USER_TIMEOUT

cdef enum:
    MODE = 0o640                   # of files
    SOON = 20                      # milliseconds until a sink that has something to send is looked at again
    MILLISECOND = 1000000          # nanoseconds
    SHORTEST = 100000000           # nanoseconds before another try
    CHECK = 1000000000             # nanoseconds between two looks whether a file or a collector is still there
    GONE = 30000                   # milliseconds without a word from a collector that was sent something

cdef uint64_t LONGEST = <uint64_t> 5000000000
cdef uint64_t GREETING = <uint64_t> 10000000000  # nanoseconds in which a collector connects, and says ACCEPT


# ---------------------------------------------------------------- events in

cdef bint is_wanted(const Sink* sink, const Event* event) noexcept nogil:
    """Tell whether a sink wants an event."""
    cdef:
        const uint8_t* wire = query_of(event) if event.query else response_of(event)
        size_t length = event.query if event.query else event.response
    if not sink.kinds >> event.kind & 1 or event.draw > sink.chance:
        return False
    if not sink.zones_length:
        return True
    return (length > HEADER and get16(wire + QDCOUNT) > 0 and plain_end(wire, length, HEADER) > 0
            and _is_in_zone(sink, wire + HEADER))


cdef bint _is_in_zone(const Sink* sink, const uint8_t* name) noexcept nogil:
    """Tell whether a name is, or is below, one of a sink's zones."""
    cdef:
        const uint8_t* zone = sink.zones
        const uint8_t* rest
        size_t size, left
        size_t length = name_size(name)
    while zone < sink.zones + sink.zones_length:
        size, left, rest = name_size(zone), length, name
        while left > size:
            left -= 1 + <size_t> rest[0]
            rest += 1 + rest[0]
        if left == size and same_folded(rest, zone, size):
            return True
        zone += size
    return False


cdef void put_event(Sink* sink, const Known* known, const Event* event) noexcept nogil:
    """Write an event into a sink's buffer; where there is no room, even after sending, it is lost."""
    cdef:
        size_t limit = LONG if _held(sink) > HALF else MESSAGE_MAX
        uint8_t messages = OF_QUERY  # as which a line counts
        size_t room = OVERHEAD
        uint8_t* out
    if sink.form == DNSTAP:
        messages = messages_of(sink, event)
        room += min(<size_t> event.query, limit) + min(<size_t> event.response, limit)
    if not messages:
        return
    if not _make_room(sink, room):
        bump(&sink.lost, _count(messages))
        return
    out = sink.octets + sink.end
    sink.end += put_dnstap(out, sink, known, event, limit) if sink.form == DNSTAP else put_line(out, sink, known, event)
    bump(&sink.waiting, _count(messages))


cdef inline uint64_t _count(uint8_t messages) noexcept nogil:
    """Return how many messages those are."""
    return (messages & OF_QUERY != 0) + (messages & OF_RESPONSE != 0)


cdef inline size_t _held(const Sink* sink) noexcept nogil:
    """Return the octets that wait, with what was sent of the frame that is being sent."""
    return sink.edge + sink.end - sink.frame


cdef bint _make_room(Sink* sink, size_t room) noexcept nogil:
    """Have so many octets in one piece where is written next; False: there is no room, even after sending."""
    if _has_room(sink, room):
        return True
    return sink.state == OPEN and not sink.is_blocked and _flush(sink) and _has_room(sink, room)


cdef bint _has_room(Sink* sink, size_t room) noexcept nogil:
    if not sink.edge and sink.end + room > BUFFER and room < sink.frame:  # go on in front of what waits
        sink.edge, sink.end = sink.end, 0
    return sink.end + room < (sink.frame if sink.edge else <size_t> BUFFER + 1)


cdef size_t _first_size(const Sink* sink) noexcept nogil:
    """Return the octets of the first frame, or line, that was not sent as a whole."""
    cdef const uint8_t* first = sink.octets + sink.frame
    if sink.form == DNSTAP:
        return 4 + get32(first)
    return <const uint8_t*> memchr(first, c'\n', BUFFER - sink.frame) + 1 - first


cdef void _follow_frames(Sink* sink) noexcept nogil:
    """Note up to where frames, or lines, have been sent as a whole."""
    cdef size_t size
    while sink.frame < sink.begin:
        size = _first_size(sink)
        if sink.frame + size > sink.begin:
            return
        sink.frame += size
        bump(&sink.waiting, <uint64_t> -1)
        bump(&sink.written, 1)


# ---------------------------------------------------------------- octets out

cdef void pump(Sink* sink, uint64_t now, uint64_t reopened) noexcept nogil:
    """Open what is closed, follow what was opened, and send what can be sent. `reopened` counts wishes for new files.
    """
    if sink.state == OPEN:
        _check(sink, now, reopened)
    if sink.state == CLOSED and now >= sink.retry_at:
        sink.reopened = reopened
        sink.checked_at = now
        if sink.place == FILE:
            _open_file(sink, now)
        elif sink.place == COLLECTOR:
            _connect(sink, now)
        else:
            _opened(sink)
    if sink.state == CONNECTING:
        _greet(sink, now)
    if sink.state == GREETED:
        _await_greeting(sink, now)
    if sink.state == OPEN and not _flush(sink):
        _fail(sink, errno, now)


cdef int next_look(const Sink* sink, uint64_t now) noexcept nogil:
    """Return after how many milliseconds a sink is to be pumped again, if nothing is put into it until then."""
    if sink.state == CLOSED:
        return <int> ((max(sink.retry_at, now) - now) // MILLISECOND) + 1
    if sink.state == OPEN and sink.begin == sink.end:
        return CHECK // MILLISECOND
    return SOON


cdef void _check(Sink* sink, uint64_t now, uint64_t reopened) noexcept nogil:
    """Close a file that another stands in the place of, or that is to be opened again, and a collector that left."""
    cdef:
        uint8_t octet
        struct_stat found
    if now < sink.checked_at + CHECK and reopened == sink.reopened:
        return
    sink.checked_at = now
    if sink.place == FILE:
        if (reopened != sink.reopened or stat(<char*> sink.address, &found)
                or found.st_ino != sink.inode or found.st_dev != sink.device):
            _flush(sink)
            close_sink(sink)
            sink.retry_at = now
    elif sink.place == COLLECTOR and recv(sink.fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT) == 0:
        _fail(sink, ECONNRESET, now)
    sink.reopened = reopened


cdef void _opened(Sink* sink) noexcept nogil:
    store_relaxed32(&sink.state, OPEN)  # as others may look at it: `Output.is_open`, `error`
    store_relaxed32(&sink.error, 0)
    bump(&sink.opened, 1)


cdef void close_sink(Sink* sink) noexcept nogil:
    """Close a sink; a frame that was sent in part is sent anew, to whoever comes next."""
    if sink.fd >= 0 and sink.place != DESCRIPTOR:
        close(sink.fd)
        sink.fd = -1
    store_relaxed32(&sink.state, CLOSED)
    if sink.place == COLLECTOR:
        sink.begin = sink.frame


cdef void _fail(Sink* sink, int error, uint64_t now) noexcept nogil:
    """Close a sink, and try again later."""
    close_sink(sink)
    store_relaxed32(&sink.error, <uint32_t> error)
    sink.backoff = min(max(2 * sink.backoff, <uint64_t> SHORTEST), LONGEST)
    sink.retry_at = now + sink.backoff
    bump(&sink.failed, 1)


cdef void _open_file(Sink* sink, uint64_t now) noexcept nogil:
    cdef struct_stat found
    sink.fd = open_file(<char*> sink.address, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, MODE)
    if sink.fd < 0 or fstat(sink.fd, &found):
        _fail(sink, errno, now)
        return
    if not found.st_size or found.st_ino != sink.inode or found.st_dev != sink.device:
        sink.begin = sink.frame  # it has no part of a line that would go on
    sink.inode, sink.device = found.st_ino, found.st_dev
    _opened(sink)


cdef void _connect(Sink* sink, uint64_t now) noexcept nogil:
    cdef:
        uint16_t family
        int gone = GONE
    memcpy(&family, sink.address, 2)
    sink.fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if family != AF_UNIX:  # a machine that is gone says nothing
        setsockopt(sink.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &gone, sizeof(int))
    if sink.fd < 0 or (connect(sink.fd, <sockaddr*> sink.address, sink.address_length) and errno != EINPROGRESS):
        _fail(sink, errno, now)
        return
    store_relaxed32(&sink.state, CONNECTING)


cdef void _greet(Sink* sink, uint64_t now) noexcept nogil:
    """Say READY to a collector once it is connected."""
    cdef:
        pollfd watched
        int error = 0
        uint32_t size = sizeof(int)
    watched.fd, watched.events, watched.revents = sink.fd, POLLOUT, 0
    if poll(&watched, 1, 0) <= 0:
        if now > sink.checked_at + GREETING:
            _fail(sink, ETIMEDOUT, now)
        return
    if getsockopt(sink.fd, SOL_SOCKET, SO_ERROR, &error, &size) or error:
        _fail(sink, error, now)
    elif not _say(sink, READY):
        _fail(sink, errno, now)
    else:
        store_relaxed32(&sink.state, GREETED)
        sink.greeting, sink.checked_at = 0, now


cdef bint _say(Sink* sink, ControlFrame kind) noexcept nogil:
    """Send a control frame, for which a socket that nothing else waits in has room."""
    cdef:
        uint8_t[CONTROL_MAX] frame
        size_t length = put_control(frame, kind)
    return send(sink.fd, frame, length, MSG_NOSIGNAL | MSG_DONTWAIT) == <ssize_t> length


cdef void _await_greeting(Sink* sink, uint64_t now) noexcept nogil:
    """Wait for ACCEPT, and START then."""
    cdef:
        ssize_t got = recv(sink.fd, sink.greeted + sink.greeting, sizeof(sink.greeted) - sink.greeting, MSG_DONTWAIT)
        int accepted = 0
    if got > 0:
        sink.greeting += <uint32_t> got
        accepted = accepts(sink.greeted, sink.greeting)
    if accepted == 1:
        if _say(sink, START):
            _opened(sink)
        else:
            _fail(sink, errno, now)
    elif got < 0 and errno != EAGAIN and errno != EINTR:
        _fail(sink, errno, now)
    elif got == 0:
        _fail(sink, ECONNRESET, now)
    elif accepted < 0 or sink.greeting == sizeof(sink.greeted):
        _fail(sink, EPROTO, now)
    elif now > sink.checked_at + GREETING:
        _fail(sink, ETIMEDOUT, now)


cdef bint _flush(Sink* sink) noexcept nogil:
    """Send what can be sent; False: the sink is lost."""
    cdef:
        ssize_t sent
        size_t upto
    while sink.begin < sink.end or sink.edge:
        upto = sink.edge if sink.edge else sink.end
        if sink.is_socket:
            sent = send(sink.fd, sink.octets + sink.begin, upto - sink.begin, MSG_NOSIGNAL | MSG_DONTWAIT)
        else:
            sent = write(sink.fd, sink.octets + sink.begin, upto - sink.begin)
        if sent <= 0:
            sink.is_blocked = True
            return sent == 0 or errno == EAGAIN or errno == EINTR
        sink.begin += <size_t> sent
        sink.backoff = 0  # it takes something, which to open it does not show
        _follow_frames(sink)
        if sink.begin == upto:  # go on at the front
            sink.begin = sink.frame = 0
            sink.end = sink.end if sink.edge else 0
            sink.edge = 0
    return True


# ---------------------------------------------------------------- the end

cdef bint end(Sink* sink, uint64_t now, uint64_t until) noexcept nogil:
    """Go on with sending what is left; tell whether the sink is over, as it is `until` then: what is left is lost."""
    if sink.over:
        return True
    sink.ends_at = min(sink.ends_at, until) if sink.ends_at else until
    if sink.state != LEFT and (sink.state != CLOSED or _held(sink)):
        pump(sink, now, sink.reopened)
    if sink.state == OPEN and sink.place == COLLECTOR and not _held(sink) and _say(sink, STOP):
        store_relaxed32(&sink.state, LEFT)
    if _is_leaving(sink) and now < sink.ends_at:
        return False
    close_sink(sink)
    bump(&sink.lost, sink.waiting)
    store_relaxed(&sink.waiting, 0)
    store_release(&sink.over, 1)
    return True


cdef bint _is_leaving(const Sink* sink) noexcept nogil:
    """Tell whether a sink that ends can be sent more, or waits for FINISH: whatever comes, that was all."""
    cdef uint8_t octet
    if sink.state == LEFT:
        return recv(sink.fd, &octet, 1, MSG_DONTWAIT) < 0 and (errno == EAGAIN or errno == EINTR)
    return sink.state != CLOSED and _held(sink) > 0
