"""DNS over HTTPS as a connection's worker sees it: what a worker is given, whatever that is built with."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

cdef uint16_t[STATUSES] _CODES = [200, 400, 403, 404, 405, 413, 414, 415, 431, 503]


cdef uint16_t status_code(uint32_t status) noexcept nogil:
    """Return the number that HTTP has for a status (RFC 9110 15)."""
    return _CODES[status]


cdef class ListenerHttp:
    """What clients of one listener may ask by HTTP. Whoever makes one fills in its functions.

    It must live for as long as connections do.
    """


# ---------------------------------------------------------------- for Python

def converse(ListenerHttp listener not None, pieces, bytes answer not None, uint64_t now=1) -> tuple:
    """Return the queries that a client asks who sends these pieces, what is sent to him, and whether that ends it.

    Each query gets the same answer, once all of a piece was received; `now` is in nanoseconds.
    """
    cdef:
        HttpCounters counts
        Request request
        bytes piece
        uint8_t[512] out
        uint8_t[4] address
        size_t length
        HttpSession* session
        list asked = []
    memset(&counts, 0, sizeof(HttpCounters))
    memset(address, 0, 4)
    session = listener.http.begin(&listener.http, &counts, address, 4)
    if session == NULL:
        raise MemoryError("no memory for a session")
    sent = bytearray()
    try:
        for piece in pieces:
            listener.http.receive(session, piece, len(piece), now)
            while listener.http.take(session, &request):
                asked.append((request.number, request.query[:request.length]))
                listener.http.respond(session, request.number, answer, len(answer), 0)
            length = sizeof(out)
            while length == sizeof(out):
                length = listener.http.transmit(session, out, sizeof(out))
                sent += out[:length]
        return asked, bytes(sent), bool(session.ends)
    finally:
        listener.http.end(session)
