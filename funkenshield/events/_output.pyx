"""Sinks at work: events into a buffer, and from there to a file or a collector, as far as that takes them.

    CLOSED -> OPEN (a file)
    CLOSED -> CONNECTING -> GREETED: READY is sent -> ACCEPT comes: START is sent -> OPEN (a collector)
    any of them -> CLOSED, for a while that grows: what is whole in the buffer stays

It knows descriptors and frame boundaries. Nothing here waits: a collector that stops reading costs events, which are
counted.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINPROGRESS, EINTR, EPROTO, ETIMEDOUT, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.fcntl cimport O_APPEND, O_CLOEXEC, O_CREAT, O_NONBLOCK, O_WRONLY, open as open_file
from posix.stat cimport fstat, stat, struct_stat
from posix.unistd cimport close, write

from ..core._atomic cimport bump
from ..core._epoll cimport POLLIN, POLLOUT, poll, pollfd
from ..wire._message cimport HEADER, QDCOUNT, get16, get32, name_size, plain_end, same_folded
from ._dnstap cimport CONTROL_MAX, READY, START, STOP, ControlFrame, accepts, put_control, put_dnstap
from ._event cimport Event, query_of, response_of
from ._query_log cimport put_line
from ._sink cimport (
    BUFFER, CLOSED, COLLECTOR, CONNECTING, DESCRIPTOR, DNSTAP, FILE, GREETED, OPEN, OVERHEAD, Known, Sink
)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, uint32_t length)
    int getsockopt(int fd, int level, int option, void* value, uint32_t* length)
    ssize_t recv(int fd, void* octets, size_t length, int flags)
    ssize_t send(int fd, const void* octets, size_t length, int flags)
    int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK

cdef extern from "<string.h>" nogil:  # Python.h has defined _GNU_SOURCE
    void* memrchr(const void* octets, int octet, size_t length)

cdef enum:
    MODE = 0o640                   # of files
    SOON = 20                      # milliseconds until a sink that has something to send is looked at again
    MILLISECOND = 1000000          # nanoseconds
    SHORTEST = 100000000           # nanoseconds before another try
    CHECK = 1000000000             # nanoseconds between two looks whether a file or a collector is still there

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
        size_t room = OVERHEAD + <size_t> event.query + event.response
        size_t length
    if sink.end + room > BUFFER:
        if sink.state == OPEN:
            _flush(sink)
        _compact(sink)
        if sink.end + room > BUFFER:
            bump(&sink.lost, 1)
            return
    if sink.form == DNSTAP:
        length = put_dnstap(sink.octets + sink.end, sink, known, event)
    else:
        length = put_line(sink.octets + sink.end, sink, known, event)
    sink.end += length
    bump(&sink.written, length > 0)


cdef void _follow_frames(Sink* sink) noexcept nogil:
    """Note up to where frames, or lines, have been sent as a whole."""
    cdef:
        const uint8_t* end
        size_t size
    if sink.form != DNSTAP:
        end = <const uint8_t*> memrchr(sink.octets + sink.frame, c'\n', sink.begin - sink.frame)
        if end != NULL:
            sink.frame = <size_t> (end + 1 - sink.octets)
        return
    while sink.frame < sink.begin:
        size = 4 + get32(sink.octets + sink.frame)
        if sink.frame + size > sink.begin:
            return
        sink.frame += size


cdef void _compact(Sink* sink) noexcept nogil:
    """Move what is to be sent, and the frame that is being sent, to the front."""
    _follow_frames(sink)
    memmove(sink.octets, sink.octets + sink.frame, sink.end - sink.frame)
    sink.begin -= sink.frame
    sink.end -= sink.frame
    sink.frame = 0


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
            _close(sink)
            sink.retry_at = now
    elif sink.place == COLLECTOR and recv(sink.fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT) == 0:
        _fail(sink, ECONNRESET, now)
    sink.reopened = reopened


cdef void _opened(Sink* sink) noexcept nogil:
    sink.state, sink.error = OPEN, 0
    bump(&sink.opened, 1)


cdef void _close(Sink* sink) noexcept nogil:
    """Close a sink; a frame, or a line, that was sent in part is sent anew."""
    if sink.fd >= 0 and sink.place != DESCRIPTOR:
        close(sink.fd)
        sink.fd = -1
    sink.state = CLOSED
    _follow_frames(sink)
    sink.begin = sink.frame


cdef void _fail(Sink* sink, int error, uint64_t now) noexcept nogil:
    """Close a sink, and try again later."""
    _close(sink)
    sink.error = error
    sink.backoff = min(max(2 * sink.backoff, <uint64_t> SHORTEST), LONGEST)
    sink.retry_at = now + sink.backoff
    bump(&sink.failed, 1)


cdef void _open_file(Sink* sink, uint64_t now) noexcept nogil:
    cdef struct_stat found
    sink.fd = open_file(<char*> sink.address, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, MODE)
    if sink.fd < 0 or fstat(sink.fd, &found):
        _fail(sink, errno, now)
        return
    sink.inode, sink.device = found.st_ino, found.st_dev
    _opened(sink)


cdef void _connect(Sink* sink, uint64_t now) noexcept nogil:
    cdef uint16_t family
    memcpy(&family, sink.address, 2)
    sink.fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if sink.fd < 0 or (connect(sink.fd, <sockaddr*> sink.address, sink.address_length) and errno != EINPROGRESS):
        _fail(sink, errno, now)
        return
    sink.state = CONNECTING


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
        sink.state, sink.greeting, sink.checked_at = GREETED, 0, now


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
    cdef ssize_t sent
    while sink.begin < sink.end:
        if sink.is_socket:
            sent = send(sink.fd, sink.octets + sink.begin, sink.end - sink.begin, MSG_NOSIGNAL | MSG_DONTWAIT)
        else:
            sent = write(sink.fd, sink.octets + sink.begin, sink.end - sink.begin)
        if sent < 0:
            return errno == EAGAIN or errno == EINTR
        sink.begin += <size_t> sent
        sink.backoff = 0  # it takes something, which to open it does not show
    sink.begin = sink.frame = sink.end = 0
    return True


cdef void finish(Sink* sink, int patience) noexcept nogil:
    """Send what is left, and end: whoever reads is given so many milliseconds, each time that he takes something."""
    cdef:
        pollfd watched
        bint ends = False
    watched.fd, watched.events = sink.fd, POLLOUT
    while sink.state == OPEN and not ends:
        ends = not _flush(sink) or sink.begin == sink.end or poll(&watched, 1, patience) <= 0
    if sink.state == OPEN and sink.place == COLLECTOR and sink.begin == sink.end and _say(sink, STOP):
        watched.events = POLLIN
        poll(&watched, 1, patience)  # FINISH says that all has come; whatever comes, that was all
    _close(sink)
