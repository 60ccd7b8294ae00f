"""Sinks at work: events into a buffer, and from there to a file or a collector, as far as that takes them."""

from libc.stdint cimport uint8_t, uint64_t

from ._event cimport Event
from ._sink cimport Known, Sink


cdef bint is_wanted(const Sink* sink, const Event* event) noexcept nogil
cdef void put_event(Sink* sink, const Known* known, const Event* event) noexcept nogil
cdef void pump(Sink* sink, uint64_t now, uint64_t reopened) noexcept nogil
cdef int next_look(const Sink* sink, uint64_t now) noexcept nogil
cdef bint end(Sink* sink, uint64_t now, uint64_t until) noexcept nogil
cdef void close_sink(Sink* sink) noexcept nogil
