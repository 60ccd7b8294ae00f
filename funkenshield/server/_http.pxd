"""DNS over HTTPS as a connection's worker sees it: functions, all of which need no GIL.

A connection of a listener with HTTP has a session, which collects what the client sends until requests are whole, and
holds the answers until he lets them come. Only these functions know what is behind its first fields. Where no listener
has HTTP, or what it takes is not built in, there is no such struct.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HELD_BY_ALL = 1 << 15          # octets that any session may hold, which are not counted: connections are

cdef enum:                         # statuses of responses, as counters know them
    FINE
    BAD_REQUEST
    FORBIDDEN
    NOT_FOUND
    METHOD_NOT_ALLOWED
    CONTENT_TOO_LARGE
    URI_TOO_LONG
    UNSUPPORTED_TYPE
    FIELDS_TOO_LARGE
    UNAVAILABLE
    STATUSES                       # how many there are

cdef uint16_t status_code(uint32_t status) noexcept nogil

cdef struct HttpCounters:          # counters with one writer
    uint64_t[STATUSES] responses
    uint64_t protocol_errors       # connections that ended for what is not HTTP as it should be
    uint64_t floods                # and for too much of what asks for nothing

cdef struct HttpSession:           # what each begins with; its worker reads it
    uint32_t whole                 # requests that can be taken
    uint64_t waiting               # octets of answers that the client does not let come yet
    uint64_t held                  # octets of memory, all in all
    bint ends                      # as soon as all of it is sent, nothing more is to be read

cdef struct Request:
    uint32_t number                # of its stream
    uint32_t length
    const uint8_t* query           # the session's, until it is answered
    const uint8_t* address         # whom a proxy has asked it for; NULL: the client of the connection
    uint8_t octets                 # of that
    const uint8_t* to              # behind a front of ours alone: the address that he asked,
    uint8_t to_octets              # its octets,
    uint16_t port, to_port         # his port, and that

cdef struct Http:
    const void* manner             # what requests are judged by; replaced as a whole
    # NULL: there is no memory. The address is that of the connection's client. Called inside an epoch, like `receive`.
    HttpSession* (*begin)(const Http* http, HttpCounters* counts, const uint8_t* address,
                          uint8_t octets) noexcept nogil
    void (*receive)(HttpSession* session, const uint8_t* octets, size_t length, uint64_t now) noexcept nogil
    bint (*take)(HttpSession* session, Request* request) noexcept nogil  # False: none is whole
    # A stream that is gone by then, because it was reset, gets nothing. `max_age` is in seconds.
    void (*respond)(HttpSession* session, uint32_t number, const uint8_t* wire, size_t length,
                    uint32_t max_age) noexcept nogil
    void (*refuse)(HttpSession* session, uint32_t number, uint32_t status) noexcept nogil
    size_t (*transmit)(HttpSession* session, uint8_t* out, size_t room) noexcept nogil  # return the octets to be sent
    void (*leave)(HttpSession* session) noexcept nogil  # no more requests are taken, and those that there are go on
    void (*end)(HttpSession* session) noexcept nogil


cdef class ListenerHttp:
    cdef Http http
