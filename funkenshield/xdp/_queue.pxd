"""One queue of an interface: frames that a program in the kernel puts there for us, and those that answer them."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._limits cimport LISTENERS_MAX
from ..core._udp_batch cimport BATCH, Datagrams
from ._frame cimport Frame

cdef enum:
    FRAME = 2048                   # octets that a frame has in memory
    HEADROOM = 128                 # of them, before a message of ours
    TAKEN = 2048                   # frames for queries: as many as the kernel can have filled, or be about to fill
    SENT = 1024                    # frames for answers
    REPLY_ROOM = FRAME - HEADROOM

cdef struct Ring:                  # between the kernel and us: one writes entries, the other one reads them
    uint32_t* producer
    uint32_t* consumer
    uint32_t* flags
    uint8_t* entries
    uint32_t mask
    uint32_t at                    # how far we have come, which the other side is told at the end

cdef struct RingOffsets:           # struct xdp_ring_offset
    uint64_t producer, consumer, entries, flags

cdef struct Asked:                 # an address that queries are for
    uint64_t[2] ip                 # IPv4 as ::ffff:a.b.c.d
    uint16_t port                  # as on the wire
    uint8_t listener

cdef struct Queue:
    int fd
    uint32_t interface             # its index
    uint8_t* memory                # of all frames: first those for queries
    Ring fill, received, outgoing, completed
    uint64_t[BATCH] waiting        # frames that came, and are not answered yet: where they are,
    uint32_t[BATCH] lengths        # and their octets
    int32_t waiting_count
    uint64_t[BATCH] presented      # those of a batch
    Frame[BATCH] frames
    uint64_t[SENT] unused          # frames for answers
    uint32_t unused_count
    Asked[LISTENERS_MAX] asked
    int32_t asked_count
    uint8_t listener               # whose the last batch was
    uint64_t by_route              # replies to it that are not to go by frames, one bit each
    uint16_t reply_room            # octets that an answer may have
    uint8_t[TAKEN + SENT] theirs   # whether each frame is the kernel's, in debug builds: none is twice
    uint64_t frames_received, frames_sent, frames_ignored, frames_lost


cdef int32_t take_frames(Queue* queue) noexcept nogil
cdef int32_t present_frames(Queue* queue, Datagrams inbox, Datagrams outbox) noexcept nogil
cdef void put_replies(Queue* queue, Datagrams inbox, Datagrams outbox, int32_t count, int32_t replies) noexcept nogil
cdef void exchange_frames(Queue* queue) noexcept nogil
cdef void forget_asked(Queue* queue) noexcept nogil
cdef void add_asked(Queue* queue, const uint8_t* address, uint8_t listener) noexcept nogil


@cython.final
cdef class QueueSocket:
    cdef:
        Queue queue
        size_t[4] mapped               # octets of each ring
        void* rings[4]
        readonly bint zero_copy

    cdef void _close(self) noexcept
    cdef int _register(self) except -1
    cdef int _set(self, int option, int entries) except -1
    cdef uint32_t _option(self, int name) except? 0
    cdef int _map_rings(self) except -1
    cdef int _map_ring(self, Ring* ring, int which, const RingOffsets* offsets, uint32_t entries,
                       size_t size) except -1
