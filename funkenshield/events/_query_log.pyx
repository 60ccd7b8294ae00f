"""Events as lines: readable, or one JSON object each.

    2026-11-30T03:04:05.123456Z 192.0.2.0 udp www.example.com. A hit NOERROR 0.012 ms 45 octets
    {"time":"2026-11-30T03:04:05.123456Z","client":"192.0.2.0","transport":"udp","name":"www.example.com.",...}

It knows what a line looks like. Whatever octets a name has, a line stays one line, and JSON: all but letters, digits
and a few signs are written as \\DDD, as in a zone file.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen
from libc.time cimport gmtime_r, time_t, tm

from ..core._clock cimport NANOSECONDS
from ..policy._rule_state cimport KIND_BADCOOKIE
from ..wire._message cimport HEADER, QDCOUNT, QUESTION_FIXED, RCODE, get16, message_flags, plain_end
from ._event cimport NO_RULE, Event, query_of, response_of
from ._names cimport kind_name, rcode_name, reason_name, transport_name, type_name
from ._sink cimport JSON_LINES, TITLE_MAX, Known, Peer, Sink, copy_prefix, peer_of

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t most)

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* out, uint32_t room)
    int AF_INET6

cdef enum:
    DIGITS = 20                    # of the largest number
    MICROSECONDS = 1000            # nanoseconds of one

cdef struct Second:                # the last one that was written as text
    uint64_t number
    char[20] text

cdef Second _second                # one thread writes lines


cdef inline uint8_t* put(uint8_t* out, const char* text) noexcept nogil:
    cdef size_t length = strlen(text)
    memcpy(out, text, length)
    return out + length


cdef inline uint8_t* put_octets(uint8_t* out, const void* octets, size_t length) noexcept nogil:
    memcpy(out, octets, length)
    return out + length


cdef inline uint8_t* put_digits(uint8_t* out, uint64_t number, int32_t digits) noexcept nogil:
    """Write a number with so many digits, zeros in front."""
    cdef int32_t k = digits - 1
    while k >= 0:
        out[k] = <uint8_t> (c'0' + number % 10)
        number //= 10
        k -= 1
    return out + digits


cdef inline uint8_t* put_decimal(uint8_t* out, uint64_t number) noexcept nogil:
    cdef:
        int32_t digits = 1
        uint64_t rest = number // 10
    while rest:
        digits += 1
        rest //= 10
    return put_digits(out, number, digits)


cdef inline bint _is_plain(uint8_t octet) noexcept nogil:
    """Tell whether an octet is written as it is, in names and in JSON alike."""
    return (c'a' <= octet <= c'z' or c'A' <= octet <= c'Z' or c'0' <= octet <= c'9' or octet == c'-' or octet == c'_'
            or octet == c'*' or octet == c'/' or octet == c'+' or octet == c'=' or octet == c':')


cdef uint8_t* put_name(uint8_t* out, const uint8_t* name, bint is_json) noexcept nogil:
    """Write a name on the wire, without pointers, as text: at most five octets for each of its own."""
    cdef uint8_t left
    if not name[0]:
        out[0] = c'.'
        return out + 1
    while name[0]:
        left = name[0]
        name += 1
        while left:
            if _is_plain(name[0]):
                out[0] = name[0]
                out += 1
            else:
                out = put(out, b"\\")
                out = put_digits(put(out, b"\\") if is_json else out, name[0], 3)
            name += 1
            left -= 1
        out[0] = c'.'
        out += 1
    return out


cdef uint8_t* put_time(uint8_t* out, uint64_t wall) noexcept nogil:
    """Write nanoseconds since 1970 as UTC, to the microsecond (RFC 3339)."""
    cdef:
        uint64_t seconds = wall // NANOSECONDS
        time_t clock = <time_t> seconds
        uint8_t* text = <uint8_t*> _second.text
        tm parts
    if seconds != _second.number:
        gmtime_r(&clock, &parts)
        text = put_digits(text, parts.tm_year + 1900, 4)
        text = put_digits(put(text, b"-"), parts.tm_mon + 1, 2)
        text = put_digits(put(text, b"-"), parts.tm_mday, 2)
        text = put_digits(put(text, b"T"), parts.tm_hour, 2)
        text = put_digits(put(text, b":"), parts.tm_min, 2)
        put_digits(put(text, b":"), parts.tm_sec, 2)
        _second.number = seconds
    memcpy(out, _second.text, 19)
    return put(put_digits(put(out + 19, b"."), wall % NANOSECONDS // MICROSECONDS, 6), b"Z")


cdef uint8_t* put_address(uint8_t* out, const uint8_t* address, uint8_t octets) noexcept nogil:
    cdef int32_t k
    if octets == 16:
        if inet_ntop(AF_INET6, address, <char*> out, 46) == NULL:
            return out
        return out + strlen(<char*> out)
    for k in range(4):
        out = put_decimal(out, address[k])
        if k < 3:
            out = put(out, b".")
    return out


cdef uint8_t* put_type(uint8_t* out, uint16_t number) noexcept nogil:
    cdef const char* name = type_name(number)
    return put(out, name) if name != NULL else put_decimal(put(out, b"TYPE"), number)


cdef uint8_t* _put_milliseconds(uint8_t* out, uint64_t nanoseconds) noexcept nogil:
    cdef uint64_t micro = nanoseconds // MICROSECONDS
    return put_digits(put(put_decimal(out, micro // 1000), b"."), micro % 1000, 3)


cdef struct Said:                  # what an event tells by itself
    const uint8_t* name            # on the wire, whole, without pointers; NULL: there is no question
    uint16_t qtype
    const char* rcode              # NULL: there is no response
    const Peer* upstream           # NULL: none was asked, or it has no name
    const char* rule               # that answered, or dropped it; NULL: none did, or it is not known any more
    const char* reason             # why it was dropped; NULL: the outcome says it
    uint8_t[16] client


cdef Said _read(const Sink* sink, const Known* known, const Event* event) noexcept nogil:
    cdef:
        Said said
        bint answered = event.response >= HEADER
        const uint8_t* wire = response_of(event) if answered else query_of(event)
        size_t length = event.response if answered else event.query
        int32_t named = plain_end(wire, length, HEADER) if length > HEADER and get16(wire + QDCOUNT) else -1
    said.name, said.rcode, said.upstream, said.rule = NULL, NULL, NULL, NULL
    if named > 0 and <size_t> named + QUESTION_FIXED <= length:
        said.name, said.qtype = wire + HEADER, get16(wire + named)
    if answered:
        said.rcode = rcode_name(message_flags(wire) & RCODE)
        if event.kind == KIND_BADCOOKIE:  # more than a header has room for
            said.rcode = b"BADCOOKIE"
    if event.upstream >= 0:
        said.upstream = peer_of(known.upstreams, <uint32_t> event.upstream, event.wall - event.took)
    if said.upstream != NULL and not said.upstream.length:
        said.upstream = NULL
    if event.rule != NO_RULE and event.generation == known.generation and event.rule < known.rule_counts[event.chain]:
        said.rule = known.rules[event.chain] + event.rule * TITLE_MAX
    said.reason = reason_name(event.reason)
    copy_prefix(said.client, sink, event.address, event.octets)
    return said


cdef uint8_t* _put_text(uint8_t* end, const Event* event, const Said* said) noexcept nogil:
    end = put(put_time(end, event.wall), b" ")
    end = put(put_address(end, said.client, event.octets), b" ")
    end = put(put(end, transport_name(event.transport)), b" ")
    if said.name == NULL:
        end = put(end, b"- -")
    else:
        end = put_type(put(put_name(end, said.name, False), b" "), said.qtype)
    end = put(put(put(end, b" "), kind_name(event.kind)), b" ")
    if said.rcode == NULL:
        end = put(end, b"-")
    else:
        end = put(end, said.rcode)
    end = put(_put_milliseconds(put(end, b" "), event.took), b" ms ")
    end = put(put_decimal(end, event.response_size), b" octets")
    if said.upstream != NULL:
        end = put_octets(put(end, b" "), said.upstream.name, said.upstream.length)
    if said.rule != NULL:
        end = put_octets(put(end, b" "), said.rule, strnlen(said.rule, TITLE_MAX))
    if said.reason != NULL:
        end = put(put(end, b" "), said.reason)
    return put(end, b"\n")


cdef uint8_t* _put_json(uint8_t* end, const Event* event, const Said* said) noexcept nogil:
    end = put_time(put(end, b"{\"time\":\""), event.wall)
    end = put_address(put(end, b"\",\"client\":\""), said.client, event.octets)
    end = put(put(put(end, b"\",\"transport\":\""), transport_name(event.transport)), b"\",")
    if said.name != NULL:
        end = put_name(put(end, b"\"name\":\""), said.name, True)
        end = put(put_type(put(end, b"\",\"type\":\""), said.qtype), b"\",")
    end = put(put(put(end, b"\"outcome\":\""), kind_name(event.kind)), b"\",")
    if said.rcode != NULL:
        end = put(put(put(end, b"\"rcode\":\""), said.rcode), b"\",")
    end = _put_milliseconds(put(end, b"\"milliseconds\":"), event.took)
    end = put_decimal(put(end, b",\"octets\":"), event.response_size)
    if said.upstream != NULL:
        end = put_octets(put(end, b",\"upstream\":\""), said.upstream.name, said.upstream.length)
        end = put(end, b"\"")
    if said.rule != NULL:
        end = put_octets(put(end, b",\"rule\":\""), said.rule, strnlen(said.rule, TITLE_MAX))
        end = put(end, b"\"")
    if said.reason != NULL:
        end = put(put(put(end, b",\"reason\":\""), said.reason), b"\"")
    return put(end, b"}\n")


cdef size_t put_line(uint8_t* out, const Sink* sink, const Known* known, const Event* event) noexcept nogil:
    """Write an event as a line; return its octets."""
    cdef Said said = _read(sink, known, event)
    return (_put_json(out, event, &said) if sink.form == JSON_LINES else _put_text(out, event, &said)) - out
