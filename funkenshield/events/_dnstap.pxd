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


cdef size_t put_dnstap(uint8_t* out, const Sink* sink, const Known* known, const Event* event) noexcept nogil
cdef size_t put_control(uint8_t* out, ControlFrame kind) noexcept nogil
cdef int accepts(const uint8_t* octets, size_t length) noexcept nogil
