"""What becomes of one query that came over a connection: answered here, or handed over to the control thread.

It knows queries, and whose they are. How they came, and how replies leave, is `_tcp_worker`'s.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .._fastpath cimport (
    ASK, SEND, Outcome, QueryContext, counters_as_dict, parse_and_hash, parse_with_ecs, process_query
)
from ..core._atomic cimport bump, load_relaxed
from ..core._fair_shares cimport RingShares
from ..core._limits cimport LISTENERS_MAX
from ..core._memory cimport zeros
from ..core._spsc_ring cimport ring_publish
from ..core._udp_batch cimport PEER_MAX, ip_of
from ..events._event cimport PROXY_HEADER, Event, wanted_kinds
from ..forward._miss_path cimport MissPath
from ..forward._outbox cimport NOBODY, STREAM, Client
from ..policy._guard cimport GuardTable, check_response, load_guard_table
from ..policy._rule_state cimport (
    KIND_DROPPED, KIND_REJECTED, OVER_H3, OVER_HTTP, OVER_HTTPS, OVER_QUIC, OVER_TCP, OVER_TLS, TRANSPORTS, ClientInfo,
    RuleState
)
from ..wire._ecs_upstream cimport ECS_QUERY_MAX
from ..wire._message cimport MESSAGE_MAX, RCODE, Query, get16, is_transfer, message_flags
from ..wire._padding cimport pad_response
from ._connections cimport Connection, server_names_of
from ._misses cimport put_miss
from ._noting cimport kind_of, note_rule

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int getpeername(int fd, sockaddr* address, uint32_t* length)


@cython.final
cdef class Answering:
    """The one query that a worker is at, its ring, and its counters.

    Memory ownership: all but the ring is its own.
    """

    def __cinit__(self, MissPath miss_path not None) -> None:
        self.shares = <RingShares*> zeros(1, sizeof(RingShares))
        self.ecs_query = <uint8_t*> zeros(1, ECS_QUERY_MAX)
        self.ring, self.tap = miss_path.join(), miss_path.recorder.join()
        self.context.query, self.context.counters = &self.query, &self.counts

    def __dealloc__(self) -> None:
        free(self.shares)
        free(self.ecs_query)

    cdef Outcome decide(self, Connection* connection, const uint8_t* wire, uint32_t length, const uint8_t* address,
                        uint8_t octets, uint8_t* reply) noexcept nogil:
        """Decide about a query of an address: the client's, or whom a proxy asks for. Inside an epoch.

        Caller must ensure that there is room for any message at `reply`.
        """
        cdef:
            QueryContext* context = &self.context
            uint8_t transport = connection.transport
        if context.settings.subnets:
            context.verdict = parse_with_ecs(context.settings, &self.query, wire, length, address, octets,
                                             self.ecs_query)
        else:
            context.verdict = parse_and_hash(context.settings, &self.query, wire, length)
        context.client.address, context.client.octets, context.client.transport = address, octets, transport
        context.client.listener, context.client.proven, context.client.datagram = connection.listener, False, False
        context.client.draw = self.tap.draw() if wanted_kinds(self.tap) else 0
        bump(&self.by_listener[connection.listener], 1)
        bump(&self.by_transport[transport], 1)
        if transport != OVER_TCP:
            connection.padded |= self.query.padded
            context.client.server_names = server_names_of(connection, self.limits)
        context.reply, context.limit, self.handed_over = reply, MESSAGE_MAX, False
        memset(&context.rule_state, 0, sizeof(RuleState))
        return process_query(context)

    cdef size_t finish_reply(self, const Connection* connection) noexcept nogil:
        """Have the guard see a reply, count it, and pad it; return its octets, 0 where it is held back."""
        cdef:
            QueryContext* context = &self.context
            const GuardTable* guard_table = load_guard_table(context.settings.guard_table)
        if guard_table != NULL:
            context.length = check_response(guard_table, &context.client, context.reply, context.length,
                                            &self.counts.guard)
        if context.length:
            bump(&self.sent_rcodes[context.client.transport][message_flags(context.reply) & RCODE], 1)
            if connection.padded:
                context.length = pad_response(context.reply, context.length)
        return context.length

    cdef bint publish(self) noexcept nogil:
        """Show what was handed over and recorded; return whether the control thread must be woken."""
        self.tap.publish()
        return ring_publish(self.ring)

    cdef void note(self, const Connection* connection, const uint8_t* wire, uint32_t length,
                   Outcome outcome) noexcept nogil:
        """Record what became of a query, as it came; its reply is still where it was written."""
        cdef:
            QueryContext* context = &self.context
            bint put = outcome & SEND and context.length > 0
            Event* event
        if not context.client.draw:
            return
        if outcome == ASK and not self.handed_over:
            context.rule_state.kind = KIND_REJECTED
        event = self.tap.note(kind_of(context, outcome, put), &context.client, wire, length, context.reply,
                              context.length if put else 0)
        if event != NULL:
            event.port = connection.port
            note_rule(event, context)

    cdef void note_bad_header(self, const Connection* connection) noexcept nogil:
        """Record that a front proxy sent no header, or a wrong one: what would have been behind it is not known."""
        cdef:
            uint8_t[PEER_MAX] peer
            uint32_t length = PEER_MAX
            ClientInfo client = self.context.client
            Event* event
        if not wanted_kinds(self.tap) or getpeername(connection.fd, <sockaddr*> peer, &length):
            return
        client.address, client.draw = ip_of(peer, &client.octets), self.tap.draw()
        client.transport, client.listener = connection.transport, connection.listener
        event = self.tap.note(KIND_DROPPED, &client, peer, 0, peer, 0)
        if event != NULL:
            event.port, event.reason = get16(peer + 2), PROXY_HEADER

    cdef bint hand_over(self, Connection* connection, uint64_t number, uint32_t request, const uint8_t* wire,
                        uint32_t length, bint answered) noexcept nogil:
        """Let the control thread have a query, of a connection by its number, and a request (0: it has none) by its.

        False: there is no room for it, which only those can find whom a proxy asks for.
        """
        cdef:
            QueryContext* context = &self.context
            const Query* query = &self.query
            Client* client
        if context.rule_state.stopped:  # Python is shown what the client sent
            client = put_miss(self.ring, self.shares, context, wire, length, 0, False)
        else:
            client = put_miss(self.ring, self.shares, context, query.wire, query.length, query.added, False)
        if client == NULL:
            return False
        self.handed_over = True
        client.fd = NOBODY if answered else STREAM
        client.stream, client.request = number, request
        client.peer.length = 0
        client.port, client.to_port, client.to_octets = connection.port, connection.to_port, connection.to_octets
        memcpy(client.to, connection.to, 16)
        if not answered:
            connection.in_flight += 1
            connection.transfers |= not request and is_transfer(query)
        return True

    def counters(self) -> dict:
        """Return what happened to the queries, as numbers by name."""
        return counters_as_dict(&self.counts) | {
            "queries_over_tls": load_relaxed(&self.by_transport[OVER_TLS]),
            "queries_over_https": load_relaxed(&self.by_transport[OVER_HTTPS]),
            "queries_over_http": load_relaxed(&self.by_transport[OVER_HTTP]),
            "queries_over_quic": load_relaxed(&self.by_transport[OVER_QUIC]),
            "queries_over_h3": load_relaxed(&self.by_transport[OVER_H3]),
        }

    def messages_by_listener(self) -> list:
        """Return how many messages came to each listener, by its number."""
        return [load_relaxed(&self.by_listener[k]) for k in range(LISTENERS_MAX)]

    def rcodes(self) -> list:
        """Return how many responses there were of each RCODE in a header, by the number of the transport."""
        return [
            [load_relaxed(&self.sent_rcodes[transport][k]) for k in range(RCODE + 1)] for transport in range(TRANSPORTS)
        ]
