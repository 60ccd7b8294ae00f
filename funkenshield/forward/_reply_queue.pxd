"""The way from the control thread to a worker that holds connections: a queue without a bound, and without a lock.

The control thread pushes each reply onto a stack; the worker takes all of it at once, and turns it round. What is in it
is bounded by the queries that wait for replies, and for transfers by `connection_state`.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum:
    CHUNK = 1024                   # connections whose memory is allocated at once; a power of two
    SERVER_NAME_MAX = 256          # octets of a name that a client asks for (RFC 6066 3), the last of which is 0

cdef enum:                         # the numbers of connections: bit 63 is for rules, which are none
    OF_WORKER = 56                 # from this bit on: which worker's, plus one
    OF_GENERATION = 24             # from this bit on: which use of its place, 32 bits; below: the place

cdef enum ConnectionState:
    GONE                           # it is closed
    FULL                           # there is still to be written what was pushed before
    WRITABLE

cdef struct ConnectionHead:        # what a connection begins with, for the control thread to see
    uint32_t generation            # of this use of its place
    uint32_t unsent                # octets that the kernel has not taken yet

cdef struct ServerName:            # that a connection's client asked for, for the control thread to see; in words
    uint64_t generation            # of the connection whose it is, plus one; 0: it is being written
    uint8_t[SERVER_NAME_MAX] name  # in lower case

cdef struct Reply:
    Reply* next
    uint64_t connection            # its number
    uint32_t request               # which of its requests it is for; 0: they have no numbers
    int32_t answered               # how many queries less the connection waits for
    uint32_t length                # octets of a framed message, behind this struct; 0: none
    bint closes                    # the connection ends, once all before has been written

cdef struct ReplyQueue:
    Reply* newest
    int wake_fd                    # wakes the worker
    bint pushed                    # since it was woken last; the control thread's own
    uint64_t count                 # replies ever pushed; the control thread's own
    uint64_t taken                 # of which so many were handled; written by the worker
    uint8_t** chunks               # the worker's connections, from which chunks never go away
    uint64_t stride                # octets from one to the next
    ServerName** server_names      # by chunk; NULL: none of it has asked for one


cdef inline uint32_t place_of(uint64_t connection) noexcept nogil:
    """Return the place in its worker's table that a connection's number tells."""
    return <uint32_t> (connection & ((1 << OF_GENERATION) - 1))


cdef inline uint32_t generation_of_number(uint64_t connection) noexcept nogil:
    """Return the generation that a connection's number tells."""
    return <uint32_t> (connection >> OF_GENERATION)


cdef inline uint32_t worker_of(uint64_t connection) noexcept nogil:
    """Return which worker a connection's number tells, plus one; 0: none."""
    return <uint32_t> (connection >> OF_WORKER)


cdef int push_reply(ReplyQueue* queue, uint64_t connection, uint32_t request, int32_t answered,
                    const uint8_t* framed, uint32_t length, bint closes) except -1
cdef void wake_worker(ReplyQueue* queue) noexcept nogil
cdef Reply* take_replies(ReplyQueue* queue) noexcept nogil
cdef bytes server_name_of(const ReplyQueue* queue, uint64_t connection)
cdef ConnectionState connection_state(const ReplyQueue* queue, uint64_t connection, uint64_t pushed) noexcept nogil
