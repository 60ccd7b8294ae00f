"""Events as dnstap messages (protobuf), each in a frame of Frame Streams.

    data frame:     length (4 octets), dnstap.Dnstap
    control frame:  0 (4 octets), length (4), type (4), CONTENT_TYPE (4), length (4), "protobuf:dnstap.Dnstap"

It knows both formats (dnstap.proto; fstrm/control.h), and no socket. A query that is answered at once is two messages.
One of DNS that is too long, or was recorded in part, is left out of its dnstap message: half of it would be wrong.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen

from ..core._atomic cimport bump
from ..core._clock cimport NANOSECONDS
from ..policy._rule_state cimport (
    KIND_EXCHANGE, OVER_H3, OVER_HTTP, OVER_HTTPS, OVER_QUIC, OVER_TCP, OVER_TLS, OVER_UDP
)
from ..wire._message cimport HEADER, OPCODE, UPDATE, get32, message_flags, set32
from ._event cimport Event, query_of, response_of
from ._names cimport kind_name
from ._sink cimport Known, Peer, Sink, copy_prefix, peer_of

cdef enum:                         # tags of protobuf: a field's number, and how it is written
    EXTRA = 3 << 3 | 2, MESSAGE = 14 << 3 | 2, TYPE = 15 << 3
    MESSAGE_TYPE = 1 << 3, SOCKET_FAMILY = 2 << 3, SOCKET_PROTOCOL = 3 << 3
    QUERY_ADDRESS = 4 << 3 | 2, RESPONSE_ADDRESS = 5 << 3 | 2, QUERY_PORT = 6 << 3, RESPONSE_PORT = 7 << 3
    QUERY_SECONDS = 8 << 3, QUERY_NANOSECONDS = 9 << 3 | 5, QUERY_MESSAGE = 10 << 3 | 2
    RESPONSE_SECONDS = 12 << 3, RESPONSE_NANOSECONDS = 13 << 3 | 5, RESPONSE_MESSAGE = 14 << 3 | 2

cdef enum:                         # types of messages
    CLIENT_QUERY = 5
    CLIENT_RESPONSE = 6
    FORWARDER_QUERY = 7
    FORWARDER_RESPONSE = 8
    UPDATE_QUERY = 13
    UPDATE_RESPONSE = 14

cdef enum:
    CONTENT_TYPE = 1               # a field of a control frame
    FIELDS_MAX = 128               # octets of a message but for the message of DNS

MESSAGE_TYPES = {
    "client_query": CLIENT_QUERY, "client_response": CLIENT_RESPONSE, "forwarder_query": FORWARDER_QUERY,
    "forwarder_response": FORWARDER_RESPONSE, "update_query": UPDATE_QUERY, "update_response": UPDATE_RESPONSE,
}
cdef const char* CONTENT = b"protobuf:dnstap.Dnstap"
cdef Peer _unknown                 # zeros


cdef inline uint8_t* put_number(uint8_t* out, uint64_t number) noexcept nogil:
    """Write a number as a varint; return where it ends."""
    while number >= 0x80:
        out[0] = <uint8_t> (number | 0x80)
        out += 1
        number >>= 7
    out[0] = <uint8_t> number
    return out + 1


cdef inline uint8_t* put_field(uint8_t* out, uint8_t tag, uint64_t number) noexcept nogil:
    out[0] = tag
    return put_number(out + 1, number)


cdef inline uint8_t* put_octets(uint8_t* out, uint8_t tag, const void* octets, size_t length) noexcept nogil:
    out = put_field(out, tag, length)
    memcpy(out, octets, length)
    return out + length


cdef inline uint8_t* put_fixed(uint8_t* out, uint8_t tag, uint32_t number) noexcept nogil:
    """Write a number in four octets, the lowest first."""
    out[0] = tag
    out[1], out[2], out[3], out[4] = (
        number & 0xff, number >> 8 & 0xff, number >> 16 & 0xff, number >> 24)
    return out + 5


cdef uint8_t _protocol(uint8_t transport) noexcept nogil:
    """Return a transport as dnstap numbers it: UDP, TCP, DOT, DOH are 1 to 4, DOQ 7; behind a proxy, DOH is as it was.
    """
    if transport == OVER_TCP:
        return 2
    if transport == OVER_TLS:
        return 3
    if transport == OVER_QUIC:
        return 7
    return 4 if transport == OVER_HTTPS or transport == OVER_HTTP or transport == OVER_H3 else 1


cdef const Peer* _peer_of(const Known* known, const Event* event) noexcept nogil:
    """Return whom an exchange is with, or where the client came to; all of it is zero where that is not known."""
    cdef:
        uint64_t asked = event.wall - event.took
        const Peer* found
    if event.kind == KIND_EXCHANGE:
        found = peer_of(known.upstreams, <uint32_t> event.upstream, asked)
    else:
        found = peer_of(known.listeners, event.listener, asked)
    return &_unknown if found == NULL else found


cdef uint8_t* _put_message(uint8_t* out, Sink* sink, const Known* known, const Event* event, uint8_t kind,
                           bint is_response, size_t limit) noexcept nogil:
    """Write a frame with one message; return where it ends."""
    cdef:
        bint is_exchange = event.kind == KIND_EXCHANGE
        const Peer* peer = _peer_of(known, event)
        uint8_t transport = event.transport
        uint8_t octets = 16 if (peer.octets if is_exchange else event.octets) == 16 else 4
        uint8_t[FIELDS_MAX] fields
        uint8_t* end = fields
        uint8_t* start = out
        uint64_t asked = event.wall - event.took
        const uint8_t* wire = response_of(event) if is_response else query_of(event)
        size_t length = event.response if is_response else event.query
        bint is_whole = length == (event.response_size if is_response else event.query_size) and length <= limit
        uint8_t tag = RESPONSE_MESSAGE if is_response else QUERY_MESSAGE
        const char* said = kind_name(event.kind)
        uint8_t[16] size, client
        size_t fields_length, told
    end = put_field(end, MESSAGE_TYPE, kind)
    end = put_field(end, SOCKET_FAMILY, 2 if octets == 16 else 1)
    if is_exchange and event.transport != OVER_UDP:  # what that is, the upstream's settings say
        transport = max(peer.transport, transport)
    end = put_field(end, SOCKET_PROTOCOL, _protocol(transport))
    if not is_exchange:
        copy_prefix(client, sink, event.address, octets)
        end = put_octets(end, QUERY_ADDRESS, client, octets)
    if peer.octets == octets:
        end = put_octets(end, RESPONSE_ADDRESS, peer.address, peer.octets)
    if not is_exchange:
        end = put_field(end, QUERY_PORT, event.port)
    if peer.port:
        end = put_field(end, RESPONSE_PORT, peer.port)
    end = put_field(end, QUERY_SECONDS, asked // NANOSECONDS)
    end = put_fixed(end, QUERY_NANOSECONDS, <uint32_t> (asked % NANOSECONDS))
    if is_response:
        end = put_field(end, RESPONSE_SECONDS, event.wall // NANOSECONDS)
        end = put_fixed(end, RESPONSE_NANOSECONDS, <uint32_t> (event.wall % NANOSECONDS))
    fields_length = end - fields
    told = <size_t> (put_field(size, tag, length) - size) + length if is_whole else 0
    bump(&sink.shortened, not is_whole)
    out += 4
    memcpy(out, sink.identity, sink.identity_length)
    out += sink.identity_length
    if is_response and not is_exchange:
        out = put_octets(out, EXTRA, said, strlen(said))
    out = put_field(out, MESSAGE, fields_length + told)
    memcpy(out, fields, fields_length)
    out += fields_length
    if is_whole:
        out = put_octets(out, tag, wire, length)
    out = put_field(out, TYPE, 1)
    set32(start, <uint32_t> (out - start - 4))
    return out


cdef uint8_t _query_type(const Event* event) noexcept nogil:
    """Return the type of the message that an event's query is written as; that of its response is the next."""
    cdef const uint8_t* wire = query_of(event) if event.query else response_of(event)
    if event.kind == KIND_EXCHANGE:
        return FORWARDER_QUERY
    if event.query + event.response >= HEADER and (message_flags(wire) & OPCODE) == UPDATE:
        return UPDATE_QUERY
    return CLIENT_QUERY


cdef uint8_t messages_of(const Sink* sink, const Event* event) noexcept nogil:
    """Return which messages an event is written as, OF_QUERY and OF_RESPONSE, as the sink wants them."""
    cdef:
        uint8_t kind = _query_type(event)
        bint of_query = event.query and not event.told and sink.types >> kind & 1
        bint of_response = event.response and sink.types >> (kind + 1) & 1
    return of_query * OF_QUERY | of_response * OF_RESPONSE


cdef size_t put_dnstap(uint8_t* out, Sink* sink, const Known* known, const Event* event, size_t limit) noexcept nogil:
    """Write an event as those messages; return their octets. Those of DNS have at most `limit`, or are left out."""
    cdef:
        uint8_t* end = out
        uint8_t kind = _query_type(event)
        uint8_t messages = messages_of(sink, event)
    if messages & OF_QUERY:
        end = _put_message(end, sink, known, event, kind, False, limit)
    if messages & OF_RESPONSE:
        end = _put_message(end, sink, known, event, kind + 1, True, limit)
    return end - out


# ---------------------------------------------------------------- control frames

cdef size_t put_control(uint8_t* out, ControlFrame kind) noexcept nogil:
    """Write a control frame; return its octets, at most CONTROL_MAX. All but STOP and FINISH say what is to come."""
    cdef size_t length = 4
    if kind != STOP and kind != FINISH:
        length += 8 + strlen(CONTENT)
        set32(out + 12, CONTENT_TYPE)
        set32(out + 16, <uint32_t> strlen(CONTENT))
        memcpy(out + 20, CONTENT, strlen(CONTENT))
    set32(out, 0)
    set32(out + 4, <uint32_t> length)
    set32(out + 8, kind)
    return 8 + length


cdef int accepts(const uint8_t* octets, size_t length) noexcept nogil:
    """Tell whether what a collector has sent is a whole ACCEPT with our content type, or a part of one (0), or not."""
    cdef:
        size_t size, at = 12
        size_t content = strlen(CONTENT)
    if length < 12:
        return 0
    size = get32(octets + 4)
    if get32(octets) or get32(octets + 8) != ACCEPT or size > 512:
        return -1
    if length < 8 + size:
        return 0
    while at + 8 <= 8 + size:  # one content type is enough
        length = get32(octets + at + 4)
        if (get32(octets + at) == CONTENT_TYPE and length == content and at + 8 + length <= 8 + size
                and memcmp(octets + at + 8, CONTENT, content) == 0):
            return 1
        at += 8 + length
    return -1
