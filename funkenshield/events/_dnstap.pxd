"""Events as dnstap messages (protobuf), each in a frame of Frame Streams."""

from libc.stdint cimport uint8_t, uint32_t

from ._event cimport Event
from ._sink cimport Known, Sink

cdef enum ControlFrame:
    ACCEPT = 1
    START
    STOP
    READY
    FINISH

cdef enum:
    CONTROL_MAX = 64               # octets of a control frame of ours

cdef enum:                         # messages that an event is written as, one bit each
    OF_QUERY = 1
    OF_RESPONSE = 2


cdef uint8_t messages_of(const Sink* sink, const Event* event) noexcept nogil
cdef size_t put_dnstap(uint8_t* out, Sink* sink, const Known* known, const Event* event, size_t limit) noexcept nogil
cdef size_t put_control(uint8_t* out, ControlFrame kind) noexcept nogil
cdef int accepts(const uint8_t* octets, size_t length) noexcept nogil
