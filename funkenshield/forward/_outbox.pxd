"""Answers of the control thread on their way to clients: datagrams in batches, messages to connections' workers."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._clock cimport Clock
from ..core._limits cimport CONNECTION_WORKERS_MAX, LISTENERS_MAX
from ..core._udp_batch cimport BATCH, Datagrams, Peer
from ..events._event cimport Tap
from ..policy._guard cimport GuardCounters, GuardTable
from ..policy._rule_state cimport TRANSPORTS, ClientInfo, RuleState
from ._reply_queue cimport ReplyQueue

cdef enum:
    UDP_MAX = 4096                 # octets of the largest answer over UDP

cdef enum:                         # instead of a descriptor
    STREAM = -1
    NOBODY = -2                    # a refresh: nobody waits for it

cdef struct Client:                # who asked, and how to answer
    uint64_t arrived               # nanoseconds
    uint64_t stream                # whose connection, where `fd` is STREAM
    uint32_t request               # and which request of it; 0: they have no numbers
    uint32_t draw                  # of the lot that decides who records the query; 0: nobody does
    int32_t fd                     # the UDP socket to answer from
    Peer peer                      # whom a datagram goes back to: the client, or the proxy in front of him
    uint8_t ip[16]                 # the client's own address
    uint8_t octets                 # of it: 4 or 16
    uint8_t to[16]                 # the address that he asked
    uint8_t to_octets              # of it; 0: it is not known
    uint16_t port, to_port         # his own, and the one that he asked
    uint8_t added                  # what of the query he did not send
    uint8_t proven                 # his address is not forged
    uint8_t listener               # to which he came, by number
    uint8_t transport              # by which he came, and is answered
    uint64_t server_names          # with TLS, the lists of rules that the name he asked for is in, one bit each
    RuleState rule_state           # what rules made of his query


cdef size_t put_client(uint8_t* out, const Client* client) noexcept nogil


@cython.final
cdef class Outbox:
    cdef:
        Datagrams datagrams
        Peer[BATCH] peers
        int32_t count, fd
        uint8_t listener           # whose socket that is
        int[LISTENERS_MAX] sockets  # that there are, by listener; -1: it is closed
        uint8_t* framed            # one message for a stream, behind its two octets of length
        list streams
        ReplyQueue* queues[CONNECTION_WORKERS_MAX]  # to the workers that hold connections
        uint32_t queue_count
        uint64_t send_failed
        uint64_t[TRANSPORTS][16] sent_rcodes  # responses, by the RCODE in their header
        Clock clock
        Tap tap                        # of those who want to know what becomes of queries
        const GuardTable** guard_table  # where the guard has its table in force
        const GuardTable* nobody
        GuardCounters guard_counters

    cdef ReplyQueue* add_queue(self, int wake_fd) except NULL
    cdef ReplyQueue* _queue_of(self, uint64_t stream) noexcept nogil
    cdef bytes server_name(self, uint64_t stream)
    cdef uint8_t* reserve(self, const Client* client) noexcept nogil
    cdef int post(self, const Client* client, size_t length, uint8_t kind, int32_t upstream=?) except -1
    cdef int drop(self, const Client* client) except -1
    cdef void note(self, const Client* client, uint8_t kind, int32_t upstream, const uint8_t* query, size_t query_size,
                   const uint8_t* response, size_t response_size) noexcept nogil
    cdef ClientInfo client_info(self, const Client* client) noexcept nogil
    cdef void flush(self) noexcept nogil
