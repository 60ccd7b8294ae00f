"""Events as lines: readable, or one JSON object each."""

from libc.stdint cimport uint8_t

from ._event cimport Event
from ._sink cimport Known, Sink


cdef size_t put_line(uint8_t* out, const Sink* sink, const Known* known, const Event* event) noexcept nogil
